"""HTTP/1.1 as far as a webhook needs it: one request, one bounded answer, the connection kept for the next.

A general client costs more for each request than all else that is done for it. This one writes a request at once,
leaves reading to a C parser, and tells of the end by a call: an exchange has neither a task nor a timer of its own.
Who may be called is not decided here: addresses come checked, and sockets are made by whoever checks them once more.
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

WATCH_SECONDS = 0.1
"""How exactly deadlines are kept."""

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


Ended = Callable[[Answer | Exception], None]
"""Told what came of an exchange: `TimeoutError`, `CannotConnect`, `ssl.SSLError`, `Broken`, `NotHttp` and `OSError` are
as they say."""


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


class Exchange:
    """A request that is under way. Whoever began it is told of its end, once and later, unless it is cancelled."""

    __slots__ = ("_ended", "_under_way", "deadline", "way")

    def __init__(self, ended: Ended, deadline: float, under_way: set[Exchange]) -> None:
        self._ended: Ended | None = ended
        self._under_way = under_way
        self.deadline = deadline
        self.way: _Connection | asyncio.Task[None]
        under_way.add(self)

    def end(self, outcome: Answer | Exception) -> None:
        ended = self._leave()
        if ended is not None:
            ended(outcome)

    def give_up(self, error: Exception) -> None:
        """End it, whatever comes of it."""
        ended = self._leave()
        if ended is not None:
            self._stop()
            ended(error)

    def cancel(self) -> None:
        """Nobody is told of its end."""
        if self._leave() is not None:
            self._stop()

    def _leave(self) -> Ended | None:
        ended, self._ended = self._ended, None
        self._under_way.discard(self)
        return ended

    def _stop(self) -> None:
        if isinstance(self.way, asyncio.Task):
            self.way.cancel()
        else:
            self.way.close()


class Wire:
    """A client. As many connections are open as there are exchanges at once; idle ones are closed soon."""

    def __init__(self, make_socket: MakeSocket) -> None:
        self._make_socket = make_socket
        self._idle: defaultdict[Place, list[_Connection]] = defaultdict(list)
        self._under_way: set[Exchange] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None

    def close(self) -> None:
        for timer in (self._sweep, self._watch):
            if timer is not None:
                timer.cancel()
        for exchange in list(self._under_way):
            exchange.cancel()
        for connection in chain.from_iterable(self._idle.values()):
            connection.close()
        self._idle.clear()

    def begin(self, place: Place, addresses: Sequence[str], request: bytes, timeout: float, ended: Ended) -> Exchange:
        """Send a request to one of the place's addresses, and tell of the answer or of what went wrong, after `timeout`
        seconds in all."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        exchange = Exchange(ended, now + timeout, self._under_way)
        if self._watch is None:
            self._watch = loop.call_later(WATCH_SECONDS, self._watch_deadlines, loop)
        connection = self._take(place, now)
        if connection is None:
            exchange.way = loop.create_task(self._connect_and_ask(exchange, place, addresses, request))
        else:
            connection.ask(exchange, request)
        return exchange

    async def exchange(self, place: Place, addresses: Sequence[str], request: bytes, timeout: float) -> Answer:
        """The same, waited for.

        Raises:
            TimeoutError, CannotConnect, ssl.SSLError, Broken, NotHttp, OSError: see `Ended`.
        """
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def ended(outcome: Answer | Exception) -> None:
            if answered.done():  # cancelled just now
                return
            if isinstance(outcome, Exception):
                answered.set_exception(outcome)
            else:
                answered.set_result(outcome)

        exchange = self.begin(place, addresses, request, timeout, ended)
        try:
            return await answered
        finally:
            exchange.cancel()

    def keep(self, place: Place, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle[place].append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(IDLE_SECONDS, self._close_idle, loop)

    def _take(self, place: Place, now: float) -> _Connection | None:
        idle = self._idle.get(place)
        while idle:
            connection = idle.pop()
            if connection.reusable and now - connection.idle_since < IDLE_SECONDS:
                return connection
            connection.close()
        return None

    def _watch_deadlines(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer for all: nearly every exchange ends in time, and a timer of its own would have to be made and
        cancelled for each."""
        now = loop.time()
        for exchange in [exchange for exchange in self._under_way if exchange.deadline <= now]:
            exchange.give_up(TimeoutError())
        self._watch = loop.call_later(WATCH_SECONDS, self._watch_deadlines, loop) if self._under_way else None

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

    async def _connect_and_ask(
        self, exchange: Exchange, place: Place, addresses: Sequence[str], request: bytes
    ) -> None:
        try:
            connection = await self._connect(place, addresses)
        except Exception as error:  # noqa: BLE001 (whoever began it is told of it)
            exchange.end(error)
        else:
            connection.ask(exchange, request)

    async def _connect(self, place: Place, addresses: Sequence[str]) -> _Connection:
        sock = await open_socket(addresses, place.port, self._make_socket)
        secure = place.scheme == "https"
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self, place),
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

    def __init__(self, wire: Wire, place: Place) -> None:
        self.reusable = False
        self.idle_since = 0.0
        self._wire = wire
        self._place = place
        self._transport: asyncio.Transport
        self._peer: str | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._exchange: Exchange | None = None
        self._answer: Answer | None = None

    def ask(self, exchange: Exchange, request: bytes) -> None:
        exchange.way = self
        self.reusable = False
        self._exchange = exchange
        self._headers: dict[str, str] = {}
        self._head_ended = False
        self._body: list[bytes] = []
        self._head_room, self._room = HEAD_BYTES, BODY_BYTES
        self._received = 0
        self._transport.write(request)

    def close(self) -> None:
        self.reusable = False
        self._exchange = None
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if address := transport.get_extra_info("peername"):
            self._peer = str(address[0])

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        if self._exchange is None:
            return
        until_closed = not {"content-length", "transfer-encoding"} & self._headers.keys()
        if self._head_ended and until_closed and error is None:
            self._complete(reusable=False)
            self._tell()
        elif error is not None:
            self._fail(error)
        else:
            self._fail(NotHttp() if self._received else Broken())

    def data_received(self, data: bytes) -> None:
        if self._exchange is None:  # nobody asked
            self.close()
            return
        self._received += len(data)
        more = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.reusable = more = False
        if self._answer is not None:
            self._tell()
        elif not more or self._head_room < 0 or not (self._head_ended or self._received <= HEAD_BYTES):
            self._fail(NotHttp())

    def _fail(self, error: Exception) -> None:
        exchange = self._exchange
        self.close()
        if exchange is not None:
            exchange.end(error)

    def _tell(self) -> None:
        """Tell of the answer, once the parser has gone through all that came: whoever is told may ask again at once."""
        exchange, self._exchange = self._exchange, None
        answer, self._answer = self._answer, None
        assert exchange is not None
        assert answer is not None
        if self.reusable and not self._transport.is_closing():
            self._wire.keep(self._place, self)
        else:
            self.close()
        exchange.end(answer)

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._answer is not None:  # a second one
            self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_room -= len(name) + len(value)
        if self._head_room >= 0 and not self._head_ended:
            self._headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        self._head_ended = True

    def on_body(self, data: bytes) -> None:
        if self._answer is not None:
            return
        self._body.append(data[: self._room])
        self._room -= len(data)
        if self._room <= 0:
            self._complete(reusable=False)

    def on_message_complete(self) -> None:
        if self._answer is not None:
            return
        status = self._parser.get_status_code()
        if status < 200 and status != SWITCHING_PROTOCOLS:
            self._headers, self._head_ended = {}, False  # the answer is yet to come
            return
        self._complete(reusable=self._parser.should_keep_alive())

    def _complete(self, *, reusable: bool) -> None:
        if self._head_room < 0:
            return
        self.reusable = reusable
        self._answer = Answer(self._parser.get_status_code(), self._headers, b"".join(self._body), self._peer)
