"""A failure stays with the event, the trigger or the row that causes it."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import redis.asyncio

from agentauri.database import Database, DatabaseUnavailable
from agentauri.events import Event, EventQueue
from agentauri.triggers import Catalog, Evaluator
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
    until_waiting_for_a_lock,
    waiting,
)


async def test_a_poison_event_is_alone_in_its_failure(
    database: Database, evaluator: Evaluator, log_lines: LogLines
) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx)
        before = await insert_events(tx, *range(50))
        [poison] = await insert_events(tx, 1, args="[]")
        after = await insert_events(tx, *range(49))

    await evaluator.step()

    async with database.transaction() as tx:
        assert len(await matches(tx, before + after)) == 99
        row = await tx.fetchrow("SELECT event_seq, attempts, due_at > now() AS later, last_error FROM event_queue")
        assert row is not None
        assert (row["event_seq"], row["attempts"], row["later"]) == (poison, 1, True)
        assert "Expected `object`" in row["last_error"]
    assert coded(log_lines, "TASK_PANIC")
    assert coded(log_lines, "POLLING_FALLBACK_EVENT_FAILED")[0]["event_seq"] == poison


@pytest.mark.usefixtures("log_lines")
async def test_ten_poison_events_in_a_row_block_nobody(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx)
        await insert_events(tx, *range(10), args="[]")
        healthy = await insert_events(tx, *range(10))

    await evaluator.step()

    async with database.transaction() as tx:
        assert len(await matches(tx, healthy)) == 10
        assert await tx.fetchval("SELECT array_agg(attempts) FROM event_queue") == [1] * 10


async def fail_until_parked(database: Database, evaluator: Evaluator) -> None:
    for _ in range(5):
        await finish(evaluator)
        async with database.transaction() as tx:
            await tx.run("UPDATE event_queue SET due_at = now() WHERE parked_at IS NULL")
        await evaluator.chores()


async def test_an_event_that_fails_five_times_is_parked_and_healed_by_a_retry(
    database: Database, evaluator: Evaluator, log_lines: LogLines
) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx)
        [seq] = await insert_events(tx, 1, args="[]")

    await fail_until_parked(database, evaluator)
    assert [line["event_seq"] for line in coded(log_lines, "EVENT_PARKED")] == [seq]
    assert not await evaluator.step()

    async with database.transaction() as tx:
        await tx.run("UPDATE events SET args = '{}'")
        assert await EventQueue("cli").retry(tx) == 1
    evaluator.heard()
    await finish(evaluator)
    async with database.transaction() as tx:
        assert len(await matches(tx, [seq])) == 1
    assert await waiting(database) == 0


class Broken:
    """Stands for a bug in one trigger's program."""

    def __init__(self, definition: Any) -> None:
        self.definition = definition

    def matches(self, event: Event) -> bool:
        raise ZeroDivisionError("a bug")


def break_trigger(catalog: Catalog, trigger_id: str) -> None:
    number = catalog.index.find(trigger_id)
    assert number is not None
    catalog.index._programs[number] = Broken(catalog.index.definition(number))  # type: ignore[assignment]


async def test_a_trigger_that_raises_is_tried_again_alone(
    database: Database, evaluator: Evaluator, catalog: Catalog, log_lines: LogLines
) -> None:
    async with database.transaction() as tx:
        await make_triggers(tx, 20)
        [seq] = await insert_events(tx, 1)
    await catalog.prepare()
    break_trigger(catalog, "many-000007")

    await finish(evaluator)

    async with database.transaction() as tx:
        assert len(await matches(tx, [seq])) == 19
        row = await tx.fetchrow("SELECT event_seq, trigger_id, attempts FROM event_queue")
        assert row is not None
        assert tuple(row) == (seq, "many-000007", 1)
    [line] = coded(log_lines, "TASK_PANIC")
    assert (line["trigger_id"], line["event_id"]) == ("many-000007", f"event-{_number(line)}")

    await fail_until_parked(database, evaluator)
    assert coded(log_lines, "EVENT_PARKED")[0]["trigger_id"] == "many-000007"

    catalog.index._programs.clear()
    async with database.transaction() as tx:
        await EventQueue("cli").retry(tx)
    evaluator.heard()
    await finish(evaluator)
    async with database.transaction() as tx:
        assert len(await matches(tx, [seq])) == 20
        assert await tx.fetchval("SELECT triggers_matched FROM processed_events") == 20


