"""The listening end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from litestar.types import HTTPScope, Receive, Send

from agentauri.config import ConfigError, ServerConfig
from agentauri.http import server as serving
from agentauri.http.exchange import Layer
from agentauri.http.server import HttpServer

Serve = Callable[[Layer], Awaitable[str]]


async def hello(scope: HTTPScope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello", "more_body": False})


def test_a_port_in_use_is_told_by_the_name_of_its_variable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as refused:
            HttpServer(hello, ServerConfig(port=port))
    assert refused.value.faults == [
        f"SERVER_PORT: {port} is in use on 127.0.0.1; stop what listens there, or name another port"
    ]


def test_an_address_of_another_machine_is_told_by_the_name_of_its_variable() -> None:
    with pytest.raises(ConfigError) as refused:
        HttpServer(hello, ServerConfig(host="192.0.2.1", port=0))
    assert refused.value.faults[0].startswith("SERVER_HOST: 192.0.2.1 is no address of this machine")


async def test_it_answers_from_the_port_that_it_names(serve: Serve, client: aiohttp.ClientSession) -> None:
    async with client.get(await serve(hello)) as answer:
        assert await answer.text() == "hello"
        assert "Server" not in answer.headers


async def test_signals_stay_with_the_process(serve: Serve, client: aiohttp.ClientSession) -> None:
    before = signal.getsignal(signal.SIGTERM)
    async with client.get(await serve(hello)):
        assert signal.getsignal(signal.SIGTERM) is before


async def test_a_request_in_flight_is_answered_before_it_stops(client: aiohttp.ClientSession) -> None:
    arrived, go_on, stopping = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def waiting(scope: HTTPScope, receive: Receive, send: Send) -> None:
        arrived.set()
        await go_on.wait()
        await hello(scope, receive, send)

    server = HttpServer(waiting, ServerConfig(port=0))
    running = asyncio.create_task(server.run(stopping))
    asking = asyncio.create_task(client.get(f"http://127.0.0.1:{server.port}"))
    await arrived.wait()
    stopping.set()
    go_on.set()
    assert await (await asking).text() == "hello"
    await running
    with pytest.raises(OSError, match="Connect"):
        await asyncio.open_connection("127.0.0.1", server.port)


async def test_it_runs_again_on_its_port_after_a_crash(client: aiohttp.ClientSession) -> None:
    server, stopping = HttpServer(hello, ServerConfig(port=0)), asyncio.Event()
    stopping.set()
    await server.run(stopping)
    stopping.clear()
    running = asyncio.create_task(server.run(stopping))
    try:
        for _ in range(100):
            try:
                async with client.get(f"http://127.0.0.1:{server.port}") as answer:
                    assert answer.status == 200
                    break
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.01)
    finally:
        stopping.set()
        await running


async def test_a_head_without_end_ends_the_connection(serve: Serve) -> None:
    url = await serve(hello)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(b"GET / HTTP/1.1\r\nX-Endless: ")
    with pytest.raises(ConnectionError):
        for _ in range(1000):
            writer.write(b"x" * 64 * 1024)
            await writer.drain()
    assert reader.at_eof() or reader.exception()


async def test_a_head_that_does_not_come_ends_the_connection(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.05)
    url = await serve(hello)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(b"GET / HT")
    assert await reader.read() == b""
    writer.close()


async def test_what_is_not_http_gets_the_servers_bare_400(
    serve: Serve, send_raw: Callable[[str, bytes], Awaitable[bytes]]
) -> None:
    assert (await send_raw(await serve(hello), b"\x16\x03\x01 nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
