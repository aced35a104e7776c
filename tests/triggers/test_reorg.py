"""What the chain takes back is taken back, and what returns goes on under its old name."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from agentauri.database import Database, Transaction
from agentauri.events import EventQueue, NewEvent
from agentauri.triggers import Evaluator
from agentauri.types import ChainId, EventSeq, utc_now
from support.events import make_log, record
from triggers.conftest import DELIVERIES_DAYS
from triggers.making import CHAIN, agent, field, insert_events, make_trigger, until_waiting_for_a_lock

Told = list[tuple[str, str, str | None, str | None]]


async def retract(tx: Transaction, seq: EventSeq) -> None:
    await tx.run("UPDATE events SET retracted_at = now() WHERE seq = $1", seq)


async def move(tx: Transaction, seq: EventSeq, **columns: object) -> None:
    """The log is in another block now; what else of it has changed is in `columns`."""
    changes = "".join(f", {name} = ${place}" for place, name in enumerate(columns, 2))
    await tx.run(
        f"UPDATE events SET retracted_at = NULL, block_number = 7, block_hash = '0xnew'{changes} WHERE seq = $1",
        seq,
        *columns.values(),
    )


async def bury(tx: Transaction, seq: EventSeq) -> None:
    """The chain has gone on far enough for the event's absence to count."""
    await tx.run(
        """INSERT INTO checkpoints (chain_id, last_block_number, last_block_hash, last_block_time, first_block, status,
                                    progressed_at, updated_at)
           SELECT chain_id, block_number + 2, '0xc', 0, 0, 'live', now(), now() FROM events WHERE seq = $1
           ON CONFLICT (chain_id) DO UPDATE SET last_block_number = excluded.last_block_number""",
        seq,
    )


async def deliver(tx: Transaction) -> None:
    await tx.run("UPDATE deliveries SET status = 'delivered', finished_at = now() WHERE status = 'pending'")


async def told(database: Database) -> Told:
    """Kind, status, reason and hold of every delivery, in the order in which they were made."""
    async with database.transaction() as tx:
        rows = await tx.fetch("SELECT kind, status, reason, hold FROM deliveries ORDER BY created_at, kind")
        return [(row["kind"], row["status"], row["reason"], row["hold"]) for row in rows]


async def ids(database: Database) -> list[Any]:
    async with database.transaction() as tx:
        return [row["id"] for row in await tx.fetch("SELECT id FROM deliveries ORDER BY created_at, id")]


async def finish(evaluator: Evaluator) -> None:
    while await evaluator.step():
        pass
    await evaluator.chores()


@pytest.fixture
async def seq(database: Database, evaluator: Evaluator) -> EventSeq:
    """An event of the agent 1 with tag `a` that was evaluated: two triggers matched."""
    async with database.transaction() as tx:
        await make_trigger(tx, [agent(1)], trigger_id="by-agent", on_reorg="notify")
        await make_trigger(tx, [field("tag1", "eq", "a")], trigger_id="by-tag")
        [seq] = await insert_events(tx, 1, tag1="a", origin="chain")
    await finish(evaluator)
    assert await told(database) == [("match", "pending", None, None)] * 2
    return seq


async def test_what_waits_for_a_retracted_event_is_held(
    database: Database, evaluator: Evaluator, seq: EventSeq
) -> None:
    async with database.transaction() as tx:
        await retract(tx, seq)

    await finish(evaluator)

    assert await told(database) == [("match", "pending", None, "retraction")] * 2


async def test_a_moved_event_goes_on_under_its_old_ids(database: Database, evaluator: Evaluator, seq: EventSeq) -> None:
    before = await ids(database)
    async with database.transaction() as tx:
        await retract(tx, seq)
    await finish(evaluator)
    async with database.transaction() as tx:
        await move(tx, seq)
        await bury(tx, seq)
        await tx.run("UPDATE triggers SET version = version + 1")

    await finish(evaluator)

    assert await told(database) == [("match", "pending", None, None)] * 2
    assert await ids(database) == before
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT evaluations FROM processed_events") == 2


async def test_an_event_moved_in_one_statement_is_neither_held_nor_doubled(
    database: Database, evaluator: Evaluator, seq: EventSeq
) -> None:
    async with database.transaction() as tx:
        await deliver(tx)
        await move(tx, seq)
        assert await tx.fetchval("SELECT count(*) FROM event_queue") == 2

    await finish(evaluator)

    assert await told(database) == [("match", "delivered", None, None)] * 2


