"""What did not happen in time: told on the clock of the chain, and taken back when it happened after all."""

from __future__ import annotations

from typing import Any

import msgspec

from agentauri.database import Database, Transaction
from agentauri.triggers import Evaluator
from agentauri.types import EventSeq
from triggers.conftest import MakeEvaluator
from triggers.making import CHAIN, absence, average, field, finish, insert_events, make_trigger

NOON = 1_700_000_000
ASKED, ANSWERED = field("tag1", "eq", "asked"), field("tag1", "eq", "answered")
SILENCE = absence(ASKED, ANSWERED, "60s") | {"id": 1}


async def happen(tx: Transaction, tag: str, seconds: int, **columns: Any) -> EventSeq:
    values: dict[str, Any] = {"tag1": tag, "timestamp": NOON + seconds} | columns
    return (await insert_events(tx, 1, **values))[0]


async def clock(tx: Transaction, seconds: int, block: int = 1000, status: str = "live") -> None:
    """The chain has been read up to a block of that time."""
    await tx.run(
        """INSERT INTO checkpoints (chain_id, last_block_number, last_block_hash, last_block_time, first_block, status)
           VALUES ($1, $3, '0xc', $2, 0, $4) ON CONFLICT (chain_id) DO UPDATE
           SET last_block_time = excluded.last_block_time, status = excluded.status, updated_at = now()""",
        CHAIN,
        NOON + seconds,
        block,
        status,
    )


async def told(database: Database) -> list[tuple[Any, ...]]:
    async with database.transaction() as tx:
        rows = await tx.fetch("SELECT event_seq, kind, status, hold FROM deliveries ORDER BY created_at, kind")
    return [tuple(row) for row in rows]


async def chores(evaluator: Evaluator, times: int = 2) -> None:
    await finish(evaluator)
    for _ in range(times):
        await evaluator.chores()


async def asked(database: Database, evaluator: Evaluator, *conditions: object, **columns: Any) -> EventSeq:
    """Somebody asks at noon, and a trigger waits for the answer."""
    async with database.transaction() as tx:
        await make_trigger(tx, [*conditions, SILENCE], trigger_id="t", on_reorg="notify", **columns)
        seq = await happen(tx, "asked", 0)
        await clock(tx, 60)
    await chores(evaluator)
    return seq


async def test_silence_is_told_once_the_chain_has_gone_beyond_the_span(
    database: Database, evaluator: Evaluator
) -> None:
    seq = await asked(database, evaluator)
    assert await told(database) == []  # an answer in a block of this very second would be in time

    async with database.transaction() as tx:
        await clock(tx, 61)
    await chores(evaluator)
    assert await told(database) == [(seq, "absence", "pending", None)]
    async with database.transaction() as tx:
        context = await tx.fetchval("SELECT context::text FROM deliveries")
    assert msgspec.json.decode(context) == {"leaves": {"1": {"since": NOON, "due": NOON + 60}}}


async def test_an_answer_in_time_is_after_the_question_and_not_after_the_end(
    database: Database, evaluator: Evaluator
) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [SILENCE])
        early = await happen(tx, "asked", 0)
        await happen(tx, "answered", 0)
        in_time = await happen(tx, "asked", 100)
        await happen(tx, "answered", 160)
        late = await happen(tx, "asked", 200)
        await happen(tx, "answered", 261)
        await clock(tx, 500)
    await chores(evaluator)
    found = {row[0] for row in await told(database)}
    assert found == {early, late}
    assert in_time not in found


async def test_an_answer_that_was_evaluated_before_its_question_counts(
    database: Database, evaluator: Evaluator
) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [SILENCE])
        await happen(tx, "answered", 10)
        await happen(tx, "asked", 0)
        await clock(tx, 500)
    await chores(evaluator)
    assert await told(database) == []


async def test_nothing_is_told_while_events_of_the_chain_wait(database: Database, evaluator: Evaluator) -> None:
    await asked(database, evaluator)
    async with database.transaction() as tx:
        await clock(tx, 500)
        await happen(tx, "answered", 30)
    await evaluator.chores()
    assert await told(database) == []
    await chores(evaluator)
    assert await told(database) == []


async def test_a_failed_event_holds_back_what_it_may_answer_until_it_is_given_up(
    database: Database, evaluator: Evaluator
) -> None:
    seq = await asked(database, evaluator)
    async with database.transaction() as tx:
        await clock(tx, 500)
        await tx.run(
            """INSERT INTO event_queue (event_seq, chain_id, kind, due_at)
               VALUES ($1, $2, 'assert', now() + interval '1 hour')""",
            seq,
            CHAIN,
        )
    await chores(evaluator)
    assert await told(database) == []
    async with database.transaction() as tx:
        await tx.run("UPDATE event_queue SET parked_at = now()")
    await chores(evaluator)
    assert [row[0] for row in await told(database)] == [seq]


async def test_a_chain_that_stands_still_or_is_halted_proves_no_absence(
    database: Database, evaluator: Evaluator
) -> None:
    await asked(database, evaluator)
    await chores(evaluator)
    assert await told(database) == []
    async with database.transaction() as tx:
        await clock(tx, 500, status="halted")
    await chores(evaluator)
    assert await told(database) == []


async def test_a_chain_that_nobody_indexes_is_as_far_as_its_newest_event(
    database: Database, evaluator: Evaluator
) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [SILENCE])
        seq = await happen(tx, "asked", 0)
    await chores(evaluator)
    assert await told(database) == []
    async with database.transaction() as tx:
        await happen(tx, "other", 61)
    await chores(evaluator)
    assert [row[0] for row in await told(database)] == [seq]


