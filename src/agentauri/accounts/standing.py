"""Which organization a request is about, and what its principal may do there; believed for at most 5 s."""

from __future__ import annotations

import time
from collections.abc import Hashable

from agentauri.accounts.errors import OrganizationNotFound
from agentauri.accounts.scopes import ROLES
from agentauri.accounts.types import ApiKeyPrincipal, Standing, UserPrincipal
from agentauri.database import Transaction
from agentauri.types import OrganizationId

REMEMBERED_SECONDS = 5.0
REMEMBERED = 10_000


class Standings:
    """Nothing negative is remembered, and a commit of this process that changes anybody's standing empties it."""

    def __init__(self) -> None:
        self._believed: dict[Hashable, tuple[float, Standing]] = {}
        self._changes = 0

    def remembered(self, principal: UserPrincipal | ApiKeyPrincipal, named: OrganizationId | None) -> Standing | None:
        until, standing = self._believed.get(_key(principal, named), (0.0, None))
        return standing if time.monotonic() < until else None

    async def find(
        self, tx: Transaction, principal: UserPrincipal | ApiKeyPrincipal, named: OrganizationId | None
    ) -> Standing:
        """In the organization that the request names; else in the key's own, or the user's personal one. The operator
        may have none: then it is the oldest that she owns.

        Raises:
            OrganizationNotFound: there is no such organization, or the principal has no business with it: the caller
                cannot tell which.
        """
        changes = self._changes
        if named is not None and "\0" in named:
            standing = None  # no text of the database's
        elif isinstance(principal, UserPrincipal):
            standing = await _of_user(tx, principal, named)
        elif named in (None, principal.organization_id):
            standing = await _of_key(tx, principal)
        else:
            standing = None
        if standing is None:
            raise OrganizationNotFound("There is no such organization.")
        if changes == self._changes:  # else what we read may be older than the change
            if len(self._believed) >= REMEMBERED:
                self._believed.clear()
            self._believed[_key(principal, named)] = (time.monotonic() + REMEMBERED_SECONDS, standing)
        return standing

    def forget_after(self, tx: Transaction) -> None:
        """Believe nothing remembered once this transaction has committed."""
        tx.on_commit(self._forget)

    def _forget(self) -> None:
        self._changes += 1
        self._believed.clear()


def _key(principal: UserPrincipal | ApiKeyPrincipal, named: OrganizationId | None) -> Hashable:
    return (principal.user_id if isinstance(principal, UserPrincipal) else principal.key_id, named)


async def _of_user(tx: Transaction, user: UserPrincipal, named: OrganizationId | None) -> Standing | None:
    row = await tx.fetchrow(
        """SELECT o.id, o.plan, m.role FROM memberships m JOIN organizations o ON o.id = m.organization_id
           WHERE m.user_id = $1 AND CASE WHEN $2::text IS NULL THEN o.owner_id = $1 ELSE o.id = $2 END
           ORDER BY o.is_personal DESC, o.created_at LIMIT 1""",
        user.user_id,
        named,
    )
    if row is None:
        return None
    return Standing(
        organization_id=OrganizationId(row["id"]),
        plan=row["plan"],
        user_id=user.user_id,
        role=row["role"],
        environment=None,
        scopes=ROLES[row["role"]],
    )


async def _of_key(tx: Transaction, key: ApiKeyPrincipal) -> Standing | None:
    plan = await tx.fetchval("SELECT plan FROM organizations WHERE id = $1", key.organization_id)
    if plan is None:
        return None
    return Standing(
        organization_id=key.organization_id,
        plan=plan,
        user_id=key.user_id,
        role=None,
        environment=key.environment,
        scopes=key.scopes,
    )
