"""What an operator does to accounts at the console."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agentauri import console
from agentauri.accounts import Caller, OrganizationNotFound, Registration
from agentauri.accounts.errors import AccountDisabled, InvalidCredentials, UserNotFound
from agentauri.app import Application, Stores, assemble
from agentauri.config import Config, DatabaseConfig, RedisConfig
from agentauri.errors import Invalid
from agentauri.types import Page, Secret

HERE = Caller(address="192.0.2.1", user_agent=None, route="/auth/login", request_id=None)
PASSWORD = Secret("correct horse battery")


@pytest.fixture
async def app(config: Config, database_settings: DatabaseConfig, redis_url: str) -> AsyncIterator[Application]:
    async with assemble(config, Stores(database_settings, RedisConfig(url=Secret(redis_url)), None)) as application:
        yield application


async def test_a_plan_is_given_by_slug_and_told_of_in_the_audit_trail(app: Application) -> None:
    await console.create_key(app, "Acme", "k", "live", ("read",))

    told = await console.set_plan(app, "acme", "pro")

    (row,) = await console.list_organizations(app)
    assert told == "acme: free -> pro"
    assert (row[0], row[3], row[4]) == ("acme", "pro", "operator")
    async with app.database.transaction() as tx:
        changed = await tx.fetchrow("SELECT actor_type, details ->> 'new' FROM audit_log WHERE event = 'plan.changed'")
    assert changed is not None
    assert tuple(changed) == ("system", "pro")
    with pytest.raises(OrganizationNotFound):
        await console.set_plan(app, "nobody", "pro")


async def test_credit_that_is_booked_is_in_the_ledger_and_in_the_audit_trail(app: Application) -> None:
    await console.create_key(app, "Acme", "k", "live", ("read",))

    assert await console.book_credit(app, "acme", "12.5", "purchase", "an invoice", "4711") == (
        "acme: 12.500000 USDC, now 12.500000 USDC"
    )
    assert await console.book_credit(app, "acme", "-20.000001", "usage", None, None) == (
        "acme: -20.000001 USDC, now -7.500001 USDC"
    )

    async with app.database.transaction() as tx:
        acme = await app.organizations.find(tx, "acme")
        ledger = await app.credits.transactions(tx, acme.id, None, Page(limit=10, offset=0))
        told = await tx.fetchval("SELECT count(*) FROM audit_log WHERE event = 'credits.changed'")
    assert [(one.amount, one.reference_id) for one in ledger.data] == [(-20_000_001, None), (12_500_000, "4711")]
    assert told == 2
    for refused in ("0", "1.0000001", "1e3", "", "nan", "99999999999"):
        with pytest.raises(Invalid):
            await console.book_credit(app, "acme", refused, "bonus", None, None)


async def test_keys_are_listed_with_the_slugs_of_their_organizations(app: Application) -> None:
    key = await console.create_key(app, "Acme", "mine", "test", ("read",))
    (row,) = await console.list_keys(app, None)
    assert row[:5] == (key[:16], "acme", "mine", "test", "active")
    assert await console.revoke_key(app, key[:16]) == key[:16]
    assert (await console.list_keys(app, "acme"))[0][4] == "ended"


async def test_a_user_is_kept_out_let_in_and_given_another_password(app: Application) -> None:
    await app.users.register(Registration(username="alice", email="alice@example.org", password=PASSWORD), HERE)

    assert await console.switch_user(app, "ALICE", active=False) == "alice"
    with pytest.raises(AccountDisabled):
        await app.users.log_in("alice", PASSWORD, HERE)
    await console.switch_user(app, "alice", active=True)
    password = await console.reset_password(app, "alice")

    with pytest.raises(InvalidCredentials):
        await app.users.log_in("alice", PASSWORD, HERE)
    await app.users.log_in("alice", Secret(password), HERE)
    (row,) = await console.list_users(app)
    assert (row[0], row[2], row[3]) == ("alice", "alice@example.org", "active")
    with pytest.raises(UserNotFound):
        await console.reset_password(app, "nobody")
