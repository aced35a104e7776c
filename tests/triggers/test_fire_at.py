"""A delivery may wait until its event is deep enough in its chain, wherever reorgs move it meanwhile."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import redis.asyncio

from agentauri.actions import DeliveryPending, DeliveryService
from agentauri.database import Database, Transaction
from agentauri.errors import Invalid
from agentauri.triggers import Evaluator, TriggerDraft, TriggerService
from agentauri.types import EventSeq, OrganizationId
from triggers.conftest import FINAL_AFTER, MakeEvaluator
from triggers.making import CHAIN, agent, field, insert_events, make_trigger
from triggers.making import finish as evaluate_all

ORGANIZATION = OrganizationId("org-1")
Shown = tuple[str, str | None, int | None]


async def heads(tx: Transaction, head: int, safe: int | None = None, finalized: int | None = None, **more: Any) -> None:
    """What the indexer of the chain has read and knows of it."""
    columns = {"last_block_number": head, "status": "live", "head_number": head, "safe_number": safe,
               "finalized_number": finalized} | more  # fmt: skip
    await tx.run(
        f"""INSERT INTO checkpoints (chain_id, last_block_hash, last_block_time, first_block, {", ".join(columns)})
            VALUES ($1, '0xc', 0, 0, {", ".join(f"${place}" for place in range(2, len(columns) + 2))})
            ON CONFLICT (chain_id) DO UPDATE SET
            {", ".join(f"{name} = excluded.{name}" for name in columns)}""",
        CHAIN,
        *columns.values(),
    )


async def move(tx: Transaction, seq: EventSeq, block: int, **columns: object) -> None:
    changes = "".join(f", {name} = ${place}" for place, name in enumerate(columns, 3))
    await tx.run(
        f"""UPDATE events SET retracted_at = NULL, block_number = $2, block_hash = block_hash || 'x'{changes}
            WHERE seq = $1""",
        seq,
        block,
        *columns.values(),
    )


async def retract(tx: Transaction, seq: EventSeq) -> None:
    await tx.run("UPDATE events SET retracted_at = now() WHERE seq = $1", seq)


async def finish(evaluator: Evaluator) -> None:
    await evaluate_all(evaluator)
    await evaluator.chores()


async def shown(database: Database) -> list[Shown]:
    async with database.transaction() as tx:
        rows = await tx.fetch("SELECT status, hold, release_block FROM deliveries ORDER BY created_at, id")
        return [tuple(row) for row in rows]


async def queued(redis_client: redis.asyncio.Redis) -> int:
    return int(await redis_client.llen("action_jobs"))


async def matched(database: Database, evaluator: Evaluator, fire_at: object, block: int = 100) -> EventSeq:
    """An event of agent 1 in this block that was evaluated for one trigger."""
    async with database.transaction() as tx:
        await make_trigger(tx, [agent(1)], fire_at=msgspec.json.encode(fire_at).decode(), on_reorg="notify")
        [seq] = await insert_events(tx, 1, origin="chain", block_number=block)
    await finish(evaluator)
    return seq


@pytest.mark.parametrize(
    ("fire_at", "before", "then", "waits_for"),
    [
        ({"confirmations": 3}, (102, 100, 100), (103, 100, 100), 103),
        ("safe", (150, 99, None), (150, 100, None), 100),
        ("safe", (150, None, 99), (150, None, 100), 100),
        ("finalized", (150, 120, 99), (150, 120, 100), 100),
    ],
)
async def test_a_delivery_goes_when_its_event_is_deep_enough_and_no_earlier(
    database: Database, evaluator: Evaluator, redis_client: redis.asyncio.Redis,
    fire_at: object, before: Any, then: Any, waits_for: int,
) -> None:  # fmt: skip
    async with database.transaction() as tx:
        await heads(tx, *before)
    await matched(database, evaluator, fire_at)
    assert await shown(database) == [("pending", "depth", waits_for)]
    assert await queued(redis_client) == 0
    async with database.transaction() as tx:
        await heads(tx, *then)

    await evaluator.chores()

    assert await shown(database) == [("pending", None, waits_for)]
    assert await queued(redis_client) == 1


@pytest.mark.parametrize("events", [1, 20])
async def test_what_is_deep_enough_when_it_is_evaluated_never_waits(
    database: Database, evaluator: Evaluator, redis_client: redis.asyncio.Redis, events: int
) -> None:
    async with database.transaction() as tx:
        await heads(tx, 110, 105, 100)
        await make_trigger(tx, fire_at='"finalized"')
        await insert_events(tx, *range(events), block_number=100)
        await insert_events(tx, *range(events), block_number=101)

    await evaluate_all(evaluator)

    holds = sorted(str(hold) for _, hold, _ in await shown(database))
    assert holds == ["None"] * events + ["depth"] * events
    assert await queued(redis_client) == events


async def test_a_chain_that_nobody_indexes_is_as_high_as_its_highest_event(
    database: Database, evaluator: Evaluator
) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [agent(1)], fire_at='{"confirmations": 2}')
        await make_trigger(tx, [agent(1)], fire_at='"safe"')
        await make_trigger(tx, [agent(1)], fire_at='"finalized"')
        await insert_events(tx, 1, block_number=100)
    await finish(evaluator)
    assert [hold for _, hold, _ in await shown(database)] == ["depth"] * 3

    for block, waiting in ((101, 3), (102, 2), (100 + FINAL_AFTER - 1, 2), (100 + FINAL_AFTER, 0)):
        async with database.transaction() as tx:
            await insert_events(tx, 2, block_number=block)
        await finish(evaluator)
        assert [hold for _, hold, _ in await shown(database)].count("depth") == waiting


async def test_another_process_lets_go_what_waited_before_it_began(
    database: Database, evaluator: Evaluator, make_evaluator: MakeEvaluator, redis_client: redis.asyncio.Redis
) -> None:
    async with database.transaction() as tx:
        await heads(tx, 100, 90, 80)
    await matched(database, evaluator, "safe")
    async with database.transaction() as tx:
        await heads(tx, 130, 120, 110)

    await make_evaluator(instance="other").chores()

    assert await shown(database) == [("pending", None, 100)]
    assert await queued(redis_client) == 1


async def test_what_is_due_goes_in_parts_until_all_of_it_is_gone(
    database: Database, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentauri.triggers.evaluator.RELEASED_AT_ONCE", 4)
    async with database.transaction() as tx:
        await heads(tx, 100)
        await make_trigger(tx, fire_at='{"confirmations": 1}')
        await insert_events(tx, *range(10), block_number=100)
    await evaluate_all(evaluator)
    async with database.transaction() as tx:
        await heads(tx, 101)

    left = []
    for _ in range(4):
        await evaluator.chores()
        left.append([hold for _, hold, _ in await shown(database)].count("depth"))

    assert left == [6, 2, 0, 0]


async def test_what_waits_is_given_up_when_its_event_is_gone(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await heads(tx, 101)
    seq = await matched(database, evaluator, {"confirmations": 3})
    async with database.transaction() as tx:
        await retract(tx, seq)
    await finish(evaluator)
    assert await shown(database) == [("pending", "retraction", 103)]
    async with database.transaction() as tx:
        await heads(tx, 110)

    await finish(evaluator)

    assert await shown(database) == [("skipped", None, 103)]


async def test_nothing_of_a_retracted_event_is_let_go_although_its_retraction_still_queues(
    database: Database, evaluator: Evaluator, redis_client: redis.asyncio.Redis
) -> None:
    async with database.transaction() as tx:
        await heads(tx, 101)
    seq = await matched(database, evaluator, {"confirmations": 3})
    async with database.transaction() as tx:
        await retract(tx, seq)
        await heads(tx, 110, last_block_number=99)

    await evaluator.chores()

    assert await shown(database) == [("pending", "retraction", 103)]
    assert await queued(redis_client) == 0


@pytest.mark.parametrize("at_once", [True, False])
async def test_what_moved_counts_from_its_new_block_and_keeps_what_it_waits_for(
    database: Database, evaluator: Evaluator, at_once: bool
) -> None:
    async with database.transaction() as tx:
        await heads(tx, 102)
    seq = await matched(database, evaluator, {"confirmations": 3})
    async with database.transaction() as tx:
        await tx.run("UPDATE triggers SET fire_at = '\"seen\"', version = version + 1")
        await retract(tx, seq)
    if not at_once:
        await finish(evaluator)
    async with database.transaction() as tx:
        await move(tx, seq, 102)
        await heads(tx, 104)

    await finish(evaluator)

    assert await shown(database) == [("pending", "depth", 105)]
    async with database.transaction() as tx:
        await heads(tx, 105)
    await finish(evaluator)
    assert await shown(database) == [("pending", None, 105)]


async def test_what_was_let_go_waits_again_when_its_event_moves_up(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await heads(tx, 103)
    seq = await matched(database, evaluator, {"confirmations": 3})
    assert await shown(database) == [("pending", None, 103)]
    async with database.transaction() as tx:
        await move(tx, seq, 102)
        await heads(tx, 104)

    await finish(evaluator)

    assert await shown(database) == [("pending", "depth", 105)]


async def test_a_release_looks_where_the_event_is_now(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await heads(tx, 102)
    seq = await matched(database, evaluator, {"confirmations": 3})
    async with database.transaction() as tx:
        await move(tx, seq, 102)
        await heads(tx, 104)

    await evaluator.chores()

    assert await shown(database) == [("pending", "depth", 105)]


async def test_a_void_match_that_matches_again_waits_as_before(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await heads(tx, 100)
        await make_trigger(tx, [field("tag1", "eq", "a")], fire_at='{"confirmations": 3}')
        [seq] = await insert_events(tx, 1, tag1="a", origin="chain", block_number=100)
    await finish(evaluator)
    for tag, block in (("b", 101), ("a", 102)):
        async with database.transaction() as tx:
            await move(tx, seq, block, tag1=tag)
        await finish(evaluator)

    assert await shown(database) == [("pending", "depth", 105)]


async def test_a_halted_chain_lets_nothing_go(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await heads(tx, 100)
    await matched(database, evaluator, "finalized")
    async with database.transaction() as tx:
        await heads(tx, 200, 200, 200, status="halted")
    await finish(evaluator)
    assert [hold for _, hold, _ in await shown(database)] == ["depth"]

    await matched(database, evaluator, "safe", 50)

    assert [hold for _, hold, _ in await shown(database)].count(None) == 0


async def test_a_reset_that_lowers_what_is_final_holds_what_comes_after(
    database: Database, evaluator: Evaluator
) -> None:
    async with database.transaction() as tx:
        await heads(tx, 120, 120, 99)
    seq = await matched(database, evaluator, "finalized")
    async with database.transaction() as tx:
        await retract(tx, seq)
        await heads(tx, 120, 50, 50, last_block_number=50, status="backfill")
    await finish(evaluator)
    async with database.transaction() as tx:
        await move(tx, seq, 100)
    await finish(evaluator)
    assert await shown(database) == [("pending", "depth", 100)]
    async with database.transaction() as tx:
        await heads(tx, 130, 120, 110)

    await finish(evaluator)

    assert await shown(database) == [("pending", None, 100)]


async def test_a_retraction_is_told_at_once(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await heads(tx, 100, 100, 100)
    seq = await matched(database, evaluator, "finalized")
    async with database.transaction() as tx:
        await tx.run("UPDATE deliveries SET status = 'delivered', finished_at = now()")
        await retract(tx, seq)
        await heads(tx, 110, 0, 0)

    await finish(evaluator)

    async with database.transaction() as tx:
        rows = await tx.fetch("SELECT kind, status, hold FROM deliveries WHERE kind = 'retraction'")
    assert [tuple(row) for row in rows] == [("retraction", "pending", None)]


async def test_the_test_environment_skips_whatever_the_depth(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await heads(tx, 100)
        await make_trigger(tx, environment="test", fire_at='"finalized"')
        await insert_events(tx, 1, block_number=100)

    await finish(evaluator)

    assert [(status, hold) for status, hold, _ in await shown(database)] == [("skipped", None)]


async def test_what_waits_cannot_be_redelivered_and_says_why(
    database: Database, evaluator: Evaluator, deliveries: DeliveryService
) -> None:
    async with database.transaction() as tx:
        await heads(tx, 100)
    await matched(database, evaluator, "finalized")
    async with database.transaction() as tx:
        id_ = await tx.fetchval("SELECT id FROM deliveries")
        with pytest.raises(DeliveryPending, match="deep enough"):
            await deliveries.redeliver(tx, ORGANIZATION, id_)


async def test_what_expired_while_it_waited_waits_on_when_it_is_redelivered(
    database: Database, evaluator: Evaluator, make_evaluator: MakeEvaluator, deliveries: DeliveryService
) -> None:
    async with database.transaction() as tx:
        await heads(tx, 100, 90, 90)
    await matched(database, evaluator, "finalized")
    async with database.transaction() as tx:
        id_ = await tx.fetchval(
            "UPDATE deliveries SET status = 'skipped', reason = 'expired', hold = NULL RETURNING id"
        )
        assert (await deliveries.redeliver(tx, ORGANIZATION, id_)).hold == "depth"
    async with database.transaction() as tx:
        await heads(tx, 100, 100, 100)

    await make_evaluator().chores()

    assert await shown(database) == [("pending", None, 100)]


@pytest.mark.parametrize(
    "fire_at", ["later", {"confirmations": 0}, {"confirmations": 10_001}, {"confirmations": 1, "more": 1}, {}]
)
async def test_a_depth_that_means_nothing_is_refused(service: TriggerService, fire_at: Any) -> None:
    with pytest.raises(Invalid) as refused:
        await service.prepare(TriggerDraft(name="watch", fire_at=fire_at))

    assert [error.field for error in refused.value.errors] == ["fire_at"]
