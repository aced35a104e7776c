"""A receiver of webhooks in a process of its own: answers 204 at once and remembers what it got.

Bare asyncio on a C parser, keep-alive: it shares the machine with what is measured and must cost little.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from typing import cast

import httptools

from harness import Orders, Peer

ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
KEPT = 1_000


class Got:
    """Everything since it was last taken."""

    def __init__(self) -> None:
        self.ids: dict[bytes, float] = {}
        """`webhook-id`, and the monotonic time at which its first request was there."""
        self.requests = 0
        self.samples: list[tuple[list[tuple[bytes, bytes]], bytes]] = []


class _Connection(asyncio.Protocol):
    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.WriteTransport
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._sink.take(self._headers, self._body)
        self._headers, self._body = [], b""
        self._transport.write(ANSWER)


class Sink:
    """Keeps the first `kept` requests whole."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._got = Got()

    def take(self, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        got = self._got
        got.requests += 1
        webhook_id = next((value for name, value in headers if name == b"webhook-id"), b"")
        got.ids.setdefault(webhook_id, time.monotonic())
        if len(got.samples) < self._kept:
            got.samples.append((headers, body))

    def taken(self) -> Got:
        got, self._got = self._got, Got()
        return got


async def _serve(orders: Orders, kept: int) -> None:
    sink = Sink(kept)
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(sink), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await orders.obey({"port": lambda: port, "take": sink.taken})


class Receiver:
    """The sink, seen from here."""

    def __init__(self, stack: ExitStack, kept: int = KEPT) -> None:
        self._peer = Peer(stack, _serve, kept)
        self.url = f"http://127.0.0.1:{self._peer.ask('port')}/hook"

    def take(self) -> Got:
        got = self._peer.ask("take")
        assert isinstance(got, Got)
        return got
