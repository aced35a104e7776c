"""Keys made, changed, rotated and ended by those who may; and how their use is written down."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from agentauri.accounts import (
    ADMIN_ALL,
    ROLES,
    SCOPES,
    SYSTEM,
    ApiKeyService,
    AuditFilter,
    AuditTrail,
    AuthFailure,
    InvalidApiKey,
    KeyDraft,
    KeyFilter,
    KeyNotFound,
    KeyPatch,
    KeyRotation,
    NewKey,
    OrganizationService,
    Role,
    Standing,
    Standings,
)
from agentauri.accounts.errors import KeyEnded, NotYours
from agentauri.config import database_config
from agentauri.database import Database, Transaction
from agentauri.errors import Invalid
from agentauri.types import Page, utc_now

from .conftest import draft, make_user, told

EVERYTHING = ("read", "write", "delete", "admin")


@pytest.fixture
async def owner(tx: Transaction, organizations: OrganizationService, standings: Standings) -> Standing:
    """The owner's standing in an organization of hers."""
    return await standing_in(tx, organizations, standings)


async def standing_in(tx: Transaction, organizations: OrganizationService, standings: Standings) -> Standing:
    alice = await make_user(tx, "alice")
    made = await organizations.create(tx, SYSTEM, alice.user_id, draft())
    return await standings.find(tx, alice, made.id)


def as_role(owner: Standing, role: Role) -> Standing:
    return structs.replace(owner, role=role, scopes=ROLES[role])


async def issue(tx: Transaction, keys: ApiKeyService, maker: Standing, **changes: Any) -> NewKey:
    values: dict[str, Any] = {"name": "a key", "created_by": maker.user_id, **changes}
    return await keys.issue(tx, SYSTEM, maker, KeyDraft(**values), 500)


