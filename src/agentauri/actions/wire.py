"""HTTP/1.1 as far as a webhook needs it: one request, one bounded answer, the connection kept for the next.

A general client costs more for each request than all else that is done for it. This one writes a request at once and
leaves reading to a C parser. Who may be called is not decided here: addresses come checked, and sockets are made by
whoever checks them once more.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, cast

import aiohappyeyeballs
import httptools
from msgspec import Struct

HEAD_BYTES = 32 * 1024

BODY_BYTES = 64 * 1024
IDLE_SECONDS = 4.0
"""Below the 5 s after which common servers close an idle connection, perhaps just as we use it."""

ATTEMPT_DELAY = 0.25
SWITCHING_PROTOCOLS = 101

MakeSocket = Callable[[tuple[Any, ...]], socket.socket]


class Place(Struct, frozen=True):
    """Where a connection leads."""

    scheme: str
    host: str
    port: int


class Answer(Struct, frozen=True):
    """`headers` have lower-case names, `body` is at most its first 64 KiB."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    peer: str | None


class CannotConnect(Exception):
    """Nobody answers there; its cause is an OSError."""


class Broken(Exception):
    """The connection ended without an answer."""


class NotHttp(Exception):
    """What came is no answer, or not all of one."""


async def open_socket(addresses: Sequence[str], port: int, make_socket: MakeSocket) -> socket.socket:
    """A connection to the first of the addresses that answers.

    Raises:
        CannotConnect: none does.
    """
    infos = [
        (
            socket.AF_INET6 if ":" in address else socket.AF_INET,
            socket.SOCK_STREAM,
            socket.IPPROTO_TCP,
            "",
            (address, port, 0, 0) if ":" in address else (address, port),
        )
        for address in addresses
    ]
    try:
        sock = await aiohappyeyeballs.start_connection(
            infos, happy_eyeballs_delay=ATTEMPT_DELAY, interleave=1, socket_factory=make_socket
        )
    except OSError as error:
        raise CannotConnect from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Wire:
    """A client. As many connections are open as there are exchanges at once; idle ones are closed soon."""

    def __init__(self, make_socket: MakeSocket) -> None:
        self._make_socket = make_socket
        self._idle: defaultdict[Place, list[_Connection]] = defaultdict(list)
        self._sweep: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in chain.from_iterable(self._idle.values()):
            connection.close()
        self._idle.clear()

    async def exchange(self, place: Place, addresses: Sequence[str], request: bytes, timeout: float) -> Answer:
        """Send a request to one of the place's addresses and read the answer.

        Raises:
            TimeoutError: it took longer than `timeout` seconds in all.
            CannotConnect, ssl.SSLError, Broken, NotHttp, OSError: as they say.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        connection = self._take(place, loop.time())
        if connection is None:
            async with asyncio.timeout_at(deadline):
                connection = await self._connect(place, addresses)
        patience = loop.call_at(deadline, connection.fail, TimeoutError())
        try:
            return await connection.ask(request)
        except BaseException:
            connection.close()
            raise
        finally:
            patience.cancel()
            if connection.reusable:
                self._keep(place, connection, loop)

    def _take(self, place: Place, now: float) -> _Connection | None:
        idle = self._idle.get(place)
        while idle:
            connection = idle.pop()
            if connection.reusable and now - connection.idle_since < IDLE_SECONDS:
                return connection
            connection.close()
        return None

    def _keep(self, place: Place, connection: _Connection, loop: asyncio.AbstractEventLoop) -> None:
        connection.idle_since = loop.time()
        self._idle[place].append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(IDLE_SECONDS, self._close_idle, loop)

    def _close_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        oldest = loop.time() - IDLE_SECONDS
        for place, idle in list(self._idle.items()):
            for connection in idle:
                if connection.idle_since <= oldest:
                    connection.close()
            self._idle[place] = [connection for connection in idle if connection.reusable]
            if not self._idle[place]:
                del self._idle[place]
        self._sweep = loop.call_later(IDLE_SECONDS / 2, self._close_idle, loop) if self._idle else None

    async def _connect(self, place: Place, addresses: Sequence[str]) -> _Connection:
        sock = await open_socket(addresses, place.port, self._make_socket)
        secure = place.scheme == "https"
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                _Connection,
                sock=sock,
                ssl=self._tls if secure else None,
                server_hostname=place.host if secure else None,
            )
        except BaseException:
            sock.close()
            raise
        return connection

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        return context


class _Connection(asyncio.Protocol):
    """One exchange at a time. `reusable` between exchanges, while the other side leaves it open and keeps silent."""

    def __init__(self) -> None:
        self.reusable = False
        self.idle_since = 0.0
        self._transport: asyncio.Transport
        self._peer: str | None = None
        self._asked: asyncio.Future[Answer] | None = None

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        self.reusable = False
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._head_ended = False
        self._body: list[bytes] = []
        self._head_room, self._room = HEAD_BYTES, BODY_BYTES
        self._received = 0
        self._asked = asked = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            self.fail(Broken())
        else:
            self._transport.write(request)
        return asked

    def fail(self, error: Exception) -> None:
        asked, self._asked = self._asked, None
        self.close()
        if asked is not None and not asked.done():
            asked.set_exception(error)

    def close(self) -> None:
        self.reusable = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if address := transport.get_extra_info("peername"):
            self._peer = str(address[0])

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        if self._asked is None:
            return
        until_closed = not {"content-length", "transfer-encoding"} & self._headers.keys()
        if self._head_ended and until_closed and error is None:
            self._finish(reusable=False)
        elif error is not None:
            self.fail(error)
        else:
            self.fail(NotHttp() if self._received else Broken())

    def data_received(self, data: bytes) -> None:
        if self._asked is None:  # nobody asked
            self.close()
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.fail(NotHttp())
        if not self._head_ended and self._received > HEAD_BYTES:
            self.fail(NotHttp())

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._asked is None:  # a second answer
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_room -= len(name) + len(value)
        if self._head_room < 0:
            self.fail(NotHttp())
        elif not self._head_ended:
            self._headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        self._head_ended = True

    def on_body(self, data: bytes) -> None:
        if self._asked is None:
            return
        self._body.append(data[: self._room])
        self._room -= len(data)
        if self._room <= 0:
            self._finish(reusable=False)

    def on_message_complete(self) -> None:
        if self._asked is None:
            return
        status = self._parser.get_status_code()
        if status < 200 and status != SWITCHING_PROTOCOLS:
            self._headers, self._head_ended = {}, False  # the answer is yet to come
            return
        self._finish(reusable=self._parser.should_keep_alive())

    def _finish(self, *, reusable: bool) -> None:
        asked, self._asked = self._asked, None
        assert asked is not None
        if reusable and not self._transport.is_closing():
            self.reusable = True
        else:
            self.close()
        if not asked.done():
            asked.set_result(Answer(self._parser.get_status_code(), self._headers, b"".join(self._body), self._peer))
