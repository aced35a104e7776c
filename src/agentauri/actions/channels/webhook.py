"""Webhooks: one signed HTTP request. `rest` is the older name of the same thing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import cast

from msgspec import Struct

from agentauri.actions.channels import webhook_config
from agentauri.actions.channels.channel import MASK, Accepted, Ended, Pace, Sent, StoredAction, UnderWay
from agentauri.actions.channels.target_config import header_secret, look_up, secrets_of, target_key, target_of, without
from agentauri.actions.errors import DeliveryFailed, Permanent, Retryable
from agentauri.actions.filters import TemplateError
from agentauri.actions.identity import webhook_id
from agentauri.actions.message import Message
from agentauri.actions.outbound import EXCERPT_LENGTH, USER_AGENT, Opening, Outbound, Reply, opening
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
                headers={
                    name: compile_text(value, HEADER)
                    for name, value in headers.items()
                    if name not in _REPLACED and not name.startswith(webhook_config.OURS)
                },
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


class _Asked(Struct, frozen=True):
    """A request before it is signed. `given` are the values of the owner's headers."""

    opening: Opening
    url: str
    given: tuple[str, ...]
    ours: dict[str, str]
    body: bytes | None


class PreparedWebhook(Struct, frozen=True, kw_only=True, dict=True):
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

    def begin(self, message: Message, ended: Ended) -> UnderWay:
        asked = self._render(message)
        ours, body = asked.ours, asked.body
        now = int(time.time())  # the receiver compares it with its own clock
        ours["webhook-timestamp"] = str(now)
        ours["webhook-signature"] = signatures(self.keys, ours["webhook-id"], now, body or b"")
        return self.outbound.begin(
            asked.opening,
            ours,
            body,
            organization_id=message.organization_id,
            timeout=self.timeout,
            ended=partial(self._answered, asked, ended),
        )

    def preview(self, message: Message) -> Json:
        asked = self._render(message)
        return {
            "method": self.method,
            "url": asked.url,
            "headers": dict.fromkeys(self.headers, MASK) | self._always | asked.ours,
            "body": None if asked.body is None else asked.body.decode(),
        }

    def _render(self, message: Message) -> _Asked:
        """What is sent, but for time and signature."""
        fixed = self._fixed
        values: Values = message.values() if fixed is None or self.body is not None else {}
        start, url, given = fixed or self._open(values)
        return _Asked(start, url, given, _ours(message), self._body(message, values))

    @cached_property
    def _fixed(self) -> tuple[Opening, str, tuple[str, ...]] | None:
        """How all of its requests begin, if all of them begin alike."""
        alike = all(template.fixed for template in (self.url, *self.headers.values()))
        return self._open({}) if alike else None

    def _open(self, values: Values) -> tuple[Opening, str, tuple[str, ...]]:
        url = self.url.render(values)
        headers = {name: value.render(values) for name, value in self.headers.items()}
        return opening(self.method, url, headers | self._always), url, tuple(headers.values())

    @cached_property
    def _always(self) -> dict[str, str]:
        always = {"user-agent": USER_AGENT, "accept-encoding": "identity"}
        if self.body is not None or self.method != "GET":
            always["content-type"] = self.content_type
        return always

    def _body(self, message: Message, values: Values) -> bytes | None:
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
        return body

    def _answered(self, asked: _Asked, ended: Ended, reply: Reply | Exception) -> None:
        outcome: Sent | Exception
        if isinstance(reply, Exception):
            outcome = reply
        else:
            try:
                said = reply.said and without(secrets_of(asked.url, asked.given), reply.said)
                outcome = _judged(reply, said[:EXCERPT_LENGTH], self.expected)
            except Exception as error:  # noqa: BLE001 (told)
                outcome = error
        ended(outcome)


def _ours(message: Message) -> dict[str, str]:
    ours = {
        "webhook-id": webhook_id(message.delivery_id),
        "x-agentauri-event-id": HEADER.value(message.event_id),
        "x-agentauri-trigger-id": HEADER.value(message.trigger.id),
        "x-agentauri-correlation-id": message.correlation_id,
        "x-agentauri-attempt": str(message.attempt),
    }
    if message.kind == "test":
        ours["x-agentauri-test"] = "true"  # a body of the owner's own may not tell
    return ours


def masked_url(url: str) -> str:
    """Scheme and host: the rest may hold a key."""
    return f"{'/'.join(url.split('/', 3)[:3])}/{MASK}"


def _judged(reply: Reply, excerpt: str, expected: frozenset[int]) -> Sent | DeliveryFailed:
    verdict = judge(reply.status, expected)
    if verdict == "delivered":
        return Sent(status=reply.status, excerpt=excerpt, peer=reply.peer)
    told = f"the endpoint answered {reply.status}"
    if verdict == "permanent":
        return Permanent("status", told, status=reply.status, excerpt=excerpt, peer=reply.peer)
    failed = Retryable("status", told, status=reply.status, excerpt=excerpt, peer=reply.peer)
    failed.after = retry_after(reply.headers.get("retry-after"), datetime.now(UTC))
    return failed
