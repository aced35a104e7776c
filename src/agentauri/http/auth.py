"""Who asks, and whether they may.

A credential is looked for in `X-API-Key`, then in `Authorization`. One that is refused never becomes anonymous.
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from litestar.types import HTTPScope
from msgspec import UNSET, UnsetType

from agentauri import metrics
from agentauri.accounts import (
    Anonymous,
    ApiKeyPrincipal,
    ApiKeyService,
    AuthFailure,
    InvalidApiKey,
    OrganizationNotFound,
    Principal,
)
from agentauri.database import Database
from agentauri.errors import Unauthenticated
from agentauri.http.errors import InvalidToken, MissingScope, OrganizationConflict
from agentauri.http.exchange import Exchange, header

OPEN = "open"
"""Credentials are not looked at."""
ANY = "any"
"""Anonymous callers are served; a credential that is presented must be valid."""


class Authenticator:
    def __init__(self, database: Database, keys: ApiKeyService) -> None:
        self._database = database
        self._keys = keys

    async def authenticate(self, scope: HTTPScope, exchange: Exchange) -> Principal:
        """
        Raises:
            Unauthenticated: a credential was presented, and it is not accepted.
        """
        presented = _api_key(scope)
        if presented is None:
            return Anonymous()
        principal = self._keys.remembered(presented)
        if principal is None:
            principal = await self._look_up(presented, scope, exchange)
        metrics.AUTH_ATTEMPTS.labels("api_key", "accepted").inc()
        return principal

    async def _look_up(self, presented: str, scope: HTTPScope, exchange: Exchange) -> ApiKeyPrincipal:
        try:
            async with self._database.transaction(durable=False) as tx:
                return await self._keys.authenticate(tx, presented)
        except InvalidApiKey:
            metrics.AUTH_ATTEMPTS.labels("api_key", "refused").inc()
            failure = AuthFailure(
                kind="api_key",
                presented=presented,
                address=exchange.client,
                user_agent=header(scope, b"user-agent") or "",
                route=exchange.route,
            )
            async with self._database.transaction(durable=False) as tx:
                await self._keys.record_failure(tx, failure)
            raise


def authorize(principal: Principal, access: str, scope: HTTPScope) -> None:
    """Let through who may use a route of this access word.

    Raises:
        Unauthenticated: nobody in particular asks for what is somebody's.
        NotFound: the request names an organization that is not the key's.
        Forbidden: the scope is missing.
    """
    if access in (OPEN, ANY):
        return
    if isinstance(principal, Anonymous):
        raise Unauthenticated("Authentication required")
    _require_own_organization(principal, scope)
    if not principal.may(access):
        raise MissingScope(access)


def _api_key(scope: HTTPScope) -> str | None:
    """The key that is presented, whatever it looks like; None when there is no credential at all."""
    if (key := header(scope, b"x-api-key")) is not None:
        return key
    authorization = header(scope, b"authorization")
    if authorization is None:
        return None
    scheme, _, value = authorization.strip().partition(" ")
    token = value.strip() if scheme.lower() == "bearer" else authorization.strip()
    if token.startswith("sk_"):
        return token
    metrics.AUTH_ATTEMPTS.labels("jwt", "refused").inc()
    raise InvalidToken


def _require_own_organization(principal: ApiKeyPrincipal, scope: HTTPScope) -> None:
    """A key means its own organization. A request may say so, too, but nothing else."""
    named = _named(scope)
    if len(named) > 1:
        raise OrganizationConflict("The request names more than one organization.")
    if named and named != {principal.organization_id}:
        raise OrganizationNotFound("There is no such organization.")


def require_named(principal: ApiKeyPrincipal, scope: HTTPScope, organization_id: str | UnsetType | None) -> None:
    """The same for the organization that a body names.

    Raises:
        OrganizationConflict: another place of the request names the key's own.
        NotFound: none does.
    """
    if organization_id in (None, UNSET, principal.organization_id):
        return
    if _named(scope):
        raise OrganizationConflict("The request names more than one organization.")
    raise OrganizationNotFound("There is no such organization.")


def _named(scope: HTTPScope) -> set[str]:
    """The organizations that header and query name."""
    named = set()
    if b"organization_id" in scope["query_string"]:
        pairs = parse_qsl(scope["query_string"].decode("latin-1"))
        named = {value for name, value in pairs if name == "organization_id"}
    if (value := header(scope, b"x-organization-id")) is not None:
        named.add(value)
    return named
