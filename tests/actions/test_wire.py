"""One request, one bounded answer: whatever the other side says, and however it says it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from agentauri.actions.egress import Guard
from agentauri.actions.errors import DeliveryFailed, Permanent
from agentauri.actions.outbound import Outbound, Reply
from agentauri.actions.wire import BODY_BYTES, HEAD_BYTES, Answer, Broken, NotHttp, Place, Wire
from agentauri.certificates import generate

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"

Exchange = Callable[..., Awaitable[object]]


class Scripted:
    """Says the next of `answers` for each request, byte for byte; None ends the connection."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.connections = 0
        self.requests: list[bytes] = []
        self.place = Place("http", "localhost", 0)
        self.writers: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Wire]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.place = Place("http", "localhost", server.sockets[0].getsockname()[1])
        wire = Wire(lambda info: socket.socket(*info[:3]))
        try:
            yield wire
        finally:
            wire.close()
            server.close()
            for writer in self.writers:
                writer.close()
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                self.requests.append(data)
                for answer in self.answers:
                    if answer is None:
                        writer.close()
                        return
                    writer.write(answer)

    async def ask(self, wire: Wire, seconds: float = 20.0) -> Answer:
        return await wire.exchange(self.place, ["127.0.0.1"], REQUEST, seconds)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 (what happens in a client sets no event)
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("answer", "status", "body", "reused"),
    [
        ((b"HTTP/1.1 204 No Content\r\n\r\n",), 204, b"", True),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",), 200, b"ok", True),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",), 200, b"ok", True),
        ((b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",), 200, b"ok", False),
        ((b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",), 200, b"ok", False),
        ((b"HTTP/1.1 200 OK\r\n\r\nuntil it ends", None), 200, b"until it ends", False),
        (
            (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"),
            404,
            b"",
            True,
        ),
        ((b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nbytes",), 101, b"", False),
        ((b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",), 204, b"", False),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + b"x" * 90_000,), 200, b"x" * BODY_BYTES, False),
    ],
    ids=["empty", "length", "chunked", "close", "1.0", "until closed", "hints", "upgrade", "two at once", "long"],
)
async def test_an_answer_is_read_to_its_end_and_its_connection_kept_where_it_may_be(
    answer: tuple[bytes | None, ...], status: int, body: bytes, reused: bool
) -> None:
    peer = Scripted(*answer)
    async with peer.listening() as wire:
        got = [await peer.ask(wire) for _ in range(2)]

    assert [(one.status, one.body, one.peer) for one in got] == [(status, body, "127.0.0.1")] * 2
    assert peer.connections == (1 if reused else 2)


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        ((None,), Broken),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", None), NotHttp),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok", None), NotHttp),
        ((b"HTTP/1.1 200 OK\r\nContent-Le", None), NotHttp),
        ((b"220 mail.example ESMTP\r\n",), NotHttp),
        ((b"HTTP/1.1 200 OK\r\nX: " + b"x" * HEAD_BYTES,), NotHttp),
        ((b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * HEAD_BYTES,), NotHttp),
        ((b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,), NotHttp),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok",), NotHttp),
        ((b"HTTP/1.1 200 OK\r\n",), TimeoutError),
    ],
    ids=["nothing", "short", "cut", "half a head", "mail", "long", "many", "hints", "two lengths", "silence"],
)
async def test_what_is_no_answer_fails_and_its_connection_is_not_used_again(
    answer: tuple[bytes | None, ...], failure: type[Exception]
) -> None:
    peer = Scripted(*answer)
    async with peer.listening() as wire:
        with pytest.raises(failure):
            await peer.ask(wire, 0.2 if failure is TimeoutError else 20.0)
        peer.answers = [b"HTTP/1.1 204 No Content\r\n\r\n"]
        assert (await peer.ask(wire)).status == 204

    assert peer.connections == 2


async def test_an_exchange_that_is_cancelled_leaves_nothing_for_the_next() -> None:
    peer = Scripted(b"HTTP/1.1 200 OK\r\n")
    async with peer.listening() as wire:
        asking = asyncio.create_task(peer.ask(wire))
        await until(lambda: bool(peer.requests))
        asking.cancel()
        await asyncio.wait([asking])
        peer.answers = [b"HTTP/1.1 204 No Content\r\n\r\n"]

        assert (await peer.ask(wire)).status == 204
    assert peer.connections == 2


async def test_a_connection_that_ended_or_spoke_while_idle_is_not_used_again() -> None:
    peer = Scripted(b"HTTP/1.1 204 No Content\r\n\r\n")
    async with peer.listening() as wire:
        await peer.ask(wire)
        peer.writers[0].write(b"HTTP/1.1 500 Late\r\nContent-Length: 0\r\n\r\n")
        await peer.writers[0].drain()
        await until(lambda: not wire._idle[peer.place][0].reusable)

        assert (await peer.ask(wire)).status == 204
    assert peer.connections == 2


async def test_whoever_asks_again_at_once_is_not_told_what_nobody_asked_for() -> None:
    peer = Scripted(b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 500 Late\r\nContent-Length: 0\r\n\r\n")
    second: asyncio.Future[Answer | Exception] = asyncio.get_running_loop().create_future()
    async with peer.listening() as wire:

        def again(_: object) -> None:
            peer.answers = [b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"]
            wire.begin(peer.place, ["127.0.0.1"], REQUEST, 20.0, second.set_result)

        wire.begin(peer.place, ["127.0.0.1"], REQUEST, 20.0, again)
        answer = await second

    assert isinstance(answer, Answer)
    assert answer.status == 202


async def test_connections_that_idle_for_long_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentauri.actions.wire.IDLE_SECONDS", 0.01)
    peer = Scripted(b"HTTP/1.1 204 No Content\r\n\r\n")
    async with peer.listening() as wire:
        await peer.ask(wire)
        await until(lambda: not wire._idle)

    assert peer.connections == 1


@pytest.fixture
async def exchange() -> AsyncIterator[Exchange]:
    guard = Guard(allow_insecure=True, blocked_ports=frozenset())
    async with Outbound.open(guard) as outbound:

        async def send(url: str, headers: dict[str, str], body: bytes | None = b"{}", method: str = "POST") -> object:
            try:
                return await outbound.exchange(method, url, headers, body, organization_id="org", timeout=20)
            except DeliveryFailed as failed:
                return failed

        yield send


@pytest.mark.parametrize("value", ["a\r\nX-Injected: 1", "a\nb", "a\rb", "a\0b"])
async def test_a_header_cannot_bring_another(exchange: Exchange, value: str) -> None:
    failed = await exchange("http://127.0.0.1:1/", {"x-a": value})

    assert isinstance(failed, Permanent)
    assert failed.kind == "invalid_request"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/a b", "http://127.0.0.1:1/ä", "http://u:p@127.0.0.1:1/", "ftp://a/", "http://a:x/", "x"]
)
async def test_a_url_that_cannot_be_sent_is_no_request(exchange: Exchange, url: str) -> None:
    failed = await exchange(url, {})

    assert isinstance(failed, Permanent)
    assert failed.kind == "invalid_request"


@pytest.mark.parametrize(
    ("name", "days", "trusted", "fault"),
    [
        ("127.0.0.1", 10, True, None),
        ("127.0.0.1", 10, False, "certificate signature failure"),
        ("other.example", 10, True, "IP address mismatch"),
        ("127.0.0.1", 0, True, "certificate has expired"),
    ],
    ids=["good", "unknown CA", "wrong host", "expired"],
)
async def test_over_tls_nothing_is_said_to_whom_no_trusted_authority_vouches_for(
    exchange: Exchange,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    days: int,
    trusted: bool,
    fault: str | None,
) -> None:
    root, certificate, key = generate(tmp_path / "peer", [name], days)
    stranger, *_ = generate(tmp_path / "stranger", [name])  # its root bears the same name
    monkeypatch.setenv("SSL_CERT_FILE", str(root if trusted else stranger))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    peer = Scripted(b"HTTP/1.1 204 No Content\r\n\r\n")
    async with peer.listening(tls):
        got = await exchange(f"https://127.0.0.1:{peer.place.port}/", {})

    if fault is None:
        assert isinstance(got, Reply)
        assert (got.status, got.peer) == (204, "127.0.0.1")
    else:
        assert isinstance(got, DeliveryFailed)
        assert (got.kind, got.message) == ("tls", "the certificate was not accepted")
        assert isinstance(got.__cause__, ssl.SSLCertVerificationError)
        assert fault in got.__cause__.verify_message
    assert len(peer.requests) == (fault is None)
