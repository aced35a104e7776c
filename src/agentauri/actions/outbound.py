"""HTTP to the outside world: guarded, bounded in time and size, no redirects, no proxies, no cookies."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version

import aiohttp
from aiohttp import ClientResponse, ClientSession, DummyCookieJar, TCPConnector
from aiohttp.connector import Connection
from msgspec import Struct
from yarl import URL

from agentauri.actions.egress import EgressRefused, Guard, LookUpFailed, Resolver, SocketRefused
from agentauri.actions.errors import DeliveryFailed, Permanent, Retryable

RESPONSE_BYTES = 64 * 1024
EXCERPT_LENGTH = 1024
USER_AGENT = f"AgentAuri/{version('agentauri')}"
IDLE_SECONDS = 4.0
"""Below the 5 s after which common servers close an idle connection, perhaps just as we use it."""


class Reply(Struct, frozen=True):
    """`excerpt` is at most 1,024 characters that any store and any log can hold, `peer` the address that answered."""

    status: int
    headers: Mapping[str, str]
    excerpt: str
    peer: str | None


class _Response(ClientResponse):
    """Remembers who answered: a short answer has given its connection back before it is looked at."""

    peer: str | None = None

    async def start(self, connection: Connection) -> ClientResponse:
        if connection.transport is not None and (address := connection.transport.get_extra_info("peername")):
            self.peer = str(address[0])
        return await super().start(connection)


class Outbound:
    """One shared client for everything that is sent on a customer's behalf."""

    def __init__(self, session: ClientSession, guard: Guard) -> None:
        self._session = session
        self.guard = guard

    @classmethod
    @asynccontextmanager
    async def open(cls, guard: Guard) -> AsyncIterator[Outbound]:
        connector = TCPConnector(
            limit=0,  # how much is in flight is the dispatcher's decision
            use_dns_cache=False,  # the guard's answers are the only ones
            resolver=Resolver(guard),
            socket_factory=guard.make_socket,
            happy_eyeballs_delay=0.25,
            keepalive_timeout=IDLE_SECONDS,
        )
        session = ClientSession(
            connector=connector,
            response_class=_Response,
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,  # a small body may expand to gigabytes
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None),
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        )
        async with session:
            yield cls(session, guard)

    async def exchange(
        self,
        method: str,
        url: URL,
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
        try:
            async with asyncio.timeout(timeout):
                await self.guard.addresses(url.raw_host or "", organization_id)
                async with self._session.request(
                    method, url, headers=headers, data=body, allow_redirects=False
                ) as response:
                    raw = await _read(response)
                    peer = response.peer if isinstance(response, _Response) else None
                    return Reply(response.status, response.headers, _excerpt(raw, response), peer)
        except TimeoutError as error:
            raise Retryable("timeout", f"no complete answer within {timeout:g} s") from error
        except EgressRefused as error:
            raise Permanent("egress_refused", str(error)) from error
        except LookUpFailed as error:
            raise Retryable("dns", str(error)) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _failure(error) from error


async def _read(response: ClientResponse) -> bytes:
    """The body up to the limit; a longer one is cut off together with its connection."""
    content = response.content
    if content.at_eof():
        return b""
    chunks = []
    left = RESPONSE_BYTES
    while chunk := await content.read(left):
        chunks.append(chunk)
        left -= len(chunk)
        if left <= 0:
            response.close()
            break
    return b"".join(chunks)


def _excerpt(raw: bytes, response: ClientResponse) -> str:
    if not raw:
        return ""
    coding = response.headers.get("Content-Encoding", "identity").lower()
    if coding in ("gzip", "deflate"):
        try:
            raw = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(raw, RESPONSE_BYTES)
        except zlib.error:
            return f"({coding} that does not decompress)"
    elif coding != "identity":
        return f"({len(raw)} bytes in an encoding that was not asked for)"
    return raw[: 4 * EXCERPT_LENGTH].decode("utf-8", "replace").replace("\0", "\ufffd")[:EXCERPT_LENGTH]


def _failure(error: Exception) -> DeliveryFailed:
    """The client's exception as a verdict, in words that name no address and no header."""
    match error:
        case aiohttp.ClientConnectorError(os_error=SocketRefused() as refused):
            return Permanent("egress_refused", str(refused))
        case aiohttp.ClientConnectorCertificateError():
            return Retryable("tls", "the certificate was not accepted")
        case aiohttp.ClientSSLError():
            return Retryable("tls", "the TLS handshake failed")
        case aiohttp.ClientConnectorDNSError():
            return Retryable("dns", "the target's name does not resolve")
        case aiohttp.ClientConnectorError(os_error=cause):
            return Retryable("connection", f"cannot connect: {cause.strerror or 'no answer'}")
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return Permanent("invalid_request", "the request's URL cannot be used")
        case aiohttp.ServerDisconnectedError():
            return Retryable("connection", "the connection was closed without an answer")
        case aiohttp.ClientOSError() | OSError():
            return Retryable("connection", f"the connection broke: {error.strerror or type(error).__name__}")
        case aiohttp.ClientError():
            return Retryable("protocol", "the answer is not valid HTTP")
    return Permanent("invalid_request", "the request has a header that cannot be sent")
