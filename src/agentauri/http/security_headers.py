"""The headers that every answer carries, whatever the handler says.

On HTTP/1.1 they leave in the spelling written here, because operators grep for them. The server lower-cases each name
it is given, so the names refuse to be lower-cased.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from litestar.types import HTTPScope, Message, Receive, Send

from agentauri.config import ServerConfig
from agentauri.http.exchange import Layer


class Spelled(bytes):
    """A header name that keeps its capitals."""

    def lower(self) -> Self:
        return self


COMMON = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-XSS-Protection": "0",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "accelerometer=(), camera=(), geolocation=(), gyroscope=(), magnetometer=(), microphone=(), "
    "payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Permitted-Cross-Domain-Policies": "none",
}
API_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

CACHED = {"/api/v1/openapi.json": "no-cache"}
"""Paths that may be kept by caches, and on which terms; all others are not to be stored."""


class SecurityHeaders:
    """The layer that puts them on. `for_api` is the set of an answer that no browser has reason to render."""

    def __init__(self, app: Layer, headers: Mapping[str, str]) -> None:
        self._app = app
        self._headers = [(Spelled(name.encode()), value.encode()) for name, value in headers.items()]
        self._names = {name.lower().encode() for name in (*headers, "Cache-Control", "Server")}

    @classmethod
    def for_api(cls, app: Layer, config: ServerConfig) -> SecurityHeaders:
        headers = {"Content-Security-Policy": API_POLICY, **COMMON}
        if config.enable_hsts:
            headers["Strict-Transport-Security"] = f"max-age={config.hsts_max_age}; includeSubDomains"
        return cls(app, headers)

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        caching = CACHED.get(scope["path"], "no-store").encode()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if name.lower() not in self._names]
                terms = caching if message["status"] < 300 else b"no-store"
                message["headers"] = [*kept, *self._headers, (Spelled(b"Cache-Control"), terms)]
            await send(message)

        await self._app(scope, receive, send_with_headers)
