"""Members of organizations: who they are, what they may, and how they go.

Nobody gives a role above her own, and only the owner touches admins; the owner herself stays until she hands over.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import structs

from agentauri.accounts import organization_store as store
from agentauri.accounts.audit import Actor, AuditTrail, Target
from agentauri.accounts.errors import MemberExists, MemberNotFound, OnlyOwner, OwnerStays
from agentauri.accounts.scopes import ADMIN_ALL
from agentauri.accounts.standing import Standings
from agentauri.accounts.types import GivenRole, Member, Standing
from agentauri.database import Transaction
from agentauri.types import OrganizationId, Page, Paged, UserId


class MemberService:
    def __init__(self, standings: Standings, audit: AuditTrail) -> None:
        self._standings = standings
        self._audit = audit

    async def list(self, tx: Transaction, viewer: Standing, page: Page) -> Paged[Member]:
        """The members, oldest first. Who may not invite or remove anybody sees e-mails masked, but for her own."""
        found = await store.members(tx, viewer.organization_id, page)
        return found.of([_shown(member, viewer) for member in found.data])

    async def add(
        self, tx: Transaction, actor: Actor, organization_id: OrganizationId, user_id: UserId, role: GivenRole
    ) -> Member:
        """Raises: MemberExists."""
        invited_by = UserId(actor.id) if actor.type == "user" and actor.id is not None else None
        if not await store.add_member(tx, organization_id, user_id, role, invited_by):
            raise MemberExists
        await self._record(tx, actor, "member.joined", organization_id, user_id, {"role": role})
        return await self._lock(tx, organization_id, user_id)

    async def change_role(
        self, tx: Transaction, actor: Actor, organization_id: OrganizationId, user_id: UserId, role: GivenRole
    ) -> Member:
        """For the owner, or who may all that she may.

        Raises:
            MemberNotFound
            OwnerStays: it is the owner's role, which only a transfer changes.
        """
        member = await self._lock(tx, organization_id, user_id)
        if member.role == "owner":
            raise OwnerStays
        if member.role != role:
            await store.set_role(tx, organization_id, user_id, role)
            details = {"old": member.role, "new": role}
            await self._record(tx, actor, "member.role_changed", organization_id, user_id, details)
        return structs.replace(member, role=role)

    async def remove(self, tx: Transaction, actor: Actor, remover: Standing, user_id: UserId) -> None:
        """Remove somebody, or leave. Keys that she made stay the organization's, and the audit row names them.

        Raises:
            MemberNotFound
            OwnerStays
            OnlyOwner: it is another admin.
        """
        member = await self._lock(tx, remover.organization_id, user_id)
        leaving = actor.type == "user" and actor.id == user_id
        if member.role == "owner":
            raise OwnerStays
        if member.role == "admin" and not leaving and not remover.may(ADMIN_ALL):
            raise OnlyOwner
        keys = await store.active_keys_of(tx, remover.organization_id, user_id)
        await store.remove_member(tx, remover.organization_id, user_id)
        event = "member.left" if leaving else "member.removed"
        details = {"role": member.role, "active_keys": keys}
        await self._record(tx, actor, event, remover.organization_id, user_id, details)

    async def _lock(self, tx: Transaction, organization_id: OrganizationId, user_id: UserId) -> Member:
        member = await store.lock_member(tx, organization_id, user_id)
        if member is None:
            raise MemberNotFound
        return member

    async def _record(
        self,
        tx: Transaction,
        actor: Actor,
        event: str,
        organization_id: OrganizationId,
        user_id: UserId,
        details: Mapping[str, object],
    ) -> None:
        target = Target("user", user_id)
        await self._audit.record(tx, actor, event, organization_id=organization_id, target=target, details=details)
        self._standings.forget_after(tx)


def _shown(member: Member, viewer: Standing) -> Member:
    own = viewer.role is not None and viewer.user_id == member.user_id
    if own or member.email is None or viewer.may("write:organizations"):
        return member
    return structs.replace(member, email=masked(member.email))


def masked(email: str) -> str:
    """The first letters, and what tells a country from a company: `a***@d***.org`."""
    local, _, domain = email.partition("@")
    name, dot, ending = domain.rpartition(".")
    return f"{local[:1]}***@{(name or domain)[:1]}***{dot}{ending if dot else ''}"
