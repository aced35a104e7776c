"""Budgets: sixty slots of a minute, in Redis, and in memory while it is away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from agentauri.http.rate_limit import Budget, Calls, LimitExceeded, Rate, RateLimiter
from agentauri.metrics import REGISTRY

START = 1_800_000_000 // 60 * 60


def budget(limit: int = 10, key: str = "agentauri:rl:{org:a}", name: str = "free") -> Budget:
    return Budget(key, name, limit)


@pytest.fixture
async def away() -> AsyncIterator[redis.asyncio.Redis]:
    """A Redis that nobody answers for."""
    client = redis.asyncio.from_url("redis://127.0.0.1:1", retry=Retry(NoBackoff(), 0))
    yield client
    await client.aclose()


async def asked(limiter: RateLimiter, budgets: list[Budget], cost: int, now: int) -> tuple[bool, Rate]:
    try:
        return True, await limiter.charge(budgets, cost, now)
    except LimitExceeded as refused:
        return False, refused.rate


class Plainly:
    """What the limiter promises, as a list of what was admitted and when."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken: list[tuple[int, int]] = []

    def used(self, now: int) -> int:
        return sum(cost for when, cost in self.taken if when // 60 > now // 60 - 60)

    def admits(self, now: int, cost: int) -> bool:
        return self.used(now) + min(cost, self.limit) <= self.limit

    def ask(self, now: int, cost: int) -> tuple[bool, int]:
        admitted = self.admits(now, cost)
        if admitted:
            self.taken.append((now, min(cost, self.limit)))
        return admitted, max(0, self.limit - self.used(now))


async def compare(limiter: RateLimiter, seed: int, calls: int) -> None:
    rng = random.Random(seed)
    now, limit = START, rng.choice([3, 10, 50])
    plainly, budgets = Plainly(limit), [budget(limit, f"agentauri:rl:{{org:{seed}}}")]
    for _ in range(calls):
        now += rng.choice([0, 0, 1, 20, 59, 60, 61, 300, 3540, 3599, 3600, 3601])
        cost = rng.choice([1, 1, 2, 5, 10])
        expected = plainly.ask(now, cost)
        admitted, rate = await asked(limiter, budgets, cost, now)
        assert (admitted, rate.remaining) == expected
        if not admitted:
            assert not plainly.admits(rate.reset - 1, cost)
            assert plainly.admits(rate.reset, cost)
        else:
            assert plainly.used(rate.reset) < plainly.used(now)


async def test_it_counts_as_a_list_of_what_was_admitted_would(redis_client: redis.asyncio.Redis) -> None:
    limiter = RateLimiter(redis_client)
    for seed in range(6):
        await compare(limiter, seed, 60)


async def test_it_counts_alike_without_redis(away: redis.asyncio.Redis) -> None:
    limiter = RateLimiter(away)
    for seed in range(30):
        await compare(limiter, seed, 100)


@pytest.mark.soak
async def test_it_counts_as_a_list_would_at_length(redis_client: redis.asyncio.Redis) -> None:
    limiter = RateLimiter(redis_client)
    for seed in range(1000, 1300):
        await compare(limiter, seed, 500)


async def test_of_a_hundred_at_once_exactly_those_are_admitted_that_are_left(redis_client: redis.asyncio.Redis) -> None:
    limiter, budgets = RateLimiter(redis_client), [budget(50)]
    for _ in range(8):
        await limiter.charge(budgets, 5)
    answers = await asyncio.gather(*(limiter.charge(budgets, 1) for _ in range(100)), return_exceptions=True)

    assert sum(isinstance(answer, Rate) for answer in answers) == 10
    assert sum(isinstance(answer, LimitExceeded) for answer in answers) == 90


async def test_a_retry_at_the_second_named_is_admitted_and_one_earlier_is_not(
    redis_client: redis.asyncio.Redis,
) -> None:
    limiter, budgets = RateLimiter(redis_client), [budget(10)]
    await limiter.charge(budgets, 4, START + 30)
    await limiter.charge(budgets, 6, START + 90)
    admitted, rate = await asked(limiter, budgets, 5, START + 100)

    assert (admitted, rate.reset) == (False, START + 60 + 3600)  # the first four are not enough
    assert not (await asked(limiter, budgets, 5, rate.reset - 1))[0]
    assert (await asked(limiter, budgets, 5, rate.reset))[0]


async def test_what_costs_more_than_there_is_takes_all_of_it(redis_client: redis.asyncio.Redis) -> None:
    limiter, budgets = RateLimiter(redis_client), [budget(3)]
    assert (await limiter.charge(budgets, 10, START)).remaining == 0
    admitted, rate = await asked(limiter, budgets, 10, START + 1)
    assert (admitted, rate.reset) == (False, START + 3600)
    assert (await asked(limiter, budgets, 10, rate.reset))[0]


async def test_a_key_has_a_tighter_budget_inside_that_of_its_organization(redis_client: redis.asyncio.Redis) -> None:
    limiter = RateLimiter(redis_client)
    both = [budget(50), budget(2, "agentauri:rl:{org:a}:key:k", "key")]
    rates = [await limiter.charge(both, 1, START) for _ in range(2)]
    assert [(rate.name, rate.limit, rate.remaining) for rate in rates] == [("key", 2, 1), ("key", 2, 0)]

    admitted, rate = await asked(limiter, both, 1, START)
    assert (admitted, rate.name) == (False, "key")
    assert (await limiter.charge(both[:1], 1, START)).remaining == 47  # the one refused has cost it nothing


async def test_without_redis_it_goes_on_from_what_it_has_seen(
    redis_client: redis.asyncio.Redis, away: redis.asyncio.Redis
) -> None:
    other = RateLimiter(redis_client)
    limiter, budgets = RateLimiter(redis_client), [budget(10)]
    await other.charge(budgets, 3, START)  # another process
    assert (await limiter.charge(budgets, 2, START + 60)).remaining == 5
    limiter._script = Calls(away)

    rate = await limiter.charge(budgets, 4, START + 120)
    assert (rate.remaining, rate.status, rate.reset) == (1, "degraded", START + 3600)
    admitted, rate = await asked(limiter, budgets, 2, START + 121)
    assert (admitted, rate.status, rate.reset) == (False, "degraded", START + 3600)


async def test_a_redis_that_does_not_answer_is_away() -> None:
    held: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    silent = redis.asyncio.from_url(f"redis://127.0.0.1:{port}", retry=Retry(NoBackoff(), 0))
    try:
        assert (await RateLimiter(silent).charge([budget(10)], 1, START)).status == "degraded"
    finally:
        await silent.aclose()
        for writer in held:
            writer.close()
        server.close()


async def test_a_redis_that_is_back_is_asked_again(
    redis_client: redis.asyncio.Redis, away: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter, budgets = RateLimiter(away), [budget(10)]
    await limiter.charge(budgets, 1, START)
    limiter._script = Calls(redis_client)
    assert (await limiter.charge(budgets, 1, START)).status == "degraded"  # it is tried once a second
    limiter._away_until = 1e-9
    assert (await limiter.charge(budgets, 1, START)).status is None


async def test_in_the_shadow_everything_is_counted_and_nothing_refused(
    redis_client: redis.asyncio.Redis, log_lines: list[dict[str, object]]
) -> None:
    limiter, budgets = RateLimiter(redis_client, "shadow"), [budget(2)]
    statuses = [(await limiter.charge(budgets, 1, START)).status for _ in range(3)]
    assert statuses == [None, None, "shadow-violation"]
    assert [line["event"] for line in log_lines] == ["rate_limit.exceeded"]
    with pytest.raises(LimitExceeded):
        await RateLimiter(redis_client).charge(budgets, 1, START)


async def test_switched_off_it_neither_counts_nor_asks(redis_client: redis.asyncio.Redis) -> None:
    limiter = RateLimiter(redis_client, "off")
    for _ in range(3):
        rate = await limiter.charge([budget(1)], 1, START)
    assert (rate.remaining, rate.status) == (1, "off")
    assert await redis_client.keys("*") == []


async def test_a_look_costs_nothing_and_asks_nobody(
    redis_client: redis.asyncio.Redis, away: redis.asyncio.Redis
) -> None:
    limiter, budgets = RateLimiter(redis_client), [budget(10)]
    assert limiter.peek(budgets, now=START).remaining == 10
    await limiter.charge(budgets, 3, START)
    limiter._script = Calls(away)
    assert (limiter.peek(budgets, "exempt", START).remaining, limiter.peek(budgets, now=START).reset) == (
        7,
        START + 3600,
    )


async def test_a_budget_leaves_redis_once_it_is_full_again(redis_client: redis.asyncio.Redis) -> None:
    limiter = RateLimiter(redis_client)
    await limiter.charge([budget()], 1)
    assert 3600 < await redis_client.ttl("agentauri:rl:{org:a}") <= 3660
    for minute in range(70):
        await limiter.charge([budget(100)], 1, START + minute * 60)
    assert await redis_client.hlen("agentauri:rl:{org:a}") == 60


async def test_decisions_are_counted(redis_client: redis.asyncio.Redis) -> None:
    def counted(decision: str) -> float:
        labels = {"plan": "free", "decision": decision}
        return REGISTRY.get_sample_value("agentauri_rate_limit_decisions_total", labels) or 0.0

    before = {decision: counted(decision) for decision in ("allowed", "limited")}
    limiter = RateLimiter(redis_client)
    for _ in range(3):
        await asked(limiter, [budget(2)], 1, START)
    assert counted("allowed") - before["allowed"] == 2
    assert counted("limited") - before["limited"] == 1


async def test_it_remembers_no_more_budgets_than_it_may(
    away: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentauri.http.rate_limit.MOST_BUDGETS", 3)
    limiter = RateLimiter(away)
    for name in "abcd":
        await limiter.charge([budget(10, name)], 1, START)
    assert list(limiter._seen) == ["b", "c", "d"]