async def test_a_match_that_is_not_reestablished_is_void_at_once(
    database: Database, evaluator: Evaluator, seq: EventSeq
) -> None:
    async with database.transaction() as tx:
        await tx.run("UPDATE deliveries SET status = 'delivered' WHERE trigger_id = 'by-agent'")
        await retract(tx, seq)
    await finish(evaluator)
    async with database.transaction() as tx:
        await move(tx, seq, agent_id=2)

    await finish(evaluator)

    assert await told(database) == [
        ("match", "delivered", None, None),
        ("match", "pending", None, None),
        ("retraction", "pending", None, None),
    ]


async def test_a_void_match_that_waits_is_skipped(database: Database, evaluator: Evaluator, seq: EventSeq) -> None:
    async with database.transaction() as tx:
        await retract(tx, seq)
        await move(tx, seq, tag1="b")

    await finish(evaluator)

    assert sorted(await told(database), key=str) == [
        ("match", "pending", None, None),
        ("match", "skipped", "retracted", None),
    ]


async def test_a_void_match_that_matches_after_the_next_move_goes_on_under_its_old_id(
    database: Database, evaluator: Evaluator, seq: EventSeq
) -> None:
    before = await ids(database)
    for tag in ("b", "a"):
        async with database.transaction() as tx:
            await tx.run("UPDATE triggers SET version = version + 1")
            await retract(tx, seq)
            await move(tx, seq, tag1=tag)
        await finish(evaluator)

    assert await told(database) == [("match", "pending", None, None)] * 2
    assert await ids(database) == before


async def test_a_dropped_event_is_settled_once_its_chain_has_gone_on(
    database: Database, evaluator: Evaluator, seq: EventSeq
) -> None:
    async with database.transaction() as tx:
        await tx.run("UPDATE deliveries SET status = 'delivered' WHERE trigger_id = 'by-agent'")
        await retract(tx, seq)
    await finish(evaluator)
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT settled_at FROM events") is None
        await bury(tx, seq)

    await finish(evaluator)

    assert await told(database) == [
        ("match", "delivered", None, None),
        ("match", "skipped", "retracted", None),
        ("retraction", "pending", None, None),
    ]
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT settled_at FROM events") is not None


async def test_an_event_is_settled_although_its_retraction_still_queues(
    database: Database, evaluator: Evaluator, seq: EventSeq
) -> None:
    async with database.transaction() as tx:
        await retract(tx, seq)
        await bury(tx, seq)

    await evaluator.chores()
    await finish(evaluator)

    assert await told(database) == [("match", "skipped", "retracted", None)] * 2


async def test_an_event_that_is_coming_back_just_now_is_not_settled(
    database: Database, evaluator: Evaluator, seq: EventSeq
) -> None:
    async with database.transaction() as tx:
        await retract(tx, seq)
        await bury(tx, seq)
    async with database.transaction() as indexer:
        await move(indexer, seq)
        await evaluator.chores()

    await finish(evaluator)

    assert await told(database) == [("match", "pending", None, None)] * 2


async def test_an_event_that_is_being_settled_comes_back_in_a_new_epoch(
    database: Database, evaluator: Evaluator
) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx)
        await record(tx, make_log())
    await finish(evaluator)
    async with database.transaction() as tx:
        await tx.run("UPDATE events SET retracted_at = now() - interval '61 seconds'")

    async with asyncio.TaskGroup() as tasks, database.transaction() as settling:
        [event] = await EventQueue("test").unsettled(settling, ChainId(CHAIN))
        returning = tasks.create_task(read_again(database, make_log(fork="b")))
        await until_waiting_for_a_lock(settling, returning)
        await EventQueue("test").mark_settled(settling, [event.seq])

    async with database.transaction() as tx:
        [row] = await tx.fetch("SELECT epoch, retracted_at, settled_at FROM events")
        assert tuple(row) == (1, None, None)


async def read_again(database: Database, log: NewEvent) -> None:
    async with database.transaction() as tx:
        await record(tx, log)


async def test_what_is_delivered_is_only_taken_back_where_that_was_asked_for(
    database: Database, evaluator: Evaluator, seq: EventSeq
) -> None:
    async with database.transaction() as tx:
        await deliver(tx)
        await retract(tx, seq)
        await bury(tx, seq)

    await finish(evaluator)

    async with database.transaction() as tx:
        rows = await tx.fetch("SELECT trigger_id FROM deliveries WHERE kind = 'retraction'")
        assert [row["trigger_id"] for row in rows] == ["by-agent"]


