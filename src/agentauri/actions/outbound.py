"""HTTP to the outside world: guarded, bounded in time and size, no redirects, no proxies, no cookies."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from importlib.metadata import version
from urllib.parse import urlsplit

from msgspec import Struct

from agentauri.actions.egress import EgressRefused, Guard, LookUpFailed, SocketRefused
from agentauri.actions.errors import DeliveryFailed, Permanent, Retryable
from agentauri.actions.wire import BODY_BYTES, Answer, Broken, CannotConnect, Exchange, NotHttp, Place, Wire

EXCERPT_LENGTH = 1024
"""Characters that are kept of an answer."""

SAID_BYTES = 8 * EXCERPT_LENGTH
"""Of an answer's beginning: so many that a secret in what is kept is whole when it is looked for."""

USER_AGENT = f"AgentAuri/{version('agentauri')}"
HAS_LENGTH = frozenset({"POST", "PUT", "PATCH"})
"""Methods whose length is told also where it is 0."""


class Reply(Struct, frozen=True):
    """`headers` have lower-case names, `said` is how the answer begins, as text that any store and any log can hold:
    take out of it what is secret, then cut it. `peer` is the address that answered, `body` the first 64 KiB."""

    status: int
    headers: Mapping[str, str]
    said: str
    peer: str | None
    body: bytes


class Opening(Struct, frozen=True):
    """How a request begins, and where it goes: what is the same for many of them."""

    place: Place
    method: str
    text: str


class Outbound:
    """One shared client for everything that is sent on a customer's behalf."""

    def __init__(self, wire: Wire, guard: Guard) -> None:
        self._wire = wire
        self.guard = guard

    @classmethod
    @asynccontextmanager
    async def open(cls, guard: Guard) -> AsyncIterator[Outbound]:
        wire = Wire(guard.make_socket)
        try:
            yield cls(wire, guard)
        finally:
            wire.close()

    def begin(
        self,
        opening: Opening,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        organization_id: str,
        timeout: float,
        ended: Callable[[Reply | Exception], None],
    ) -> Exchange | asyncio.Task[None]:
        """Send one request, and tell of the answer or of what went wrong within `timeout` seconds: a `DeliveryFailed`,
        unless it is a fault of ours.

        Raises:
            Permanent: there is no such request.
        """
        request = _request(opening, headers, body)
        addresses = self.guard.known(opening.place.host)
        if addresses is None:
            return asyncio.create_task(self._look_up_and_send(opening.place, request, organization_id, timeout, ended))
        return self._wire.begin(opening.place, addresses, request, timeout, partial(_translated, timeout, ended))

    async def exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        organization_id: str,
        timeout: float,
    ) -> Reply:
        """The same, waited for.

        Raises:
            Permanent: the guard refuses the target, or there is no such request.
            Retryable: anything on the way there or back.
        """
        start = opening(method, url, {})
        request = _request(start, headers, body)
        try:
            answer = await self._send(start.place, request, organization_id, timeout)
        except (EgressRefused, LookUpFailed, CannotConnect, Broken, NotHttp, OSError) as error:
            raise failure(error, timeout) from error
        return _reply(answer)

    async def _look_up_and_send(
        self,
        place: Place,
        request: bytes,
        organization_id: str,
        timeout: float,
        ended: Callable[[Reply | Exception], None],
    ) -> None:
        outcome: Answer | Exception
        try:
            outcome = await self._send(place, request, organization_id, timeout)
        except Exception as error:  # noqa: BLE001 (told to whoever began it)
            outcome = error
        _translated(timeout, ended, outcome)

    async def _send(self, place: Place, request: bytes, organization_id: str, timeout: float) -> Answer:
        loop = asyncio.get_running_loop()
        started = loop.time()
        addresses = self.guard.known(place.host)
        if addresses is None:
            async with asyncio.timeout(timeout):
                addresses = await self.guard.addresses(place.host, organization_id)
        return await self._wire.exchange(place, addresses, request, timeout - (loop.time() - started))


