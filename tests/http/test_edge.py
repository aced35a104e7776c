"""What every request passes, whatever it asks for."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import asyncpg
import pytest
from litestar.types import HTTPScope, Receive, Send
from prometheus_client import generate_latest
from redis.asyncio import Redis

from agentauri import metrics
from agentauri.config import ServerConfig
from agentauri.errors import Conflict, FieldError, Forbidden, Invalid, NotFound, RateLimited, Unavailable
from agentauri.http import edge
from agentauri.http.edge import MAX_BODY, make_request_id
from agentauri.http.exchange import Layer
from agentauri.http.metering import Meter
from agentauri.http.rate_limit import RateLimiter

Serve = Callable[[Layer], Awaitable[str]]
SendRaw = Callable[[str, bytes], Awaitable[bytes]]


def surround(app: Layer, config: ServerConfig, **seconds: float) -> Layer:
    return edge.surround(app, config, Meter(RateLimiter(Redis(), "off"), config), **seconds)


def raising(error: Exception) -> Layer:
    async def app(scope: HTTPScope, receive: Receive, send: Send) -> None:
        raise error

    return surround(app, ServerConfig())


async def echo(scope: HTTPScope, receive: Receive, send: Send) -> None:
    """Answers with the length of the body, and headers that no handler should have a say in."""
    body = b""
    while True:
        message: Any = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    headers = [(b"x-frame-options", b"ALLOW"), (b"server", b"echo"), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": str(len(body)).encode(), "more_body": False})


ECHO = surround(echo, ServerConfig())


async def test_every_status_has_the_one_envelope(serve: Serve, client: aiohttp.ClientSession) -> None:
    errors = [
        (Invalid.fields(FieldError("a[0].b", "must be text")), 422, "validation_error"),
        (NotFound("There is no such thing."), 404, "not_found"),
        (Conflict("Not now."), 409, "conflict"),
        (Forbidden("Not you."), 403, "forbidden"),
        (RateLimited("Rate limit exceeded", 0.2), 429, "rate_limit_exceeded"),
        (Unavailable("The database is away."), 503, "service_unavailable"),
        (RuntimeError("a secret detail"), 500, "internal_error"),
    ]
    for error, status, code in errors:
        async with client.get(await serve(raising(error))) as answer:
            problem = json.loads(await answer.text())
        assert answer.status == status
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert problem["error"] == code
        assert problem["status"] == status
        assert problem["message"] == problem["detail"]
        assert problem["type"] == "/problems/" + code.replace("_", "-")
        assert problem["request_id"] == answer.headers["X-Request-ID"]
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cache-Control"] == "no-store"
        assert ("Retry-After" in answer.headers) == (status in (429, 503))
        assert (problem["errors"] != []) == (status == 422)


async def test_a_retry_is_never_sooner_than_in_a_second(serve: Serve, client: aiohttp.ClientSession) -> None:
    async with client.get(await serve(raising(RateLimited("Rate limit exceeded", 0.2)))) as answer:
        assert answer.headers["Retry-After"] == "1"
        assert (await answer.json(content_type=None))["retry_after"] == 1


async def test_a_bug_tells_the_caller_nothing_and_the_log_everything(
    serve: Serve, client: aiohttp.ClientSession, log_lines: list[dict[str, object]]
) -> None:
    async with client.get(await serve(raising(RuntimeError("the detail")))) as answer:
        text = await answer.text()
    assert "detail of" not in text
    assert "RuntimeError" not in text
    crashed = next(line for line in log_lines if line["event"] == "http.crashed")
    assert crashed["request_id"] == json.loads(text)["request_id"]
    assert crashed["exc_info"]


@pytest.mark.parametrize("error", [asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError])
async def test_a_statement_that_takes_too_long_is_weather(
    serve: Serve, client: aiohttp.ClientSession, error: type[Exception]
) -> None:
    async with client.get(await serve(raising(error("canceling statement")))) as answer:
        assert answer.status == 503
        assert "canceling" not in await answer.text()


async def test_handlers_have_no_say_in_the_security_headers(serve: Serve, client: aiohttp.ClientSession) -> None:
    async with client.get(await serve(ECHO)) as answer:
        assert answer.headers.getall("X-Frame-Options") == ["DENY"]
        assert "Server" not in answer.headers


async def test_headers_leave_in_the_spelling_that_operators_grep_for(serve: Serve, send_raw: SendRaw) -> None:
    app = surround(echo, ServerConfig(enable_hsts=True))
    answer = await send_raw(await serve(app), b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    head = answer.partition(b"\r\n\r\n")[0].decode()
    assert "\r\nStrict-Transport-Security: max-age=31536000; includeSubDomains" in head
    assert "\r\nX-Content-Type-Options: nosniff" in head
    assert "\r\nX-Request-ID: " in head
    assert "\r\nCache-Control: no-store" in head


async def test_hsts_is_sent_only_when_it_is_switched_on(serve: Serve, client: aiohttp.ClientSession) -> None:
    async with client.get(await serve(ECHO)) as answer:
        assert "Strict-Transport-Security" not in answer.headers


async def test_a_fit_request_id_is_kept_and_any_other_replaced(serve: Serve, client: aiohttp.ClientSession) -> None:
    url = await serve(ECHO)
    for given, kept in {"my-request.1": True, "short": False, "with space in it": False, "x" * 65: False}.items():
        async with client.get(url, headers={"X-Request-ID": given}) as answer:
            assert (answer.headers["X-Request-ID"] == given) is kept


def test_a_made_request_id_is_a_uuid_of_version_7() -> None:
    made = make_request_id()
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", made)
    assert made[:9] <= make_request_id()[:9]


async def test_one_line_per_request_tells_what_was_asked_and_nothing_of_the_query(
    serve: Serve, client: aiohttp.ClientSession, log_lines: list[dict[str, object]]
) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    async with client.get(f"{await serve(ECHO)}/x?token=canary", headers=headers) as answer:
        request_id = answer.headers["X-Request-ID"]
    [line] = [line for line in log_lines if line["event"] == "http.answered"]
    assert line["request_id"] == request_id
    assert line["trace_id"] == trace
    assert (line["method"], line["route"], line["status"], line["client"]) == ("GET", "unmatched", 200, "127.0.0.1")
    assert line["principal"] == "anonymous"
    assert "canary" not in repr(log_lines)


async def test_labels_hold_nothing_that_a_caller_made_up(serve: Serve, client: aiohttp.ClientSession) -> None:
    await client.request("PROPFIND", f"{await serve(ECHO)}/canary")
    text = generate_latest(metrics.REGISTRY).decode()
    assert 'method="other",route="unmatched"' in text
    assert "canary" not in text
    assert "PROPFIND" not in text


async def test_a_body_of_exactly_the_limit_is_read(serve: Serve, client: aiohttp.ClientSession) -> None:
    async with client.post(await serve(ECHO), data=b"x" * MAX_BODY) as answer:
        assert (answer.status, await answer.text()) == (200, str(MAX_BODY))


async def test_a_body_declared_too_large_is_refused_unread(serve: Serve, send_raw: SendRaw) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2097152\r\n\r\n"
    answer = await send_raw(await serve(ECHO), head)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"payload_too_large"' in answer


async def test_a_body_of_undeclared_length_is_counted_while_it_is_read(serve: Serve, send_raw: SendRaw) -> None:
    body = b"%x\r\n%s\r\n" % (MAX_BODY + 1, b"x" * (MAX_BODY + 1))
    request = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    assert (await send_raw(await serve(ECHO), request)).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("request_line", "header", "status"),
    [("GET /" + "a" * 9000, "", 414), ("GET /?q=" + "a" * 9000, "", 414), ("GET /", "X-Long: " + "a" * 16400, 431)],
)
async def test_addresses_and_headers_have_a_limit(
    serve: Serve, send_raw: SendRaw, request_line: str, header: str, status: int
) -> None:
    lines = [f"{request_line} HTTP/1.1", "Host: a", "Connection: close", *([header] if header else []), "", ""]
    answer = await send_raw(await serve(ECHO), "\r\n".join(lines).encode())
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in answer


async def test_a_body_that_does_not_come_in_time_is_a_timeout(serve: Serve, send_raw: SendRaw) -> None:
    app = surround(echo, ServerConfig(), body_seconds=0.05)
    answer = await send_raw(await serve(app), b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"request_timeout"' in answer


async def test_an_answer_that_is_not_ready_in_time_is_weather(serve: Serve, client: aiohttp.ClientSession) -> None:
    async def never(scope: HTTPScope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    app = surround(never, ServerConfig(), answer_seconds=0.05)
    async with client.get(await serve(app)) as answer:
        assert answer.status == 503
        assert (await answer.json(content_type=None))["error"] == "service_unavailable"


async def test_an_answer_that_has_begun_may_take_its_time(serve: Serve, client: aiohttp.ClientSession) -> None:
    async def slow(scope: HTTPScope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.1)
        await send({"type": "http.response.body", "body": b"done", "more_body": False})

    app = surround(slow, ServerConfig(), answer_seconds=0.05)
    async with client.get(await serve(app)) as answer:
        assert await answer.text() == "done"


async def test_a_caller_who_hangs_up_is_no_error(serve: Serve, log_lines: list[dict[str, object]]) -> None:
    answered = asyncio.Event()

    async def app(scope: HTTPScope, receive: Receive, send: Send) -> None:
        try:
            await ECHO(scope, receive, send)
        finally:
            answered.set()

    url = await serve(app)
    _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
    await writer.drain()
    writer.close()
    await asyncio.wait_for(answered.wait(), 5)
    assert [line["status"] for line in log_lines if line["event"] == "http.answered"] == [499]
    assert not [line for line in log_lines if line["level"] == "ERROR"]