async def test_an_event_that_returns_after_settling_is_a_new_match(
    database: Database, evaluator: Evaluator, seq: EventSeq
) -> None:
    before = await ids(database)
    async with database.transaction() as tx:
        await retract(tx, seq)
        await bury(tx, seq)
    await finish(evaluator)
    async with database.transaction() as tx:
        await move(tx, seq, epoch=1, settled_at=None)

    await finish(evaluator)

    assert (await told(database))[2:] == [("match", "pending", None, None)] * 2
    assert len(set(await ids(database)) - set(before)) == 2


async def test_a_delivery_that_is_being_sent_settles_after_its_outcome(
    database: Database, evaluator: Evaluator, seq: EventSeq
) -> None:
    async with database.transaction() as tx:
        await tx.run("DELETE FROM deliveries WHERE trigger_id = 'by-tag'")
        await tx.run("UPDATE deliveries SET leased_until = now() + interval '1 hour', lease_owner = 'x'")
        await retract(tx, seq)
        await bury(tx, seq)
    await finish(evaluator)
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT settled_at FROM events") is None
        await tx.run("UPDATE deliveries SET status = 'delivered', hold = NULL, leased_until = NULL, lease_owner = NULL")

    await finish(evaluator)

    assert await told(database) == [("match", "delivered", None, None), ("retraction", "pending", None, None)]


async def test_a_void_match_that_is_being_sent_is_looked_at_again(
    database: Database, evaluator: Evaluator, seq: EventSeq
) -> None:
    async with database.transaction() as tx:
        await tx.run("DELETE FROM deliveries WHERE trigger_id = 'by-tag'")
        await tx.run("UPDATE deliveries SET leased_until = now() + interval '1 hour', lease_owner = 'x'")
        await move(tx, seq, agent_id=2, tag1="b")
    await finish(evaluator)
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT count(*) FROM event_queue WHERE attempts = 0") == 1
        await tx.run("UPDATE deliveries SET status = 'delivered', hold = NULL, leased_until = NULL, lease_owner = NULL")
        await tx.run("UPDATE event_queue SET due_at = now()")

    await evaluator.chores()
    await finish(evaluator)

    assert await told(database) == [("match", "delivered", None, None), ("retraction", "pending", None, None)]


async def test_an_event_retracted_before_its_turn_matches_nothing(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx)
        [seq] = await insert_events(tx, 1)
        await retract(tx, seq)

    await finish(evaluator)

    assert await told(database) == []
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT triggers_matched FROM processed_events") == 0
        await move(tx, seq)
    await finish(evaluator)
    assert await told(database) == [("match", "pending", None, None)]


async def test_a_chain_that_nobody_indexes_settles_after_a_minute(
    database: Database, evaluator: Evaluator, seq: EventSeq
) -> None:
    async with database.transaction() as tx:
        await tx.run("UPDATE events SET retracted_at = now() - interval '59 seconds'")
    await finish(evaluator)
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT settled_at FROM events WHERE chain_id = $1", CHAIN) is None
        await tx.run("UPDATE events SET retracted_at = now() - interval '61 seconds'")

    await finish(evaluator)

    assert await told(database) == [("match", "skipped", "retracted", None)] * 2


async def old_event_returns(database: Database, evaluator: Evaluator, **columns: object) -> None:
    """An event was delivered so long ago that neither its deliveries nor the ledger know it, and is read again."""
    async with database.transaction() as tx:
        await make_trigger(tx)
        [seq] = await insert_events(tx, 1, created_at=utc_now() - timedelta(days=DELIVERIES_DAYS, hours=1))
    await finish(evaluator)
    assert await told(database) == [("match", "pending", None, None)]
    async with database.transaction() as tx:
        await tx.run("DELETE FROM deliveries")
        await tx.run("DELETE FROM processed_events")
        await tx.run("UPDATE triggers SET version = version + 1")
        await retract(tx, seq)
    await finish(evaluator)
    async with database.transaction() as tx:
        await move(tx, seq, **columns)
    await finish(evaluator)


async def test_an_event_that_returns_after_its_deliveries_were_forgotten_is_not_delivered_again(
    database: Database, evaluator: Evaluator
) -> None:
    await old_event_returns(database, evaluator)
    assert await told(database) == []


async def test_an_old_event_that_returns_after_settling_is_delivered(database: Database, evaluator: Evaluator) -> None:
    await old_event_returns(database, evaluator, epoch=1)
    assert await told(database) == [("match", "pending", None, None)]
