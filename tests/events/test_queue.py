"""The queue as the evaluator and the janitor use it."""

from __future__ import annotations

from typing import Any

import pytest

from agentauri.database import Database, Transaction
from agentauri.events import Audited, EventQueue, EventService, Finished, Lane
from agentauri.events import queue as queues
from agentauri.types import ChainId, EventId, EventSeq, TriggerId
from support.events import CHAIN, insert_by_hand, make_log, record

queue = EventQueue("here")
ERROR = "division by zero"


async def rows(tx: Transaction) -> list[Any]:
    return await tx.fetch("SELECT * FROM event_queue ORDER BY position")


async def positions(tx: Transaction) -> list[int]:
    return [row["position"] for row in await rows(tx)]


async def pass_time(tx: Transaction) -> None:
    await tx.run("UPDATE event_queue SET due_at = due_at - interval '1 day'")


async def test_lanes_are_the_chains_with_something_to_take(tx: Transaction) -> None:
    assert await queue.lanes(tx) == []
    for number, chain in enumerate([30, 10, 30, 20]):
        await insert_by_hand(tx, f"e{number}", chain_id=chain)
    first, second, third, fourth = await positions(tx)

    lanes = [Lane(ChainId(10), second), Lane(ChainId(20), fourth), Lane(ChainId(30), first)]
    assert await queue.lanes(tx) == lanes
    assert await queue.lanes(tx, third) == [Lane(ChainId(20), fourth), Lane(ChainId(30), third)]
    assert await queue.lanes(tx, fourth + 1) == []

    await queue.fail(tx, [fourth], ERROR, 5)
    assert [lane.chain_id for lane in await queue.lanes(tx)] == [10, 30]


async def test_failures_wait_longer_each_time_and_end_parked(
    database: Database, log_lines: list[dict[str, Any]]
) -> None:
    async with database.transaction() as tx:
        await insert_by_hand(tx, "bad")
        [position] = await positions(tx)
        for seconds in (1, 30, 300, 1800):
            assert await queue.fail(tx, [position], ERROR, 5) == []
            assert await queue.release_due(tx) is None
            wait = await tx.fetchval("SELECT extract(epoch FROM due_at - clock_timestamp()) FROM event_queue")
            assert seconds - 1 < wait <= seconds
            await pass_time(tx)
            assert await queue.release_due(tx) == position
        assert [at for at, _ in await queue.fail(tx, [position], ERROR, 5)] == [position]
        await pass_time(tx)
        assert await queue.release_due(tx) is None
        [row] = await rows(tx)
        assert (row["attempts"], row["last_error"]) == (5, ERROR)
        assert (await queue.depth(tx)).parked == 1
    [line] = [line for line in log_lines if line.get("code") == "EVENT_PARKED"]
    assert (line["level"], line["event_seq"]) == ("ERROR", row["event_seq"])


async def test_parked_events_are_revived_together_or_by_id(tx: Transaction) -> None:
    for event_id in ("parked", "waiting", "fine"):
        await insert_by_hand(tx, event_id)
    parked, waiting, _ = await positions(tx)
    await queue.fail(tx, [parked], ERROR, 1)
    await queue.fail(tx, [waiting], ERROR, 2)

    assert await queue.retry(tx, event_id=EventId("waiting")) == 1
    assert await queue.lanes(tx) == [Lane(CHAIN, waiting)]
    assert await queue.retry(tx) == 1
    assert await queue.lanes(tx) == [Lane(CHAIN, parked)]
    assert [row["attempts"] for row in await rows(tx)] == [0, 0, 0]
    assert await queue.retry(tx, event_id=EventId("fine")) == await queue.retry(tx, event_id=EventId("none")) == 0


def finished(position: int, seq: int, **values: Any) -> Finished:
    kind = values.pop("kind", "assert")
    return Finished(position=position, kind=kind, event_seq=EventSeq(seq), event_id=EventId(f"e{seq}"), **values)


async def ledger(tx: Transaction) -> dict[int, tuple[int, int, int, int]]:
    found = await tx.fetch("SELECT * FROM processed_events WHERE processor_instance = 'here'")
    return {
        row["event_seq"]: (
            row["processing_duration_ms"], row["triggers_matched"], row["actions_enqueued"], row["evaluations"],
        )
        for row in found
    }  # fmt: skip


