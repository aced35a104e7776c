"""One request as the handlers see it: who asks, the services, and one transaction at a time."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

from litestar import Request
from litestar.datastructures import State
from msgspec import Struct

from agentauri.accounts import ApiKeyPrincipal
from agentauri.database import Transaction
from agentauri.http import reading
from agentauri.http.errors import UnsupportedMediaType
from agentauri.http.exchange import Exchange, header
from agentauri.http.services import Desk, Services

LARGE_BODY = 32 * 1024
"""From this size on a body is decoded beside the loop, which it would hold up."""


class Call(Request[None, None, State]):
    @property
    def desk(self) -> Desk:
        return cast(Desk, self.app.state["desk"])

    @property
    def services(self) -> Services:
        return self.desk.services

    @property
    def key(self) -> ApiKeyPrincipal:
        """Who asks, on a route that has let only keys in."""
        principal = Exchange.of(self.scope).principal
        assert isinstance(principal, ApiKeyPrincipal)
        return principal

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """The one transaction of this request. Calls to name servers and nodes come before it."""
        return self.services.database.transaction()

    async def json(self) -> Any:
        """The body as the struct that the handler's `data` asks for; Litestar calls this."""
        _check_encoding(self.scope)
        body = await self.body()
        _check_type(self.scope, body)
        wanted = self.route_handler.parsed_data_field
        assert wanted is not None
        shape = wanted.annotation
        if len(body) < LARGE_BODY:
            return _read(body, shape, self.method)
        return await asyncio.to_thread(_read, body, shape, self.method)


def _read(body: bytes, shape: type[Struct], method: str) -> Struct:
    raw = reading.parse(body)
    if method == "PUT" and isinstance(raw, dict):  # here null means: leave as it is
        raw = {name: value for name, value in raw.items() if value is not None}
    return reading.fit(raw, shape)


def _check_encoding(scope: Any) -> None:
    if header(scope, b"content-encoding") is not None:
        raise UnsupportedMediaType("A body is sent as it is, without Content-Encoding.")


def _check_type(scope: Any, body: bytes) -> None:
    """JSON under its own name, under none, or under the one that `curl -d '{…}'` gives it."""
    given = (header(scope, b"content-type") or "").partition(";")[0].strip().lower()
    if given in ("", "application/json") or given.endswith("+json"):
        return
    if given == "application/x-www-form-urlencoded" and body.lstrip()[:1] == b"{":
        return
    raise UnsupportedMediaType("A body is JSON: Content-Type: application/json")
