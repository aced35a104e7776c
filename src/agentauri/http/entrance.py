"""The last layer before the application: which route this is, who asks, and whether they may.

The access word of a route stands on the route itself, `@get("/…", access="read:triggers")`; the table made of them at
start is the only thing that decides. Nothing about a body or an object is told before it has.

A rate limit belongs between the organization and the right, so that callers without the right are counted, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from litestar import Litestar
from litestar.exceptions import NotFoundException
from litestar.routes import HTTPRoute
from litestar.types import HTTPScope, Receive, Send
from litestar.utils import normalize_path

from agentauri.errors import NotFound
from agentauri.http.auth import ANY, OPEN, Authenticator, authorize
from agentauri.http.errors import MethodNotAllowed
from agentauri.http.exchange import Exchange, Layer


class RouteTable:
    """Access word by address template and method."""

    def __init__(self, litestar: Litestar) -> None:
        self._router = litestar.asgi_router
        self._access: dict[str, Mapping[str, str]] = {}
        for route in litestar.routes:
            assert isinstance(route, HTTPRoute)
            self._access[route.path_format] = {
                str(method): declared_access(handler.opt, route.path_format)
                for handler in route.route_handlers
                for method in handler.http_methods
                if method != "OPTIONS"
            }

    def items(self) -> Iterator[tuple[str, str, str]]:
        """Template, method and access word of every route."""
        for template, methods in self._access.items():
            for method, access in methods.items():
                yield template, method, access

    def find(self, path: str) -> tuple[str, Mapping[str, str]] | None:
        """The template of this address and the access word of each of its methods."""
        try:
            # Every address of Litestar's takes OPTIONS, so this finds the address, whatever the method asked for.
            *_, template = self._router.handle_routing(path=normalize_path(path), method="OPTIONS")
        except NotFoundException:
            return None
        return template, self._access[template]


def declared_access(opt: Mapping[str, object], template: str) -> str:
    access = opt.get("access")
    if not isinstance(access, str):
        raise TypeError(f"the route {template} does not say who may use it")
    return access


class Entrance:
    """Answers HEAD and OPTIONS for every address, and lets in who may come in."""

    def __init__(self, app: Layer, routes: RouteTable, authenticator: Authenticator) -> None:
        self._app = app
        self._routes = routes
        self._authenticator = authenticator

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        exchange = Exchange.of(scope)
        found = self._routes.find(scope["path"])
        methods: Mapping[str, str] = {}
        if found is not None:
            exchange.route, methods = found
        if scope["method"] == "OPTIONS" and methods:
            await _send_options(methods, send)
            return
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        access = methods.get(method, ANY)
        if access != OPEN:
            exchange.principal = await self._authenticator.authenticate(scope, exchange)
        if found is None:
            raise NotFound("There is nothing at this address.")
        if method not in methods:
            raise MethodNotAllowed(_allow(methods))
        authorize(exchange.principal, access, scope)
        if scope["method"] == "HEAD":
            scope = cast(HTTPScope, {**scope, "method": "GET"})  # the server sends no body to who asked for none
        await self._app(scope, receive, send)


def _allow(methods: Mapping[str, str]) -> str:
    implied = ["HEAD", "OPTIONS"] if "GET" in methods else ["OPTIONS"]
    return ", ".join(sorted([*methods, *implied]))


async def _send_options(methods: Mapping[str, str], send: Send) -> None:
    headers = [(b"allow", _allow(methods).encode())]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
