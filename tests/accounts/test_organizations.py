"""Organizations that the command line and the first start make."""

from __future__ import annotations

import asyncio

import pytest

from agentauri.accounts import (
    ADMIN_ALL,
    ApiKeyService,
    OrganizationAmbiguous,
    OrganizationNotFound,
    OrganizationService,
)
from agentauri.database import Database
from agentauri.errors import Invalid
from agentauri.types import Secret


@pytest.fixture
def keys(pepper: Secret) -> ApiKeyService:
    return ApiKeyService(pepper)


@pytest.fixture
def organizations(keys: ApiKeyService) -> OrganizationService:
    return OrganizationService(keys)


async def test_the_first_start_makes_an_operator_her_organization_and_a_key_that_may_everything(
    database: Database, keys: ApiKeyService, organizations: OrganizationService
) -> None:
    async with database.transaction() as tx:
        secret = await organizations.first_start(tx)
        assert secret is not None
        principal = await keys.authenticate(tx, secret.reveal())
        row = await tx.fetchrow(
            """SELECT u.username, u.email, u.password_hash, o.plan, o.is_personal, m.role
               FROM users u JOIN organizations o ON o.owner_id = u.id
               JOIN memberships m ON m.user_id = u.id AND m.organization_id = o.id"""
        )
    assert row is not None
    assert tuple(row) == ("operator", None, None, "enterprise", True, "owner")
    assert (principal.environment, principal.may(ADMIN_ALL), principal.may("write:triggers")) == ("live", True, True)


async def test_a_second_start_makes_nothing(database: Database, organizations: OrganizationService) -> None:
    async with database.transaction() as tx:
        await organizations.first_start(tx)
    async with database.transaction() as tx:
        assert await organizations.first_start(tx) is None
        assert await tx.fetchval("SELECT count(*) FROM api_keys") == 1


async def test_two_first_starts_at_once_make_one_key(database: Database, organizations: OrganizationService) -> None:
    async def start() -> Secret | None:
        async with database.transaction() as tx:
            return await organizations.first_start(tx)

    secrets = await asyncio.gather(start(), start())
    assert sum(secret is not None for secret in secrets) == 1


async def test_an_organization_is_found_by_slug_id_or_name_and_made_when_missing(
    database: Database, organizations: OrganizationService
) -> None:
    async with database.transaction() as tx:
        made = await organizations.find_or_create(tx, "Acme & Sons")
        assert (made.slug, made.plan, made.is_personal) == ("acme-sons", "free", False)
        for reference in ("Acme & Sons", "acme-sons", made.id):
            assert await organizations.find_or_create(tx, reference) == made
        assert await organizations.find(tx, "acme-sons") == made
        assert await tx.fetchval("SELECT count(*) FROM memberships WHERE role = 'owner'") == 1


async def test_organizations_made_by_name_share_one_operator(
    database: Database, organizations: OrganizationService
) -> None:
    async with database.transaction() as tx:
        await organizations.first_start(tx)
        made = await organizations.find_or_create(tx, "acme")
        assert await tx.fetchval("SELECT username FROM users WHERE id = $1", made.owner_id) == "operator"
        assert await tx.fetchval("SELECT count(*) FROM users") == 1


async def test_an_unknown_organization_is_not_found(database: Database, organizations: OrganizationService) -> None:
    async with database.transaction() as tx:
        with pytest.raises(OrganizationNotFound):
            await organizations.find(tx, "nobody")


async def test_a_slug_of_two_owners_names_neither(database: Database, organizations: OrganizationService) -> None:
    async with database.transaction() as tx:
        made = await organizations.find_or_create(tx, "acme")
        await tx.run("INSERT INTO users (id, username) VALUES ('u2', 'second')")
        await tx.run("INSERT INTO organizations (id, name, slug, owner_id) VALUES ('o2', 'Acme', 'acme', 'u2')")
        with pytest.raises(OrganizationAmbiguous) as refused:
            await organizations.find(tx, "acme")
        assert "o2" in refused.value.message
        assert await organizations.find(tx, made.id) == made


async def test_a_name_needs_a_letter_or_a_digit(database: Database, organizations: OrganizationService) -> None:
    async with database.transaction() as tx:
        with pytest.raises(Invalid):
            await organizations.find_or_create(tx, "§ !")
