"""Rows decide who sends: duplicates, lost leases and stale claims never make two of one."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
import redis.asyncio
from aiohttp import web

from agentauri.actions import Dispatcher
from agentauri.config import DispatcherConfig
from agentauri.types import DeliveryId
from support.receiver import Answer

from .conftest import MakeDispatcher, World


class Gate:
    """A receiver that answers when it is told to."""

    def __init__(self, world: World) -> None:
        self._open = asyncio.Event()
        self.status = 200
        world.receiver.handle = self._answer

    async def _answer(self, _: web.Request) -> web.StreamResponse:
        await self._open.wait()
        return web.Response(status=self.status)

    def open(self, status: int = 200) -> None:
        self.status = status
        self._open.set()


async def lapse(world: World, id_: DeliveryId) -> None:
    """The claim's time is over, and Redis has forgotten everything."""
    await world.client.flushall()
    await world.sql("UPDATE deliveries SET leased_until = now() - interval '1 second' WHERE id = $1", id_)
    await world.make_due(id_)


async def test_duplicates_in_the_queue_are_never_sent_twice(
    world: World, make_dispatcher: MakeDispatcher, client: redis.asyncio.Redis
) -> None:
    first, second = make_dispatcher(instance="one"), make_dispatcher(instance="two")
    gate = Gate(world)
    id_ = await world.delivery(await world.trigger())
    await first.take()
    await world.receiver.wait_for(1)
    await client.flushall()
    await client.rpush("action_jobs", str(id_), str(id_))

    assert await second.step()
    await client.rpush("action_jobs", str(id_), str(id_))
    assert await first.take()
    gate.open()
    await first.step()

    assert len(world.receiver.requests) == 1
    assert (await world.row(id_))["status"] == "delivered"


async def test_a_finished_delivery_in_the_queue_is_dropped(
    world: World, dispatcher: Dispatcher, client: redis.asyncio.Redis
) -> None:
    id_ = await world.delivery(await world.trigger())
    await dispatcher.step()
    await client.rpush("action_jobs", str(id_))

    assert await dispatcher.step()

    assert len(world.receiver.requests) == 1
    assert not await dispatcher.step()


async def test_an_id_without_a_row_is_dropped(
    dispatcher: Dispatcher, client: redis.asyncio.Redis, log_lines: list[dict[str, Any]]
) -> None:
    await client.rpush("action_jobs", str(uuid4()), "not an id", str(uuid4()).upper())

    assert await dispatcher.step()
    assert not await dispatcher.step()

    told = [line for line in log_lines if line.get("code") == "QUEUE_UNKNOWN_ID"]
    assert sum(line["count"] for line in told) == 3
    assert {line["level"] for line in told} == {"WARNING"}


async def test_a_row_somebody_has_locked_is_looked_at_again(
    world: World, dispatcher: Dispatcher, client: redis.asyncio.Redis
) -> None:
    id_ = await world.delivery(await world.trigger())

    async with world.database.transaction() as tx:
        await tx.fetch("SELECT FROM deliveries WHERE id = $1 FOR UPDATE", id_)
        await dispatcher.step()

    assert await client.zscore("agentauri:queue:delayed", str(id_)) is not None
    assert world.receiver.requests == []


async def test_a_claim_that_lapsed_is_logged_as_abandoned_and_sent_again(
    world: World, make_dispatcher: MakeDispatcher, log_lines: list[dict[str, Any]]
) -> None:
    dead, alive = make_dispatcher(instance="dead"), make_dispatcher(instance="alive")
    gate = Gate(world)
    id_ = await world.delivery(await world.trigger(breaker={"failure_threshold": 1}))
    await dead.take()
    await world.receiver.wait_for(1)
    await lapse(world, id_)
    gate.open()

    await alive.sweep()
    await alive.step()

    attempts = await world.attempts(id_)
    assert [(attempt["outcome"], attempt["instance"]) for attempt in attempts] == [
        ("abandoned", "dead"),
        ("delivered", "alive"),
    ]
    assert len({request.headers["webhook-id"] for request in world.receiver.requests}) == 1
    assert [line["outcome"] for line in log_lines if line["event"] == "delivery.attempted"] == [
        "abandoned",
        "delivered",
    ]
    await dead.step()


