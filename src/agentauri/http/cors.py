"""Which web pages of other origins may read our answers, errors included. Without cookies, so without credentials."""

from __future__ import annotations

from litestar.types import HTTPScope, Message, Receive, Send

from agentauri.config import ServerConfig
from agentauri.http.exchange import Layer, header
from agentauri.http.security_headers import Spelled

METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
REQUEST_HEADERS = (
    "Authorization, Content-Type, Accept, X-API-Key, X-Organization-ID, X-Request-ID, Last-Event-ID, traceparent"
)
EXPOSED = (
    "X-Request-ID, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Window, X-RateLimit-Reset, "
    "X-RateLimit-Status, RateLimit-Policy, RateLimit, Retry-After, Location, WWW-Authenticate"
)
MAX_AGE = "3600"
ALLOW_ORIGIN = "Access-Control-Allow-Origin"


class Cors:
    """Adds the headers. What a preflight asks is an OPTIONS like any other, which the entrance answers."""

    def __init__(self, app: Layer, config: ServerConfig) -> None:
        self._app = app
        self._origins = frozenset(config.cors_origins)

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        origin = header(scope, b"origin")
        added = [("Vary", "Origin")]
        if origin is not None and origin.lower() in self._origins:
            added += [(ALLOW_ORIGIN, origin), ("Access-Control-Expose-Headers", EXPOSED)]
            if is_preflight(scope):
                added += [
                    ("Access-Control-Allow-Methods", METHODS),
                    ("Access-Control-Allow-Headers", REQUEST_HEADERS),
                    ("Access-Control-Max-Age", MAX_AGE),
                ]
        headers = [(Spelled(name.encode()), value.encode("latin-1")) for name, value in added]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                # What is there for everybody says so itself, and one answer is what browsers take.
                public = any(name.lower() == ALLOW_ORIGIN.lower().encode() for name, _ in message["headers"])
                message["headers"] = [*message["headers"], *(headers[:1] if public else headers)]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def is_preflight(scope: HTTPScope) -> bool:
    return scope["method"] == "OPTIONS" and header(scope, b"access-control-request-method") is not None
