"""Organizations: made, changed, handed over and ended; and the one that an embedded installation begins with."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated
from uuid import uuid4

from msgspec import UNSET, Meta, Struct, UnsetType

from agentauri.accounts import organization_store as store
from agentauri.accounts.api_keys import ApiKeyService
from agentauri.accounts.audit import Actor, AuditTrail, Target
from agentauri.accounts.errors import (
    OrganizationAmbiguous,
    OrganizationNotFound,
    PersonalOrganization,
    SlugExists,
)
from agentauri.accounts.scopes import SCOPES
from agentauri.accounts.standing import Standings
from agentauri.accounts.types import KeyDraft, Organization, OwnOrganization
from agentauri.database import Transaction
from agentauri.errors import FieldError, Invalid, QuotaExceeded
from agentauri.types import OrganizationId, Page, Paged, Plan, Secret, UserId

OPERATOR = "operator"
MAX_NAME = 255
MOST_OWNED = 20

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
Slug = Annotated[str, Meta(max_length=100, pattern=r"^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$(?!\n)")]
Description = Annotated[str, Meta(max_length=1000)]

EndOrganization = Callable[[Transaction, OrganizationId], Awaitable[None]]
"""Ends what an organization has outside this package: its triggers, and what waits to be delivered."""


class OrganizationDraft(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name
    slug: Slug
    description: Description | None = None


class OrganizationPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is UNSET stays."""

    name: Name | UnsetType = UNSET
    slug: Slug | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET


