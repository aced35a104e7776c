"""The layers that every request passes before it is routed. A 404 passes them like a 200."""

from __future__ import annotations

import asyncio
import os
import re
import time
from uuid import UUID

from litestar.types import HTTPScope, Message, Receive, ReceiveMessage, Send
from structlog.contextvars import bound_contextvars

from agentauri import metrics
from agentauri.accounts import ApiKeyPrincipal, UserPrincipal
from agentauri.config import ServerConfig
from agentauri.errors import Unavailable
from agentauri.http.client import client_address
from agentauri.http.cors import Cors
from agentauri.http.errors import (
    ClientGone,
    HeadersTooLarge,
    InternalError,
    Malformed,
    PayloadTooLarge,
    RequestTimeout,
    UriTooLong,
    answer,
    meaning,
)
from agentauri.http.exchange import Exchange, Layer, header
from agentauri.http.metering import Meter, RateHeaders
from agentauri.http.security_headers import Spelled, secured
from agentauri.log import get_logger

log = get_logger(__name__)

MAX_URL, MAX_HEADERS, MAX_BODY = 8 * 1024, 16 * 1024, 1024 * 1024
BODY_SECONDS, ANSWER_SECONDS = 10.0, 60.0
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
HUNG_UP = 499
"""Logged where nobody was left to be answered; never sent."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def surround(
    app: Layer,
    config: ServerConfig,
    meter: Meter,
    *,
    body_seconds: float = BODY_SECONDS,
    answer_seconds: float = ANSWER_SECONDS,
) -> Layer:
    """The layers in their order, the outermost last."""
    app = Limits(app, body_seconds=body_seconds, answer_seconds=answer_seconds)
    app = Problems(app)
    app = AccessLog(app)
    app = RateHeaders(app, meter)
    app = Cors(app, config)
    app = secured(app, config)
    return Exchanges(app, config)


class Exchanges:
    """Begins what is known of a request: where it comes from, and its id, the caller's own where that is fit to be
    repeated. The id is bound to the log."""

    def __init__(self, app: Layer, config: ServerConfig) -> None:
        self._app = app
        self._trusted = config.trusted_proxies

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        given = header(scope, b"x-request-id")
        request_id = given if given and _REQUEST_ID.fullmatch(given) else make_request_id()
        Exchange(request_id=request_id, client=client_address(scope, self._trusted)).bind(scope)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (Spelled(b"X-Request-ID"), request_id.encode())]
            await send(message)

        trace = _TRACEPARENT.fullmatch(header(scope, b"traceparent") or "")
        bound = {"request_id": request_id} | ({"trace_id": trace[1]} if trace else {})
        with bound_contextvars(**bound):
            await self._app(scope, receive, send_with_id)


class AccessLog:
    """One line and three metrics per request. Neither holds a query, a body or a credential."""

    def __init__(self, app: Layer) -> None:
        self._app = app

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        status = HUNG_UP

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        method = scope["method"] if scope["method"] in METHODS else "other"
        metrics.HTTP_IN_FLIGHT.inc()
        try:
            await self._app(scope, receive, send_noting)
        finally:
            metrics.HTTP_IN_FLIGHT.dec()
            took = time.perf_counter() - started
            exchange = Exchange.of(scope)
            metrics.HTTP_REQUESTS.labels(method, exchange.route, status).inc()
            metrics.HTTP_SECONDS.labels(method, exchange.route).observe(took)
            log.info(
                "http.answered",
                method=method,
                route=exchange.route,
                status=status,
                took_ms=round(took * 1000, 1),
                client=exchange.client,
                budget_left=exchange.rate.remaining if exchange.rate else None,
                **_who(exchange),
            )


def _who(exchange: Exchange) -> dict[str, str]:
    match exchange.principal:
        case ApiKeyPrincipal(key_id=key, organization_id=organization):
            return {"principal": "api_key", "principal_id": key, "organization_id": organization}
        case UserPrincipal(user_id=user):
            about = {"organization_id": exchange.standing.organization_id} if exchange.standing else {}
            return {"principal": "user", "principal_id": user, **about}
        case _:
            return {"principal": "anonymous"}


class Problems:
    """Turns whatever is raised further in into an answer."""

    def __init__(self, app: Layer) -> None:
        self._app = app

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        started = False

        async def send_noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except ClientGone:
            return
        except Exception as error:
            ours = meaning(error)
            if ours is None:
                log.exception("http.crashed", route=Exchange.of(scope).route)
                ours = InternalError("Something went wrong here. The request id finds it in the log.")
            if started:
                raise
            status, headers, body = answer(ours, Exchange.of(scope).request_id)
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body, "more_body": False})


class Limits:
    """Refuses what is too large or too slow, and never reads more of a body than it may have."""

    def __init__(self, app: Layer, *, body_seconds: float, answer_seconds: float) -> None:
        self._app = app
        self._body_seconds = body_seconds
        self._answer_seconds = answer_seconds

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        _check_sizes(scope)
        body = _Body(receive, self._body_seconds)

        async def send_in_time(message: Message) -> None:
            timer.reschedule(None)
            await send(message)

        try:
            async with asyncio.timeout(self._answer_seconds) as timer:
                await self._app(scope, body.receive, send_in_time)
        except TimeoutError:
            if timer.expired():
                raise Unavailable("The answer was not ready in time.") from None
            raise


def _check_sizes(scope: HTTPScope) -> None:
    path = scope.get("raw_path") or scope["path"].encode()
    if len(path) + len(scope["query_string"]) + 1 > MAX_URL:
        raise UriTooLong("The address is longer than 8 KiB.")
    if sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > MAX_HEADERS:
        raise HeadersTooLarge("The headers are larger than 16 KiB.")
    declared = header(scope, b"content-length") or "0"
    if not declared.isdecimal():
        raise Malformed("Content-Length is not a number.")
    if int(declared[:20]) > MAX_BODY:
        raise _too_large()


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge("The body is larger than 1 MiB.")


class _Body:
    """The request's body, counted and timed while it is read."""

    def __init__(self, receive: Receive, seconds: float) -> None:
        self._receive = receive
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._left = MAX_BODY
        self._complete = False

    async def receive(self) -> ReceiveMessage:
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise RequestTimeout("The body was not complete in time.") from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        if message["type"] == "http.request":
            self._left -= len(message["body"])
            if self._left < 0:
                raise _too_large()
            self._complete = not message["more_body"]
        return message


def make_request_id() -> str:
    """A UUID of version 7: sorts by time."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | int.from_bytes(os.urandom(10))
    value = (value & ~(0xF << 76) & ~(0x3 << 62)) | (0x7 << 76) | (0x2 << 62)
    return str(UUID(int=value))
