"""Webhooks: one signed HTTP request. `rest` is the older name of the same thing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import cast

from msgspec import Struct

from agentauri.actions.channels import webhook_config
from agentauri.actions.channels.channel import MASK, Accepted, Pace, Sent, StoredAction
from agentauri.actions.channels.target_config import header_secret, look_up, secrets_of, target_key, target_of, without
from agentauri.actions.errors import Permanent, Retryable
from agentauri.actions.filters import TemplateError
from agentauri.actions.identity import webhook_id
from agentauri.actions.message import Message
from agentauri.actions.outbound import EXCERPT_LENGTH, USER_AGENT, Outbound, Reply
from agentauri.actions.retry import judge, retry_after
from agentauri.actions.signing import signatures
from agentauri.actions.template import HEADER, JsonTemplate, Template, Values, compile_text
from agentauri.actions.template import URL as URL_SINK
from agentauri.actions.types import Json
from agentauri.errors import FieldError
from agentauri.types import OrganizationId

MAX_BODY = 256 * 1024
_REPLACED = frozenset({"user-agent", "content-type"})
"""Headers of the owner's that give way to ours; a content type has its say where the body is text."""


class WebhookChannel:
    action_types = frozenset({"webhook", "rest"})
    schema = webhook_config.SCHEMA
    signs = True

    def __init__(self, outbound: Outbound, timeout: float) -> None:
        self._outbound = outbound
        self._timeout = timeout

    async def check(self, config: Json, organization_id: OrganizationId) -> Accepted:
        read = webhook_config.read(config, self._outbound.guard)
        await look_up("url", read.target, self._outbound.guard, organization_id)
        return Accepted(
            config=read.public,
            secrets={header_secret(name): value for name, value in read.headers.items()},
            destination=read.target.host,
        )

    def target(self, config: Json) -> str | None:
        return target_key(config.get("url"), self._outbound.guard)

    def prepare(self, action: StoredAction) -> PreparedWebhook:
        config = action.config
        url = str(config.get("url", ""))
        try:
            headers = {
                name.lower(): action.secrets[header_secret(name.lower())]
                for name in cast("Mapping[str, str]", config.get("headers", {}))
            }
            rate = cast("float | None", config.get("rate_limit_per_second"))
            body, content_type = webhook_config.compile_body(config, headers.get("content-type"))
            return PreparedWebhook(
                outbound=self._outbound,
                target=target_of(url, self._outbound.guard).key,
                method=str(config.get("method", "POST")),
                url=compile_text(url, URL_SINK),
                headers={name: compile_text(value, HEADER) for name, value in headers.items() if name not in _REPLACED},
                body=body,
                content_type=content_type,
                keys=action.signing_keys,
                expected=frozenset(cast("list[int]", config.get("expected_status_codes", []))),
                timeout=min(float(cast("float", config.get("timeout_seconds", self._timeout))), 60.0),
                paces=() if rate is None else (Pace(f"{action.id}", 1 / rate),),
            )
        except FieldError as error:
            raise Permanent("egress_refused", f"the url {error.message}") from error
        except (TemplateError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise Permanent("configuration", f"the stored configuration cannot be used: {error}") from error


class PreparedWebhook(Struct, frozen=True, kw_only=True):
    outbound: Outbound
    target: str
    method: str
    url: Template
    headers: dict[str, Template]
    body: JsonTemplate | Template | None
    content_type: str
    keys: tuple[bytes, ...]
    expected: frozenset[int]
    timeout: float
    paces: tuple[Pace, ...]

    async def send(self, message: Message) -> Sent:
        url, headers, body = self._render(message)
        now = int(time.time())  # the receiver compares it with its own clock
        headers["webhook-timestamp"] = str(now)
        headers["webhook-signature"] = signatures(self.keys, headers["webhook-id"], now, body or b"")
        reply = await self.outbound.exchange(
            self.method,
            url,
            headers,
            body,
            organization_id=message.organization_id,
            timeout=self.timeout,
        )
        said = reply.said and without(secrets_of(url, [headers[name] for name in self.headers]), reply.said)
        return _judged(reply, said[:EXCERPT_LENGTH], self.expected)

    def preview(self, message: Message) -> Json:
        url, headers, body = self._render(message)
        return {
            "method": self.method,
            "url": url,
            "headers": {name: MASK if name in self.headers else value for name, value in headers.items()},
            "body": None if body is None else body.decode(),
        }

    def _render(self, message: Message) -> tuple[str, dict[str, str], bytes | None]:
        """URL, headers (all but time and signature) and body."""
        fixed = self.body is None and not self.headers and len(self.url.parts) == 1
        values: Values = {} if fixed else message.values()
        body: bytes | None
        match self.body:
            case JsonTemplate():
                body = self.body.render(values)
            case Template():
                body = self.body.render(values).encode()
            case None:
                body = None if self.method == "GET" else message.document(MAX_BODY)
        if body is not None and len(body) > MAX_BODY:
            raise Permanent("template", "the rendered body is larger than 256 KiB")
        headers = {name: value.render(values) for name, value in self.headers.items()}
        headers |= {
            "user-agent": USER_AGENT,
            "accept-encoding": "identity",
            "webhook-id": webhook_id(message.delivery_id),
            "x-agentauri-event-id": HEADER.value(message.event_id),
            "x-agentauri-trigger-id": HEADER.value(message.trigger.id),
            "x-agentauri-correlation-id": message.correlation_id,
            "x-agentauri-attempt": str(message.attempt),
        }
        if message.kind == "test":
            headers["x-agentauri-test"] = "true"  # a body of the owner's own may not tell
        if body is not None:
            headers["content-type"] = self.content_type
        return self.url.render(values), headers, body


def masked_url(url: str) -> str:
    """Scheme and host: the rest may hold a key."""
    return f"{'/'.join(url.split('/', 3)[:3])}/{MASK}"


def _judged(reply: Reply, excerpt: str, expected: frozenset[int]) -> Sent:
    verdict = judge(reply.status, expected)
    if verdict == "delivered":
        return Sent(status=reply.status, excerpt=excerpt, peer=reply.peer)
    told = f"the endpoint answered {reply.status}"
    if verdict == "permanent":
        raise Permanent("status", told, status=reply.status, excerpt=excerpt, peer=reply.peer)
    failed = Retryable("status", told, status=reply.status, excerpt=excerpt, peer=reply.peer)
    failed.after = retry_after(reply.headers.get("retry-after"), datetime.now(UTC))
    raise failed
