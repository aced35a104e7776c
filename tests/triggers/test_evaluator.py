"""The worker on real PostgreSQL: nothing is missed, nothing doubled, and nobody blocks a stranger."""

from __future__ import annotations

import asyncio

import pytest

from agentauri.database import Database, Transaction
from agentauri.events import EventQueue
from agentauri.triggers import Catalog, Evaluator
from agentauri.triggers import batch as batches
from agentauri.triggers import catalog as catalogs
from agentauri.types import EventSeq
from triggers.conftest import MakeEvaluator
from triggers.making import (
    LogLines,
    agent,
    coded,
    finish,
    insert_events,
    make_trigger,
    make_triggers,
    matches,
    waiting,
)


async def test_an_event_meets_the_triggers_that_match_and_leaves_a_ledger_row(
    database: Database, evaluator: Evaluator
) -> None:
    async with database.transaction() as tx:
        wanted = await make_trigger(tx, [agent(1)], actions=2)
        await make_trigger(tx, [agent(2)])
        seqs = await insert_events(tx, 1, 3)

    assert await evaluator.step()
    assert not await evaluator.step()

    async with database.transaction() as tx:
        assert await matches(tx, seqs) == [(seqs[0], wanted)] * 2
        ledger = await tx.fetch(
            "SELECT event_seq, triggers_matched, actions_enqueued, evaluations FROM processed_events"
        )
        assert [tuple(row) for row in ledger] == [(seqs[0], 1, 2, 1), (seqs[1], 0, 0, 1)]
    assert await waiting(database) == 0


async def test_what_a_trigger_must_not_see_makes_no_delivery(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, enabled=False)
        await make_trigger(tx, condition=None)
        await make_trigger(tx, actions=0)
        await make_trigger(tx, chain_id=1)
        await make_trigger(tx, registry="identity")
        await make_trigger(tx, start_seq=1000)
        silent = await make_trigger(tx)
        await tx.run("UPDATE trigger_actions SET enabled = false WHERE trigger_id = $1", silent)
        seqs = await insert_events(tx, 1)

    await finish(evaluator)

    async with database.transaction() as tx:
        assert await matches(tx, seqs) == []


async def test_a_trigger_change_committed_before_the_event_is_honoured(
    database: Database, evaluator: Evaluator
) -> None:
    async with database.transaction() as tx:
        trigger = await make_trigger(tx, [agent(1)])
        seqs = await insert_events(tx, 1)
    await finish(evaluator)
    for change in (
        "UPDATE triggers SET enabled = false WHERE id = $1",
        "UPDATE triggers SET enabled = true WHERE id = $1",
        "UPDATE trigger_actions SET enabled = false WHERE trigger_id = $1",
        "UPDATE trigger_actions SET enabled = true WHERE trigger_id = $1",
        "DELETE FROM triggers WHERE id = $1",
    ):
        async with database.transaction() as tx:
            await tx.run(change, trigger)
        async with database.transaction() as tx:
            seqs += await insert_events(tx, 1)
        await finish(evaluator)

    async with database.transaction() as tx:
        assert [seqs.index(seq) for seq, _ in await matches(tx, seqs)] == [0, 2, 4]


async def test_more_changes_than_a_batch_waits_for_are_caught_up_first(
    database: Database, evaluator: Evaluator
) -> None:
    await evaluator.step()
    async with database.transaction() as tx:
        await make_triggers(tx, 1500)
        [seq] = await insert_events(tx, 1)

    await finish(evaluator)

    async with database.transaction() as tx:
        assert len(await matches(tx, [seq])) == 1500
        assert await tx.fetchval("SELECT max(attempts) FROM event_queue") is None


async def test_loading_goes_through_all_pages(
    database: Database, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogs, "PAGE", 2)
    async with database.transaction() as tx:
        await make_triggers(tx, 5)
        [seq] = await insert_events(tx, 1)

    await finish(evaluator)

    async with database.transaction() as tx:
        assert len(await matches(tx, [seq])) == 5


