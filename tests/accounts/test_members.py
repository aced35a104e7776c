"""Members: who sees, changes and removes whom."""

from __future__ import annotations

import pytest
from msgspec import structs

from agentauri import metrics
from agentauri.accounts import (
    SYSTEM,
    Actor,
    ApiKeyService,
    AuditTrail,
    KeyDraft,
    MemberNotFound,
    MemberService,
    Organization,
    OrganizationService,
    Role,
    Standings,
    UserPrincipal,
)
from agentauri.accounts.errors import MemberExists, OnlyOwner, OwnerStays
from agentauri.accounts.members import masked
from agentauri.database import Database, Transaction
from agentauri.types import Page

from .conftest import draft, make_user, standing_of, told


class Company:
    """An organization with somebody of each role."""

    def __init__(self, organization: Organization, people: dict[Role, UserPrincipal]) -> None:
        self.organization = organization
        self.people = people


@pytest.fixture
async def company(tx: Transaction, organizations: OrganizationService, members: MemberService) -> Company:
    owner = await make_user(tx, "olga")
    made = await organizations.create(tx, SYSTEM, owner.user_id, draft())
    people: dict[Role, UserPrincipal] = {"owner": owner}
    for name, role in (("ada", "admin"), ("mia", "member"), ("vera", "viewer")):
        people[role] = await make_user(tx, name)  # type: ignore[index]  # the roles of the line above
        await members.add(tx, SYSTEM, made.id, people[role].user_id, role)  # type: ignore[arg-type,index]
    await tx.run("UPDATE memberships SET created_at = now() - interval '1 day' WHERE role = 'owner'")
    return Company(made, people)


def by(user: UserPrincipal) -> Actor:
    return Actor(type="user", id=user.user_id, name=user.username)


async def remove(
    tx: Transaction, members: MemberService, standings: Standings, company: Company, remover: Role, removed: Role
) -> None:
    who = company.people[remover]
    standing = await standing_of(tx, standings, who, company.organization)
    await members.remove(tx, by(who), standing, company.people[removed].user_id)


@pytest.mark.parametrize(("viewer", "shown"), [("owner", 4), ("admin", 4), ("member", 1), ("viewer", 1)])
async def test_below_an_admin_one_sees_ones_own_email_and_those_of_others_masked(
    tx: Transaction, members: MemberService, standings: Standings, company: Company, viewer: Role, shown: int
) -> None:
    standing = await standing_of(tx, standings, company.people[viewer], company.organization)

    listed = (await members.list(tx, standing, Page())).data

    assert [member.username for member in listed] == ["olga", "ada", "mia", "vera"]
    assert sum(member.email == f"{member.username}@company.example.org" for member in listed) == shown
    assert {member.email for member in listed if "***" in (member.email or "")} <= {
        masked(f"{name}@company.example.org") for name in ("olga", "ada", "mia", "vera")
    }


def test_a_masked_email_tells_where_it_ends_and_little_more() -> None:
    assert masked("alice@company.example.org") == "a***@c***.org"
    assert masked("a@localhost") == "a***@l***"


@pytest.mark.parametrize(
    ("remover", "removed"), [("owner", "admin"), ("owner", "viewer"), ("admin", "member"), ("viewer", "viewer"),
                             ("admin", "admin"), ("member", "member")],
)  # fmt: skip
async def test_who_may_remove_does_and_everybody_but_the_owner_may_leave(
    tx: Transaction,
    members: MemberService,
    standings: Standings,
    audit: AuditTrail,
    company: Company,
    remover: Role,
    removed: Role,
) -> None:
    await remove(tx, members, standings, company, remover, removed)

    with pytest.raises(MemberNotFound):
        await remove(tx, members, standings, company, "owner", removed)
    event = "member.left" if remover == removed else "member.removed"
    assert (await told(tx, audit, company.organization.id))[-1] == event


