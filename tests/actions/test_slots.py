"""Those who find no room get a moment each, the same clock for all processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import redis.asyncio

from agentauri.actions import Queue, connect_redis
from agentauri.actions.errors import RedisUnavailable
from agentauri.actions.slots import KEEP_MS, LEAST_WAIT_MS, LONGEST_FULL_MS, Slots, Turns, Wish, bounded

NOW = 1_800_000_000_000


@pytest.fixture(params=["redis", "memory"])
async def slots(request: pytest.FixtureRequest, queue: Queue) -> AsyncIterator[Slots]:
    if request.param == "redis":
        yield Slots(queue)
        return
    async with aclosing(connect_redis("redis://127.0.0.1:1/0")) as client, aclosing(Queue(client)) as lost:
        with pytest.raises(RedisUnavailable):
            await lost.depth()
        yield Slots(lost)


async def test_each_of_a_crowd_has_a_moment_of_its_own(slots: Slots) -> None:
    first = await slots.reserve([Wish("a", 10, 3), Wish("b", 10, 1)], now=NOW)
    second = await slots.reserve([Wish("a", 20, 2)], now=NOW)
    third = await slots.reserve([Wish("a", 10, 1)], now=NOW + 5)

    assert first == [Turns(0, NOW), Turns(0, NOW)]
    assert second == [Turns(0, NOW + 30)]
    assert third == [Turns(0, NOW + 70)]


async def test_moments_that_have_passed_are_not_saved_up(slots: Slots) -> None:
    await slots.reserve([Wish("a", 10, 3)], now=NOW)

    assert await slots.reserve([Wish("a", 10, 1)], now=NOW + 1000) == [Turns(0, NOW + 1000)]


async def test_no_moment_is_further_away_than_an_hour(slots: Slots) -> None:
    await slots.reserve([Wish("a", 1000, 100_000)], now=NOW)

    assert await slots.reserve([Wish("a", 1000, 1)], now=NOW) == [Turns(0, NOW + KEEP_MS)]


def test_what_waits_for_a_destination_that_recovers_is_looked_at_again_within_two_minutes() -> None:
    waits = {bounded(place * 3_000, paced=False) for place in range(1, 1_000)}

    assert max(waits) <= LONGEST_FULL_MS
    assert len(waits) > 900  # spread, not all at once
    assert bounded(0, paced=False) == LEAST_WAIT_MS
    assert bounded(KEEP_MS / 2, paced=True) == KEEP_MS / 2


async def test_a_pace_lets_one_go_each_interval_and_lines_the_others_up(slots: Slots) -> None:
    paced = Wish("action", 1000, 3, paced=True)

    assert await slots.reserve([paced], now=NOW) == [Turns(1, NOW + 1000)]
    assert await slots.reserve([Wish("action", 1000, 1, paced=True)], now=NOW + 10) == [Turns(0, NOW + 3000)]
    assert await slots.reserve([Wish("action", 1000, 1, paced=True)], now=NOW + 1000) == [Turns(1, NOW + 4000)]


async def test_a_pace_is_kept_although_ids_come_in_lots(slots: Slots) -> None:
    """A hundred a second, asked about ten times a second."""
    went = 0
    for tenth in range(10):
        (turns,) = await slots.reserve([Wish("action", 10, 1000, paced=True)], now=NOW + tenth * 100)
        went += turns.go

    assert 100 <= went <= 111


async def test_processes_share_moments_and_redis_forgets_them(
    queue: Queue, redis_url: str, client: redis.asyncio.Redis
) -> None:
    async with aclosing(connect_redis(redis_url)) as other_client, aclosing(Queue(other_client)) as other:
        await Slots(queue).reserve([Wish("a", 1000, 2), Wish("b", 1000, 1, paced=True)], now=NOW)
        assert await Slots(other).reserve([Wish("a", 1000, 1), Wish("b", 1000, 1, paced=True)], now=NOW) == [
            Turns(0, NOW + 2000),
            Turns(0, NOW + 1000),
        ]

    keys = await client.keys("*")
    assert all(str(key).startswith("agentauri:slot:") for key in keys)
    assert all([0 < await client.pttl(key) <= KEEP_MS for key in keys])