class OrganizationService:
    def __init__(
        self, keys: ApiKeyService, standings: Standings, audit: AuditTrail, end_elsewhere: EndOrganization
    ) -> None:
        self._keys = keys
        self._standings = standings
        self._audit = audit
        self._end_elsewhere = end_elsewhere

    async def get(self, tx: Transaction, organization_id: OrganizationId) -> Organization:
        """Raises: OrganizationNotFound."""
        return _found(await store.get(tx, organization_id))

    async def hold(self, tx: Transaction, organization_id: OrganizationId) -> Organization:
        """As `get`, and until the transaction ends nobody else holds or changes it: what is counted meanwhile stays.

        Raises: OrganizationNotFound.
        """
        return _found(await store.get(tx, organization_id, hold=True))

    async def of_user(self, tx: Transaction, user_id: UserId, page: Page) -> Paged[OwnOrganization]:
        """Those that she is a member of, newest first."""
        return await store.of_user(tx, user_id, page)

    async def create(self, tx: Transaction, actor: Actor, owner_id: UserId, draft: OrganizationDraft) -> Organization:
        """
        Raises:
            Invalid: the name is blank or no text.
            SlugExists: she owns one of that slug.
            QuotaExceeded: she owns as many as anybody may.
        """
        name = _checked_name(draft.name)
        await self._room_for(tx, owner_id, draft.slug)
        made = await store.insert(
            tx, str(uuid4()), name, draft.slug, owner_id, "free", personal=False, description=draft.description
        )
        await self._record(tx, actor, "organization.created", made.id, {"name": made.name, "slug": made.slug})
        return made

    async def update(
        self, tx: Transaction, actor: Actor, organization_id: OrganizationId, patch: OrganizationPatch
    ) -> Organization:
        """
        Raises:
            Invalid, SlugExists: as on creation.
        """
        before = await self.hold(tx, organization_id)
        given = {
            name: getattr(patch, name)
            for name in OrganizationPatch.__struct_fields__
            if getattr(patch, name) is not UNSET
        }
        if "name" in given:
            given["name"] = _checked_name(given["name"])
        changed = {name: value for name, value in given.items() if value != getattr(before, name)}
        if not changed:
            return before
        if "slug" in changed and await store.slug_taken(tx, before.owner_id, changed["slug"]):
            raise SlugExists
        after = await store.update(tx, organization_id, changed)
        details = {name: {"old": getattr(before, name), "new": value} for name, value in changed.items()}
        await self._record(tx, actor, "organization.updated", organization_id, details)
        return after

    async def delete(self, tx: Transaction, actor: Actor, organization_id: OrganizationId) -> None:
        """End it, with its keys, its triggers and what waits to be delivered. What it left as history stays.

        Raises:
            PersonalOrganization
        """
        organization = await self.hold(tx, organization_id)
        if organization.is_personal:
            raise PersonalOrganization
        await self._end(tx, actor, organization)

    async def end_owned(self, tx: Transaction, actor: Actor, owner_id: UserId) -> None:
        """End all that she owns, her personal one too: for when she goes herself."""
        for organization_id in await store.owned(tx, owner_id):
            await self._end(tx, actor, await self.hold(tx, organization_id))

    async def transfer(
        self, tx: Transaction, actor: Actor, organization_id: OrganizationId, new_owner_id: UserId
    ) -> Organization:
        """Hand it over to a member; who owned it becomes an admin.

        Raises:
            PersonalOrganization
            Invalid: the new owner is no other active member.
            SlugExists, QuotaExceeded: as on creation, of the new owner.
        """
        before = await self.hold(tx, organization_id)
        if before.is_personal:
            raise PersonalOrganization
        if new_owner_id == before.owner_id or not await store.hold_active_member(tx, organization_id, new_owner_id):
            raise Invalid.fields(FieldError("new_owner_id", "must be another active member of the organization"))
        await self._room_for(tx, new_owner_id, before.slug)
        after = await store.hand_over(tx, organization_id, before.owner_id, new_owner_id)
        details = {"old": before.owner_id, "new": new_owner_id}
        await self._record(tx, actor, "organization.transferred", organization_id, details)
        self._standings.forget_after(tx)
        self._keys.forget_after(tx)
        return after

    async def set_plan(self, tx: Transaction, actor: Actor, organization: Organization, plan: Plan) -> Organization:
        """From the next request on. What a smaller plan has no room for stays; only no more is made of it."""
        if plan == organization.plan:
            return organization
        after = await store.update(tx, organization.id, {"plan": plan})
        await self._record(tx, actor, "plan.changed", organization.id, {"old": organization.plan, "new": plan})
        self._standings.forget_after(tx)
        return after

    async def reference(self, tx: Transaction, organization: Organization) -> str:
        """What names it at the console: its slug, or its id where another one has the same."""
        same = await store.find(tx, [organization.slug])
        return organization.slug if len(same) == 1 else organization.id

    async def all(self, tx: Transaction) -> list[Organization]:
        """Every organization, for the operator; oldest first."""
        return await store.everybodys(tx)

    async def find(self, tx: Transaction, reference: str) -> Organization:
        """The organization with this slug or id.

        Raises:
            OrganizationNotFound: there is none.
            OrganizationAmbiguous: several owners use the slug.
        """
        return _found(await self._find(tx, reference))

    async def find_or_create(self, tx: Transaction, name: str) -> Organization:
        """The organization with this name's slug, or this id; when missing it is made, owned by `operator`.

        Raises:
            Invalid: the name is no line of text, or too long.
        """
        if not name.isprintable() or len(name) > MAX_NAME:
            raise Invalid.fields(FieldError("organization", f"must be one line of at most {MAX_NAME} characters"))
        await _lock(tx)
        found = await self._find(tx, name, slug := _slug(name))
        if found is not None:
            return found
        owner = await store.ensure_user(tx, str(uuid4()), OPERATOR)
        return await store.insert(tx, str(uuid4()), name.strip(), slug, owner, "free", personal=False)

    async def first_start(self, tx: Transaction) -> Secret | None:
        """Make `operator`, her organization and its admin key; None where there are users already."""
        await _lock(tx)
        if await store.any_user(tx):
            return None
        operator = await store.ensure_user(tx, str(uuid4()), OPERATOR)
        organization = await store.insert(tx, str(uuid4()), OPERATOR, OPERATOR, operator, "enterprise", personal=True)
        made = await self._keys.create(tx, organization.id, _admin_key("first key", organization))
        return made.secret

    async def _end(self, tx: Transaction, actor: Actor, organization: Organization) -> None:
        # The slug of a personal one is its owner's name, which she may want forgotten.
        told = {} if organization.is_personal else {"slug": organization.slug}
        await self._record(tx, actor, "organization.deleted", organization.id, told)
        await self._end_elsewhere(tx, organization.id)
        await store.delete(tx, organization.id)
        self._standings.forget_after(tx)
        self._keys.forget_after(tx)

    async def _room_for(self, tx: Transaction, owner_id: UserId, slug: str) -> None:
        """That she may own one more, of this slug. Others who want to give her one wait."""
        owned = await store.count_owned(tx, owner_id)
        if owned >= MOST_OWNED:
            raise QuotaExceeded("organizations", MOST_OWNED, owned)
        if await store.slug_taken(tx, owner_id, slug):
            raise SlugExists

    async def _find(self, tx: Transaction, *references: str) -> Organization | None:
        found = await store.find(tx, references)
        if len(found) > 1:
            ids = ", ".join(organization.id for organization in found)
            raise OrganizationAmbiguous(f"Several organizations have this slug; name one by its id: {ids}")
        return found[0] if found else None

    async def _record(
        self, tx: Transaction, actor: Actor, event: str, organization_id: OrganizationId, details: Mapping[str, object]
    ) -> None:
        target = Target("organization", organization_id)
        await self._audit.record(tx, actor, event, organization_id=organization_id, target=target, details=details)


def _found(organization: Organization | None) -> Organization:
    if organization is None:
        raise OrganizationNotFound("There is no such organization.")
    return organization


def _checked_name(name: str) -> str:
    if not name.strip():
        raise Invalid.fields(FieldError("name", f"must be text of 1 to {MAX_NAME} characters"))
    return name.strip()


def _admin_key(name: str, organization: Organization) -> KeyDraft:
    """A key that may do everything its organization's owner may."""
    return KeyDraft(
        name=name,
        created_by=organization.owner_id,
        key_type="admin",
        permissions=("read", "write", "delete", "admin"),
        scopes=tuple(SCOPES),
    )


async def _lock(tx: Transaction) -> None:
    """One at a time makes organizations nobody asked for by request."""
    await tx.fetchval("SELECT pg_advisory_xact_lock(hashtextextended('agentauri:organizations', 0))")


def _slug(name: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:100].strip("-")
    if not slug:
        raise Invalid.fields(FieldError("organization", "must hold a letter or a digit"))
    return slug
