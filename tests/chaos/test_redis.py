"""Redis may be emptied, damaged or gone at any moment: PostgreSQL knows what is due, and claims keep sends apart."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace
from redis.exceptions import ConnectionError as Disconnected

from agentauri.config import Config, RedisConfig
from agentauri.embedded import Embedded
from agentauri.types import Secret
from chaos.world import SECONDS, Gate, World
from support.processes import Child, until
from support.receiver import Receiver

KEYS = ["action_jobs", "agentauri:queue:delayed", "agentauri:queue:leased", "agentauri:queue:known"]
SLOTS = 10
SETTINGS = {"MAX_IN_FLIGHT_DELIVERIES": str(SLOTS), "SWEEP_INTERVAL_SECONDS": "1", "WEBHOOK_TIMEOUT_SECONDS": "60"}


@pytest.mark.parametrize("key", [None, *KEYS], ids=["everything", *KEYS])
async def test_what_is_deleted_from_redis_comes_back_and_nothing_is_sent_twice(world: World, key: str | None) -> None:
    gate = Gate(world.receiver)
    await world.happen(40)
    await world.evaluate()
    await put_one_off(world)
    await grow_old(world)
    await world.start("dispatcher", **SETTINGS)
    await world.received(SLOTS)

    await (world.redis.delete(key) if key else world.redis.flushall())

    await world.until(lambda: holds_all_that_waits(world), "Redis to hold again all that waits")
    assert len(world.receiver.requests) == SLOTS
    gate.open()
    await make_due(world)
    await world.finish()


async def test_what_stands_in_the_queue_again_while_it_is_being_sent_is_sent_once(world: World) -> None:
    """As after Redis came back from an old copy of its data."""
    gate = Gate(world.receiver)
    await world.happen(20)
    await world.evaluate()
    copy = await world.redis.lrange("action_jobs", 0, -1)
    await world.start("dispatcher", WEBHOOK_TIMEOUT_SECONDS="60")
    await world.received(len(world.due))

    await world.redis.flushall()
    await world.redis.rpush("action_jobs", *copy)
    await world.start("dispatcher", WEBHOOK_TIMEOUT_SECONDS="60")

    await world.until(lambda: is_empty(world), "the processes to drop what is not theirs to send")
    assert len(world.receiver.requests) == len(world.due)
    gate.open()
    await world.finish()


async def is_empty(world: World) -> bool:
    return await world.redis.exists("action_jobs", "agentauri:queue:leased") == 0


async def put_one_off(world: World) -> None:
    """Let one delivery wait for a time to come, so that every key has something in it."""
    [(id_, due)] = await world.fetch(
        """UPDATE deliveries SET due_at = now() + interval '5 minutes'
           WHERE id = (SELECT id FROM deliveries ORDER BY id DESC LIMIT 1)
           RETURNING id::text, (extract(epoch FROM due_at) * 1000)::bigint"""
    )
    await world.redis.lrem("action_jobs", 1, id_)
    await world.redis.zadd("agentauri:queue:delayed", {id_: due})


async def grow_old(world: World) -> None:
    """The sweep leaves alone what became due in the last seconds."""
    await world.fetch("UPDATE deliveries SET due_at = due_at - interval '1 minute' WHERE due_at <= now() RETURNING id")


async def make_due(world: World) -> None:
    await world.fetch("UPDATE deliveries SET due_at = now() WHERE due_at > now() AND status = 'pending' RETURNING id")
    for id_ in await world.redis.zrange("agentauri:queue:delayed", 0, -1):
        await world.redis.zadd("agentauri:queue:delayed", {str(id_): 0})


async def holds_all_that_waits(world: World) -> bool:
    """Ready and delayed are exactly the deliveries that nobody has claimed, each once, and the books of Redis agree."""
    waiting = await world.fetch(
        "SELECT id::text FROM deliveries WHERE status = 'pending' AND leased_until IS NULL ORDER BY id"
    )
    ready = await world.redis.lrange("action_jobs", 0, -1)
    delayed = await world.redis.zrange("agentauri:queue:delayed", 0, -1)
    leased = await world.redis.zcard("agentauri:queue:leased")
    known = await world.redis.scard("agentauri:queue:known")
    held = sorted(str(id_) for id_ in [*ready, *delayed])
    return held == [id_ for (id_,) in waiting] and known == len(held) + leased


@pytest.mark.soak
async def test_redis_loses_one_thing_after_another_while_there_is_work_and_ends_up_whole(world: World) -> None:
    processes = [await world.start("evaluator,dispatcher", SWEEP_INTERVAL_SECONDS="1") for _ in range(2)]

    for _ in range(10):
        for key in (None, *KEYS):
            await world.happen(40)
            await world.received(len(world.receiver.requests) + 5)
            await (world.redis.delete(key) if key else world.redis.flushall())

    await world.finish(seconds=SECONDS * 5)
    assert not [line for process in processes for line in process.lines() if line.get("code") == "TASK_PANIC"]


@pytest.fixture
def valkey(folder: Path) -> Iterator[Embedded]:
    with Embedded(folder, postgres=False) as embedded:
        yield embedded


@pytest.fixture
async def world_on_valkey(
    config: Config, valkey: Embedded, serve: Callable[..., Child], receiver: Receiver
) -> AsyncIterator[World]:
    assert valkey.redis_url is not None
    own = replace(config, redis=RedisConfig(url=Secret(valkey.redis_url)))
    async with World.open(own, serve, receiver, settings={"REDIS_URL": valkey.redis_url} | SETTINGS) as opened:
        yield opened


async def test_deliveries_go_on_while_redis_is_away_and_after_it_is_back(
    world_on_valkey: World, valkey: Embedded
) -> None:
    world = world_on_valkey
    gate = Gate(world.receiver)
    await world.happen(20)
    child = await world.start()
    await world.received(SLOTS)

    with suppress(Disconnected):
        await world.redis.shutdown(nosave=True)
    gate.open()
    await child.logged(SECONDS, code="REDIS_UNAVAILABLE")
    await world.happen(20)
    await world.until(world.is_done, "everything to be delivered without Redis")

    await until(lambda: valkey.revive() == ["valkey"], SECONDS, "Valkey to be started again")
    await child.logged(SECONDS, event="redis.back")
    await world.happen(20)
    await world.finish()


async def test_what_redis_has_no_memory_for_is_delivered_all_the_same(world_on_valkey: World) -> None:
    world = world_on_valkey
    gate = Gate(world.receiver)
    await world.happen(40)
    child = await world.start()
    await world.received(SLOTS)
    await world.processed(40)

    await world.redis.config_set("maxmemory", 1)  # and nothing may be evicted: the policy is noeviction
    await world.happen(100)
    refused = await child.logged(SECONDS, code="ACTION_ENQUEUE_FAILED")
    gate.open()
    await world.until(world.is_done, "everything to be delivered without room in Redis")

    assert await child.logged(SECONDS, code="REDIS_UNAVAILABLE")
    assert "used memory" in str(refused["reason"])
    assert not [line for line in child.lines() if line["event"] == "redis.back"]  # a ping it would answer
    await world.redis.config_set("maxmemory", 0)
    await child.logged(SECONDS, event="redis.back")
    await world.happen(20)
    await world.finish()
    assert not [line for line in child.lines() if line.get("code") == "TASK_PANIC"]
