"""What speaks MCP: the official SDK, on an HTTP client that calls nobody whom the guard refuses.

Only `mcp` loads this, with the first call. An exchange is watched from below, where its HTTP passes: a status, a broken
connection or a refused target is known there, while the SDK tells all of them as errors of the protocol.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from functools import cache
from typing import Any, cast

import anyio
import httpcore2
import httpx2
import mcp_types
import msgspec
from anyio.abc import ByteStream, SocketStream
from anyio.streams.tls import TLSStream
from mcp.client.session import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from agentauri.actions.channels.channel import Sent
from agentauri.actions.channels.mcp import ToolCall
from agentauri.actions.channels.target_config import without
from agentauri.actions.egress import EgressRefused, Guard, LookUpFailed
from agentauri.actions.errors import DeliveryFailed, Permanent, Retryable
from agentauri.actions.outbound import EXCERPT_LENGTH, USER_AGENT, connection_failure, request_line
from agentauri.actions.retry import judge, retry_after
from agentauri.actions.wire import CannotConnect, open_socket

MOST = 1024 * 1024
"""Bytes of one answer that are read at most."""

SESSION = "mcp-session-id"
CLOSE_SECONDS = 2.0
NOT_FOUND = 404
RETRYABLE_CODES = frozenset({mcp_types.INTERNAL_ERROR, *range(-32099, -31999)})
SPOKEN = ("application/json", "text/event-stream")
NOT_MCP = "the answer is not valid MCP, or not all of one"
OF_THE_SDK = ("Failed to parse", "SSE stream", "Connection closed")
"""How errors begin that the SDK makes of an answer that it cannot read. With the same codes a server tells its own."""

BROKEN = (
    ExceptionGroup, MCPError, RuntimeError, ValueError, DeliveryFailed, httpx2.HTTPError, anyio.BrokenResourceError,
    anyio.ClosedResourceError,
)  # fmt: skip
"""What comes out of the SDK where an exchange fails. Its cause is known by then, or what came was not MCP."""


# The SDK tells what it meets in lines of its own, with the payload. We tell it once, in ours.
for _name in ("mcp", "client", "httpx2", "httpcore2"):
    logging.getLogger(_name).addHandler(logging.NullHandler())
    logging.getLogger(_name).propagate = False


async def call_tool(call: ToolCall, guard: Guard) -> Sent:
    """Open a session, call the tool once, close the session.

    Raises:
        DeliveryFailed
    """
    attempt = _Attempt(call, guard)
    try:
        with anyio.fail_after(call.timeout):
            await attempt.look_up()
            await attempt.run()
            if attempt.session_lost:  # the server forgot it between two requests: open another, once
                await attempt.run()
    except TimeoutError as error:
        if attempt.result is None and attempt.failure is None:
            raise Retryable("timeout", f"no complete answer within {call.timeout:g} s", peer=attempt.peer) from error
    return attempt.outcome()


class _Attempt:
    def __init__(self, call: ToolCall, guard: Guard) -> None:
        self._call = call
        self._guard = guard
        self.peer: str | None = None
        self.result: mcp_types.CallToolResult | None = None
        self.failure: DeliveryFailed | None = None
        self.session_lost = False

    async def look_up(self) -> None:
        """Before the SDK sees the URL: some forms of an address it takes for no URL at all."""
        place, _ = request_line(self._call.url)
        await _addresses(self._guard, place.host, self._call.organization_id)

    async def run(self) -> None:
        self.failure, self.session_lost = None, False
        try:
            await self._talk()
        except BROKEN as error:
            if self.result is None:
                self.fail(self._judged(_innermost(error)))

    async def _talk(self) -> None:
        call = self._call
        headers = {"user-agent": USER_AGENT, "accept-encoding": "identity", **call.headers}
        transport = _Transport(self, self._guard, call.organization_id)
        async with (
            httpx2.AsyncClient(transport=transport, headers=headers, timeout=None, trust_env=False) as client,
            streamable_http_client(call.url, http_client=client) as (incoming, outgoing),
            ClientSession(incoming, outgoing, client_info=_us()) as session,
        ):
            await session.initialize()
            meta = cast("mcp_types.RequestParamsMeta", call.meta)
            # Not `call_tool`, which asks for the list of tools after the call, and fails where that fails.
            self.result = await session.send_request(
                mcp_types.CallToolRequest(
                    params=mcp_types.CallToolRequestParams(
                        name=call.tool, arguments=msgspec.json.decode(call.arguments), _meta=meta
                    )
                ),
                mcp_types.CallToolResult,
            )

    def outcome(self) -> Sent:
        if self.result is None:
            raise self.failure or Retryable("protocol", "the session ended without an answer", peer=self.peer)
        said = "\n".join(item.text for item in self.result.content if isinstance(item, mcp_types.TextContent))
        excerpt = self.told(said)
        if not self.result.is_error:
            return Sent(status=200, excerpt=excerpt, peer=self.peer)
        kind = Retryable if self._call.retry_on_tool_error else Permanent
        raise kind("tool_error", "the tool answered with an error", status=200, excerpt=excerpt, peer=self.peer)

    def told(self, text: str) -> str:
        """What is kept of what the server says."""
        return without(self._call.secrets, text).replace("\0", "\ufffd")[:EXCERPT_LENGTH]

    def fail(self, failure: DeliveryFailed) -> DeliveryFailed:
        """Note what broke; the first cause counts."""
        self.failure = self.failure or failure
        return failure

    def _judged(self, error: BaseException) -> DeliveryFailed:
        if not isinstance(error, MCPError):
            return Retryable("protocol", f"{NOT_MCP} ({type(error).__name__})", peer=self.peer)
        if error.code in (mcp_types.PARSE_ERROR, mcp_types.CONNECTION_CLOSED) and error.message.startswith(OF_THE_SDK):
            return Retryable("protocol", NOT_MCP, peer=self.peer)
        kind = Retryable if error.code in RETRYABLE_CODES else Permanent
        told = f"the server answered with the JSON-RPC error {error.code}"
        return kind("rpc_error", told, status=200, excerpt=self.told(error.message), peer=self.peer)


class _Transport(httpx2.AsyncBaseTransport):
    """HTTP of one attempt: refused targets and failures end it, whatever the SDK would make of them."""

    def __init__(self, attempt: _Attempt, guard: Guard, organization_id: str) -> None:
        self._attempt = attempt
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=_tls(), network_backend=_Backend(attempt, guard, organization_id), keepalive_expiry=5.0
        )

    async def aclose(self) -> None:
        await self._pool.aclose()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET" and "last-event-id" not in request.headers:
            return httpx2.Response(405)  # the server's own messages: there is nobody here to read them
        if request.method == "DELETE":
            with anyio.fail_after(CLOSE_SECONDS):
                return await self._exchange(request)
        response = await self._exchange(request)
        if request.method == "POST":
            await self._check(request, response)
        return response

    async def _exchange(self, request: httpx2.Request) -> httpx2.Response:
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        asked = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        try:
            answer = await self._pool.handle_async_request(asked)
        except DeliveryFailed as failure:
            raise self._attempt.fail(failure) from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
            raise self._attempt.fail(_broken(error)) from error
        return httpx2.Response(
            status_code=answer.status,
            headers=answer.headers,
            stream=_Body(answer.stream, self._attempt),
            request=request,
        )

    async def _check(self, request: httpx2.Request, response: httpx2.Response) -> None:
        """Judge a status as that of any other HTTP request."""
        attempt, status = self._attempt, response.status_code
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            told = "the answer is in an encoding that was not asked for"
            raise attempt.fail(Permanent("protocol", told, status=status, peer=attempt.peer))
        if 200 <= status < 300:
            if _is_request(request) and (status != 200 or not _is_spoken(response)):
                raise attempt.fail(Retryable("protocol", NOT_MCP, status=status, peer=attempt.peer))
            return
        if status == NOT_FOUND and SESSION in request.headers:
            attempt.session_lost = True
            raise attempt.fail(Retryable("session", "the server lost the session", status=status, peer=attempt.peer))
        excerpt = attempt.told(await _beginning(response))
        kind = Retryable if judge(status, ()) == "retryable" else Permanent
        failure = kind("status", f"the server answered {status}", status=status, excerpt=excerpt, peer=attempt.peer)
        if isinstance(failure, Retryable):
            failure.after = retry_after(response.headers.get("retry-after"), datetime.now(UTC))
        raise attempt.fail(failure)


class _Body(httpx2.AsyncByteStream):
    """An answer's body, as much as may be of it."""

    def __init__(self, stream: Any, attempt: _Attempt) -> None:
        self._stream = stream
        self._attempt = attempt

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MOST
        try:
            async for part in self._stream:
                left -= len(part)
                if left < 0:
                    told = "the answer is longer than 1 MiB"
                    raise self._attempt.fail(Permanent("protocol", told, peer=self._attempt.peer))
                yield part
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
            raise self._attempt.fail(_broken(error)) from error

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Backend(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that the guard has checked, and to no other."""

    def __init__(self, attempt: _Attempt, guard: Guard, organization_id: str) -> None:
        self._attempt = attempt
        self._guard = guard
        self._organization_id = organization_id

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 (the whole attempt has one)
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore2.AsyncNetworkStream:
        addresses = await _addresses(self._guard, host, self._organization_id)
        try:
            sock = await open_socket(addresses, port, self._guard.make_socket)
        except CannotConnect as error:
            raise connection_failure(error) from error
        self._attempt.peer = str(sock.getpeername()[0])
        return _Stream(await SocketStream.from_socket(sock))

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


async def _addresses(guard: Guard, host: str, organization_id: str) -> tuple[str, ...]:
    try:
        return await guard.addresses(host, organization_id)
    except EgressRefused as error:
        raise Permanent("egress_refused", str(error)) from error
    except LookUpFailed as error:
        raise Retryable("dns", str(error)) from error


class _Stream(httpcore2.AsyncNetworkStream):
    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        try:
            return await self._stream.receive(max_bytes)
        except anyio.EndOfStream:
            return b""
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise httpcore2.ReadError from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        if not buffer:
            return
        try:
            await self._stream.send(buffer)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise httpcore2.WriteError from error

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore2.AsyncNetworkStream:
        try:
            return _Stream(
                await TLSStream.wrap(
                    self._stream,
                    ssl_context=ssl_context,
                    hostname=server_hostname,
                    standard_compatible=False,
                    server_side=False,
                )
            )
        except ssl.SSLError as error:
            await self._stream.aclose()
            raise connection_failure(error) from error
        except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
            raise Retryable("tls", "the TLS handshake failed") from error

    def get_extra_info(self, info: str) -> Any:  # noqa: ARG002 (there is nothing that anybody needs to know)
        return None


def _is_spoken(response: httpx2.Response) -> bool:
    return response.headers.get("content-type", "").lower().startswith(SPOKEN)


def _is_request(request: httpx2.Request) -> bool:
    """Not a notification, which is answered with nothing."""
    return b'"id":' in request.content


def _broken(error: Exception) -> Retryable:
    if isinstance(error, httpcore2.ProtocolError):
        return Retryable("protocol", "the answer is not valid HTTP")
    return Retryable("connection", "the connection broke")


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _beginning(response: httpx2.Response) -> str:
    """What an error says of itself: enough for an excerpt."""
    said = b""
    async for part in response.aiter_raw():
        said += part
        if len(said) > 16 * EXCERPT_LENGTH:
            break
    return said[: 16 * EXCERPT_LENGTH].decode("utf-8", "replace")


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


@cache
def _us() -> mcp_types.Implementation:
    name, _, version = USER_AGENT.partition("/")
    return mcp_types.Implementation(name=name, version=version)
