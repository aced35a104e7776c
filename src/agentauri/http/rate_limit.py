"""How much a caller may ask for: units per sliding hour, counted in sixty slots of a minute each.

A budget is one hash in Redis, minute to units. One script prunes it, decides and adds; it answers with what it found,
so that this process knows of each budget what it last saw. While Redis is away the same arithmetic goes on from there,
in memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from agentauri import metrics
from agentauri.config import RateLimitMode
from agentauri.errors import RateLimited
from agentauri.log import get_logger

log = get_logger(__name__)

Slots = dict[int, int]
Call = tuple[tuple[int | str, ...], asyncio.Future[list[Any] | None]]
"""The arguments of the script, and who waits for its answer."""

WINDOW = 3600
MINUTES = 60
PATIENCE = 0.05
"""Seconds that Redis has for an answer."""
TRIED_EVERY = 1.0
MOST_AT_ONCE = 100
MOST_BUDGETS = 100_000
PRUNED_EVERY = 60.0

# Keys: the budgets. Arguments: the time (nothing: the server's own), the cost, whether it is added in any case, and the
# limit of each budget. Answers the time, and of each budget its slots of the last hour as they were before.
SCRIPT = """
local now = tonumber(ARGV[1]) or tonumber(redis.call('TIME')[1])
local cost = tonumber(ARGV[2])
local minute = math.floor(now / 60)
local admitted = true
local answer = {now}
for place, key in ipairs(KEYS) do
    local found, kept, used = redis.call('HGETALL', key), {}, 0
    for i = 1, #found, 2 do
        local slot, units = tonumber(found[i]), tonumber(found[i + 1])
        if slot <= minute - 60 then
            redis.call('HDEL', key, found[i])
        else
            kept[#kept + 1] = slot
            kept[#kept + 1] = units
            used = used + units
        end
    end
    local limit = tonumber(ARGV[3 + place])
    if used + math.min(cost, limit) > limit then admitted = false end
    answer[#answer + 1] = kept
end
if admitted or ARGV[3] == '1' then
    for place, key in ipairs(KEYS) do
        redis.call('HINCRBY', key, minute, math.min(cost, tonumber(ARGV[3 + place])))
        redis.call('EXPIRE', key, 3660)
    end
end
return answer
"""
HASH = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


class Budget(Struct, frozen=True):
    """`name` is what callers see: a plan, `anonymous`, `auth` or `key`."""

    key: str
    name: str
    limit: int


class Rate(Struct, frozen=True, kw_only=True):
    """Where a caller stands after this request. `reset` is the Unix second at which she has more than now; for a
    request that is refused, the second from which it would be admitted."""

    name: str
    limit: int
    remaining: int
    reset: int
    now: int
    status: str | None = None

    def headers(self) -> Sequence[tuple[str, str]]:
        wait = max(0, self.reset - self.now)
        shown = [
            ("X-RateLimit-Limit", str(self.limit)),
            ("X-RateLimit-Remaining", str(self.remaining)),
            ("X-RateLimit-Window", str(WINDOW)),
            ("X-RateLimit-Reset", str(self.reset)),
            ("RateLimit-Policy", f'"{self.name}";q={self.limit};w={WINDOW}'),
            ("RateLimit", f'"{self.name}";r={self.remaining};t={wait}'),
        ]
        return [*shown, ("X-RateLimit-Status", self.status)] if self.status else shown


class LimitExceeded(RateLimited):
    """The budget does not cover this request; `rate` says when it will."""

    def __init__(self, rate: Rate) -> None:
        wait = max(1, rate.reset - rate.now)
        super().__init__(f"Rate limit exceeded. Ask again in {wait} s.", wait)
        self.rate = rate


def in_window(slots: Mapping[int, int], now: int) -> Slots:
    """The slots that still count."""
    return {slot: units for slot, units in slots.items() if slot > now // 60 - MINUTES}


def price(cost: int, limit: int) -> int:
    """What costs more than there ever is takes all of it."""
    return min(cost, limit)


def leaves(slot: int) -> int:
    """The second at which a slot counts no more."""
    return (slot + MINUTES) * 60


def admitted_at(slots: Mapping[int, int], now: int, cost: int, limit: int) -> int:
    """The second from which the budget covers this cost."""
    missing = sum(slots.values()) + price(cost, limit) - limit
    for slot in sorted(slots):
        if missing <= 0:
            break
        missing -= slots[slot]
        now = leaves(slot)
    return now


class Calls:
    """Calls of the script, in the order in which they came; those that come while others are under way go together.
    So a burst needs one connection, and a call costs a fraction of what it would alone."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: list[Call] = []
        self._sending: asyncio.Task[None] | None = None

    async def call(self, keys: Sequence[str], arguments: Sequence[int | str]) -> list[Any] | None:
        """The script's answer; None when there is none in time."""
        answer: asyncio.Future[list[Any] | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(((len(keys), *keys, *arguments), answer))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send(), name="rate limits")
        return await answer

    async def _send(self) -> None:
        try:
            while calls := self._waiting[:MOST_AT_ONCE]:
                del self._waiting[:MOST_AT_ONCE]
                for (_, waiting), answer in zip(calls, await self._together(calls), strict=True):
                    if not waiting.done():
                        waiting.set_result(answer if isinstance(answer, list) else None)
        finally:
            self._sending = None

    async def _together(self, calls: Sequence[Call]) -> Sequence[object]:
        try:
            async with asyncio.timeout(PATIENCE):
                answers = await self._run("EVALSHA", HASH, calls)
                if isinstance(answers[0], NoScriptError):
                    answers = await self._run("EVAL", SCRIPT, calls)
                return answers
        except (RedisError, OSError, TimeoutError):
            return [None] * len(calls)

    async def _run(self, command: str, script: str, calls: Sequence[Call]) -> Sequence[object]:
        pipeline = self._redis.pipeline(transaction=False)
        for arguments, _ in calls:
            pipeline.execute_command(command, script, *arguments)
        answers: Sequence[object] = await pipeline.execute(raise_on_error=False)
        return answers


class RateLimiter:
    """Charges budgets. `seen` is what this process last saw of them, at most so many, the least recent forgotten."""

    def __init__(self, redis: Redis, mode: RateLimitMode = "enforcing") -> None:
        self._script = Calls(redis)
        self._mode = mode
        self._seen: dict[str, Slots] = {}
        self._away_until = 0.0
        self._pruned = time.monotonic()

    async def charge(self, budgets: Sequence[Budget], cost: int, now: int | None = None) -> Rate:
        """Take this cost from all of these budgets, or from none. `now` is for tests: else it is Redis's time.

        Raises:
            LimitExceeded: one of them does not cover it.
        """
        if self._mode == "off":
            return self._full(budgets, "off", now)
        found = await self._ask(budgets, cost, now)
        degraded = found is None
        if found is None:
            moment = int(time.time()) if now is None else now
            found = moment, [in_window(self._seen.get(budget.key, {}), moment) for budget in budgets]
        now, before = found
        admitted = all(
            sum(slots.values()) + price(cost, budget.limit) <= budget.limit
            for budget, slots in zip(budgets, before, strict=True)
        )
        if admitted or self._mode == "shadow":
            for budget, slots in zip(budgets, before, strict=True):
                slots[now // 60] = slots.get(now // 60, 0) + price(cost, budget.limit)
        self._remember(budgets, before, now)
        return self._verdict(budgets, before, cost, now, admitted=admitted, degraded=degraded)

    def peek(self, budgets: Sequence[Budget], status: str | None = None, now: int | None = None) -> Rate:
        """Where the caller stands as far as this process has seen, without charging or asking anybody."""
        if self._mode == "off":
            return self._full(budgets, "off", now)
        moment = int(time.time()) if now is None else now
        slots = [in_window(self._seen.get(budget.key, {}), moment) for budget in budgets]
        return _tightest(budgets, slots, moment, status)

    def _verdict(
        self, budgets: Sequence[Budget], slots: Sequence[Slots], cost: int, now: int, *, admitted: bool, degraded: bool
    ) -> Rate:
        name = budgets[0].name
        if admitted:
            metrics.RATE_LIMIT_DECISIONS.labels(name, "degraded" if degraded else "allowed").inc()
            return _tightest(budgets, slots, now, "degraded" if degraded else None)
        if self._mode == "shadow":
            metrics.RATE_LIMIT_DECISIONS.labels(name, "shadow").inc()
            log.warning("rate_limit.exceeded", budget=name, cost=cost, mode="shadow")
            return _tightest(budgets, slots, now, "shadow-violation")
        metrics.RATE_LIMIT_DECISIONS.labels(name, "limited").inc()
        reset, place = max(
            (admitted_at(slots[place], now, cost, budget.limit), place) for place, budget in enumerate(budgets)
        )
        budget, used = budgets[place], sum(slots[place].values())
        raise LimitExceeded(
            Rate(
                name=budget.name,
                limit=budget.limit,
                remaining=max(0, budget.limit - used),
                reset=reset,
                now=now,
                status="degraded" if degraded else None,
            )
        )

    def _full(self, budgets: Sequence[Budget], status: str, now: int | None) -> Rate:
        return _tightest(budgets, [{} for _ in budgets], int(time.time()) if now is None else now, status)

    async def _ask(self, budgets: Sequence[Budget], cost: int, now: int | None) -> tuple[int, list[Slots]] | None:
        """The time and the slots before this request, which Redis has charged if it is admitted; None without Redis."""
        if self._away_until:
            if time.monotonic() < self._away_until:
                return None
            self._away_until = time.monotonic() + TRIED_EVERY  # one request tries; the others do not wait for it
        keys = [budget.key for budget in budgets]
        forced = int(self._mode == "shadow")
        arguments = ["" if now is None else now, cost, forced, *(budget.limit for budget in budgets)]
        answer = await self._script.call(keys, arguments)
        if answer is None:
            if not self._away_until:
                log.warning("rate_limit.degraded", message="Redis does not answer; budgets are kept in memory")
            self._away_until = time.monotonic() + TRIED_EVERY
            return None
        self._away_until = 0.0
        moment, *found = answer
        return moment, [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in found]

    def _remember(self, budgets: Sequence[Budget], slots: Sequence[Slots], now: int) -> None:
        for budget, counted in zip(budgets, slots, strict=True):
            self._seen.pop(budget.key, None)  # so that the order is that of use
            self._seen[budget.key] = counted
        while len(self._seen) > MOST_BUDGETS:
            del self._seen[next(iter(self._seen))]
        if time.monotonic() - self._pruned > PRUNED_EVERY:
            self._pruned = time.monotonic()
            self._seen = {key: kept for key, counted in self._seen.items() if (kept := in_window(counted, now))}


def _tightest(budgets: Sequence[Budget], slots: Sequence[Slots], now: int, status: str | None) -> Rate:
    left, place = min((budget.limit - sum(slots[place].values()), place) for place, budget in enumerate(budgets))
    return Rate(
        name=budgets[place].name,
        limit=budgets[place].limit,
        remaining=max(0, left),
        reset=leaves(min(slots[place])) if slots[place] else now,
        now=now,
        status=status,
    )