@pytest.mark.parametrize(
    ("late", "newer", "status", "outcomes"),
    [
        (503, 200, "delivered", ["retryable", "delivered"]),
        (200, 503, "delivered", ["delivered", "retryable"]),
        (404, 503, "pending", ["permanent", "retryable"]),
    ],
)
async def test_an_outcome_of_a_stale_claim_never_undoes_a_newer_one(
    world: World, make_dispatcher: MakeDispatcher, late: int, newer: int, status: str, outcomes: list[str]
) -> None:
    slow, quick = make_dispatcher(instance="slow"), make_dispatcher(instance="quick")
    gate = Gate(world)
    trigger = await world.trigger(breaker={"failure_threshold": 50})
    id_ = await world.delivery(trigger)
    await slow.take()
    await world.receiver.wait_for(1)
    await lapse(world, id_)
    world.receiver.handle = None
    world.receiver.answer = lambda _: Answer(newer)
    await quick.sweep()
    await quick.step()

    gate.open(late)
    await slow.step()

    row = await world.row(id_)
    assert (row["status"], row["attempts"]) == (status, 2)
    assert [attempt["outcome"] for attempt in await world.attempts(id_)] == outcomes
    breaker = await world.breaker(trigger)
    assert (breaker["failure_count"] if breaker else 0) == (newer == 503)


async def test_a_late_success_ends_a_newer_claim(world: World, make_dispatcher: MakeDispatcher) -> None:
    slow, quick = make_dispatcher(instance="slow"), make_dispatcher(instance="quick")
    first = Gate(world)
    id_ = await world.delivery(await world.trigger())
    await slow.take()
    await world.receiver.wait_for(1)
    await lapse(world, id_)
    second = Gate(world)
    await quick.sweep()
    await quick.take()
    await world.receiver.wait_for(2)

    first.open(200)
    await slow.step()
    assert (await world.row(id_))["status"] == "delivered"
    second.open(503)
    await quick.step()

    assert (await world.row(id_))["status"] == "delivered"


