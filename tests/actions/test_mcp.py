"""A due delivery becomes one call of a tool, and the three ways to fail are told apart."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import quote, unquote

import mcp_types
import pytest
from mcp.shared.exceptions import MCPError
from starlette.types import Scope, Send

from agentauri.actions import ActionDraft, ActionService, Dispatcher, Guard, Outbound, make_channels
from agentauri.errors import Invalid
from agentauri.sealing import Sealer
from agentauri.types import DeliveryId, EventSeq, TriggerId
from support.mcp_server import Answer, Params, ToolServer, respond, text_result

from .conftest import World

AUTH_TOKEN = "t0ken-of-the-tools"
ARGUMENTS = {"agent": "{{agent_id}}", "score": "{{score}}", "text": "{{chain_name}}: {{tag1}}", "fixed": [1, None]}


@pytest.fixture
async def tools() -> AsyncIterator[ToolServer]:
    async with ToolServer.open() as opened:
        yield opened


async def a_tool(world: World, tools: ToolServer, **config: object) -> TriggerId:
    """A trigger that calls a tool."""
    trigger_id = await world.trigger()
    wanted = {"server_url": tools.url, "tool_name": "note rating", "arguments_template": ARGUMENTS} | config
    checked = await world.actions.check([ActionDraft(action_type="mcp", config=wanted)])
    async with world.database.transaction() as tx:
        (action,) = await world.actions.create(tx, trigger_id, checked)
    world.action_of[trigger_id] = action.id
    return trigger_id


async def a_delivery(world: World, trigger_id: TriggerId, seq: EventSeq | None = None, **changes: Any) -> DeliveryId:
    return await world.delivery(trigger_id, seq, action_type="mcp", **changes)


async def verdict(world: World, id_: DeliveryId) -> tuple[str, str | None, str | None]:
    row, (attempt,) = await world.row(id_), await world.attempts(id_)
    return row["status"], attempt["error_kind"], attempt["response_excerpt"]


@pytest.mark.parametrize("json_response", [False, True])
async def test_a_delivery_is_a_session_with_one_call(world: World, dispatcher: Dispatcher, json_response: bool) -> None:
    async with ToolServer.open(json_response=json_response) as tools:
        id_ = await a_delivery(world, await a_tool(world, tools), await world.event(tag1='say "hi"'))

        await dispatcher.step()

        asked = [json.loads(body)["method"] for body in tools.asked]
        assert asked == ["initialize", "notifications/initialized", "tools/call"]
        assert tools.methods == ["POST", "POST", "POST", "DELETE"]
        (call,) = tools.calls
        assert call.name == "note rating"
        assert call.arguments == {
            "agent": 42,
            "score": 85,
            "text": 'Base Sepolia: say "hi"',
            "fixed": [1, None],
        }
        assert dict(call.meta or {}) == {"idempotencyKey": f"msg_{id_}", "agentauri/kind": "match"}
        assert await verdict(world, id_) == ("delivered", None, "done")
        assert (await world.attempts(id_))[0]["peer_address"] == "127.0.0.1"


async def test_every_try_has_the_same_idempotency_key(world: World, dispatcher: Dispatcher, tools: ToolServer) -> None:
    id_ = await a_delivery(world, await a_tool(world, tools, retry_on_tool_error=True))
    tools.answer = failing("not yet")
    await dispatcher.step()
    tools.answer = failing("done", is_error=False)
    await world.make_due(id_)

    await dispatcher.sweep()
    await dispatcher.step()

    assert len({str(call.meta) for call in tools.calls}) == 1
    assert (await world.row(id_))["status"] == "delivered"


@pytest.mark.parametrize(
    ("config", "header", "value"),
    [
        ({"auth_token": AUTH_TOKEN}, "authorization", f"Bearer {AUTH_TOKEN}"),
        ({"headers": {"X-Api-Key": AUTH_TOKEN}}, "x-api-key", AUTH_TOKEN),
        ({"headers": {"X-Tag": "tag {{tag1}}"}}, "x-tag", "tag aX-Evil: 1"),
    ],
)
async def test_every_request_carries_the_credentials(
    world: World, dispatcher: Dispatcher, tools: ToolServer, config: dict[str, object], header: str, value: str
) -> None:
    await a_delivery(world, await a_tool(world, tools, **config), await world.event(tag1="a\r\nX-Evil: 1"))

    await dispatcher.step()

    assert [headers.get(header) for headers in tools.headers] == [value] * 3
    assert all(headers["user-agent"].startswith("AgentAuri/") for headers in tools.headers)
    assert not any("x-evil" in headers for headers in tools.headers)


def failing(text: str, *, is_error: bool = True) -> Answer:
    async def answer(_: Params) -> mcp_types.CallToolResult:
        return text_result(text, is_error=is_error)

    return answer


def raising(code: int) -> Answer:
    async def answer(_: Params) -> mcp_types.CallToolResult:
        raise MCPError(code, "the tool's own words")

    return answer


SAID = "the tool's own words"
ERRORS: dict[str, tuple[Answer, dict[str, object], tuple[str, str, str]]] = {
    "tool error": (failing("no such agent"), {}, ("dead", "tool_error", "no such agent")),
    "again": (failing("no such agent"), {"retry_on_tool_error": True}, ("pending", "tool_error", "no such agent")),
    "long": (failing("é" * 2000), {}, ("dead", "tool_error", "é" * 1024)),
    "invalid params": (raising(-32602), {}, ("dead", "rpc_error", SAID)),
    "no such tool": (raising(-32601), {}, ("dead", "rpc_error", SAID)),
    "unheard of": (raising(1234), {"retry_on_tool_error": True}, ("dead", "rpc_error", SAID)),
    "internal": (raising(-32603), {}, ("pending", "rpc_error", SAID)),
    "first of the server": (raising(-32000), {}, ("pending", "rpc_error", SAID)),
    "last of the server": (raising(-32099), {}, ("pending", "rpc_error", SAID)),
}


async def test_an_error_of_the_tool_and_one_of_the_protocol_are_told_apart(
    world: World, dispatcher: Dispatcher, tools: ToolServer
) -> None:
    async def answer(call: Params) -> mcp_types.CallToolResult:
        return await ERRORS[(call.arguments or {})["case"]][0](call)

    tools.answer = answer
    ids = {
        case: await a_delivery(world, await a_tool(world, tools, arguments_template={"case": case}, **config))
        for case, (_, config, _) in ERRORS.items()
    }

    await dispatcher.step()

    assert {case: await verdict(world, id_) for case, id_ in ids.items()} == {
        case: expected for case, (_, _, expected) in ERRORS.items()
    }
    assert len(tools.calls) == len(ERRORS)


Intercept = Callable[[bytes, Scope, Send], Awaitable[bool]]
JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream"}


def at(method: str, status: int, headers: dict[str, str], body: bytes = b"") -> Intercept:
    """Answers requests that hold these words in place of the SDK."""

    async def intercept(asked: bytes, scope: Scope, send: Send) -> bool:
        if f'"{method}"'.encode() not in asked and scope["method"] != method:
            return False
        await respond(send, status, headers, body)
        return True

    return intercept


async def hang(asked: bytes, _: Scope, __: Send) -> bool:
    if b'"tools/call"' in asked:
        await asyncio.sleep(60)
    return False


async def hang_at_the_end(_: bytes, scope: Scope, __: Send) -> bool:
    if scope["method"] == "DELETE":
        await asyncio.sleep(60)
    return False


async def break_off(asked: bytes, _: Scope, send: Send) -> bool:
    """Half an answer, and the connection ends."""
    if b'"tools/call"' not in asked:
        return False
    head = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": b'{"jsonrpc"'})
    return True


async def endless(asked: bytes, _: Scope, send: Send) -> bool:
    if b'"tools/call"' not in asked:
        return False
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    for _part in range(64):
        await send({"type": "http.response.body", "body": b" " * 65536, "more_body": True})
    return True


async def drip(asked: bytes, _: Scope, send: Send) -> bool:
    if b'"tools/call"' not in asked:
        return False
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for _part in range(600):
        await send({"type": "http.response.body", "body": b": still here\n\n", "more_body": True})
        await asyncio.sleep(0.02)
    return True


WEATHER: dict[str, tuple[Intercept, str, str | None]] = {
    "no such page": (at("initialize", 404, {}), "dead", "status"),
    "no credential": (at("initialize", 401, JSON, b'{"error":"unauthorized"}'), "dead", "status"),
    "redirect": (at("initialize", 302, {"location": "http://127.0.0.1:1/"}), "dead", "status"),
    "redirect nearby": (at("initialize", 307, {"location": "/elsewhere"}), "dead", "status"),
    "unavailable": (at("initialize", 503, {}), "pending", "status"),
    "too many": (at("tools/call", 429, {"retry-after": "120"}), "pending", "status"),
    "broken server": (at("tools/call", 500, JSON, b'{"jsonrpc":"2.0","id":2,"error":{"code":1}}'), "pending", "status"),
    "bad request": (at("tools/call", 400, {}), "dead", "status"),
    "not initialized": (at("notifications/initialized", 400, {}), "dead", "status"),
    "accepted": (at("tools/call", 202, {}), "pending", "protocol"),
    "another type": (at("tools/call", 200, {"content-type": "text/html"}, b"<html>"), "pending", "protocol"),
    "no json": (at("tools/call", 200, JSON, b"{nonsense"), "pending", "protocol"),
    "no result": (
        at("tools/call", 200, JSON, b'{"jsonrpc":"2.0","id":2,"result":{"content":7}}'),
        "pending",
        "protocol",
    ),
    "no json in events": (at("tools/call", 200, EVENTS, b"event: message\ndata: {nonsense\n\n"), "pending", "protocol"),
    "no event": (at("tools/call", 200, EVENTS, b": nothing\n\n"), "pending", "protocol"),
    "encoded": (at("tools/call", 200, JSON | {"content-encoding": "gzip"}, b"\x1f\x8b"), "dead", "protocol"),
    "no handshake": (at("initialize", 200, JSON, b'{"jsonrpc":"2.0","id":1,"result":{}}'), "pending", "protocol"),
    "broken off": (break_off, "pending", "protocol"),
    "endless": (endless, "dead", "protocol"),
    "hang": (hang, "pending", "timeout"),
    "drip": (drip, "pending", "timeout"),
    "hang at the end": (hang_at_the_end, "delivered", None),
    "no end": (at("DELETE", 405, {}), "delivered", None),
}


async def test_an_error_on_the_way_is_judged_as_that_of_a_webhook(
    world: World, dispatcher: Dispatcher, tools: ToolServer
) -> None:
    async def intercept(asked: bytes, scope: Scope, send: Send) -> bool:
        return await WEATHER[unquote(scope["query_string"].decode())][0](asked, scope, send)

    tools.intercept = intercept
    ids = {}
    for case, (_, _, kind) in WEATHER.items():
        seconds = 1 if kind == "timeout" else 30
        trigger = await a_tool(world, tools, server_url=f"{tools.url}?{quote(case)}", timeout_seconds=seconds)
        ids[case] = await a_delivery(world, trigger)

    await dispatcher.step()

    assert {case: (await verdict(world, id_))[:2] for case, id_ in ids.items()} == {
        case: (status, kind) for case, (_, status, kind) in WEATHER.items()
    }


async def test_too_many_requests_wait_as_asked_and_leave_the_breaker_alone(
    world: World, dispatcher: Dispatcher, tools: ToolServer
) -> None:
    trigger = await a_tool(world, tools)
    await world.sql("""UPDATE triggers SET circuit_breaker_config = '{"failure_threshold": 1}'""")
    id_ = await a_delivery(world, trigger)
    tools.intercept = at("initialize", 429, {"retry-after": "120"})

    await dispatcher.step()

    assert (await world.row(id_))["wait"] > 119
    breaker = await world.breaker(trigger)
    assert breaker is None or breaker["failure_count"] == 0


async def test_a_session_that_is_lost_is_opened_again_at_once(
    world: World, dispatcher: Dispatcher, tools: ToolServer
) -> None:
    id_ = await a_delivery(world, await a_tool(world, tools))
    tools.lose_sessions = 1

    await dispatcher.step()

    assert [json.loads(body)["method"] for body in tools.asked].count("initialize") == 2
    assert len(tools.calls) == 1
    assert await verdict(world, id_) == ("delivered", None, "done")


async def test_a_server_that_loses_every_session_is_tried_later(
    world: World, dispatcher: Dispatcher, tools: ToolServer
) -> None:
    id_ = await a_delivery(world, await a_tool(world, tools))
    tools.lose_sessions = 99

    await dispatcher.step()

    assert (await verdict(world, id_))[:2] == ("pending", "session")
    assert tools.lose_sessions == 97


async def test_credentials_are_in_nothing_that_is_kept_or_told(
    world: World, dispatcher: Dispatcher, tools: ToolServer, log_lines: list[dict[str, object]], capfd: Any
) -> None:
    trigger = await a_tool(world, tools, auth_token=AUTH_TOKEN, headers={"X-Key": "k3y-of-the-tools"})
    told = [await a_delivery(world, trigger), await a_delivery(world, trigger), await a_delivery(world, trigger)]
    answers = iter([failing(f"Bearer {AUTH_TOKEN} k3y-of-the-tools"), raising(-32603)])
    tools.intercept = at("initialize", 401, {}, f"no {AUTH_TOKEN}".encode())
    await dispatcher.step()
    tools.intercept = None
    for answer in answers:
        tools.answer = answer
        told.append(await a_delivery(world, trigger))
        await dispatcher.step()

    async with world.database.transaction() as tx:
        actions = (await world.actions.of(tx, [trigger]))[trigger]
        tables = await tx.fetch(
            """SELECT to_jsonb(t)::text FROM attempts t UNION ALL SELECT to_jsonb(t)::text FROM deliveries t
               UNION ALL SELECT to_jsonb(t)::text FROM trigger_actions t"""
        )
        shown = [await world.deliveries.get(tx, (await world.row(id_))["organization_id"], id_) for id_ in told]
    kept = repr((log_lines, tables, actions, shown))
    assert len(log_lines) >= 5
    assert [secret for secret in (AUTH_TOKEN, "k3y-of-the-tools") if secret in kept] == []
    assert capfd.readouterr().err == ""  # the SDK's own lines


async def test_a_preview_shows_the_call_with_its_secrets_masked(
    world: World, dispatcher: Dispatcher, tools: ToolServer
) -> None:
    id_ = await a_delivery(world, await a_tool(world, tools, auth_token=AUTH_TOKEN))

    async with world.database.transaction() as tx:
        shown = await world.deliveries.get(tx, (await world.row(id_))["organization_id"], id_)

    assert shown.rendered is not None
    assert shown.rendered["tool_name"] == "note rating"
    assert shown.rendered["headers"] == {"authorization": "***"}
    assert json.loads(str(shown.rendered["arguments"]))["agent"] == 42
    assert tools.asked == []


async def test_arguments_that_are_too_large_end_it(world: World, dispatcher: Dispatcher, tools: ToolServer) -> None:
    trigger = await a_tool(world, tools, arguments_template={"uri": "{{token_uri}}"})
    id_ = await a_delivery(world, trigger, await world.event(token_uri="x" * 300_000))

    await dispatcher.step()

    assert (await verdict(world, id_))[:2] == ("dead", "template")
    assert tools.asked == []


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"server_url": None}, "server_url"),
        ({"server_url": "http://tools.example.com/mcp"}, "server_url"),
        ({"server_url": "https://user:pw@tools.example.com/mcp"}, "server_url"),
        ({"server_url": "https://127.0.0.1/mcp"}, "server_url"),
        ({"server_url": "https://{{tag1}}.example.com/"}, "server_url"),
        ({"tool_name": None}, "tool_name"),
        ({"tool_name": "x" * 257}, "tool_name"),
        ({"tool_name": "a\nb"}, "tool_name"),
        ({"arguments_template": [1]}, "arguments_template"),
        ({"arguments_template": {"a": "{{nope}}"}}, "arguments_template"),
        ({"arguments_template": "{nonsense"}, "arguments_template"),
        ({"retry_on_tool_error": 1}, "retry_on_tool_error"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"auth_token": "a b"}, "auth_token"),
        ({"auth_token": "***"}, "auth_token"),
        ({"auth_token": "x", "headers": {"Authorization": "y"}}, "auth_token"),
        ({"headers": {"Mcp-Session-Id": "x"}}, "headers.Mcp-Session-Id"),
        ({"headers": {"Accept": "x"}}, "headers.Accept"),
        ({"url": "https://tools.example.com"}, "url"),
    ],
)
async def test_a_configuration_is_refused_where_it_is_wrong(
    outbound: Outbound, config: dict[str, object], field: str
) -> None:
    guard = Guard(allow_insecure=False, blocked_ports=frozenset(), look_up=lambda _: ["8.8.8.8"])
    channels = make_channels(Outbound(outbound._wire, guard), webhook_timeout=10)
    wanted = {"server_url": "https://tools.example.com/mcp", "tool_name": "note"} | config

    with pytest.raises(Invalid) as error:
        await ActionService(Sealer((b"k" * 32,)), channels).check([ActionDraft(action_type="mcp", config=wanted)])

    assert [fault.field for fault in error.value.errors] == [f"actions[0].config.{field}"]


async def test_a_configuration_is_kept_with_its_secrets_apart(world: World, tools: ToolServer) -> None:
    config = {
        "server_url": tools.url,
        "tool_name": "note",
        "arguments_template": '{"a": "{{score}}"}',
        "auth_token": AUTH_TOKEN,
        "timeout_ms": 120_000,
    }

    (checked,) = await world.actions.check([ActionDraft(action_type="mcp", config=config)])

    assert checked.config == {
        "server_url": tools.url,
        "tool_name": "note",
        "arguments_template": {"a": "{{score}}"},
        "auth_token": "***",
        "timeout_seconds": 60.0,
    }
    assert (checked.secrets, checked.destination) == ({"auth_token": AUTH_TOKEN}, "127.0.0.1")


async def test_the_sdk_is_loaded_with_the_first_call() -> None:
    """It takes seconds, and most installations call no tools."""
    code = "import agentauri.actions, sys; print({'mcp', 'httpx2', 'starlette'} & set(sys.modules))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)

    assert (await process.communicate())[0].strip() == b"set()"
