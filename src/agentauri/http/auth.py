"""Who asks, for which organization, and whether they may.

A credential is looked for in `X-API-Key`, then in `Authorization`. One that is refused never becomes anonymous. What a
caller may do is her standing in the one organization that the request is about.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar
from urllib.parse import parse_qsl

from litestar.types import HTTPScope
from msgspec import UNSET, UnsetType

from agentauri import metrics
from agentauri.accounts import (
    AccessTokens,
    Anonymous,
    ApiKeyPrincipal,
    ApiKeyService,
    AuthFailure,
    InvalidToken,
    Principal,
    Sessions,
    Standing,
    Standings,
    UserPrincipal,
)
from agentauri.database import Database, Transaction
from agentauri.errors import Unauthenticated
from agentauri.http.errors import MissingScope, OrganizationConflict, UsersOnly
from agentauri.http.exchange import Exchange, header
from agentauri.types import OrganizationId

T = TypeVar("T")

OPEN = "open"
"""Credentials are not looked at."""
OPTIONAL = "optional"
"""A user's token is used when a valid one comes; whatever else comes counts for nothing."""
CREDENTIALS = "cred"
"""Open, and counted against the budget of those who try credentials."""
ANY = "any"
"""Anonymous callers are served; a credential that is presented must be valid."""
KNOWN = "known"
"""A user or a key, whatever it may."""
USER = "user"
"""A user who is logged in; a key is never one."""
WITHOUT_SCOPE = frozenset({OPEN, OPTIONAL, CREDENTIALS, ANY, KNOWN, USER})
"""The access words; every other one is a scope."""


class Authenticator:
    def __init__(
        self, database: Database, keys: ApiKeyService, tokens: AccessTokens, sessions: Sessions, standings: Standings
    ) -> None:
        self._database = database
        self._keys = keys
        self._tokens = tokens
        self._sessions = sessions
        self._standings = standings

    async def authenticate(self, scope: HTTPScope, exchange: Exchange) -> Principal:
        """
        Raises:
            Unauthenticated: a credential was presented, and it is not accepted.
        """
        kind, presented = _credential(scope)
        match kind:
            case None:
                return Anonymous()
            case "api_key":
                return await _counted("api_key", self._by_key(presented, exchange))
            case _:
                return await _counted("jwt", self._by_token(presented))

    async def user(self, scope: HTTPScope) -> Principal:
        """The user whose valid token came, else nobody in particular."""
        kind, presented = _credential(scope)
        try:
            return await self._by_token(presented) if kind == "jwt" else Anonymous()
        except InvalidToken:
            return Anonymous()

    async def standing(
        self, principal: UserPrincipal | ApiKeyPrincipal, named: OrganizationId | None, tx: Transaction | None = None
    ) -> Standing:
        """
        Raises:
            OrganizationNotFound: the principal has no business with the organization that the request names.
        """
        found = self._standings.remembered(principal, named)
        if found is not None:
            return found
        if tx is not None:
            return await self._standings.find(tx, principal, named)
        async with self._database.reading() as own:
            return await self._standings.find(own, principal, named)

    async def record_refusal(self, scope: HTTPScope, exchange: Exchange) -> None:
        """Keep that the key of this request was refused. Not for those whom the limiter turned away: their rows would
        be as many as they like."""
        failure = AuthFailure(
            kind="api_key",
            presented=_credential(scope)[1],
            address=exchange.client,
            user_agent=header(scope, b"user-agent") or "",
            route=exchange.route,
        )
        async with self._database.transaction(durable=False) as tx:
            await self._keys.record_failure(tx, failure)

    def limited(self, principal: Principal) -> None:
        """Count a request that was one too many for its key."""
        if isinstance(principal, ApiKeyPrincipal):
            self._keys.usage.limited(principal.key_id)

    async def _by_key(self, presented: str, exchange: Exchange) -> ApiKeyPrincipal:
        principal = self._keys.remembered(presented)
        if principal is None:
            async with self._database.reading() as tx:
                principal = await self._keys.authenticate(tx, presented)
        self._keys.usage.used(principal.key_id, exchange.client)
        return principal

    async def _by_token(self, presented: str) -> UserPrincipal:
        claims = self._tokens.read(presented)
        principal = self._sessions.remembered(claims)
        if principal is not None:
            return principal
        async with self._database.reading() as tx:
            return await self._sessions.recognise(tx, claims)


async def _counted(kind: str, look: Awaitable[T]) -> T:
    try:
        principal = await look
    except Unauthenticated:
        metrics.AUTH_ATTEMPTS.labels(kind, "refused").inc()
        raise
    metrics.AUTH_ATTEMPTS.labels(kind, "accepted").inc()
    return principal


def authorize(principal: Principal, standing: Standing | None, access: str) -> None:
    """Let through who may use a route of this access word.

    Raises:
        Unauthenticated: nobody in particular asks for what is somebody's.
        Forbidden: a key asks for what is a user's, or the scope is missing.
    """
    if access in (OPEN, OPTIONAL, CREDENTIALS, ANY):
        return
    if isinstance(principal, Anonymous):
        raise Unauthenticated("Authentication required")
    if access == USER and not isinstance(principal, UserPrincipal):
        raise UsersOnly
    if access not in WITHOUT_SCOPE and (standing is None or not standing.may(access)):
        raise MissingScope(access)


def _credential(scope: HTTPScope) -> tuple[str | None, str]:
    """What is presented, whatever it looks like: `api_key` or `jwt`, or nothing at all."""
    if (key := header(scope, b"x-api-key")) is not None:
        return "api_key", key
    authorization = header(scope, b"authorization")
    if authorization is None:
        return None, ""
    scheme, _, value = authorization.strip().partition(" ")
    token = value.strip() if scheme.lower() == "bearer" else authorization.strip()
    return ("api_key" if token.startswith("sk_") else "jwt"), token


def named_organization(scope: HTTPScope, in_path: str | None) -> OrganizationId | None:
    """The organization that path, header or query name.

    Raises:
        OrganizationConflict: they name more than one.
    """
    named = {in_path} if in_path is not None else set()
    if b"organization_id" in scope["query_string"]:
        pairs = parse_qsl(scope["query_string"].decode("latin-1"))
        named |= {value for name, value in pairs if name == "organization_id"}
    if (value := header(scope, b"x-organization-id")) is not None:
        named.add(value)
    if len(named) > 1:
        raise OrganizationConflict("The request names more than one organization.")
    return OrganizationId(named.pop()) if named else None


def in_body(exchange: Exchange, organization_id: str | UnsetType | None) -> OrganizationId | None:
    """The organization that a body names, where no other place of the request does.

    Raises:
        OrganizationConflict: another place names another one.
    """
    if organization_id is None or organization_id is UNSET:
        return None
    if exchange.named is not None and organization_id != exchange.named:
        raise OrganizationConflict("The request names more than one organization.")
    return OrganizationId(str(organization_id))
