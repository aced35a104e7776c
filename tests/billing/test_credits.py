"""Credits: the balance is the sum of a ledger that nobody can change."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from agentauri.billing import CreditService
from agentauri.database import Database, Transaction
from agentauri.types import OrganizationId, Page

ACME = OrganizationId("acme")


async def make_organization(tx: Transaction) -> None:
    await tx.run("INSERT INTO users (id, username) VALUES ('u', 'alice')")
    await tx.run("INSERT INTO organizations (id, name, slug, owner_id) VALUES ('acme', 'Acme', 'acme', 'u')")


async def test_every_organization_begins_with_a_balance_of_nothing(tx: Transaction) -> None:
    await make_organization(tx)
    assert await CreditService().balance(tx, ACME) == 0


async def test_each_row_tells_the_balance_after_it_newest_first(tx: Transaction) -> None:
    await make_organization(tx)
    ledger = CreditService()
    await ledger.book(tx, ACME, 5_000_000, "bonus", description="welcome")
    await ledger.book(tx, ACME, -1_500_000, "usage", reference_id="r-1")

    page = await ledger.transactions(tx, ACME, None, Page())
    usage = await ledger.transactions(tx, ACME, "usage", Page())

    assert [(row.amount, row.balance_after) for row in page.data] == [(-1_500_000, 3_500_000), (5_000_000, 5_000_000)]
    assert [(row.transaction_type, row.reference_id) for row in usage.data] == [("usage", "r-1")]
    assert await ledger.balance(tx, ACME) == 3_500_000


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE credit_transactions SET amount = 1",
        "DELETE FROM credit_transactions",
        "TRUNCATE credit_transactions",
    ],
)
async def test_no_row_of_the_ledger_can_be_changed_or_taken_away(tx: Transaction, change: str) -> None:
    await make_organization(tx)
    await CreditService().book(tx, ACME, 1, "bonus")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await tx.run(change)


async def test_the_ledger_outlives_its_organization(tx: Transaction) -> None:
    await make_organization(tx)
    await CreditService().book(tx, ACME, 1, "bonus")
    await tx.run("DELETE FROM organizations")
    assert (await CreditService().transactions(tx, ACME, None, Page())).total == 1


async def test_of_those_who_book_at_once_none_is_lost(database: Database) -> None:
    ledger = CreditService()
    async with database.transaction() as tx:
        await make_organization(tx)

    async def book(amount: int) -> None:
        async with database.transaction() as tx:
            await ledger.book(tx, ACME, amount, "adjustment")

    await asyncio.gather(*(book(amount) for amount in range(1, 9)))

    async with database.transaction() as tx:
        page = await ledger.transactions(tx, ACME, None, Page())
        assert await ledger.balance(tx, ACME) == page.data[0].balance_after == sum(range(1, 9))