async def test_finished_rows_leave_the_queue_for_the_ledger(tx: Transaction) -> None:
    for event_id in ("e1", "e2", "e3"):
        await insert_by_hand(tx, event_id)
    one, two, three = await positions(tx)

    await queue.finish(tx, [finished(one, 1, duration_ms=4, triggers_matched=2, actions_enqueued=3), finished(two, 2)])

    assert await positions(tx) == [three]
    assert await ledger(tx) == {1: (4, 2, 3, 1), 2: (0, 0, 0, 1)}


async def test_a_second_evaluation_counts_anew_and_one_for_a_single_trigger_adds(tx: Transaction) -> None:
    await queue.finish(tx, [finished(1, 1, duration_ms=9, triggers_matched=5, actions_enqueued=5)])
    await queue.finish(
        tx,
        [
            finished(2, 1, kind="retract", duration_ms=7),
            finished(3, 1, duration_ms=1, triggers_matched=2, actions_enqueued=2),
            finished(4, 1, duration_ms=2, triggers_matched=3, actions_enqueued=4),
        ],
    )
    assert await ledger(tx) == {1: (2, 3, 4, 3)}
    pairs = [finished(at, 1, trigger_id=TriggerId(f"t{at}"), triggers_matched=1, actions_enqueued=2) for at in (5, 6)]
    await queue.finish(tx, pairs)
    assert await ledger(tx) == {1: (0, 5, 8, 5)}


async def test_a_trigger_that_raised_gets_the_event_again_for_itself(tx: Transaction) -> None:
    seq = await insert_by_hand(tx, "e")
    await queue.finish(tx, [finished(position, seq) for position in await positions(tx)])

    await queue.requeue_pair(tx, seq, CHAIN, TriggerId("t"), ERROR)

    assert await queue.lanes(tx) == []
    await pass_time(tx)
    position = await queue.release_due(tx)
    [row] = await rows(tx)
    assert (row["position"], row["event_seq"], row["trigger_id"]) == (position, seq, "t")
    assert (row["attempts"], row["last_error"]) == (1, ERROR)


async def test_an_indexed_chain_settles_when_it_is_two_blocks_beyond(tx: Transaction) -> None:
    await record(tx, make_log("0xt1", block=10), make_log("0xt2", block=11))
    await tx.run(
        """INSERT INTO checkpoints (chain_id, last_block_number, last_block_hash, last_block_time, first_block,
                                    status)
           VALUES ($1, 12, '0x', 1, 1, 'live')""",
        CHAIN,
    )
    assert await queue.unsettled(tx, CHAIN) == []
    await EventService().retract_above(tx, CHAIN, 9)

    [event] = await queue.unsettled(tx, CHAIN)
    assert event.block_number == 10
    before = len(await rows(tx))
    await queue.mark_settled(tx, [event.seq])
    assert await queue.unsettled(tx, CHAIN) == []
    assert len(await rows(tx)) == before


async def test_a_chain_without_an_indexer_settles_after_a_minute(tx: Transaction) -> None:
    await insert_by_hand(tx, "e")
    await tx.run("UPDATE events SET retracted_at = now()")
    assert await queue.unsettled(tx, CHAIN) == []
    await tx.run("UPDATE events SET retracted_at = now() - interval '61 seconds'")
    assert [event.id for event in await queue.unsettled(tx, CHAIN)] == ["e"]


async def test_a_chain_that_begins_anew_settles_its_own_events_at_once_and_those_of_others_after_a_minute(
    tx: Transaction,
) -> None:
    await record(tx, make_log("0xt1", block=10))
    own = (await tx.fetchval("SELECT id FROM events"),)
    await insert_by_hand(tx, "e")
    await tx.run("UPDATE events SET retracted_at = now()")
    await tx.run(
        """INSERT INTO checkpoints (chain_id, last_block_number, last_block_hash, last_block_time, first_block,
                                    status)
           VALUES ($1, -1, '', 0, -1, 'starting')""",
        CHAIN,
    )
    assert tuple(event.id for event in await queue.unsettled(tx, CHAIN)) == own
    await tx.run("UPDATE events SET retracted_at = now() - interval '61 seconds'")
    assert tuple(event.id for event in await queue.unsettled(tx, CHAIN)) == (*own, "e")


