"""MCP: one call of a tool on a server that speaks the Model Context Protocol over streamable HTTP.

What speaks the protocol is in `mcp_client`, which is loaded with the first call: it is large.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import cast

import msgspec
from msgspec import Struct

from agentauri.actions.channels import target_config
from agentauri.actions.channels.channel import MASK, Accepted, Ended, Pace, Sent, StoredAction, UnderWay, in_task
from agentauri.actions.channels.target_config import (
    MAX_TIMEOUT,
    header_secret,
    look_up,
    read_headers,
    read_target,
    read_timeout,
    secrets_of,
    target_key,
    target_of,
    template_fault,
)
from agentauri.actions.egress import Guard
from agentauri.actions.errors import Permanent
from agentauri.actions.fields import Fields
from agentauri.actions.filters import TemplateError
from agentauri.actions.identity import webhook_id
from agentauri.actions.message import Message
from agentauri.actions.template import HEADER, URL, JsonTemplate, Template, Values, compile_json, compile_text
from agentauri.actions.types import Json
from agentauri.errors import FieldError, Invalid
from agentauri.types import OrganizationId

MAX_ARGUMENTS = 256 * 1024
LONGEST_TOKEN = 4096
OURS = ("mcp-", "content-type", "accept", "last-event-id", "user-agent")
"""How the headers begin that the protocol sets."""


SCHEMA: Json = {
    "type": "object",
    "required": ["server_url", "tool_name"],
    "additionalProperties": False,
    "properties": target_config.SCHEMA
    | {
        "server_url": target_config.URL_SCHEMA,
        "tool_name": {"type": "string", "minLength": 1, "maxLength": 256},
        "arguments_template": {
            "type": "object",
            "description": "JSON with placeholders in its strings.",
            "default": {},
        },
        "auth_token": {"type": "string", "description": f"A bearer token: a secret, read back as {MASK}."},
        "retry_on_tool_error": {"type": "boolean", "default": False},
    },
}


class ToolCall(Struct, frozen=True, kw_only=True):
    """One call, rendered. `secrets` are what must not be repeated of what the server says."""

    url: str
    headers: Mapping[str, str]
    tool: str
    arguments: bytes
    meta: Mapping[str, object]
    organization_id: str
    timeout: float
    retry_on_tool_error: bool
    secrets: tuple[str, ...]


class McpChannel:
    action_types = frozenset({"mcp"})
    schema = SCHEMA
    signs = False

    def __init__(self, guard: Guard, timeout: float) -> None:
        self._guard = guard
        self._timeout = timeout

    async def check(self, config: Json, organization_id: OrganizationId) -> Accepted:
        fields = Fields(config)
        url = fields.text("server_url", longest=2048)
        target = read_target(fields, "server_url", url, self._guard)
        public: Json = {"server_url": url} | _tool(fields)
        headers = read_headers(fields, OURS)
        if headers:
            public["headers"] = dict.fromkeys(headers, MASK)
        secrets = {header_secret(name): value for name, value in headers.items()}
        if token := fields.text("auth_token", longest=LONGEST_TOKEN):
            public["auth_token"] = MASK
            secrets["auth_token"] = None if token == MASK else token
            if not (token.isascii() and token.isprintable()) or " " in token:
                fields.refuse("auth_token", "must be printable ASCII without spaces")
            if "authorization" in map(str.lower, headers):
                fields.refuse("auth_token", "must not be given together with an Authorization header")
        if (timeout := read_timeout(fields)) is not None:
            public["timeout_seconds"] = timeout
        fields.finish()
        if fields.errors or target is None:
            raise Invalid.fields(*fields.errors)
        await look_up("server_url", target, self._guard, organization_id)
        return Accepted(config=public, secrets=secrets, destination=target.host)

    def target(self, config: Json) -> str | None:
        return target_key(config.get("server_url"), self._guard)

    def prepare(self, action: StoredAction) -> PreparedMcp:
        config = action.config
        url = str(config.get("server_url", ""))
        try:
            headers = {
                name.lower(): compile_text(action.secrets[header_secret(name.lower())], HEADER)
                for name in cast("Mapping[str, str]", config.get("headers", {}))
            }
            return PreparedMcp(
                guard=self._guard,
                target=target_of(url, self._guard).key,
                url=compile_text(url, URL),
                headers=headers,
                auth_token=action.secrets["auth_token"] if "auth_token" in config else None,
                tool=str(config["tool_name"]),
                arguments=compile_json(config.get("arguments_template", {})),
                timeout=min(float(cast("float", config.get("timeout_seconds", self._timeout))), MAX_TIMEOUT),
                retry_on_tool_error=config.get("retry_on_tool_error") is True,
            )
        except FieldError as error:
            raise Permanent("egress_refused", f"the server_url {error.message}") from error
        except (TemplateError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise Permanent("configuration", f"the stored configuration cannot be used: {error}") from error


class PreparedMcp(Struct, frozen=True, kw_only=True):
    guard: Guard
    target: str
    url: Template
    headers: dict[str, Template]
    auth_token: str | None
    tool: str
    arguments: JsonTemplate
    timeout: float
    retry_on_tool_error: bool
    paces: tuple[Pace, ...] = ()

    def begin(self, message: Message, ended: Ended) -> UnderWay:
        return in_task(self._send(message), ended)

    async def _send(self, message: Message) -> Sent:
        call = self._render(message)
        call_tool = await asyncio.to_thread(_loaded)
        return await call_tool(call, self.guard)

    def preview(self, message: Message) -> Json:
        call = self._render(message)
        return {
            "server_url": call.url,
            "headers": dict.fromkeys(call.headers, MASK),
            "tool_name": call.tool,
            "arguments": call.arguments.decode(),
            "_meta": dict(call.meta),
        }

    def _render(self, message: Message) -> ToolCall:
        values: Values = message.values()
        arguments = self.arguments.render(values)
        if len(arguments) > MAX_ARGUMENTS:
            raise Permanent("template", "the rendered arguments are larger than 256 KiB")
        headers = {name: value.render(values) for name, value in self.headers.items()}
        if self.auth_token is not None:
            headers["authorization"] = f"Bearer {self.auth_token}"
        url = self.url.render(values)
        return ToolCall(
            url=url,
            headers=headers,
            tool=self.tool,
            arguments=arguments,
            meta={"idempotencyKey": webhook_id(message.delivery_id), "agentauri/kind": message.kind},
            organization_id=message.organization_id,
            timeout=self.timeout,
            retry_on_tool_error=self.retry_on_tool_error,
            secrets=secrets_of(url, headers.values()),
        )


def _loaded() -> Callable[[ToolCall, Guard], Awaitable[Sent]]:
    """What calls tools. Loading it takes seconds the first time."""
    module = importlib.import_module("agentauri.actions.channels.mcp_client")
    return cast("Callable[[ToolCall, Guard], Awaitable[Sent]]", module.call_tool)


def _tool(fields: Fields) -> Json:
    tool: Json = {"tool_name": fields.text("tool_name", longest=256)}
    if not tool["tool_name"]:
        if not fields.refuses("tool_name"):
            fields.refuse("tool_name", "is required")
    elif not str(tool["tool_name"]).isprintable():
        fields.refuse("tool_name", "must be printable")
    arguments = _document(fields.take("arguments_template"))
    if arguments is not None:
        tool["arguments_template"] = arguments
        if not isinstance(arguments, Mapping):
            fields.refuse("arguments_template", "must be an object")
        elif fault := template_fault(partial(compile_json, arguments)):
            fields.refuse("arguments_template", fault)
    again = fields.take("retry_on_tool_error")
    if again is not None:
        tool["retry_on_tool_error"] = again
        if not isinstance(again, bool):
            fields.refuse("retry_on_tool_error", "must be true or false")
    return tool


def _document(source: object) -> object:
    """JSON that was sent as text is JSON all the same."""
    if not isinstance(source, str):
        return source
    try:
        return cast("object", msgspec.json.decode(source))
    except (msgspec.DecodeError, RecursionError):
        return source
