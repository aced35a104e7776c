"""Organizations, and the one that the first start of an embedded installation makes."""

from __future__ import annotations

import re
from uuid import uuid4

from agentauri.accounts import store
from agentauri.accounts.api_keys import ApiKeyService
from agentauri.accounts.errors import OrganizationAmbiguous, OrganizationNotFound
from agentauri.accounts.scopes import SCOPES
from agentauri.accounts.types import KeyDraft, Organization
from agentauri.database import Transaction
from agentauri.errors import FieldError, Invalid
from agentauri.types import Secret

OPERATOR = "operator"
MAX_NAME = 255


class OrganizationService:
    def __init__(self, keys: ApiKeyService) -> None:
        self._keys = keys

    async def find(self, tx: Transaction, reference: str) -> Organization:
        """The organization with this slug or id.

        Raises:
            OrganizationNotFound: there is none.
            OrganizationAmbiguous: several owners use the slug.
        """
        found = await self._find(tx, reference)
        if found is None:
            raise OrganizationNotFound("There is no such organization.")
        return found

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
        return await store.insert_organization(tx, str(uuid4()), name.strip(), slug, owner, "free", personal=False)

    async def first_start(self, tx: Transaction) -> Secret | None:
        """Make `operator`, her organization and its admin key; None where there are users already."""
        await _lock(tx)
        if await store.any_user(tx):
            return None
        operator = await store.ensure_user(tx, str(uuid4()), OPERATOR)
        organization = await store.insert_organization(
            tx, str(uuid4()), OPERATOR, OPERATOR, operator, "enterprise", personal=True
        )
        made = await self._keys.create(tx, organization.id, _admin_key("first key", organization))
        return made.secret

    async def _find(self, tx: Transaction, *references: str) -> Organization | None:
        found = await store.find_organizations(tx, references)
        if len(found) > 1:
            ids = ", ".join(organization.id for organization in found)
            raise OrganizationAmbiguous(f"Several organizations have this slug; name one by its id: {ids}")
        return found[0] if found else None


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
