"""The last layer before the application: which route this is, who asks, and whether they may.

The access word of a route and its cost stand on the route itself, `@get("/…", access="read:triggers", cost=5)`; the
table made of them at start is the only thing that decides. Nothing about a body or an object is told before it has.

A request is charged between the organization and the right, so that callers without the right are counted, too, and
one whose credential is refused: it costs the address that it came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import cast

import msgspec
from litestar import Litestar
from litestar.exceptions import NotFoundException
from litestar.routes import HTTPRoute
from litestar.types import HTTPScope, Receive, Send
from litestar.utils import normalize_path
from msgspec import Struct

from agentauri.accounts import Anonymous, InvalidApiKey
from agentauri.errors import AgentAuriError, NotFound, RateLimited, Unauthenticated
from agentauri.http.auth import ANY, CREDENTIALS, OPEN, OPTIONAL, authorize, named_organization
from agentauri.http.errors import MethodNotAllowed, OrganizationConflict
from agentauri.http.exchange import Exchange, Layer
from agentauri.http.metering import Meter
from agentauri.http.services import Desk

ORGANIZATION = "{organization_id}"


class Entry(Struct, frozen=True):
    """What has to be known of a request before its handler is asked. `search_cost` is that with words to search for."""

    access: str = ANY
    cost: int = 1
    search_cost: int | None = None

    def price(self, scope: HTTPScope) -> int:
        if self.search_cost is not None and b"search=" in scope["query_string"]:
            return self.search_cost
        return self.cost


UNKNOWN = Entry()
"""Of what matches no route."""


class RouteTable:
    """The entry of every route, by address template and method."""

    def __init__(self, litestar: Litestar) -> None:
        self._router = litestar.asgi_router
        self._entries: dict[str, Mapping[str, Entry]] = {}
        for route in litestar.routes:
            assert isinstance(route, HTTPRoute)
            self._entries[route.path_format] = {
                str(method): _entry(handler.opt, route.path_format)
                for handler in route.route_handlers
                for method in handler.http_methods
                if method != "OPTIONS"
            }

    def items(self) -> Iterator[tuple[str, str, str]]:
        """Template, method and access word of every route."""
        for template, methods in self._entries.items():
            for method, entry in methods.items():
                yield template, method, entry.access

    def find(self, path: str) -> tuple[str, Mapping[str, Entry]] | None:
        """The template of this address and the entry of each of its methods."""
        try:
            # Every address of Litestar's takes OPTIONS, so this finds the address, whatever the method asked for.
            *_, template = self._router.handle_routing(path=normalize_path(path), method="OPTIONS")
        except NotFoundException:
            return None
        return template, self._entries[template]


def declared_access(opt: Mapping[str, object], template: str) -> str:
    access = opt.get("access")
    if not isinstance(access, str):
        raise TypeError(f"the route {template} does not say who may use it")
    return access


def _entry(opt: Mapping[str, object], template: str) -> Entry:
    access = declared_access(opt, template)
    return msgspec.convert({**opt, "access": access}, Entry)


class Entrance:
    """Answers HEAD and OPTIONS for every address, and lets in who may come in."""

    def __init__(self, app: Layer, routes: RouteTable, desk: Desk, meter: Meter) -> None:
        self._app = app
        self._routes = routes
        self._desk = desk
        self._authenticator = desk.authenticator
        self._meter = meter

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        exchange = Exchange.of(scope)
        found = self._routes.find(scope["path"])
        methods: Mapping[str, Entry] = {}
        if found is not None:
            exchange.route, methods = found
        if scope["method"] == "OPTIONS" and methods:
            self._meter.pass_by(exchange)
            await _send_options(methods, send)
            return
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        entry = methods.get(method, UNKNOWN)
        await self._admit(scope, exchange, entry)
        if found is None:
            raise NotFound("There is nothing at this address.")
        if method not in methods:
            raise MethodNotAllowed(_allow(methods))
        authorize(exchange.principal, exchange.standing, entry.access)
        self._desk.bind(scope)
        if scope["method"] == "HEAD":
            scope = cast(HTTPScope, {**scope, "method": "GET"})  # the server sends no body to who asked for none
        await self._app(scope, receive, send)

    async def _admit(self, scope: HTTPScope, exchange: Exchange, entry: Entry) -> None:
        """Find out who asks, and charge her; only then is she told if something is wrong with that."""
        refusal: AgentAuriError | None = None
        try:
            await self._recognise(scope, exchange, entry.access)
        except (Unauthenticated, NotFound, OrganizationConflict) as refused:
            refusal = refused
            await self._fall_back(exchange)
        try:
            await self._meter.charge(scope, exchange, entry.price(scope), credentials=entry.access == CREDENTIALS)
        except RateLimited:
            self._authenticator.limited(exchange.principal)
            raise
        if isinstance(refusal, InvalidApiKey):
            await self._authenticator.record_refusal(scope, exchange)
        if refusal is not None:
            raise refusal

    async def _fall_back(self, exchange: Exchange) -> None:
        """Whoever names an organization that is not hers pays with her own."""
        if isinstance(exchange.principal, Anonymous):
            return
        with suppress(NotFound):
            exchange.standing = await self._authenticator.standing(exchange.principal, None)

    async def _recognise(self, scope: HTTPScope, exchange: Exchange, access: str) -> None:
        """Who asks, and what she may do in the organization that the request is about."""
        if access in (OPEN, CREDENTIALS):
            return
        if access == OPTIONAL:
            exchange.principal = await self._authenticator.user(scope)
            return
        exchange.principal = await self._authenticator.authenticate(scope, exchange)
        exchange.named = named_organization(scope, _organization_in(exchange.route, scope["path"]))
        if not isinstance(exchange.principal, Anonymous):
            exchange.standing = await self._authenticator.standing(exchange.principal, exchange.named)


def _organization_in(template: str, path: str) -> str | None:
    """The part of the path that stands where the template has the organization's id."""
    parts = template.split("/")
    if ORGANIZATION not in parts:
        return None
    return normalize_path(path).split("/")[parts.index(ORGANIZATION)]


def _allow(methods: Mapping[str, Entry]) -> str:
    implied = ["HEAD", "OPTIONS"] if "GET" in methods else ["OPTIONS"]
    return ", ".join(sorted([*methods, *implied]))


async def _send_options(methods: Mapping[str, Entry], send: Send) -> None:
    headers = [(b"allow", _allow(methods).encode())]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
