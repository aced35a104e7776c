"""One request as the handlers see it: who asks, the services, and one transaction at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from litestar import Request
from litestar.datastructures import State
from msgspec import Struct, UnsetType, structs

from agentauri.accounts import Actor, Anonymous, ApiKeyPrincipal, Caller, Principal, Standing, Target, UserPrincipal
from agentauri.billing import Allowance
from agentauri.database import Transaction
from agentauri.http import reading
from agentauri.http.auth import authorize, in_body
from agentauri.http.errors import UnsupportedMediaType
from agentauri.http.exchange import Exchange, header
from agentauri.http.services import Desk, Services

LARGE_BODY = 32 * 1024
"""From this size on a body is decoded beside the loop, which it would hold up."""


class Call(Request[None, None, State]):
    @property
    def desk(self) -> Desk:
        return Desk.of(self.scope)

    @property
    def services(self) -> Services:
        return self.desk.services

    @property
    def principal(self) -> Principal:
        """Who asks."""
        return Exchange.of(self.scope).principal

    @property
    def me(self) -> UserPrincipal:
        """Who asks, on a route for users only."""
        principal = self.principal
        assert isinstance(principal, UserPrincipal)
        return principal

    @property
    def standing(self) -> Standing:
        """What the caller may do in the organization that the request is about, on a route that knows its callers."""
        standing = Exchange.of(self.scope).standing
        assert standing is not None
        return standing

    async def standing_in(self, organization_id: str | UnsetType | None, access: str) -> Standing:
        """The same where the body may name the organization: in that one, with the right that the route asks for.

        Raises:
            OrganizationConflict: another place of the request names another one.
            OrganizationNotFound: the caller has no business with it.
            MissingScope: she may not do this there.
        """
        exchange = Exchange.of(self.scope)
        named = in_body(exchange, organization_id)
        if named is None or isinstance(exchange.principal, Anonymous):
            return self.standing
        exchange.standing = await self.desk.authenticator.standing(exchange.principal, named)
        authorize(exchange.principal, exchange.standing, access)
        return exchange.standing

    async def allowance(self, tx: Transaction) -> Allowance:
        """What the organization's plan lets be made. Its row is held until the transaction ends, so that what is
        counted from here on stays true."""
        return Allowance((await self.services.organizations.hold(tx, self.standing.organization_id)).plan)

    async def record(self, tx: Transaction, event: str, kind: str, named: object, **details: object) -> None:
        """Put down in the organization's audit trail what the caller did to which thing."""
        await self.services.audit.record(
            tx,
            self.actor,
            event,
            organization_id=self.standing.organization_id,
            target=Target(kind, str(named)),
            details=details,
        )

    @property
    def caller(self) -> Caller:
        """Where the request comes from."""
        exchange = Exchange.of(self.scope)
        return Caller(
            address=exchange.client,
            user_agent=header(self.scope, b"user-agent"),
            route=exchange.route,
            request_id=exchange.request_id,
        )

    @property
    def actor(self) -> Actor:
        """Who asks, for the audit trail."""
        caller = self.caller
        where = Actor(ip=caller.address, user_agent=caller.user_agent, request_id=caller.request_id)
        match self.principal:
            case UserPrincipal(user_id=user_id, username=username):
                return structs.replace(where, type="user", id=user_id, name=username)
            case ApiKeyPrincipal(key_id=key_id):
                return structs.replace(where, type="api_key", id=key_id)
            case _:
                return where

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """The one transaction of this request. Calls to name servers and nodes come before it."""
        return self.services.database.transaction()

    def reading(self) -> AbstractAsyncContextManager[Transaction]:
        """The same where one statement reads all there is to read."""
        return self.services.database.reading()

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Transaction]:
        """The same, and all that is read in it is of one moment."""
        async with self.transaction() as tx:
            await tx.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            yield tx

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
