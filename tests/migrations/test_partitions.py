"""Deliveries by day: bounds, partitions ahead, and rows that came too early or too late for one."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4

from agentauri.database import Transaction
from agentauri.migrations import (
    STRAYS_AT_ONCE,
    drop_partitions,
    ensure_partitions,
    partition_bounds,
    partition_days,
    partition_name,
)


def delivery_id(moment: datetime) -> UUID:
    return UUID(int=(int(moment.timestamp() * 1000) << 80) | (uuid4().int & ((1 << 80) - 1)))


async def insert_delivery(tx: Transaction, key: UUID, status: str = "delivered") -> UUID:
    await tx.run(
        """INSERT INTO deliveries (id, organization_id, trigger_id, environment, trigger_version, action_id,
               action_type, destination, event_seq, chain_id, kind, status, due_at, created_at)
           VALUES ($1, 'o', 't', 'live', 1, 1, 'webhook', 'example.com', 1, 1, 'match', $2, now(), now())""",
        key,
        status,
    )
    await tx.run("INSERT INTO attempts (delivery_id, number, started_at) VALUES ($1, 1, now())", key)
    return key


async def homes(tx: Transaction) -> dict[UUID, str]:
    return {
        row["id"]: row["home"] for row in await tx.fetch("SELECT id, tableoid::regclass::text AS home FROM deliveries")
    }


def test_a_day_begins_and_ends_at_its_milliseconds() -> None:
    assert partition_bounds(date(2026, 1, 1)) == (
        UUID("019b76da-a800-0000-0000-000000000000"),
        UUID("019b7c01-0400-0000-0000-000000000000"),
    )


async def test_today_and_three_days_ahead_have_partitions(tx: Transaction) -> None:
    today = await tx.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
    assert await partition_days(tx) == [today + timedelta(days=ahead) for ahead in range(4)]
    assert await ensure_partitions(tx) == []
    assert await ensure_partitions(tx, 4) == [
        partition_name(table, today + timedelta(days=4)) for table in ("deliveries", "attempts")
    ]


async def test_rows_are_found_in_the_partition_of_their_day_and_look_up_one(tx: Transaction) -> None:
    now = await tx.fetchval("SELECT now()")
    key = await insert_delivery(tx, delivery_id(now))
    assert await homes(tx) == {key: partition_name("deliveries", now.date())}
    plan = "\n".join(row[0] for row in await tx.fetch(f"EXPLAIN SELECT * FROM deliveries WHERE id = '{key}'"))
    assert plan.count("Scan") == 1


async def test_rows_without_a_partition_are_moved_into_one_made_for_them(tx: Transaction) -> None:
    early, late = datetime(2019, 5, 4, 23, 59, tzinfo=UTC), datetime(2019, 5, 6, tzinfo=UTC)
    keys = [await insert_delivery(tx, delivery_id(moment)) for moment in (early, early, late)]
    assert set((await homes(tx)).values()) == {"deliveries_default"}

    assert await ensure_partitions(tx) == [
        "deliveries_20190504", "deliveries_20190506", "attempts_20190504", "attempts_20190506",
    ]  # fmt: skip

    assert [(await homes(tx))[key] for key in keys] == [
        "deliveries_20190504", "deliveries_20190504", "deliveries_20190506",
    ]  # fmt: skip
    assert await tx.fetchval("SELECT count(*) FROM attempts_default") == 0
    assert await ensure_partitions(tx) == []


async def test_a_made_partition_has_what_its_table_has(tx: Transaction) -> None:
    shape = """SELECT regexp_replace(pg_get_indexdef(indexrelid), 'deliveries[a-z0-9_]*', '', 'g') AS shape
               FROM pg_index WHERE indrelid = $1::regclass"""
    [made, *_] = [partition_name("deliveries", day) for day in await partition_days(tx)]
    indexes = {
        name: {row["shape"].replace("ONLY ", "") for row in await tx.fetch(shape, name)}
        for name in ("deliveries", "deliveries_default", made)
    }
    assert indexes["deliveries"] == indexes["deliveries_default"] == indexes[made]
    assert await tx.fetchval("SELECT reloptions FROM pg_class WHERE relname = $1", made) == ["fillfactor=85"]


async def test_many_stray_days_are_dealt_with_in_parts(tx: Transaction) -> None:
    for day in range(STRAYS_AT_ONCE + 2):
        await insert_delivery(tx, delivery_id(datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=day)))
    assert len(await ensure_partitions(tx)) == 2 * STRAYS_AT_ONCE
    assert len(await ensure_partitions(tx)) == 2 * 2


async def test_an_id_that_says_no_possible_day_stays_where_it_is(tx: Transaction) -> None:
    for key in (UUID(int=1), UUID(int=2**128 - 1)):
        await insert_delivery(tx, key)
    assert await ensure_partitions(tx) == []
    assert set((await homes(tx)).values()) == {"deliveries_default"}


async def test_a_dropped_day_takes_its_attempts_along(tx: Transaction) -> None:
    await insert_delivery(tx, delivery_id(datetime(2019, 5, 4, tzinfo=UTC)))
    await ensure_partitions(tx)
    await drop_partitions(tx, date(2019, 5, 4))
    assert await homes(tx) == {}
    assert await tx.fetchval("SELECT count(*) FROM attempts") == 0