async def age(tx: Transaction, made: NewKey, **columns: timedelta) -> None:
    """Let the times of a key lie so far back."""
    for name, back in columns.items():
        await tx.run(f"UPDATE api_keys SET {name} = now() - $2::interval WHERE id = $1", made.key.id, back)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": " "}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"rate_limit_override": 0}, "rate_limit_override"),
        ({"rate_limit_override": 501}, "rate_limit_override"),
        ({"expires_at": utc_now() - timedelta(seconds=1)}, "expires_at"),
        ({"expires_at": utc_now() + timedelta(days=2000)}, "expires_at"),
        ({"key_type": "restricted"}, "scopes"),
        ({"permissions": ("admin",)}, "permissions"),
    ],
)
async def test_a_key_that_breaks_a_rule_names_the_field(
    tx: Transaction, keys: ApiKeyService, owner: Standing, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        await issue(tx, keys, owner, **changes)
    assert [error.field for error in refused.value.errors] == [field]


async def test_nobody_gives_a_key_what_she_may_not_do_herself(
    tx: Transaction, keys: ApiKeyService, owner: Standing
) -> None:
    admin = as_role(owner, "admin")
    await issue(tx, keys, admin, key_type="admin", permissions=EVERYTHING)
    with pytest.raises(NotYours):
        await issue(tx, keys, admin, key_type="admin", permissions=EVERYTHING, scopes=(ADMIN_ALL,))
    await issue(tx, keys, owner, key_type="admin", permissions=EVERYTHING, scopes=(ADMIN_ALL,))


async def test_a_stronger_key_cannot_be_taken_over_by_rotating_or_changing_it(
    tx: Transaction, keys: ApiKeyService, owner: Standing
) -> None:
    strong = await issue(tx, keys, owner, key_type="admin", permissions=EVERYTHING, scopes=tuple(SCOPES))
    weak = await issue(tx, keys, owner, key_type="admin", permissions=EVERYTHING, scopes=("read:agents",))
    admin = as_role(owner, "admin")

    with pytest.raises(NotYours):
        await keys.rotate(tx, SYSTEM, admin, strong.key.id, KeyRotation())
    with pytest.raises(NotYours):
        await keys.update(tx, SYSTEM, admin, strong.key.id, KeyPatch(name="mine"), 500)
    with pytest.raises(NotYours):
        await keys.update(tx, SYSTEM, admin, weak.key.id, KeyPatch(scopes=(ADMIN_ALL,)), 500)


async def test_a_key_knows_keys_of_its_own_environment_only(
    tx: Transaction, keys: ApiKeyService, owner: Standing
) -> None:
    live, test = await issue(tx, keys, owner), await issue(tx, keys, owner, environment="test")
    tester = structs.replace(owner, role=None, environment="test")

    with pytest.raises(NotYours):
        await issue(tx, keys, tester, environment="live")
    for refused in (
        keys.get(tx, tester, live.key.id),
        keys.update(tx, SYSTEM, tester, live.key.id, KeyPatch(name="x"), 500),
        keys.rotate(tx, SYSTEM, tester, live.key.id, KeyRotation()),
        keys.revoke(tx, tester.organization_id, live.key.id, environment="test"),
    ):
        with pytest.raises(KeyNotFound):
            await refused
    listed = await keys.page(tx, tester, KeyFilter(), Page())
    assert [key.id for key in listed.data] == [test.key.id]
    assert (await keys.page(tx, tester, KeyFilter(environment="live"), Page())).data == []
    assert (await keys.stats(tx, tester)).total_keys == 1


async def test_a_rotated_key_may_do_the_same_and_the_old_one_works_until_the_overlap_is_over(
    tx: Transaction, keys: ApiKeyService, owner: Standing, audit: AuditTrail
) -> None:
    ends = utc_now() + timedelta(days=30)
    old = await issue(
        tx, keys, owner, permissions=("read", "write"), environment="test", rate_limit_override=7, expires_at=ends
    )

    done = await keys.rotate(tx, SYSTEM, owner, old.key.id, KeyRotation(overlap=timedelta(minutes=15)))

    new = done.made.key
    for name in ("name", "environment", "key_type", "permissions", "scopes", "rate_limit_override", "expires_at"):
        assert getattr(new, name) == getattr(old.key, name), name
    shown = await keys.get(tx, owner, old.key.id)
    assert (shown.is_active, shown.is_revoked, shown.replaced_by) == (True, False, new.id)
    await keys.authenticate(tx, old.secret.reveal())
    await age(tx, old, revoked_at=timedelta(seconds=1))
    keys._forget()
    with pytest.raises(InvalidApiKey):
        await keys.authenticate(tx, old.secret.reveal())
    assert (await keys.authenticate(tx, done.made.secret.reveal())).key_id == new.id
    assert (await told(tx, audit, owner.organization_id))[-1] == "api_key.rotated"


async def test_without_an_overlap_the_old_key_ends_with_the_rotation(
    tx: Transaction, keys: ApiKeyService, owner: Standing
) -> None:
    old = await issue(tx, keys, owner)
    await keys.rotate(tx, SYSTEM, owner, old.key.id, KeyRotation(overlap=timedelta(0)))
    assert (await keys.get(tx, owner, old.key.id)).is_revoked
    with pytest.raises(InvalidApiKey):
        await keys.authenticate(tx, old.secret.reveal())


async def test_a_key_is_rotated_once_and_not_after_its_end_unless_the_new_one_has_another(
    tx: Transaction, keys: ApiKeyService, owner: Standing
) -> None:
    revoked, replaced, expired = [await issue(tx, keys, owner) for _ in range(3)]
    await keys.revoke(tx, owner.organization_id, revoked.key.id)
    await keys.rotate(tx, SYSTEM, owner, replaced.key.id, KeyRotation())
    await age(tx, expired, expires_at=timedelta(seconds=1))

    for one in (revoked, replaced, expired):
        with pytest.raises(KeyEnded):
            await keys.rotate(tx, SYSTEM, owner, one.key.id, KeyRotation())
    later = utc_now() + timedelta(days=1)
    assert (await keys.rotate(tx, SYSTEM, owner, expired.key.id, KeyRotation(expires_at=later))).made.key.is_active


async def test_an_expired_key_works_again_when_it_is_given_time_and_a_revoked_one_never(
    tx: Transaction, keys: ApiKeyService, owner: Standing
) -> None:
    expired, revoked = await issue(tx, keys, owner), await issue(tx, keys, owner)
    await age(tx, expired, expires_at=timedelta(seconds=1))
    await keys.end_due(tx)
    await keys.revoke(tx, owner.organization_id, revoked.key.id)

    assert (await keys.update(tx, SYSTEM, owner, expired.key.id, KeyPatch(expires_at=None), 500)).is_active
    with pytest.raises(KeyEnded):
        await keys.update(tx, SYSTEM, owner, revoked.key.id, KeyPatch(expires_at=None), 500)


async def test_a_revoked_key_stays_as_it_is_and_its_reason_is_told(
    tx: Transaction, keys: ApiKeyService, owner: Standing, audit: AuditTrail
) -> None:
    made = await issue(tx, keys, owner)

    first = await keys.revoke(tx, owner.organization_id, made.key.id, reason="leaked")
    again = await keys.revoke(tx, owner.organization_id, made.key.id, reason="twice")

    assert again == first
    entries = (
        await audit.of_organization(tx, owner.organization_id, AuditFilter(event="api_key.revoked"), Page())
    ).data
    assert [entry.details["reason"] for entry in entries] == ["leaked"]


async def test_keys_whose_time_or_overlap_is_over_are_switched_off_and_told_once(
    tx: Transaction, keys: ApiKeyService, owner: Standing, audit: AuditTrail
) -> None:
    expired, replaced, sound = [await issue(tx, keys, owner) for _ in range(3)]
    await keys.rotate(tx, SYSTEM, owner, replaced.key.id, KeyRotation())
    await age(tx, expired, expires_at=timedelta(seconds=1))
    await age(tx, replaced, revoked_at=timedelta(seconds=1))
    before = len(await told(tx, audit, owner.organization_id))

    assert await keys.end_due(tx) is False
    await keys.end_due(tx)

    assert sorted((await told(tx, audit, owner.organization_id))[before:]) == ["api_key.expired", "api_key.revoked"]
    off = {row["id"] for row in await tx.fetch("SELECT id FROM api_keys WHERE NOT is_active")}
    assert off == {expired.key.id, replaced.key.id}
    assert (await keys.get(tx, owner, sound.key.id)).is_active


async def test_a_replaced_key_does_not_count_as_active(tx: Transaction, keys: ApiKeyService, owner: Standing) -> None:
    made = await issue(tx, keys, owner)
    await keys.rotate(tx, SYSTEM, owner, made.key.id, KeyRotation())
    assert await keys.count_active(tx, owner.organization_id) == 1


async def test_use_is_counted_in_memory_and_written_with_when_and_from_where(
    database: Database, keys: ApiKeyService, organizations: OrganizationService, standings: Standings
) -> None:
    async with database.transaction() as tx:
        owner = await standing_in(tx, organizations, standings)
        made, other = await issue(tx, keys, owner), await issue(tx, keys, owner, environment="test")
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        keys.usage.used(made.key.id, address)

    await keys.usage.write(database)
    keys.usage.used(made.key.id, "192.0.2.4")
    await keys.usage.write(database)

    async with database.transaction() as tx:
        key, stats = await keys.get(tx, owner, made.key.id), await keys.stats(tx, owner)
        assert (await keys.get(tx, owner, other.key.id)).last_used_at is None
    assert (key.last_used_ip, key.last_used_at is None) == ("192.0.2.4", False)
    assert (stats.api_calls_total, stats.calls_24h, stats.unused_keys) == (4, 4, 1)


async def test_a_key_that_is_limited_is_told_of_once_an_hour(
    database: Database,
    keys: ApiKeyService,
    organizations: OrganizationService,
    standings: Standings,
    audit: AuditTrail,
) -> None:
    async with database.transaction() as tx:
        owner = await standing_in(tx, organizations, standings)
        made = await issue(tx, keys, owner)
    for _ in range(3):
        keys.usage.limited(made.key.id)
        await keys.usage.write(database)

    async with database.transaction() as tx:
        assert (await told(tx, audit, owner.organization_id)).count("api_key.rate_limited") == 1
        assert (await keys.stats(tx, owner)).rate_limited_24h == 3


async def test_what_cannot_be_written_now_is_written_later(
    database: Database, keys: ApiKeyService, organizations: OrganizationService, standings: Standings
) -> None:
    async with database.transaction() as tx:
        owner = await standing_in(tx, organizations, standings)
        made = await issue(tx, keys, owner)
    keys.usage.used(made.key.id, "192.0.2.1")

    async with Database.open(database_config("postgresql://nobody@127.0.0.1:1/nothing", (1, 1))) as away:
        await keys.usage.write(away)
    keys.usage.used(made.key.id, "192.0.2.2")
    await keys.usage.write(database)

    async with database.transaction() as tx:
        assert (await keys.stats(tx, owner)).api_calls_total == 2


def failure(presented: str, address: str = "192.0.2.1") -> AuthFailure:
    return AuthFailure(kind="api_key", presented=presented, address=address, user_agent="test", route="/")


async def test_an_organization_hears_of_refused_keys_once_in_ten_minutes_for_each_address(
    tx: Transaction, keys: ApiKeyService, owner: Standing, audit: AuditTrail
) -> None:
    made = await issue(tx, keys, owner)
    wrong = made.secret.reveal()[:-1] + "_"
    before = len(await told(tx, audit, owner.organization_id))

    for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
        await keys.record_failure(tx, failure(wrong, address))
    await keys.record_failure(tx, failure("sk_live_of_nobody_at_all"))

    assert (await told(tx, audit, owner.organization_id))[before:] == ["api_key.auth_failed"] * 2
    assert (await keys.stats(tx, owner)).failed_auth_24h == 3


async def test_stats_sort_keys_by_what_became_of_them(tx: Transaction, keys: ApiKeyService, owner: Standing) -> None:
    soon = utc_now() + timedelta(days=3)
    await issue(tx, keys, owner, expires_at=soon, environment="test")
    expired, revoked = await issue(tx, keys, owner), await issue(tx, keys, owner)
    await issue(tx, keys, owner, key_type="restricted", scopes=("read:agents",))
    await age(tx, expired, expires_at=timedelta(seconds=1))
    await keys.revoke(tx, owner.organization_id, revoked.key.id)

    stats = await keys.stats(tx, owner)

    assert (stats.total_keys, stats.active_keys, stats.expired_keys, stats.revoked_keys) == (4, 2, 1, 1)
    assert (stats.keys_expiring_soon, stats.unused_keys) == (1, 4)
    assert (stats.keys_by_environment.live, stats.keys_by_environment.test) == (3, 1)
    assert (stats.keys_by_type.standard, stats.keys_by_type.restricted, stats.keys_by_type.admin) == (3, 1, 0)