def _number(line: dict[str, object]) -> str:
    return str(line["event_id"]).removeprefix("event-")


async def test_a_row_made_invalid_by_hand_is_marked_and_skipped(
    database: Database, evaluator: Evaluator, log_lines: LogLines
) -> None:
    async with database.transaction() as tx:
        broken = await make_trigger(tx, [{"condition_type": "nope"}])
        later = await make_trigger(tx, fire_at='"later"')
        good = await make_trigger(tx)
        seqs = await insert_events(tx, 1)

    await finish(evaluator)
    await evaluator.chores()

    async with database.transaction() as tx:
        assert await matches(tx, seqs) == [(seqs[0], good)]
        rows = await tx.fetch("SELECT id, invalid_reason FROM triggers WHERE invalid_reason IS NOT NULL")
    reasons = {row["id"]: row["invalid_reason"] for row in rows}
    assert set(reasons) == {broken, later}
    assert reasons[broken].startswith("condition[0].condition_type: must be one of")
    assert {line["trigger_id"] for line in coded(log_lines, "TRIGGER_INVALID")} == {broken, later}


@pytest.mark.usefixtures("log_lines")
async def test_a_mark_is_written_once_and_taken_back_when_the_row_is_mended(
    database: Database, evaluator: Evaluator
) -> None:
    async def catalog_version() -> int:
        evaluator.configured()
        await finish(evaluator)
        await evaluator.chores()
        async with database.transaction() as tx:
            version: int = await tx.fetchval("SELECT version FROM trigger_catalog")
            return version

    async with database.transaction() as tx:
        broken = await make_trigger(tx, [{"condition_type": "nope"}])
    assert await catalog_version() == await catalog_version()

    async with database.transaction() as tx:
        await tx.run("UPDATE triggers SET condition = $1", msgspec.json.encode([agent(1)]).decode())
        seqs = await insert_events(tx, 1)
    await finish(evaluator)
    await evaluator.chores()
    async with database.transaction() as tx:
        assert await matches(tx, seqs) == [(seqs[0], broken)]
        assert await tx.fetchval("SELECT invalid_reason FROM triggers") is None


@pytest.mark.usefixtures("log_lines")
async def test_nobody_waits_for_a_mark_while_the_catalog_is_locked(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [{"condition_type": "nope"}])
        await insert_events(tx, 1)

    async with database.transaction() as someone:
        await someone.run("SELECT FROM trigger_catalog FOR UPDATE")
        await finish(evaluator)
        await evaluator.chores()
        assert await waiting(database) == 0
    await evaluator.chores()

    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT invalid_reason FROM triggers") is not None


async def test_a_statement_that_hangs_is_a_timeout_of_the_event(
    database: Database, make_evaluator: MakeEvaluator, log_lines: LogLines
) -> None:
    evaluator = make_evaluator(event_timeout=0.2)
    async with database.transaction() as tx:
        await make_trigger(tx)
        await insert_events(tx, 1)
        await tx.run(
            """CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN PERFORM pg_sleep(5); RETURN NEW; END $$"""
        )
        await tx.run("CREATE TRIGGER hang BEFORE INSERT ON deliveries FOR EACH ROW EXECUTE FUNCTION hang()")

    await evaluator.step()

    assert coded(log_lines, "EVENT_PROCESSING_TIMEOUT")
    assert evaluator.tally.tasks_timeout == 1
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT attempts FROM event_queue") == 1


async def test_a_deadline_begins_when_the_events_are_taken(
    database: Database, make_evaluator: MakeEvaluator, log_lines: LogLines
) -> None:
    evaluator = make_evaluator(event_timeout=0.0)
    async with database.transaction() as tx:
        await make_trigger(tx)
        await insert_events(tx, 1)

    await evaluator.step()

    assert coded(log_lines, "EVENT_PROCESSING_TIMEOUT")