def opening(method: str, url: str, headers: Mapping[str, str]) -> Opening:
    """The beginning of requests to a URL with these headers.

    Raises:
        Permanent: there is no such request.
    """
    place, line = request_line(url)
    return Opening(place, method, f"{method} {line}{_lines(headers)}")


@lru_cache(maxsize=10_000)
def request_line(url: str) -> tuple[Place, str]:
    """Where a URL leads; its path and the first header.

    Raises:
        Permanent: it cannot be used.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https") or "@" in parts.netloc or not re.fullmatch(r"[!-~]+", url):
        raise Permanent("invalid_request", "the request's URL cannot be used")
    default = 443 if parts.scheme == "https" else 80
    authority = f"[{host}]" if ":" in host else host
    authority += "" if port in (None, default) else f":{port}"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Place(parts.scheme, host, port or default), f"{path} HTTP/1.1\r\nHost: {authority}\r\n"


def _lines(headers: Mapping[str, str]) -> str:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers) or "\0" in lines:
        raise Permanent("invalid_request", "the request has a header that cannot be sent")
    return lines


def _request(start: Opening, headers: Mapping[str, str], body: bytes | None) -> bytes:
    head = start.text + _lines(headers)
    if body is None:
        return f"{head}Content-Length: 0\r\n\r\n".encode() if start.method in HAS_LENGTH else f"{head}\r\n".encode()
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _translated(timeout: float, ended: Callable[[Reply | Exception], None], outcome: Answer | Exception) -> None:
    ended(failure(outcome, timeout) if isinstance(outcome, Exception) else _reply(outcome))


def _reply(answer: Answer) -> Reply:
    return Reply(answer.status, answer.headers, _said(answer), answer.peer, answer.body)


def _said(answer: Answer) -> str:
    raw = answer.body
    if not raw:
        return ""
    coding = answer.headers.get("content-encoding", "identity").lower()
    if coding in ("gzip", "deflate"):
        try:
            raw = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(raw, BODY_BYTES)
        except zlib.error:
            return f"({coding} that does not decompress)"
    elif coding != "identity":
        return f"({len(raw)} bytes in an encoding that was not asked for)"
    return raw[:SAID_BYTES].decode("utf-8", "replace").replace("\0", "\ufffd")


def failure(error: Exception, timeout: float) -> Exception:
    """What went wrong as a verdict; as it is where it is a fault of ours."""
    verdict: DeliveryFailed
    match error:
        case TimeoutError():
            verdict = Retryable("timeout", f"no complete answer within {timeout:g} s")
        case EgressRefused():
            verdict = Permanent("egress_refused", str(error))
        case LookUpFailed():
            verdict = Retryable("dns", str(error))
        case CannotConnect() | Broken() | NotHttp() | OSError():
            verdict = connection_failure(error)
        case _:
            return error
    verdict.__cause__ = error
    return verdict


def connection_failure(error: Exception) -> DeliveryFailed:
    """What went wrong as a verdict, in words that name no address and no header."""
    match error:
        case CannotConnect(__cause__=SocketRefused() as refused):
            return Permanent("egress_refused", str(refused))
        case CannotConnect(__cause__=OSError(errno=number)):
            return Retryable("connection", f"cannot connect: {os.strerror(number) if number else 'no answer'}")
        case ssl.SSLCertVerificationError():
            return Retryable("tls", "the certificate was not accepted")
        case ssl.SSLError():
            return Retryable("tls", "the TLS handshake failed")
        case Broken():
            return Retryable("connection", "the connection was closed without an answer")
        case NotHttp():
            return Retryable("protocol", "the answer is not valid HTTP")
        case OSError(errno=number):
            reason = os.strerror(number) if number else type(error).__name__
            return Retryable("connection", f"the connection broke: {reason}")
    raise AssertionError from error
