"""Keys: made once, recognised by digest, refused alike."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from asyncpg import Record

from agentauri.accounts import (
    ApiKeyPrincipal,
    ApiKeyService,
    AuditTrail,
    InvalidApiKey,
    KeyDraft,
    KeyNotFound,
    NewKey,
    Organization,
    OrganizationService,
)
from agentauri.accounts.types import AuthFailure
from agentauri.database import Database, Transaction
from agentauri.errors import Unavailable
from agentauri.types import OrganizationId, Secret, UserId, utc_now

MakeKey = Callable[..., Awaitable[NewKey]]
Authenticate = Callable[[str], Awaitable[ApiKeyPrincipal]]


@pytest.fixture
async def organization(database: Database, organizations: OrganizationService) -> Organization:
    async with database.transaction() as tx:
        return await organizations.find_or_create(tx, "Acme")


@pytest.fixture
def make_key(database: Database, keys: ApiKeyService, organization: Organization) -> MakeKey:
    async def make(**changes: Any) -> NewKey:
        draft = KeyDraft(**{"name": "a key", "created_by": organization.owner_id, **changes})
        async with database.transaction() as tx:
            return await keys.create(tx, organization.id, draft)

    return make


@pytest.fixture
def authenticate(database: Database, keys: ApiKeyService) -> Authenticate:
    async def ask(presented: str) -> ApiKeyPrincipal:
        async with database.transaction() as tx:
            return await keys.authenticate(tx, presented)

    return ask


def watched(tx: Transaction, seen: Callable[[str], Awaitable[None] | None]) -> Transaction:
    """The same transaction; `seen` is told of each statement after it ran."""

    class Watched(Transaction):
        async def fetchrow(self, sql: str, *arguments: object) -> Record | None:
            row = await super().fetchrow(sql, *arguments)
            told = seen(sql)
            if told is not None:
                await told
            return row

    tx.__class__ = Watched
    return tx


async def test_a_key_has_its_environment_in_front_and_256_bits_behind(make_key: MakeKey) -> None:
    made = await make_key(environment="test")
    assert re.fullmatch(r"sk_test_[A-Za-z0-9_-]{43}", made.secret.reveal())


async def test_a_key_is_recognised_as_its_organizations(
    make_key: MakeKey, authenticate: Authenticate, organization: Organization
) -> None:
    made = await make_key(permissions=("read", "write"))
    principal = await authenticate(made.secret.reveal())
    assert (principal.key_id, principal.organization_id) == (made.key.id, organization.id)
    assert principal.user_id == organization.owner_id
    assert principal.may("write:triggers")
    assert not principal.may("delete:triggers")


async def test_nothing_stored_gives_the_key_away(database: Database, make_key: MakeKey) -> None:
    made = await make_key()
    async with database.transaction() as tx:
        row = await tx.fetchval("SELECT k::text FROM api_keys k")
    assert made.secret.reveal()[16:] not in row
    assert made.secret.reveal()[16:] not in repr(made)


async def test_a_prefix_of_sixteen_characters_finds_the_row(database: Database, make_key: MakeKey) -> None:
    made = await make_key()
    async with database.transaction() as tx:
        found = await tx.fetchrow(
            "SELECT id, key_prefix, is_active, expires_at, revoked_at FROM api_keys WHERE key_prefix = $1",
            made.secret.reveal()[:16],
        )
    assert found is not None
    assert found["id"] == made.key.id


async def test_unknown_wrong_malformed_revoked_and_expired_keys_are_refused_alike(
    database: Database, keys: ApiKeyService, make_key: MakeKey, authenticate: Authenticate, organization: Organization
) -> None:
    good, revoked = (await make_key()).secret.reveal(), await make_key()
    expired = await make_key(expires_at=utc_now() - timedelta(seconds=1))
    async with database.transaction() as tx:
        await keys.revoke(tx, organization.id, revoked.key.id)
    refused = {
        "unknown": "sk_live_" + "x" * 43,
        "wrong": good[:-1] + ("A" if good[-1] != "A" else "B"),
        "malformed": "sk_live_short",
        "empty": "",
        "revoked": revoked.secret.reveal(),
        "expired": expired.secret.reveal(),
    }
    messages = set()
    for key in refused.values():
        with pytest.raises(InvalidApiKey) as error:
            await authenticate(key)
        messages.add(error.value.message)
    assert messages == {"Invalid or expired API key"}


async def test_a_refusal_takes_the_same_statements_whatever_is_wrong(
    database: Database, keys: ApiKeyService, make_key: MakeKey
) -> None:
    good = (await make_key()).secret.reveal()
    asked: list[str] = []
    for key in (good[:-1] + "-", "sk_live_" + "x" * 43, "nonsense"):
        async with database.transaction() as tx:
            with pytest.raises(InvalidApiKey):
                await keys.authenticate(watched(tx, asked.append), key)
    assert len(asked) == 3
    assert len(set(asked)) == 1


async def test_another_pepper_recognises_nothing(database: Database, make_key: MakeKey) -> None:
    made = await make_key()
    async with database.transaction() as tx:
        with pytest.raises(InvalidApiKey):
            others = ApiKeyService(Secret("another pepper of sufficient length"), AuditTrail())
            await others.authenticate(tx, made.secret.reveal())


async def test_an_accepted_key_is_remembered_and_a_refused_one_is_not(
    keys: ApiKeyService, make_key: MakeKey, authenticate: Authenticate
) -> None:
    made = await make_key()
    assert keys.remembered(made.secret.reveal()) is None
    principal = await authenticate(made.secret.reveal())
    assert keys.remembered(made.secret.reveal()) == principal
    assert keys.remembered("sk_live_" + "x" * 43) is None


async def test_what_was_remembered_is_not_believed_for_longer_than_five_seconds(
    keys: ApiKeyService, make_key: MakeKey, authenticate: Authenticate, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await make_key()
    await authenticate(made.secret.reveal())
    later = time.monotonic() + 5.1
    monkeypatch.setattr("agentauri.accounts.api_keys.time.monotonic", lambda: later)
    assert keys.remembered(made.secret.reveal()) is None


async def test_a_revoked_key_is_forgotten_at_once(
    database: Database, keys: ApiKeyService, make_key: MakeKey, authenticate: Authenticate, organization: Organization
) -> None:
    made = await make_key()
    await authenticate(made.secret.reveal())
    async with database.transaction() as tx:
        revoked = await keys.revoke(tx, organization.id, made.key.id)
    assert revoked.is_revoked
    assert keys.remembered(made.secret.reveal()) is None


async def test_a_look_up_that_began_before_a_change_is_not_remembered(
    database: Database, keys: ApiKeyService, make_key: MakeKey, organization: Organization
) -> None:
    made, other = await make_key(), await make_key()

    async def overtake() -> None:
        async with database.transaction() as overtaking:
            await keys.revoke(overtaking, organization.id, other.key.id)

    async with database.transaction() as tx:
        await keys.authenticate(watched(tx, lambda _: overtake()), made.secret.reveal())
    assert keys.remembered(made.secret.reveal()) is None


async def test_expiry_is_compared_on_each_use_of_what_is_remembered(
    keys: ApiKeyService, make_key: MakeKey, authenticate: Authenticate, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await make_key(expires_at=utc_now() + timedelta(hours=1))
    await authenticate(made.secret.reveal())
    later = utc_now() + timedelta(hours=2)
    monkeypatch.setattr("agentauri.accounts.api_keys.utc_now", lambda: later)
    assert keys.remembered(made.secret.reveal()) is None


async def test_a_key_whose_replacement_overlaps_works_until_the_overlap_ends(
    database: Database, make_key: MakeKey, authenticate: Authenticate
) -> None:
    made = await make_key()
    async with database.transaction() as tx:
        await tx.run("UPDATE api_keys SET revoked_at = now() + interval '15 minutes'")
    assert (await authenticate(made.secret.reveal())).key_id == made.key.id


async def test_a_missing_dummy_digest_fails_closed(
    keys: ApiKeyService, make_key: MakeKey, authenticate: Authenticate, log_lines: list[dict[str, object]]
) -> None:
    made = await make_key()
    keys.dummy_digest = b""
    with pytest.raises(Unavailable):
        await authenticate(made.secret.reveal())
    assert [line["level"] for line in log_lines] == ["CRITICAL"]
    assert log_lines[0]["message"] == "Failed to verify API key due to missing dummy hash"


async def test_a_key_is_revoked_by_id_or_prefix_and_stays_revoked(
    database: Database, keys: ApiKeyService, make_key: MakeKey, organization: Organization
) -> None:
    made = await make_key()
    async with database.transaction() as tx:
        first = await keys.revoke(tx, None, made.key.prefix)
        again = await keys.revoke(tx, organization.id, made.key.id)
    assert first.revoked_at == again.revoked_at
    assert not again.is_active


async def test_a_key_of_another_organization_is_not_there(
    database: Database, keys: ApiKeyService, make_key: MakeKey
) -> None:
    made = await make_key()
    async with database.transaction() as tx:
        with pytest.raises(KeyNotFound):
            await keys.revoke(tx, OrganizationId("another"), made.key.id)
        assert await keys.list(tx, OrganizationId("another")) == []
        assert [key.id for key in await keys.list(tx, None)] == [made.key.id]


async def test_a_refused_key_is_noted_with_sixteen_characters_at_most(database: Database, keys: ApiKeyService) -> None:
    failure = AuthFailure(
        kind="api_key", presented="sk_live_" + "x" * 43, address="192.0.2.1", user_agent="u" * 500, route="/events"
    )
    async with database.transaction() as tx:
        await keys.record_failure(tx, failure)
        row = await tx.fetchrow("SELECT kind, prefix, address, length(user_agent) AS agent, route FROM auth_failures")
    assert row is not None
    assert tuple(row) == ("api_key", "sk_live_xxxxxxxx", "192.0.2.1", 256, "/events")


async def test_the_creator_of_a_key_that_left_is_stood_for_by_the_owner(
    database: Database, make_key: MakeKey, authenticate: Authenticate, organization: Organization
) -> None:
    made = await make_key(created_by=UserId("somebody"))
    async with database.transaction() as tx:
        await tx.run("UPDATE api_keys SET created_by = NULL")
    assert (await authenticate(made.secret.reveal())).user_id == organization.owner_id