async def test_a_deadline_ends_with_the_commit(
    database: Database, make_evaluator: MakeEvaluator, redis_client: redis.asyncio.Redis, log_lines: LogLines
) -> None:
    evaluator = make_evaluator(event_timeout=0.3)
    async with database.transaction() as tx:
        await make_trigger(tx)
        await insert_events(tx, 1)
    await redis_client.client_pause(600)

    await evaluator.step()

    assert coded(log_lines, "EVENT_PROCESSING_TIMEOUT") == []
    assert (evaluator.tally.tasks_succeeded, evaluator.tally.tasks_failed) == (1, 0)


async def test_events_that_are_given_out_too_slowly_are_no_bug_of_the_worker(
    database: Database, evaluator: Evaluator
) -> None:
    async with database.transaction() as tx:
        await insert_events(tx, 1)
    async with database.transaction() as slow:
        await slow.run("LOCK TABLE events")
        step = asyncio.create_task(evaluator.step())
        await until_waiting_for_a_lock(slow, step)
        await slow.run("SELECT pg_cancel_backend(pid) FROM pg_locks WHERE NOT granted")  # as a statement timeout does
        with pytest.raises(DatabaseUnavailable):
            await step


@pytest.mark.usefixtures("log_lines")
async def test_a_lost_connection_counts_against_no_event(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx)
        [seq] = await insert_events(tx, 1)
        await tx.run(
            """CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$"""
        )
        await tx.run("CREATE TRIGGER leave BEFORE INSERT ON deliveries FOR EACH ROW EXECUTE FUNCTION leave()")
    with pytest.raises(DatabaseUnavailable):
        await evaluator.step()
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT attempts FROM event_queue WHERE due_at IS NULL") == 0
        await tx.run("DROP TRIGGER leave ON deliveries")

    await finish(evaluator)

    async with database.transaction() as tx:
        assert len(await matches(tx, [seq])) == 1


async def test_ten_failed_passes_in_a_row_are_told_and_then_work_goes_on(
    database: Database, make_evaluator: MakeEvaluator, log_lines: LogLines
) -> None:
    async with database.transaction() as tx:
        await insert_events(tx, 1)
    stopping = asyncio.Event()
    passes = itertools.count()
    evaluator: Evaluator

    async def gate() -> bool:
        if next(passes) < 12:
            raise DatabaseUnavailable("The database is away.")
        if evaluator.tally.tasks_succeeded:
            stopping.set()
        return True

    evaluator = make_evaluator(gate=gate, poll_interval=0.01)
    await evaluator.run(stopping)

    [aborted] = coded(log_lines, "POLLING_FALLBACK_BATCH_ABORTED")
    assert (aborted["cause"], aborted["failures"]) == ("database", 10)
    assert len(coded(log_lines, "POLLING_FALLBACK_QUERY_ERROR")) == 1
    assert await waiting(database) == 0


async def test_watchdogs_speak_of_what_stands_still(
    database: Database, make_evaluator: MakeEvaluator, log_lines: LogLines
) -> None:
    evaluator = make_evaluator(watchdog_idle=300)
    async with database.transaction() as tx:
        await insert_events(tx, 1, created_at=datetime(2026, 1, 1, tzinfo=UTC))

    await evaluator.watch()
    assert [line["message"] for line in coded(log_lines, "EVENTS_STALLED")] == [
        "No events processed in the last 5 minutes"
    ]
    await finish(evaluator)
    await evaluator.watch()
    assert len(coded(log_lines, "EVENTS_STALLED")) == 1


async def test_an_event_that_the_ledger_forgot_keeps_the_deliveries_it_has(
    database: Database, evaluator: Evaluator, log_lines: LogLines
) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx)
        seqs = await insert_events(tx, *range(40))
    await evaluator.step()
    async with database.transaction() as tx:
        await tx.run("DELETE FROM processed_events WHERE event_seq = $1", seqs[7])
        await tx.run(
            """INSERT INTO event_queue (event_seq, chain_id, kind)
               SELECT seq, chain_id, 'assert' FROM events WHERE seq = $1""",
            seqs[7],
        )
        fresh = await insert_events(tx, *range(39))

    await evaluator.step()

    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT count(*) FROM deliveries") == 79
        assert await tx.fetchval("SELECT count(*) FROM event_queue") == 0
        assert len(await matches(tx, fresh)) == 39
    assert not coded(log_lines, "POLLING_FALLBACK_EVENT_FAILED")
