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

DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
DOCS = "/api-docs"

FOR_EVERYBODY = "/.well-known/agent.json"
"""What pages of any origin may read."""


def answer_headers(config: ServerConfig, policy: str = API_POLICY) -> dict[str, str]:
    """What every answer of the API carries, but for Cache-Control, which depends on the path."""
    headers = {"Content-Security-Policy": policy, **COMMON}
    if config.enable_hsts:
        headers["Strict-Transport-Security"] = f"max-age={config.hsts_max_age}; includeSubDomains"
    return headers


def secured(app: Layer, config: ServerConfig) -> Layer:
    """The application with the set of headers that each of its paths has."""
    api, docs = SecurityHeaders.for_api(app, config), SecurityHeaders.for_docs(app, config)

    async def by_path(scope: HTTPScope, receive: Receive, send: Send) -> None:
        await (docs if scope["path"].startswith(DOCS) else api)(scope, receive, send)

    return by_path


class SecurityHeaders:
    """The layer that puts them on. `for_api` is the set of an answer that no browser has reason to render, `for_docs`
    that of a page with scripts of its own."""

    def __init__(self, app: Layer, headers: Mapping[str, str]) -> None:
        self._app = app
        self._headers = [(Spelled(name.encode()), value.encode()) for name, value in headers.items()]
        policy = b"Cross-Origin-Resource-Policy"
        self._for_everybody = [(name, b"cross-origin" if name == policy else value) for name, value in self._headers]
        self._names = {name.lower().encode() for name in (*headers, "Cache-Control", "Server")}

    @classmethod
    def for_api(cls, app: Layer, config: ServerConfig) -> SecurityHeaders:
        return cls(app, answer_headers(config))

    @classmethod
    def for_docs(cls, app: Layer, config: ServerConfig) -> SecurityHeaders:
        return cls(app, answer_headers(config, DOCS_POLICY))

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        caching, path = keeping(scope["path"]), scope["path"]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if name.lower() not in self._names]
                terms = caching if message["status"] < 300 else "no-store"
                fixed = self._for_everybody if path == FOR_EVERYBODY else self._headers
                message["headers"] = [*kept, *fixed, (Spelled(b"Cache-Control"), terms.encode())]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def keeping(path: str) -> str:
    """On which terms caches may keep what is at this path. Pages may not be kept: they name the files that may."""
    if path == "/api/v1/openapi.json":
        return "no-cache"
    if path.startswith("/.well-known/"):
        return "public, max-age=300"
    if path.startswith(f"{DOCS}/") and path != f"{DOCS}/":
        return "public, max-age=86400"
    return "no-store"
