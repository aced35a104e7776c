"""The queue in Redis: every change keeps `known` equal to ready, delayed and leased together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta

import pytest
import redis.asyncio

from agentauri.actions import BackPressure, Queue, connect_redis, delivery_id
from agentauri.actions.errors import RedisUnavailable
from agentauri.actions.queue import Promoted, describe_fault
from agentauri.database import Database
from agentauri.types import ActionId, DeliveryId, TriggerId

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = 1_800_000_000_000


def an_id(number: int, organization_id: str = "org-1") -> DeliveryId:
    return delivery_id(
        origin=START + timedelta(milliseconds=number),
        organization_id=organization_id,
        event_id=f"event-{number}",
        epoch=0,
        trigger_id=TriggerId("t"),
        trigger_version=1,
        action_id=ActionId(1),
        kind="match",
    )


def texts(ids: list[DeliveryId]) -> list[str]:
    return [str(id_) for id_ in ids]


async def consistent(queue: Queue) -> bool:
    return (await queue.census()).consistent


async def test_pushing_twice_queues_once(queue: Queue, client: redis.asyncio.Redis) -> None:
    ids = [an_id(1), an_id(2)]

    await queue.push(ids)
    await queue.push(ids)

    assert await client.lrange("action_jobs", 0, -1) == texts(ids)
    assert await consistent(queue)


async def test_a_lease_takes_the_oldest_first(queue: Queue) -> None:
    ids = [an_id(number) for number in range(50)]
    await queue.push(random.Random(7).sample(ids, len(ids)))

    taken: list[str] = []
    while leased := (await queue.lease(8, now=NOW)).ids:
        taken += sorted(leased)

    assert taken == texts(ids)
    assert await consistent(queue)


async def test_a_newcomer_is_served_beside_a_backlog(queue: Queue) -> None:
    await queue.push([an_id(number, "busy") for number in range(5000)])
    newcomer = an_id(9000, "quiet")
    await queue.push([newcomer])

    leased = await queue.lease(10, now=NOW)

    assert str(newcomer) in leased.ids
    assert len(leased.ids) == 10
    assert await consistent(queue)


async def test_every_id_is_leased_exactly_once(queue: Queue) -> None:
    ids = [an_id(number, f"org-{number % 7 * (number % 3)}") for number in range(6000)]
    await queue.push(random.Random(1).sample(ids, len(ids)))

    taken: list[str] = []
    while leased := (await queue.lease(611, now=NOW)).ids:
        taken += leased
        assert await consistent(queue)

    assert sorted(taken) == texts(ids)


async def test_a_lease_of_very_many_takes_a_part(queue: Queue) -> None:
    ids = [an_id(number, f"org-{number % 3}") for number in range(5000)]
    await queue.push(ids)

    taken: list[str] = []
    while leased := (await queue.lease(5000, now=NOW)).ids:
        taken += leased
        assert await consistent(queue)

    assert sorted(taken) == texts(ids)


async def test_what_is_no_text_can_be_forgotten(queue: Queue, client: redis.asyncio.Redis) -> None:
    await client.rpush("action_jobs", b"\xff\xfe", "é")
    leased = await queue.lease(5, now=NOW)

    await queue.ack(leased.ids)

    assert await client.zcard("agentauri:queue:leased") == 0


async def test_a_lease_that_lapses_is_ready_again(queue: Queue) -> None:
    await queue.push([an_id(1)])
    leased = await queue.lease(5, now=NOW)

    await queue.promote(NOW + 89_000)
    assert (await queue.lease(5, now=NOW)).ids == []
    await queue.promote(NOW + 90_000)

    assert (await queue.lease(5, now=NOW)).ids == leased.ids
    assert await consistent(queue)


async def test_an_acknowledged_id_is_forgotten(queue: Queue) -> None:
    await queue.push([an_id(1)])
    leased = await queue.lease(5, now=NOW)

    await queue.ack(leased.ids)

    assert (await queue.census()).known == 0


async def test_a_retry_comes_back_at_its_time(queue: Queue) -> None:
    await queue.push([an_id(1)])
    leased = await queue.lease(5, now=NOW)

    await queue.retry([(leased.ids[0], NOW + 5000)], now=NOW)

    assert await queue.promote(NOW + 4999) == Promoted(ready=0, due=NOW + 5000)
    assert (await queue.lease(5, now=NOW)).ids == []
    assert await queue.promote(NOW + 5000) == Promoted(ready=1, due=None)
    assert (await queue.lease(5, now=NOW)).ids == leased.ids
    assert await consistent(queue)


async def test_an_id_given_back_at_once_is_next(queue: Queue) -> None:
    await queue.push([an_id(number) for number in range(3)])
    leased = await queue.lease(1, now=NOW)

    await queue.retry([(leased.ids[0], 0)], now=NOW)

    assert (await queue.lease(1, now=NOW)).ids == leased.ids
    assert await consistent(queue)


async def test_an_id_that_is_in_the_list_twice_is_leased_once(queue: Queue, client: redis.asyncio.Redis) -> None:
    await queue.push([an_id(1)])
    await client.rpush("action_jobs", str(an_id(1)))

    first = await queue.lease(1, now=NOW)
    second = await queue.lease(5, now=NOW)

    assert first.ids == texts([an_id(1)])
    assert second.ids == []


async def test_an_id_that_is_in_the_list_twice_takes_nobody_else_with_it(
    queue: Queue, client: redis.asyncio.Redis
) -> None:
    await queue.push([an_id(1), an_id(2)])
    await client.rpush("action_jobs", str(an_id(1)))

    first = await queue.lease(2, now=NOW)
    second = await queue.lease(5, now=NOW)

    assert first.ids == texts([an_id(1)])
    assert second.ids == texts([an_id(2)])


async def test_restoring_stops_below_the_mark(queue: Queue) -> None:
    due = [(str(an_id(number)), 0) for number in range(10)]

    first = await queue.restore(due, now=NOW, mark=7)
    again = await queue.restore(due[first.read :], now=NOW, mark=7)

    assert (first.pushed, first.read, first.depth) == (7, 7, 7)
    assert (again.pushed, again.read) == (0, 0)


async def test_a_later_id_waits_apart(queue: Queue) -> None:
    await queue.restore([(str(an_id(1)), NOW + 1000)], now=NOW, mark=10)

    census = await queue.census()

    assert (census.ready, census.delayed) == (0, 1)


@pytest.mark.parametrize(
    "key", ["action_jobs", "agentauri:queue:delayed", "agentauri:queue:leased", "agentauri:queue:known"]
)
async def test_a_deleted_key_is_noticed_and_counted_anew(key: str, queue: Queue, client: redis.asyncio.Redis) -> None:
    ids = [an_id(number) for number in range(6)]
    await queue.push(ids)
    await queue.restore([(str(an_id(99)), NOW + 1000)], now=NOW, mark=100)
    await queue.lease(2, now=NOW)

    await client.delete(key)
    assert not await consistent(queue)
    await queue.rebuild()

    assert await consistent(queue)


async def test_rebuilding_drops_what_is_ready_twice(queue: Queue, client: redis.asyncio.Redis) -> None:
    await queue.push([an_id(1), an_id(2)])
    await client.delete("agentauri:queue:known")
    await queue.push([an_id(1), an_id(2)])

    await queue.rebuild()

    assert await client.lrange("action_jobs", 0, -1) == texts([an_id(1), an_id(2)])
    assert await consistent(queue)


async def test_scripts_survive_a_flushed_server(queue: Queue, client: redis.asyncio.Redis) -> None:
    await queue.push([an_id(1)])
    await client.script_flush()
    await client.flushall()

    await queue.push([an_id(2)])

    assert (await queue.lease(5, now=NOW)).ids == texts([an_id(2)])


@pytest.fixture
async def lost() -> AsyncIterator[Queue]:
    """A queue whose Redis is not there."""
    async with aclosing(connect_redis("redis://127.0.0.1:1/0")) as client, aclosing(Queue(client)) as queue:
        yield queue


async def test_an_outage_is_told_as_operators_know_it(lost: Queue, log_lines: list[dict[str, object]]) -> None:
    with pytest.raises(RedisUnavailable):
        await lost.lease(1, now=NOW)

    (line,) = [line for line in log_lines if line.get("code") == "REDIS_UNAVAILABLE"]
    assert line["level"] == "ERROR"
    assert line["message"] == "Failed to connect to Redis: Connection refused (os error 111)"
    assert lost.away


async def test_a_server_that_refuses_is_not_one_that_cannot_be_reached(
    queue: Queue, client: redis.asyncio.Redis, log_lines: list[dict[str, object]]
) -> None:
    await client.set("action_jobs", "no list")

    with pytest.raises(RedisUnavailable):
        await queue.lease(1, now=NOW)

    (line,) = [line for line in log_lines if line.get("code") == "REDIS_UNAVAILABLE"]
    assert str(line["message"]).startswith("Redis refuses: ")
    assert "wrong kind of value" in str(line["message"])


async def test_a_push_without_redis_harms_nobody(lost: Queue, log_lines: list[dict[str, object]]) -> None:
    for _ in range(10):
        await lost.push([an_id(1)])

    codes = [line.get("code") for line in log_lines]
    assert codes.count("ACTION_ENQUEUE_FAILED") == 1
    assert codes.count("POLLING_FALLBACK_BATCH_ABORTED") == 1


def test_a_url_never_shows_in_a_reason() -> None:
    assert "secret" not in describe_fault(ValueError("cannot use redis://:secret@host"))


@pytest.fixture
def pressure(queue: Queue, database: Database) -> BackPressure:
    return BackPressure(queue, database, max_depth=10_000, critical_depth=50_000)


def test_the_gate_closes_at_the_critical_depth_and_opens_below_the_first(
    pressure: BackPressure, log_lines: list[dict[str, object]]
) -> None:
    verdicts = [pressure.judge(depth) for depth in (9_999, 10_001, 49_999, 50_000, 49_999, 10_000, 9_999)]

    assert verdicts == [True, True, True, False, False, False, True]
    told = [(line["code"], line["level"]) for line in log_lines]
    assert told == [
        ("QUEUE_HIGH_DEPTH", "WARNING"),
        ("QUEUE_CRITICAL_DEPTH", "CRITICAL"),
        ("QUEUE_NORMAL_DEPTH", "INFO"),
    ]
    assert log_lines[0]["message"] == "Queue depth > 10,000 (10001). Action workers falling behind"
    assert str(log_lines[1]["message"]).startswith("CRITICAL_QUEUE_DEPTH reached")
    assert log_lines[2]["message"] == "normal operation resumes"


async def test_the_gate_reads_the_depth_of_the_list(queue: Queue, database: Database) -> None:
    pressure = BackPressure(queue, database, max_depth=2, critical_depth=4)
    await queue.push([an_id(number) for number in range(4)])

    assert not await pressure.is_open()


async def test_without_redis_the_gate_counts_in_postgres(lost: Queue, database: Database) -> None:
    pressure = BackPressure(lost, database, max_depth=2, critical_depth=4)

    assert await pressure.is_open()


async def test_a_cancellation_that_the_client_swallows_is_raised_after_all(queue: Queue) -> None:
    async def swallow() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    call = asyncio.create_task(queue._guarded(swallow))
    await asyncio.sleep(0)
    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
