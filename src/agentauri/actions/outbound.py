"""HTTP to the outside world: guarded, bounded in time and size, no redirects, no proxies, no cookies."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from importlib.metadata import version
from urllib.parse import urlsplit

from msgspec import Struct

from agentauri.actions.egress import EgressRefused, Guard, LookUpFailed, SocketRefused
from agentauri.actions.errors import DeliveryFailed, Permanent, Retryable
from agentauri.actions.wire import BODY_BYTES, Answer, Broken, CannotConnect, NotHttp, Place, Wire

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
        """Send one request and read the answer, all of it within `timeout` seconds.

        Raises:
            Permanent: the guard refuses the target, or there is no such request.
            Retryable: anything on the way there or back.
        """
        place, head = request_line(url)
        request = _request(method, head, headers, body)
        started = asyncio.get_running_loop().time()
        try:
            addresses = self.guard.known(place.host)
            if addresses is None:
                async with asyncio.timeout(timeout):
                    addresses = await self.guard.addresses(place.host, organization_id)
            left = timeout - (asyncio.get_running_loop().time() - started)
            answer = await self._wire.exchange(place, addresses, request, left)
        except TimeoutError as error:
            raise Retryable("timeout", f"no complete answer within {timeout:g} s") from error
        except EgressRefused as error:
            raise Permanent("egress_refused", str(error)) from error
        except LookUpFailed as error:
            raise Retryable("dns", str(error)) from error
        except (CannotConnect, Broken, NotHttp, OSError) as error:
            raise connection_failure(error) from error
        return Reply(answer.status, answer.headers, _said(answer), answer.peer, answer.body)


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


def _request(method: str, line: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    head = "".join([f"{method} {line}", *[f"{name}: {value}\r\n" for name, value in headers.items()]])
    lines = len(headers) + 2
    if head.count("\n") != lines or head.count("\r") != lines or "\0" in head:
        raise Permanent("invalid_request", "the request has a header that cannot be sent")
    if body is not None or method in HAS_LENGTH:
        head += f"Content-Length: {len(body or b'')}\r\n"
    return f"{head}\r\n".encode() + (body or b"")


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