async def test_only_the_owner_removes_an_admin(
    tx: Transaction, members: MemberService, standings: Standings, company: Company
) -> None:
    other = await make_user(tx, "anna")
    await members.add(tx, SYSTEM, company.organization.id, other.user_id, "admin")
    standing = await standing_of(tx, standings, other, company.organization)

    with pytest.raises(OnlyOwner):
        await members.remove(tx, by(other), standing, company.people["admin"].user_id)


async def test_the_owner_stays(tx: Transaction, members: MemberService, standings: Standings, company: Company) -> None:
    for remover in ("owner", "admin"):
        with pytest.raises(OwnerStays):
            await remove(tx, members, standings, company, remover, "owner")
    with pytest.raises(OwnerStays):
        owner = company.people["owner"]
        await members.change_role(tx, by(owner), company.organization.id, owner.user_id, "viewer")


async def test_the_audit_row_of_a_removal_names_the_keys_that_stay(
    tx: Transaction, members: MemberService, standings: Standings, keys: ApiKeyService, company: Company
) -> None:
    mia = company.people["member"]
    made = await keys.create(tx, company.organization.id, KeyDraft(name="hers", created_by=mia.user_id))
    ended = await keys.create(tx, company.organization.id, KeyDraft(name="old", created_by=mia.user_id))
    await keys.revoke(tx, company.organization.id, ended.key.id)

    await remove(tx, members, standings, company, "owner", "member")

    details = await tx.fetchval("SELECT details ->> 'active_keys' FROM audit_log WHERE event = 'member.removed'")
    assert made.key.prefix in details
    assert ended.key.prefix not in details
    assert (await keys.authenticate(tx, made.secret.reveal())).key_id == made.key.id


async def test_another_role_is_told_with_the_old_one_and_the_same_one_changes_nothing(
    tx: Transaction, members: MemberService, standings: Standings, audit: AuditTrail, company: Company
) -> None:
    mia, organization_id = company.people["member"], company.organization.id
    before = await told(tx, audit, organization_id)
    row = {"event": "member.role_changed"}
    counted = metrics.REGISTRY.get_sample_value("agentauri_audit_rows_total", row) or 0

    same = await members.change_role(tx, SYSTEM, organization_id, mia.user_id, "member")
    raised = await members.change_role(tx, SYSTEM, organization_id, mia.user_id, "admin")

    assert metrics.REGISTRY.get_sample_value("agentauri_audit_rows_total", row) == counted + 1
    assert raised == structs.replace(same, role="admin")
    assert (await standings.find(tx, mia, organization_id)).may("write:organizations")
    assert (await told(tx, audit, organization_id))[len(before) :] == ["member.role_changed"]


async def test_nobody_is_a_member_twice(tx: Transaction, members: MemberService, company: Company) -> None:
    with pytest.raises(MemberExists):
        await members.add(tx, SYSTEM, company.organization.id, company.people["viewer"].user_id, "admin")


async def test_what_was_remembered_of_a_member_is_forgotten_with_the_change(
    database: Database, organizations: OrganizationService, members: MemberService, standings: Standings
) -> None:
    async with database.transaction() as tx:
        alice, bob = await make_user(tx, "alice"), await make_user(tx, "bob")
        made = await organizations.create(tx, SYSTEM, alice.user_id, draft())
        await members.add(tx, SYSTEM, made.id, bob.user_id, "viewer")
    async with database.transaction() as tx:
        owner = await standing_of(tx, standings, alice, made)
        await standing_of(tx, standings, bob, made)
    assert standings.remembered(bob, made.id) is not None

    async with database.transaction() as tx:
        await members.change_role(tx, SYSTEM, made.id, bob.user_id, "admin")
    assert standings.remembered(bob, made.id) is None

    async with database.transaction() as tx:
        await standing_of(tx, standings, bob, made)
    async with database.transaction() as tx:
        await members.remove(tx, by(alice), owner, bob.user_id)
    assert standings.remembered(bob, made.id) is None