async def test_a_timer_outlives_its_process_and_rings_in_one_of_two(
    database: Database, make_evaluator: MakeEvaluator
) -> None:
    seq = await asked(database, make_evaluator())
    async with database.transaction() as tx:
        await clock(tx, 500)
    for evaluator in (make_evaluator(), make_evaluator()):
        await chores(evaluator)
    assert await told(database) == [(seq, "absence", "pending", None)]


async def test_what_is_told_although_it_comes_by_a_reorg_is_taken_back(
    database: Database, evaluator: Evaluator
) -> None:
    seq = await asked(database, evaluator)
    async with database.transaction() as tx:
        await clock(tx, 500)
    await chores(evaluator)
    async with database.transaction() as tx:
        await tx.run("UPDATE deliveries SET status = 'delivered', finished_at = now()")
        await happen(tx, "answered", 30)
    await chores(evaluator)
    assert await told(database) == [(seq, "absence", "delivered", None), (seq, "retraction", "pending", None)]


async def test_what_was_taken_back_before_it_was_sent_is_told_when_the_answer_goes(
    database: Database, evaluator: Evaluator
) -> None:
    seq = await asked(database, evaluator)
    async with database.transaction() as tx:
        await clock(tx, 500)
    await chores(evaluator)
    async with database.transaction() as tx:
        answer = await happen(tx, "answered", 30)
    await chores(evaluator)
    assert await told(database) == [(seq, "absence", "skipped", None)]
    async with database.transaction() as tx:
        await tx.run("UPDATE events SET retracted_at = now() WHERE seq = $1", answer)
    await chores(evaluator)
    assert await told(database) == [(seq, "absence", "pending", None)]


async def test_a_question_that_goes_takes_its_timer_and_what_was_told_with_it(
    database: Database, evaluator: Evaluator
) -> None:
    seq = await asked(database, evaluator)
    async with database.transaction() as tx:
        await clock(tx, 500)
    await chores(evaluator)
    async with database.transaction() as tx:
        await tx.run("UPDATE deliveries SET status = 'delivered', finished_at = now()")
        await tx.run("UPDATE events SET retracted_at = now() WHERE seq = $1", seq)
    await finish(evaluator)
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT count(*) FROM timers") == 0
    await chores(evaluator)
    assert [row[1:3] for row in await told(database)] == [("absence", "delivered"), ("retraction", "pending")]


async def test_a_question_that_moves_keeps_what_was_told_of_it(database: Database, evaluator: Evaluator) -> None:
    seq = await asked(database, evaluator)
    async with database.transaction() as tx:
        await clock(tx, 500)
    await chores(evaluator)
    async with database.transaction() as tx:
        await tx.run("UPDATE events SET retracted_at = now() WHERE seq = $1", seq)
    await finish(evaluator)
    assert await told(database) == [(seq, "absence", "pending", "retraction")]
    async with database.transaction() as tx:
        await tx.run("""UPDATE events SET retracted_at = NULL, "timestamp" = "timestamp" + 7 WHERE seq = $1""", seq)
    await finish(evaluator)
    assert await told(database) == [(seq, "absence", "pending", "retraction")]  # until its timer has rung again
    await chores(evaluator)
    assert await told(database) == [(seq, "absence", "pending", None)]


async def test_a_question_that_moves_before_an_answer_has_told_nothing(
    database: Database, evaluator: Evaluator
) -> None:
    seq = await asked(database, evaluator)
    async with database.transaction() as tx:
        await clock(tx, 500)
    await chores(evaluator)
    async with database.transaction() as tx:
        await tx.run("UPDATE deliveries SET status = 'delivered', finished_at = now()")
        await tx.run("UPDATE events SET retracted_at = now() WHERE seq = $1", seq)
    await finish(evaluator)
    async with database.transaction() as tx:
        await tx.run("UPDATE events SET retracted_at = NULL WHERE seq = $1", seq)
        await happen(tx, "answered", 30)
    await chores(evaluator)
    assert [row[1:3] for row in await told(database)] == [("absence", "delivered"), ("retraction", "pending")]


async def test_other_conditions_are_judged_on_the_question(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [average(50), SILENCE])
        await happen(tx, "asked", 0, score=10)
        high = await happen(tx, "asked", 5, score=1000)
        await happen(tx, "other", 10, score=-9000)
        await clock(tx, 500)
    await chores(evaluator)
    assert [row[0] for row in await told(database)] == [high]


async def test_a_cooldown_is_reckoned_anew_when_the_first_silence_is_broken(
    database: Database, evaluator: Evaluator
) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [SILENCE], cooldown_seconds=100)
        first = await happen(tx, "asked", 0)
        second = await happen(tx, "asked", 30)
        await clock(tx, 500)
    await chores(evaluator)
    assert [row[:3] for row in await told(database)] == [(first, "absence", "pending")]
    async with database.transaction() as tx:
        await happen(tx, "answered", 20)
    await chores(evaluator, times=3)
    assert sorted(row[:3] for row in await told(database)) == [
        (first, "absence", "skipped"),
        (second, "absence", "pending"),
    ]


async def test_a_trigger_that_was_switched_off_meanwhile_tells_nothing(
    database: Database, evaluator: Evaluator
) -> None:
    await asked(database, evaluator)
    async with database.transaction() as tx:
        await tx.run("UPDATE triggers SET enabled = false")
        await clock(tx, 500)
    await chores(evaluator)
    assert await told(database) == []


async def test_what_must_be_deep_waits_for_the_block_of_the_question(database: Database, evaluator: Evaluator) -> None:
    seq = await asked(database, evaluator, fire_at='{"confirmations": 10000}')
    async with database.transaction() as tx:
        await clock(tx, 500)
    await chores(evaluator)
    assert await told(database) == [(seq, "absence", "pending", "depth")]
