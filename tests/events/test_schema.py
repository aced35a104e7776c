"""What the tables and their triggers promise to whoever writes by SQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from agentauri.database import Database, Transaction
from support.events import CHAIN, insert_by_hand

Queue = list[tuple[int, str]]


async def queued(tx: Transaction) -> Queue:
    return [tuple(row) for row in await tx.fetch("SELECT event_seq, kind FROM event_queue ORDER BY position")]


@asynccontextmanager
async def ear(database: Database, channel: str) -> AsyncIterator[Callable[[], Any]]:
    """What is notified on a channel inside; asking for it waits until all that was committed has been heard."""
    heard: list[str] = []
    flushed = asyncio.Event()

    def listen(_: object, __: int, ___: str, payload: object) -> None:
        heard.append(str(payload))

    async with database.outside() as connection:
        await connection.add_listener(channel, listen)
        await connection.add_listener("flush", lambda *_: flushed.set())

        async def all_heard() -> list[str]:
            flushed.clear()
            await connection.execute("SELECT pg_notify('flush', '')")
            await flushed.wait()
            return heard

        yield all_heard


async def test_a_row_with_the_required_columns_alone_is_queued_and_announced(database: Database) -> None:
    async with ear(database, "new_event") as heard:
        async with database.transaction() as tx:
            seq = await insert_by_hand(tx, "by-hand", block_number=7)
            assert await queued(tx) == [(seq, "assert")]
        assert await heard() == [
            f'{{"event_id" : "by-hand", "chain_id" : {CHAIN}, "block_number" : 7, '
            '"event_type" : "NewFeedback", "registry" : "reputation"}'
        ]


async def test_copied_rows_are_queued_in_their_order(tx: Transaction) -> None:
    columns = [
        "id", "chain_id", "block_number", "block_hash", "transaction_hash", "log_index", "registry", "event_type",
        "timestamp",
    ]  # fmt: skip
    rows = [(f"e{i}", 1, i, "0xb", "0xt", i, "identity", "Registered", 1) for i in range(30)]
    await tx.copy("events", columns, rows)
    seqs = [row["seq"] for row in await tx.fetch("SELECT seq FROM events ORDER BY block_number")]

    assert await queued(tx) == [(seq, "assert") for seq in seqs]


async def test_a_statement_of_more_than_twenty_rows_speaks_once_per_chain(database: Database) -> None:
    insert = """INSERT INTO events (id, chain_id, block_number, block_hash, transaction_hash, log_index, registry,
                                    event_type, timestamp)
                SELECT 'e' || n, $2 + n % 2, n, '0xb', '0xt', n, 'identity', 'Registered', 1
                FROM generate_series(1, $1::int) n"""
    async with ear(database, "new_event") as heard:
        async with database.transaction() as tx:
            await tx.run(insert, 20, 100)
        assert len(await heard()) == 20
        async with database.transaction() as tx:
            await tx.run("UPDATE events SET retracted_at = now()")
            await tx.run(insert.replace("'e'", "'f'"), 21, 200)
        assert [json.loads(payload)["event_id"] for payload in (await heard())[40:]] == ["f20", "f21"]


async def test_what_a_change_queues_is_what_it_means(tx: Transaction) -> None:
    seq = await insert_by_hand(tx, "e", block_hash="0xold")

    async def queued_by(change: str) -> list[str]:
        await tx.run("DELETE FROM event_queue")
        await tx.run(f"UPDATE events SET {change}")
        return [kind for event, kind in await queued(tx) if event == seq]

    assert await queued_by("owner = '0x1'") == []
    assert await queued_by("block_hash = '0xnew'") == ["retract", "assert"]
    assert await queued_by("retracted_at = now()") == ["retract"]
    assert await queued_by("block_hash = '0xother', retracted_at = now()") == []
    assert await queued_by("settled_at = now()") == []
    assert await queued_by("block_hash = '0xback', retracted_at = NULL, settled_at = NULL") == ["assert"]


async def test_only_changes_that_are_queued_are_announced(database: Database) -> None:
    async with ear(database, "new_event") as heard:
        async with database.transaction() as tx:
            await insert_by_hand(tx, "kept")
            await insert_by_hand(tx, "gone", block_number=2)
        async with database.transaction() as tx:
            await tx.run("UPDATE events SET retracted_at = CASE WHEN block_number = 2 THEN now() END")
        assert [json.loads(payload)["event_id"] for payload in (await heard())[2:]] == ["gone"]


async def test_without_the_notifying_trigger_rows_are_queued_all_the_same(database: Database) -> None:
    async with ear(database, "new_event") as heard:
        async with database.transaction() as tx:
            await tx.run("ALTER TABLE events DISABLE TRIGGER notify_new_event_trigger")
        async with database.transaction() as tx:
            seq = await insert_by_hand(tx, "e")
            assert await queued(tx) == [(seq, "assert")]
        assert await heard() == []


async def test_rows_that_replication_applies_are_queued(tx: Transaction) -> None:
    await tx.run("SET LOCAL session_replication_role = replica")
    seq = await insert_by_hand(tx, "e")
    assert await queued(tx) == [(seq, "assert")]


async def test_no_text_is_too_long_or_odd_for_an_event(tx: Transaction) -> None:
    long = "é\x01\\\"'" * 20_000
    seq = await insert_by_hand(tx, "\x01" * 200, event_type="T" * 600, tag1=long, token_uri=long, endpoint=long)
    assert await queued(tx) == [(seq, "assert")]


@pytest.mark.parametrize(
    ("event_id", "columns"),
    [
        ("", {}),
        ("x" * 201, {}),
        ("e", {"registry": "other"}),
        ("e", {"value_decimals": 256}),
        ("e", {"created_at": datetime(2014, 12, 31, tzinfo=UTC)}),
    ],
)
async def test_what_no_event_can_be_is_refused(tx: Transaction, event_id: str, columns: dict[str, object]) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        async with tx.savepoint():
            await insert_by_hand(tx, event_id, **columns)


async def test_the_three_column_reset_of_a_breaker_is_complete_and_heard(database: Database) -> None:
    async with ear(database, "breaker_changed") as heard:
        async with database.transaction() as tx:
            await tx.run(
                """INSERT INTO circuit_breaker_state (trigger_id, state, failure_count, opened_at, next_probe_at,
                                                      half_open_admitted, half_open_at)
                   VALUES ('t', 'half_open', 4, now(), now(), 1, now())"""
            )
        async with database.transaction() as tx:
            await tx.run(
                """UPDATE circuit_breaker_state SET state = 'closed', failure_count = 0, success_count = 0
                   WHERE trigger_id = 't'"""
            )
            row = await tx.fetchrow("SELECT * FROM circuit_breaker_state")
        assert row is not None
        assert [row[name] for name in ("opened_at", "next_probe_at", "half_open_at")] == [None] * 3
        assert row["half_open_admitted"] == 0
        assert [json.loads(payload) for payload in await heard()] == [
            {"trigger_id": "t", "state": "half_open"},
            {"trigger_id": "t", "state": "closed"},
        ]


async def test_only_a_change_of_state_of_a_breaker_is_heard(database: Database) -> None:
    async with ear(database, "breaker_changed") as heard:
        async with database.transaction() as tx:
            await tx.run("INSERT INTO circuit_breaker_state (trigger_id, state) VALUES ('t', 'closed')")
            await tx.run("UPDATE circuit_breaker_state SET failure_count = 1")
        assert await heard() == []


@pytest.mark.parametrize(
    ("config", "seconds"),
    [("{}", 60), ('{"recovery_timeout_seconds": 300}', 300), ('{"recovery_timeout_seconds": "soon"}', 60)],
)
async def test_a_breaker_opened_by_hand_is_probed_after_its_triggers_timeout(
    tx: Transaction, config: str, seconds: int
) -> None:
    await tx.run(
        """INSERT INTO triggers (id, organization_id, user_id, name, circuit_breaker_config)
           VALUES ('t', 'o', 'u', 'n', $1)""",
        config,
    )
    await tx.run("INSERT INTO circuit_breaker_state (trigger_id, state) VALUES ('t', 'open')")
    row = await tx.fetchrow("SELECT opened_at, next_probe_at FROM circuit_breaker_state")
    assert row is not None
    assert (row["next_probe_at"] - row["opened_at"]).total_seconds() == seconds


async def make_trigger(tx: Transaction, trigger_id: str) -> None:
    await tx.run("INSERT INTO triggers (id, organization_id, user_id, name) VALUES ($1, 'o', 'u', 'n')", trigger_id)


async def changed(tx: Transaction) -> set[tuple[int, str]]:
    return {tuple(row) for row in await tx.fetch("SELECT version, trigger_id FROM trigger_changes")}


async def test_every_change_of_a_trigger_or_its_actions_moves_the_catalog_and_is_logged(database: Database) -> None:
    async with ear(database, "trigger_changed") as heard:
        async with database.transaction() as tx:
            await make_trigger(tx, "t1")
            await make_trigger(tx, "t2")
            await tx.run(
                "INSERT INTO trigger_actions (trigger_id, action_type, destination) VALUES ('t1', 'webhook', '')"
            )
            await tx.run("UPDATE triggers SET name = 'm'")
            await tx.run("UPDATE trigger_actions SET trigger_id = 't2'")
            assert await changed(tx) == {(1, "t1"), (2, "t2"), (3, "t1"), (4, "t1"), (4, "t2"), (5, "t1"), (5, "t2")}
        assert (await heard())[-1] == "5"
        async with database.transaction() as tx:
            await tx.run("DELETE FROM triggers WHERE id = 't2'")
            version = await tx.fetchval("SELECT version FROM trigger_catalog")
            assert {trigger for at, trigger in await changed(tx) if at > 5} == {"t2"}
        assert (await heard())[-1] == str(version)


async def test_catalog_numbers_appear_in_commit_order(database: Database) -> None:
    async def second() -> None:
        async with database.transaction() as tx:
            await make_trigger(tx, "second")

    async with database.transaction() as tx:
        await make_trigger(tx, "first")
        waiting = asyncio.create_task(second())
        async with database.transaction() as other:
            while not await other.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                continue
        assert not waiting.done()
    await waiting
    async with database.transaction() as tx:
        assert await changed(tx) == {(1, "first"), (2, "second")}


async def test_audit_rows_are_changed_by_nobody_and_deleted_by_retention_alone(tx: Transaction) -> None:
    await tx.run("INSERT INTO audit_log (event, actor_type) VALUES ('api_key.created', 'system')")
    for statement in ("UPDATE audit_log SET event = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            async with tx.savepoint():
                await tx.run(statement)
    await tx.run("SET LOCAL agentauri.retention = 'on'")
    assert await tx.run("DELETE FROM audit_log") == 1


async def test_a_large_retraction_is_not_planned_like_the_small_one_before(tx: Transaction) -> None:
    await insert_by_hand(tx, "e0")
    await tx.run("UPDATE events SET retracted_at = now()")
    await tx.run(
        """INSERT INTO events (id, chain_id, block_number, block_hash, transaction_hash, log_index, registry,
                               event_type, timestamp)
           SELECT 'e' || n, 1, n, '0xb', '0xt' || n, 0, 'identity', 'Registered', 1 FROM generate_series(1, 15000) n"""
    )
    await tx.run("SET LOCAL statement_timeout TO '10s'")

    assert await tx.run("UPDATE events SET retracted_at = now() WHERE retracted_at IS NULL") == 15_000