async def test_an_index_that_slept_longer_than_the_log_of_changes_starts_afresh(
    database: Database, evaluator: Evaluator, catalog: Catalog
) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [agent(1)])
    await finish(evaluator)
    async with database.transaction() as tx:
        trigger = await make_trigger(tx, [agent(2)])
        await tx.run("DELETE FROM trigger_changes")
        [seq] = await insert_events(tx, 2)
    assert catalog._synced is not None
    catalog._synced = catalog._synced.replace(year=2020)

    await finish(evaluator)

    async with database.transaction() as tx:
        assert await matches(tx, [seq]) == [(seq, trigger)]


async def test_a_closed_gate_takes_nothing(database: Database, make_evaluator: MakeEvaluator) -> None:
    is_open = False

    async def gate() -> bool:
        return is_open

    evaluator = make_evaluator(gate=gate)
    async with database.transaction() as tx:
        await insert_events(tx, 1)

    assert not await evaluator.step()
    assert await waiting(database) == 1
    is_open = True
    await finish(evaluator)
    assert await waiting(database) == 0


async def test_an_event_committed_late_below_the_floor_is_found(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as late:
        seqs = await insert_events(late, 1)
        async with database.transaction() as tx:
            seqs += await insert_events(tx, 2)
        await finish(evaluator)
    assert not await evaluator.step()
    assert await waiting(database) == 1

    evaluator.heard()
    await finish(evaluator)

    assert await waiting(database) == 0


async def test_a_second_late_commit_within_a_second_waits_for_the_next_full_poll(
    database: Database, evaluator: Evaluator
) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx)
        seqs = await insert_events(tx, 1)
    await finish(evaluator)
    evaluator.heard()
    assert not await evaluator.step()
    async with database.transaction() as tx:
        seqs += await tx.fetchval("SELECT ARRAY[seq] FROM events")
        await tx.run(
            "INSERT INTO event_queue (position, event_seq, chain_id, kind) OVERRIDING SYSTEM VALUE"
            " SELECT 0, seq, chain_id, 'assert' FROM events"
        )
    evaluator.heard()
    assert not await evaluator.step()

    evaluator._due.clear()
    await finish(evaluator)

    assert await waiting(database) == 0


async def rows_read(tx: Transaction) -> int:
    """Index entries and rows of the queue and the ledger that this transaction has looked at."""
    number: int = await tx.fetchval(
        """SELECT sum(pg_stat_get_xact_tuples_returned(oid) + pg_stat_get_xact_tuples_fetched(oid))::int
           FROM (SELECT indexrelid AS oid FROM pg_index JOIN pg_class c ON c.oid = indrelid
                 WHERE c.relname IN ('event_queue', 'processed_events')
                 UNION SELECT oid FROM pg_class WHERE relname IN ('event_queue', 'processed_events')) AS looked_at"""
    )
    return number


