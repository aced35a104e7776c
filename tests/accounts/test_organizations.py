"""Organizations: those that users make, and those that the command line and the first start make."""

from __future__ import annotations

import asyncio

import pytest

from agentauri.accounts import (
    ADMIN_ALL,
    SYSTEM,
    ApiKeyService,
    AuditFilter,
    AuditTrail,
    InvalidApiKey,
    KeyDraft,
    OrganizationAmbiguous,
    OrganizationDraft,
    OrganizationNotFound,
    OrganizationPatch,
    OrganizationService,
    Standings,
    UserPrincipal,
    organization_store,
)
from agentauri.accounts.errors import PersonalOrganization, SlugExists
from agentauri.database import Database, Transaction
from agentauri.errors import Invalid, QuotaExceeded
from agentauri.types import OrganizationId, Page, Secret

from .conftest import draft, make_user, told


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


async def test_an_operator_without_a_personal_organization_is_at_home_in_the_oldest_that_she_owns(
    database: Database, organizations: OrganizationService, standings: Standings
) -> None:
    async with database.transaction() as tx:
        acme = await organizations.find_or_create(tx, "acme")
    async with database.transaction() as tx:
        await organizations.find_or_create(tx, "later")
        operator = UserPrincipal(user_id=acme.owner_id, username="operator", session_id="s")
        assert (await standings.find(tx, operator, None)).organization_id == acme.id


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


async def test_who_makes_an_organization_owns_it_on_the_plan_free(
    tx: Transaction, organizations: OrganizationService, standings: Standings, audit: AuditTrail
) -> None:
    alice = await make_user(tx, "alice")

    made = await organizations.create(tx, SYSTEM, alice.user_id, OrganizationDraft(name=" Acme ", slug="acme"))

    standing = await standings.find(tx, alice, made.id)
    assert (made.name, made.plan, made.is_personal, standing.role) == ("Acme", "free", False, "owner")
    assert [one.my_role for one in (await organizations.of_user(tx, alice.user_id, Page())).data] == ["owner"]
    assert await told(tx, audit, made.id) == ["organization.created"]


async def test_a_slug_is_one_organization_of_its_owner(tx: Transaction, organizations: OrganizationService) -> None:
    alice, bob = await make_user(tx, "alice"), await make_user(tx, "bob")
    await organizations.create(tx, SYSTEM, alice.user_id, draft())
    other = await organizations.create(tx, SYSTEM, alice.user_id, draft("other"))

    await organizations.create(tx, SYSTEM, bob.user_id, draft())
    with pytest.raises(SlugExists):
        await organizations.create(tx, SYSTEM, alice.user_id, draft())
    with pytest.raises(SlugExists):
        await organizations.update(tx, SYSTEM, other.id, OrganizationPatch(slug="acme"))


async def test_one_owns_twenty_at_most(tx: Transaction, organizations: OrganizationService) -> None:
    alice, bob = await make_user(tx, "alice"), await make_user(tx, "bob")
    for number in range(20):
        await organizations.create(tx, SYSTEM, alice.user_id, draft(f"o{number}"))
    with pytest.raises(QuotaExceeded):
        await organizations.create(tx, SYSTEM, alice.user_id, draft())

    theirs = await organizations.create(tx, SYSTEM, bob.user_id, draft())
    await organization_store.add_member(tx, theirs.id, alice.user_id, "member", None)
    with pytest.raises(QuotaExceeded):
        await organizations.transfer(tx, SYSTEM, theirs.id, alice.user_id)


async def test_of_many_who_make_the_twentieth_at_once_one_does(
    database: Database, organizations: OrganizationService
) -> None:
    async with database.transaction() as tx:
        alice = await make_user(tx, "alice")
        for number in range(19):
            await organizations.create(tx, SYSTEM, alice.user_id, draft(f"o{number}"))

    async def make(number: int) -> None:
        async with database.transaction() as tx:
            await organizations.create(tx, SYSTEM, alice.user_id, draft(f"more{number}"))

    results = await asyncio.gather(*(make(number) for number in range(5)), return_exceptions=True)

    assert sum(result is None for result in results) == 1
    assert sum(isinstance(result, QuotaExceeded) for result in results) == 4