async def test_an_outcome_that_comes_after_its_claim_is_written_down_all_the_same(
    world: World, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a standstill of the process."""
    monkeypatch.setattr("agentauri.actions.recording.Outcome.expires", 0.0)
    id_ = await world.delivery(await world.trigger())

    await dispatcher.step()

    assert (await world.row(id_))["status"] == "delivered"


async def test_the_last_try_was_the_last_even_if_nobody_knows_its_outcome(world: World, dispatcher: Dispatcher) -> None:
    id_ = await world.delivery(await world.trigger())
    await world.sql("UPDATE deliveries SET attempts = 11, lease_owner = 'dead', leased_until = now() - interval '1 s'")

    await dispatcher.step()

    row = await world.row(id_)
    assert (row["status"], row["reason"]) == ("dead", "attempts_exhausted")
    assert [attempt["outcome"] for attempt in await world.attempts(id_)] == ["abandoned"]
    assert world.receiver.requests == []


@pytest.mark.parametrize(
    ("statement", "status", "reason", "hold"),
    [
        ("DELETE FROM triggers", "skipped", "trigger_deleted", None),
        ("DELETE FROM trigger_actions", "skipped", "action_deleted", None),
        ("UPDATE triggers SET enabled = false", "pending", None, "paused"),
        ("UPDATE trigger_actions SET enabled = false", "pending", None, "paused"),
        ("UPDATE events SET retracted_at = now()", "pending", None, "retraction"),
    ],
)
async def test_what_changed_meanwhile_is_honoured(
    world: World, dispatcher: Dispatcher, statement: str, status: str, reason: str | None, hold: str | None
) -> None:
    id_ = await world.delivery(await world.trigger())
    await world.sql(statement)

    await dispatcher.step()

    row = await world.row(id_)
    assert (row["status"], row["reason"], row["hold"], row["attempts"]) == (status, reason, hold, 0)
    assert world.receiver.requests == []
    assert (await world.client.scard("agentauri:queue:known")) == 0


async def test_a_retraction_is_sent_although_its_event_is_gone(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger()
    await world.delivery(
        trigger, await world.event(retracted_at=None), kind="retraction", parent_id=DeliveryId(uuid4())
    )
    await world.sql("UPDATE events SET retracted_at = now()")

    await dispatcher.step()

    (request,) = world.receiver.requests
    assert b'"type":"event.retracted"' in request.body
    assert b'"retracts":"' in request.body


async def test_one_delivery_that_cannot_be_claimed_stops_nobody(
    world: World, make_dispatcher: MakeDispatcher, client: redis.asyncio.Redis
) -> None:
    from .conftest import load_subjects

    trigger = await world.trigger()
    seqs = [await world.event() for _ in range(5)]
    ids = [await world.delivery(trigger, seq) for seq in seqs]

    async def poisoned(tx: Any, events: Any, triggers: Any) -> Any:
        if seqs[2] in events:
            raise ZeroDivisionError
        return await load_subjects(tx, events, triggers)

    await make_dispatcher(load_subjects=poisoned).step()

    states = [(await world.row(id_))["status"] for id_ in ids]
    assert states == ["delivered", "delivered", "pending", "delivered", "delivered"]
    assert await client.zscore("agentauri:queue:delayed", str(ids[2])) is not None


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("ALTER TABLE deliveries ADD CONSTRAINT planted CHECK (attempts = 0)", "DROP CONSTRAINT planted"),
        (
            "CREATE CONSTRAINT TRIGGER planted AFTER UPDATE ON deliveries DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION planted()",
            "DISABLE TRIGGER planted",
        ),
    ],
    ids=["claim", "commit"],
)
async def test_a_claim_that_fails_keeps_no_room_at_its_destination(
    world: World, make_dispatcher: MakeDispatcher, broken: str, mended: str
) -> None:
    dispatcher = make_dispatcher(config=DispatcherConfig(allow_insecure_targets=True, destination_concurrency=1))
    id_ = await world.delivery(await world.trigger())
    await world.sql("CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no'; END$$")
    await world.sql(broken)
    await dispatcher.step()
    assert (await world.row(id_))["attempts"] == 0

    await world.sql(f"ALTER TABLE deliveries {mended}")
    await world.make_due(id_)
    await dispatcher.sweep()
    await dispatcher.step()

    assert (await world.row(id_))["status"] == "delivered"


async def test_a_send_that_is_cancelled_keeps_no_room_at_its_destination(
    world: World, make_dispatcher: MakeDispatcher, client: redis.asyncio.Redis
) -> None:
    dispatcher = make_dispatcher(config=DispatcherConfig(allow_insecure_targets=True, destination_concurrency=1))
    gate = Gate(world)
    id_ = await world.delivery(await world.trigger())
    running = asyncio.create_task(dispatcher.run(asyncio.Event()))
    await world.receiver.wait_for(1)
    running.cancel()
    await asyncio.wait([running])

    gate.open()
    await client.flushall()
    await client.rpush("action_jobs", str(id_))
    await dispatcher.step()

    assert (await world.row(id_))["status"] == "delivered"


async def test_a_claimed_send_that_never_began_keeps_no_room_at_its_destination(
    world: World, make_dispatcher: MakeDispatcher, client: redis.asyncio.Redis
) -> None:
    dispatcher = make_dispatcher(config=DispatcherConfig(allow_insecure_targets=True, destination_concurrency=1))
    id_ = await world.delivery(await world.trigger())
    await dispatcher.take()
    dispatcher._sends.give_up()

    await client.flushall()
    await client.rpush("action_jobs", str(id_))
    await dispatcher.step()

    assert (await world.row(id_))["status"] == "delivered"


async def test_one_outcome_that_cannot_be_recorded_stops_nobody(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger()
    ids = [await world.delivery(trigger) for _ in range(4)]
    await world.sql(f"ALTER TABLE attempts ADD CONSTRAINT planted CHECK (delivery_id <> '{ids[1]}')")

    await dispatcher.step()

    states = [(await world.row(id_))["status"] for id_ in ids]
    assert states == ["delivered", "pending", "delivered", "delivered"]


async def test_a_claim_of_ours_whose_commit_was_not_heard_of_is_taken_up_again(
    world: World, dispatcher: Dispatcher
) -> None:
    id_ = await world.delivery(await world.trigger())
    await world.sql(
        "UPDATE deliveries SET attempts = 1, lease_owner = 'test-1', leased_until = now() + interval '40 seconds'"
    )

    await dispatcher.step()

    assert (await world.row(id_))["status"] == "delivered"


async def test_rows_locked_by_hand_keep_nobody_else_from_being_recorded(world: World, dispatcher: Dispatcher) -> None:
    locked, other, watched = await world.trigger(), await world.trigger(), await world.trigger()
    world.receiver.answer = lambda _: Answer(503)
    await world.delivery(locked)
    await dispatcher.step()
    ids = [await world.delivery(trigger) for trigger in (locked, other, watched)]

    async with world.database.transaction() as session:
        await session.run("UPDATE circuit_breaker_state SET failure_count = 5 WHERE trigger_id = $1", locked)
        await dispatcher.take()
        await world.receiver.wait_for(4)
        await session.fetch("SELECT FROM deliveries WHERE id = $1 FOR UPDATE", ids[2])
        await dispatcher.step()
        during = [len(await world.attempts(id_)) for id_ in ids]
        closing = asyncio.Event()
        closing.set()
    await dispatcher._recorder.run(closing)

    assert during == [0, 1, 0]
    assert [len(await world.attempts(id_)) for id_ in ids] == [1, 1, 1]
    breaker = await world.breaker(locked)
    assert breaker is not None
    assert breaker["failure_count"] == 6