async def test_an_empty_poll_reads_nothing_of_what_is_done(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await tx.run(
            """INSERT INTO events (id, chain_id, block_number, block_hash, transaction_hash, log_index, registry,
                                   event_type, timestamp)
               SELECT 'e' || n, 84532, n, '0xb', '0xt', 0, 'reputation', 'NewFeedback', 1
               FROM generate_series(1, 2000) AS n"""
        )
    async with database.transaction() as snapshot:
        # An open snapshot keeps the dead rows of the queue in its indexes.
        await snapshot.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await snapshot.fetchval("SELECT count(*) FROM event_queue")
        await finish(evaluator)
        assert not await evaluator.step()
        floor = evaluator._lanes.floor

        async with database.transaction() as tx:
            before = await rows_read(tx)
            assert await EventQueue("test").lanes(tx, floor) == []
            assert await rows_read(tx) == before
            assert await EventQueue("test").lanes(tx, 0) == []
            assert await rows_read(tx) >= before + 2000


async def test_lanes_take_turns(database: Database, make_evaluator: MakeEvaluator) -> None:
    evaluator = make_evaluator(max_concurrent_events=2)
    async with database.transaction() as tx:
        for chain_id in (1, 2, 3):
            await insert_events(tx, *range(4), chain_id=chain_id)
    order = []
    for _ in range(6):
        await evaluator.step()
        async with database.transaction() as tx:
            order.append(
                await tx.fetchval(
                    """SELECT chain_id FROM events JOIN processed_events ON seq = event_seq
                       ORDER BY processed_at DESC LIMIT 1"""
                )
            )

    assert order == [1, 2, 3, 1, 2, 3]


async def test_two_evaluators_come_to_the_same_as_one(database: Database, make_evaluator: MakeEvaluator) -> None:
    async with database.transaction() as tx:
        await make_triggers(tx, 3)
        seqs: list[EventSeq] = []
        for chain_id in (1, 2, 84532):
            seqs += await insert_events(tx, *range(120), chain_id=chain_id)
        await make_trigger(tx, start_seq=seqs[-1])
    workers = [make_evaluator(instance=name) for name in ("one", "two")]

    while await waiting(database):
        await asyncio.gather(*(worker.step() for worker in workers))

    async with database.transaction() as tx:
        assert len(await matches(tx, seqs)) == 360 * 3
        assert await tx.fetchval("SELECT sum(triggers_matched) FROM processed_events") == 360 * 3
        assert await tx.fetchval("SELECT max(evaluations) FROM processed_events") == 1


async def test_more_triggers_than_usual_are_all_served_and_warned_of_once(
    database: Database, evaluator: Evaluator, log_lines: LogLines
) -> None:
    async with database.transaction() as tx:
        await make_triggers(tx, 150)
        [seq] = await insert_events(tx, 1)

    await finish(evaluator)

    async with database.transaction() as tx:
        assert len(await matches(tx, [seq])) == 150
    [warning] = coded(log_lines, "TRIGGER_COUNT_EXCEEDED")
    assert (warning["level"], warning["matched"], warning["served"]) == ("WARNING", 150, 150)


async def test_an_event_with_too_many_matches_for_a_transaction_is_written_in_parts(
    database: Database, make_evaluator: MakeEvaluator, monkeypatch: pytest.MonkeyPatch, log_lines: LogLines
) -> None:
    monkeypatch.setattr(batches, "MAX_MATCHES", 100)
    async with database.transaction() as tx:
        await make_triggers(tx, 250)
        seqs = await insert_events(tx, 1, 2)
    written = []

    for _ in range(6):  # another process takes over after each part
        await make_evaluator().step()
        async with database.transaction() as tx:
            written.append(len(await matches(tx, seqs)))

    assert written == [100, 200, 250, 350, 450, 500]
    async with database.transaction() as tx:
        ledger = await tx.fetch("SELECT triggers_matched, actions_enqueued FROM processed_events")
        assert [tuple(row) for row in ledger] == [(250, 250)] * 2
    assert len(coded(log_lines, "TRIGGER_COUNT_EXCEEDED")) == 2
    assert await waiting(database) == 0


async def test_a_row_whose_event_was_deleted_is_dropped(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await insert_events(tx, 1)
        await tx.run("DELETE FROM events")

    await finish(evaluator)

    assert await waiting(database) == 0


async def test_run_polls_without_any_notification_and_logs_each_batch(
    database: Database, make_evaluator: MakeEvaluator, log_lines: LogLines
) -> None:
    stopping = asyncio.Event()
    evaluator: Evaluator

    async def gate() -> bool:
        if evaluator.tally.tasks_succeeded:
            stopping.set()
        return True

    evaluator = make_evaluator(poll_interval=0.02, gate=gate)
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(evaluator.run(stopping))
        async with database.transaction() as tx:
            await make_trigger(tx)
            await insert_events(tx, 1)

    [line] = [line for line in log_lines if line["event"] == "events.evaluated"]
    assert (line["taken"], line["matched"], line["deliveries"]) == (1, 1, 1)
    [stats] = [line for line in log_lines if line["event"] == "evaluator.stats"]
    assert stats["active_tasks"] == 0