async def test_an_update_tells_what_was_and_what_is_and_nothing_where_nothing_changes(
    tx: Transaction, organizations: OrganizationService, audit: AuditTrail
) -> None:
    alice = await make_user(tx, "alice")
    made = await organizations.create(tx, SYSTEM, alice.user_id, draft())

    same = await organizations.update(tx, SYSTEM, made.id, OrganizationPatch(name="Acme", description=None))
    after = await organizations.update(tx, SYSTEM, made.id, OrganizationPatch(description="rockets"))

    assert same == made
    assert after.description == "rockets"
    entries = (await audit.of_organization(tx, made.id, AuditFilter(event="organization.updated"), Page())).data
    assert [entry.details for entry in entries] == [{"description": {"old": None, "new": "rockets"}}]


async def test_an_organization_ends_with_its_keys_and_what_it_has_elsewhere(
    database: Database, organizations: OrganizationService, keys: ApiKeyService, ended: list[OrganizationId]
) -> None:
    async with database.transaction() as tx:
        alice = await make_user(tx, "alice")
        made = await organizations.create(tx, SYSTEM, alice.user_id, draft())
        key = await keys.create(tx, made.id, KeyDraft(name="k", created_by=alice.user_id))
    async with database.transaction() as tx:
        await keys.authenticate(tx, key.secret.reveal())
    assert keys.remembered(key.secret.reveal()) is not None

    async with database.transaction() as tx:
        await organizations.delete(tx, SYSTEM, made.id)

    assert ended == [made.id]
    assert keys.remembered(key.secret.reveal()) is None
    async with database.transaction() as tx:
        with pytest.raises(InvalidApiKey):
            await keys.authenticate(tx, key.secret.reveal())


async def test_a_personal_organization_is_neither_deleted_nor_handed_over(
    tx: Transaction, organizations: OrganizationService
) -> None:
    await organizations.first_start(tx)
    personal = await organizations.find(tx, "operator")
    bob = await make_user(tx, "bob")
    await organization_store.add_member(tx, personal.id, bob.user_id, "member", None)

    with pytest.raises(PersonalOrganization):
        await organizations.delete(tx, SYSTEM, personal.id)
    with pytest.raises(PersonalOrganization):
        await organizations.transfer(tx, SYSTEM, personal.id, bob.user_id)


async def test_who_hands_over_becomes_an_admin(
    tx: Transaction, organizations: OrganizationService, standings: Standings
) -> None:
    alice, bob = await make_user(tx, "alice"), await make_user(tx, "bob")
    made = await organizations.create(tx, SYSTEM, alice.user_id, draft())
    await organization_store.add_member(tx, made.id, bob.user_id, "viewer", None)

    after = await organizations.transfer(tx, SYSTEM, made.id, bob.user_id)

    assert after.owner_id == bob.user_id
    assert (await standings.find(tx, alice, made.id)).role == "admin"
    assert (await standings.find(tx, bob, made.id)).role == "owner"


@pytest.mark.parametrize("to", ["herself", "a stranger", "somebody disabled"])
async def test_only_another_active_member_can_be_handed_an_organization(
    tx: Transaction, organizations: OrganizationService, to: str
) -> None:
    alice, bob = await make_user(tx, "alice"), await make_user(tx, "bob")
    made = await organizations.create(tx, SYSTEM, alice.user_id, draft())
    if to == "somebody disabled":
        await organization_store.add_member(tx, made.id, bob.user_id, "admin", None)
        await tx.run("UPDATE users SET is_active = false WHERE id = $1", bob.user_id)

    with pytest.raises(Invalid):
        await organizations.transfer(tx, SYSTEM, made.id, alice.user_id if to == "herself" else bob.user_id)


async def test_another_plan_holds_at_once_where_it_was_set(
    database: Database, organizations: OrganizationService, standings: Standings
) -> None:
    async with database.transaction() as tx:
        alice = await make_user(tx, "alice")
        made = await organizations.create(tx, SYSTEM, alice.user_id, draft())
        assert (await standings.find(tx, alice, made.id)).plan == "free"

    async with database.transaction() as tx:
        await organizations.set_plan(tx, SYSTEM, made, "pro")

    assert standings.remembered(alice, made.id) is None


async def test_an_organization_is_called_by_its_slug_or_by_its_id_where_others_have_the_same(
    tx: Transaction, organizations: OrganizationService
) -> None:
    alice, bob = await make_user(tx, "alice"), await make_user(tx, "bob")
    made = await organizations.create(tx, SYSTEM, alice.user_id, draft())
    assert await organizations.reference(tx, made) == "acme"

    await organizations.create(tx, SYSTEM, bob.user_id, draft())
    assert await organizations.reference(tx, made) == made.id