async def test_a_chain_whose_indexer_has_been_away_for_a_day_settles_after_a_minute(tx: Transaction) -> None:
    await record(tx, make_log("0xt1", block=10))
    await tx.run("UPDATE events SET retracted_at = now() - interval '61 seconds'")
    await tx.run(
        """INSERT INTO checkpoints (chain_id, last_block_number, last_block_hash, last_block_time, first_block,
                                    status)
           VALUES ($1, 9, '0x', 1, 1, 'live')""",
        CHAIN,
    )
    assert await queue.unsettled(tx, CHAIN) == []
    await tx.run("UPDATE checkpoints SET updated_at = now() - interval '25 hours'")
    assert [event.block_number for event in await queue.unsettled(tx, CHAIN)] == [10]


async def test_one_event_is_retried_without_reading_the_others(database: Database) -> None:
    async with database.transaction() as tx:
        await insert_by_hand(tx, "failed")
        await queue.fail(tx, await positions(tx), ERROR, 5)
        await tx.run(
            """INSERT INTO event_queue (event_seq, chain_id, kind, attempts, due_at)
               SELECT 1000 + n, 1, 'assert', 1, now() FROM generate_series(1, 2000) AS n"""
        )
    async with database.transaction() as tx:
        assert await queue.retry(tx, event_id=EventId("failed")) == 1
        looked_at = await tx.fetchval(
            """SELECT sum(pg_stat_get_xact_tuples_returned(oid))::int FROM pg_class
               WHERE oid = 'event_queue'::regclass OR oid IN (SELECT indexrelid FROM pg_index
                                                              WHERE indrelid = 'event_queue'::regclass)"""
        )
        assert looked_at < 10


async def test_the_audit_queues_what_bypassed_the_triggers(database: Database, log_lines: list[dict[str, Any]]) -> None:
    async with database.transaction() as tx:
        await insert_by_hand(tx, "queued")
        processed = await insert_by_hand(tx, "processed")
        await queue.finish(tx, [finished((await positions(tx))[1], processed)])
        await tx.run("ALTER TABLE events DISABLE TRIGGER queue_new_event_trigger")
        missed = await insert_by_hand(tx, "missed")
        await tx.run("UPDATE events SET created_at = now() - interval '2 minutes'")
        await insert_by_hand(tx, "too fresh to tell")

        assert await queue.audit(tx) == Audited([missed], complete=True)
        assert await queue.audit(tx) == Audited([], complete=True)
    [line] = [line for line in log_lines if line.get("code") == "EVENT_REQUEUED"]
    assert line["first_seq"] == missed


async def test_an_audited_event_is_not_queued_again_when_its_ledger_row_has_gone(tx: Transaction) -> None:
    await insert_by_hand(tx, "e")
    await tx.run("UPDATE events SET created_at = now() - interval '2 minutes'")
    await queue.audit(tx)
    await tx.run("DELETE FROM event_queue")
    assert (await queue.audit(tx)).missed == []


async def test_depth_tells_what_waits_and_since_when(tx: Transaction) -> None:
    depth = await queue.depth(tx)
    assert (depth.waiting, depth.parked, depth.oldest_seconds) == (0, 0, 0.0)
    await insert_by_hand(tx, "old")
    await tx.run("UPDATE events SET created_at = now() - interval '1 hour'")
    await insert_by_hand(tx, "new")
    depth = await queue.depth(tx)
    assert (depth.waiting, depth.parked, depth.oldest_seconds >= 3600) == (2, 0, True)


async def test_depth_is_counted_so_far_and_no_further(tx: Transaction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "COUNTED", 2)
    for number in range(6):
        await insert_by_hand(tx, f"e{number}")
    await queue.fail(tx, (await positions(tx))[:3], ERROR, 1)

    depth = await queue.depth(tx)

    assert (depth.waiting, depth.parked) == (2, 2)


async def test_a_poll_never_reads_the_table_from_end_to_end(tx: Transaction) -> None:
    """An empty table is quickly read, and a plan that was made for one is kept when it is full of dead rows."""
    await tx.run("ANALYZE event_queue")
    for floor in range(10):
        await queue.lanes(tx, floor)
    assert await tx.fetchval("SELECT pg_stat_get_xact_numscans('event_queue'::regclass)") == 0
