"""Redis may lose everything: PostgreSQL knows what is due."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
import redis.asyncio

from agentauri.actions import DeliveryService, Dispatcher, Queue, connect_redis
from agentauri.actions.dispatcher import LOOK_SECONDS
from agentauri.config import DispatcherConfig
from agentauri.types import DeliveryId
from support.processes import until
from support.receiver import Answer

from .conftest import MakeDispatcher, World, load_subjects


async def some(world: World, count: int, *, due_ago: int = 60) -> list[DeliveryId]:
    trigger = await world.trigger()
    drafts = [await world.draft(trigger) for _ in range(count)]
    async with world.database.transaction() as tx:
        await world.deliveries.create(tx, drafts)
        rows = await tx.fetch("SELECT id FROM deliveries ORDER BY id")
    await world.sql("UPDATE deliveries SET due_at = now() - $1 * interval '1 second'", due_ago)
    return [row["id"] for row in rows]


async def ready(client: redis.asyncio.Redis) -> list[str]:
    return [str(id_) for id_ in await client.lrange("action_jobs", 0, -1)]


async def test_a_flushed_redis_is_filled_again(
    world: World, dispatcher: Dispatcher, client: redis.asyncio.Redis
) -> None:
    ids = await some(world, 5)
    await client.flushall()

    assert await dispatcher.sweep() == 5
    assert await dispatcher.sweep() == 0
    await dispatcher.step()

    assert {(await world.row(id_))["status"] for id_ in ids} == {"delivered"}
    assert len(world.receiver.requests) == 5


@pytest.mark.parametrize("key", ["action_jobs", "agentauri:queue:known"])
async def test_a_deleted_key_is_healed_by_two_sweeps(
    world: World, dispatcher: Dispatcher, client: redis.asyncio.Redis, key: str
) -> None:
    ids = await some(world, 5)
    await client.delete(key)

    await dispatcher.sweep()
    await dispatcher.sweep()

    assert sorted(await ready(client)) == sorted(str(id_) for id_ in ids)
    assert await client.scard("agentauri:queue:known") == 5


async def test_what_is_known_or_just_due_or_far_away_is_left_alone(
    world: World, dispatcher: Dispatcher, client: redis.asyncio.Redis
) -> None:
    ids = await some(world, 4)
    await client.flushall()
    await world.sql("UPDATE deliveries SET due_at = now() WHERE id = $1", ids[0])
    await world.sql("UPDATE deliveries SET due_at = now() + interval '601 seconds' WHERE id = $1", ids[1])
    await world.sql("UPDATE deliveries SET due_at = now() + interval '500 seconds' WHERE id = $1", ids[2])

    assert await dispatcher.sweep() == 2

    assert await ready(client) == [str(ids[3])]
    assert await client.zrange("agentauri:queue:delayed", 0, -1) == [str(ids[2])]


@pytest.mark.parametrize(
    "change",
    [
        "status = 'dead'",
        "hold = 'breaker'",
        "leased_until = now() + interval '1 minute', lease_owner = 'somebody'",
    ],
)
async def test_what_is_not_waiting_is_not_swept(
    world: World, dispatcher: Dispatcher, client: redis.asyncio.Redis, change: str
) -> None:
    await some(world, 2)
    await client.flushall()
    await world.sql(f"UPDATE deliveries SET {change}")

    assert await dispatcher.sweep() == 0


async def test_a_sweep_fills_ready_to_one_below_the_mark_and_goes_on_later(
    world: World, make_dispatcher: MakeDispatcher, client: redis.asyncio.Redis
) -> None:
    dispatcher = make_dispatcher(config=DispatcherConfig(allow_insecure_targets=True, max_queue_depth=6))
    await some(world, 12)
    await client.flushall()

    assert await dispatcher.sweep() == 5
    assert await dispatcher.sweep() == 0
    await dispatcher.step()
    assert await dispatcher.sweep() == 5
    await dispatcher.step()
    assert await dispatcher.sweep() == 2
    await dispatcher.step()

    assert len({request.headers["webhook-id"] for request in world.receiver.requests}) == 12


async def test_a_sweep_gives_way_to_another(world: World, dispatcher: Dispatcher, client: redis.asyncio.Redis) -> None:
    await some(world, 2)
    await client.flushall()

    async with world.database.transaction() as tx:
        await tx.fetchval("SELECT pg_advisory_xact_lock(hashtextextended('agentauri.sweep', 0))")
        assert await dispatcher.sweep() == 0

    assert await dispatcher.sweep() == 2


async def test_a_retry_beyond_the_horizon_leaves_redis(
    world: World, dispatcher: Dispatcher, client: redis.asyncio.Redis
) -> None:
    (id_,) = await some(world, 1)
    world.receiver.answers.append(Answer(503, {"Retry-After": "3600"}))

    await dispatcher.step()

    assert (await world.row(id_))["wait"] > 3590
    assert await client.scard("agentauri:queue:known") == 0


@pytest.fixture
async def lost() -> AsyncIterator[Queue]:
    async with aclosing(connect_redis("redis://127.0.0.1:1/0")) as client, aclosing(Queue(client)) as queue:
        await queue.push([])
        with pytest.raises(Exception, match="Redis is away"):
            await queue.depth()
        yield queue


async def test_without_redis_deliveries_go_straight_from_postgres(
    world: World, make_dispatcher: MakeDispatcher, lost: Queue
) -> None:
    dispatcher = make_dispatcher(queue=lost)
    ids = await some(world, 120, due_ago=0)
    world.receiver.answers.append(Answer(503))

    steps = 0
    while await dispatcher.step():
        steps += 1

    assert dispatcher.degraded
    assert steps == 3
    states = [(await world.row(id_))["status"] for id_ in ids]
    assert (states.count("delivered"), states.count("pending")) == (119, 1)
    assert len(world.receiver.requests) == 120


async def test_without_redis_one_delivery_that_cannot_be_claimed_stops_nobody(
    world: World, make_dispatcher: MakeDispatcher, lost: Queue
) -> None:
    poison = await world.event()

    async def poisoned(tx: Any, events: Any, triggers: Any) -> Any:
        if poison in events:
            raise ZeroDivisionError
        return await load_subjects(tx, events, triggers)

    dispatcher = make_dispatcher(queue=lost, load_subjects=poisoned)
    trigger = await world.trigger()
    bad = await world.delivery(trigger, poison)
    ids = [await world.delivery(trigger) for _ in range(3)]

    assert await dispatcher.step()
    assert not await dispatcher.step()

    assert [(await world.row(id_))["status"] for id_ in ids] == ["delivered"] * 3
    row = await world.row(bad)
    assert (row["status"], row["attempts"]) == ("pending", 0)
    assert row["wait"] > 30


async def test_without_redis_and_work_postgres_is_not_asked_all_the_time(
    make_dispatcher: MakeDispatcher, lost: Queue
) -> None:
    dispatcher = make_dispatcher(queue=lost)
    started = time.monotonic()

    assert not await dispatcher.take()

    assert dispatcher._look_at >= started + LOOK_SECONDS


async def test_without_redis_a_breaker_locked_by_hand_is_not_asked_all_the_time(
    world: World, make_dispatcher: MakeDispatcher, lost: Queue
) -> None:
    dispatcher = make_dispatcher(queue=lost)
    trigger = await world.trigger(breaker={"failure_threshold": 1, "half_open_max_calls": 9})
    world.receiver.answers.append(Answer(404))
    await world.delivery(trigger)
    await dispatcher.step()
    await world.sql("UPDATE circuit_breaker_state SET state = 'half_open', next_probe_at = NULL")
    await world.delivery(trigger)

    async with world.database.transaction() as session:
        await session.run("UPDATE circuit_breaker_state SET failure_count = 5")
        assert not await dispatcher.step()
    assert await dispatcher.step()

    assert len(world.receiver.requests) == 2


async def test_a_running_dispatcher_outlives_an_outage_of_redis(
    world: World, make_dispatcher: MakeDispatcher, lost: Queue, actions: Any
) -> None:
    dispatcher = make_dispatcher(queue=lost)
    world.deliveries = DeliveryService(lost)
    stopping = asyncio.Event()
    running = asyncio.create_task(dispatcher.run(stopping))
    trigger = await world.trigger()

    for _ in range(5):
        await world.delivery(trigger)
    await world.receiver.wait_for(5)
    stopping.set()
    await running

    async with world.database.transaction() as tx:
        assert await tx.fetchval("SELECT count(*) FROM deliveries WHERE status = 'delivered'") == 5


async def test_stopping_waits_for_what_is_being_sent_and_records_it(
    world: World, make_dispatcher: MakeDispatcher, client: redis.asyncio.Redis
) -> None:
    dispatcher = make_dispatcher(config=DispatcherConfig(allow_insecure_targets=True, max_in_flight=4))
    slow = asyncio.Event()

    async def wait(_: object) -> Any:
        from aiohttp import web

        await slow.wait()
        return web.Response()

    world.receiver.handle = wait
    stopping = asyncio.Event()
    running = asyncio.create_task(dispatcher.run(stopping))
    ids = await some(world, 10, due_ago=0)
    await world.receiver.wait_for(4)

    stopping.set()
    await asyncio.sleep(0)
    slow.set()
    await running

    rows = [await world.row(id_) for id_ in ids]
    delivered = [row for row in rows if row["status"] == "delivered"]
    assert len(world.receiver.requests) == len(delivered)
    assert all(row["leased_until"] is None for row in rows)
    assert await client.zcard("agentauri:queue:leased") == 0
    assert await client.llen("action_jobs") == 10 - len(delivered)


async def test_a_push_by_another_process_wakes_a_running_dispatcher(
    world: World,
    dispatcher: Dispatcher,
    redis_url: str,
    client: redis.asyncio.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agentauri.actions.dispatcher.LOOK_SECONDS", 3600)  # it would not look by itself
    trigger = await world.trigger()
    stopping = asyncio.Event()
    running = asyncio.create_task(dispatcher.run(stopping))

    async def waits() -> bool:
        [(_, listening)] = await client.pubsub_numsub("agentauri:wake")
        return listening > 0 and bool(dispatcher.wake._event._waiters)

    await until(waits, 20, "the dispatcher to have looked, and to listen")
    async with aclosing(connect_redis(redis_url)) as connection, aclosing(Queue(connection)) as other:
        world.deliveries = DeliveryService(other)
        id_ = await world.delivery(trigger)
        await world.receiver.wait_for(1)

    stopping.set()
    await running
    assert (await world.row(id_))["status"] == "delivered"
