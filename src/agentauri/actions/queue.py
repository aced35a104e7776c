"""What is to be sent next, in Redis: ids and times, nothing else. All of it can be lost; a sweep puts it back.

Ready ids are a list that operators know as `action_jobs`. Times are the database's, in milliseconds.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast

from msgspec import Struct
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from agentauri import metrics
from agentauri.actions import scripts
from agentauri.actions.errors import RedisUnavailable
from agentauri.log import Seldom, get_logger
from agentauri.supervisor import wait_until
from agentauri.types import DeliveryId

log = get_logger(__name__)

T = TypeVar("T")

LEASE_MS = 90_000
"""No claim lasts longer: an action's timeout is at most 60 s, and a claim that plus 30 s."""

LEASE_MOST = 2000
"""More at once are too many results for one call in Lua."""

ANY_BYTES = "latin-1"
"""Anybody can push anything to a list. In this encoding it comes back as it was, so that it can be forgotten."""

WINDOW = 1000
PROMOTE_LIMIT = 1000
PUSH_CHUNK = 1000
WRITES_TO_RETURN = 3
PROBE_FIRST, PROBE_LAST, WRITE_GAP = 0.5, 2.0, 0.05
PROBE_MS = 1000
PUSHES_FAILED = 10

Due = tuple[str, int]
"""An id and when it is due, in milliseconds of the database's clock."""


class Promoted(Struct, frozen=True):
    """How many ids are ready, and when the next one is due."""

    ready: int
    due: int | None


class Leased(Struct, frozen=True):
    """Ids that are ours for a while, as they stand in the list, how many are left there, and how many lanes were seen
    on the way; 0 where nothing is left."""

    ids: list[str]
    depth: int
    lanes: int


class Restored(Struct, frozen=True):
    """How many of the ids were new, how many were looked at before ready was full, and how many are ready now."""

    pushed: int
    read: int
    depth: int


class Census(Struct, frozen=True):
    known: int
    ready: int
    delayed: int
    leased: int

    @property
    def consistent(self) -> bool:
        return self.known == self.ready + self.delayed + self.leased


def connect_redis(url: str) -> Redis:
    """A client that fails fast: what to do in an outage is decided here, not in the client."""
    return Redis.from_url(
        url, retry=Retry(NoBackoff(), 0), socket_timeout=5.0, socket_connect_timeout=2.0, health_check_interval=30
    )


class Queue:
    """The scripts, and whether Redis is there. While it is away only a probe talks to it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._hashes: dict[str, str] = {}
        self._wakes: list[Callable[[], None]] = []
        self._probe: asyncio.Task[None] | None = None
        self._seldom = Seldom()
        self._pushes_failed = 0
        self._there = asyncio.Event()
        self._there.set()

    @property
    def away(self) -> bool:
        return not self._there.is_set()

    async def aclose(self) -> None:
        """Stop probing. The client is its owner's."""
        if self._probe is not None:
            self._probe.cancel()
            with suppress(asyncio.CancelledError):
                await self._probe

    def on_wake(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever something may have become ready, here or in another process."""
        self._wakes.append(wake)

    def wake(self) -> None:
        for wake in self._wakes:
            wake()

    async def push(self, ids: Sequence[DeliveryId]) -> None:
        """Make ids ready, after the commit that made them due. Never fails: what does not arrive is swept later."""
        try:
            if self.away:
                raise RedisUnavailable("Redis is away.")
            for start in range(0, len(ids), PUSH_CHUNK):
                await self._push([(str(id_), 0) for id_ in ids[start : start + PUSH_CHUNK]], now=0, mark=0)
            self._pushes_failed = 0
        except RedisUnavailable as error:
            self._push_failed(len(ids), error)
        self.wake()

    async def restore(self, due: Sequence[Due], *, now: int, mark: int) -> Restored:
        """Push what is not known, as long as fewer than `mark` ids are ready."""
        return await self._push(due, now=now, mark=mark)

    async def _push(self, due: Iterable[Due], *, now: int, mark: int) -> Restored:
        answer = await self._call(scripts.PUSH, now, mark, *(word for pair in due for word in pair))
        return Restored(*cast("list[int]", answer))

    async def promote(self, now: int) -> Promoted:
        """Make ready what is due, and what was leased and never came back."""
        ready, due = cast("list[int]", await self._call(scripts.PROMOTE, now, PROMOTE_LIMIT))
        return Promoted(ready, None if due < 0 else due)

    async def lease(self, count: int, *, now: int) -> Leased:
        """Take up to `count` ids for 90 s, or fewer: fairly over organizations, oldest first within one."""
        count = min(count, LEASE_MOST)
        depth, lanes, *ids = cast("list[bytes]", await self._call(scripts.LEASE, count, now + LEASE_MS, WINDOW))
        return Leased([id_.decode(ANY_BYTES) for id_ in ids], int(depth), int(lanes))

    async def ack(self, ids: Sequence[str]) -> None:
        """Forget ids that need nothing more, for now or for ever."""
        if ids:
            await self._call(scripts.ACK, *(id_.encode(ANY_BYTES) for id_ in ids))

    async def retry(self, due: Sequence[Due], *, now: int) -> None:
        """Give leased ids back, to be ready at their time; at the head of the list where that is now."""
        if due:
            await self._call(scripts.RETRY, now, *(word for pair in due for word in pair))

    async def reserve(self, words: Sequence[str | int], *, now: int, slack: int, keep: int) -> list[int]:
        """What `scripts.RESERVE` answers; `Slots` knows what it means."""
        return cast("list[int]", await self._call(scripts.RESERVE, now, slack, keep, *words))

    async def census(self) -> Census:
        return Census(*cast("list[int]", await self._call(scripts.CHECK)))

    async def rebuild(self) -> int:
        """Make `known` from what is there, after somebody touched a key by hand."""
        return cast("int", await self._call(scripts.REBUILD))

    async def depth(self) -> int:
        return await self._guarded(lambda: self._redis.llen(scripts.READY))

    async def listen(self, stopping: asyncio.Event) -> None:
        """Hear of pushes made by other processes until `stopping`. Only latency depends on it."""
        while not stopping.is_set():
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(scripts.WAKE)
                    while not stopping.is_set():
                        if await channel.get_message(timeout=0.5) is not None:
                            self.wake()
            except (RedisError, OSError) as error:
                self._noticed(error)
                await self.back(stopping)

    async def back(self, stopping: asyncio.Event) -> None:
        """Return once Redis answers again, or on `stopping`."""
        while self.away and not stopping.is_set():
            await wait_until(stopping, PROBE_LAST, self._there)

    async def _call(self, script: str, *arguments: str | bytes | int) -> Any:
        async def run() -> Any:
            digest = self._hashes.get(script)
            if digest is not None:
                with suppress(NoScriptError):  # a restarted or flushed server has forgotten it
                    return await self._redis.evalsha(digest, len(scripts.KEYS), *scripts.KEYS, *arguments)
            self._hashes[script] = await self._redis.script_load(script)
            return await self._redis.evalsha(self._hashes[script], len(scripts.KEYS), *scripts.KEYS, *arguments)

        return await self._guarded(run)

    async def _guarded(self, call: Callable[[], Awaitable[T]]) -> T:
        started = time.perf_counter()
        task = asyncio.current_task()
        cancelled = task.cancelling() if task else 0
        try:
            answer = await call()
            if task and task.cancelling() > cancelled:
                # The client sends within asyncio.wait_for, which loses a cancellation before Python 3.12
                # (https://github.com/python/cpython/issues/86296).
                raise asyncio.CancelledError
            return answer
        except (RedisError, OSError) as error:
            self._noticed(error)
            raise RedisUnavailable("Redis is away.") from error
        finally:
            metrics.REDIS_COMMAND.observe(time.perf_counter() - started)

    def _noticed(self, error: Exception) -> None:
        refused = isinstance(error, ResponseError)
        if self._seldom.due("redis"):
            log.error(
                "redis.unavailable",
                code="REDIS_UNAVAILABLE",
                message=f"{'Redis refuses' if refused else 'Failed to connect to Redis'}: {describe_fault(error)}",
            )
        self._there.clear()
        metrics.ACTION_QUEUE_DEPTH.set(math.nan)  # nobody knows
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._write_until_back(), name="redis-probe")

    async def _write_until_back(self) -> None:
        delay, answered = PROBE_FIRST, 0
        while answered < WRITES_TO_RETURN:
            await asyncio.sleep(WRITE_GAP if answered else delay)
            try:
                # Without memory, without disk or as a replica it answers pings all the same, and takes nothing.
                await self._redis.set(scripts.PROBE, 1, px=PROBE_MS)
                answered += 1
            except (RedisError, OSError) as error:
                answered, delay = 0, min(delay * 2, PROBE_LAST)
                if self._seldom.due("redis"):
                    self._noticed(error)
        self._there.set()
        if self._seldom.over("redis"):
            log.info("redis.back")
        self.wake()

    def _push_failed(self, count: int, error: RedisUnavailable) -> None:
        if self._seldom.due("push"):
            log.warning(
                "action.enqueue_failed",
                code="ACTION_ENQUEUE_FAILED",
                message="Deliveries wait in PostgreSQL until Redis is back",
                deliveries=count,
                reason=describe_fault(error.__cause__ or error),
            )
        self._pushes_failed += 1
        if self._pushes_failed % PUSHES_FAILED == 0:
            log.error(
                "poll.aborted",
                code="POLLING_FALLBACK_BATCH_ABORTED",
                message=f"{PUSHES_FAILED} consecutive failures",
                cause="redis",
            )


def describe_fault(error: BaseException) -> str:
    """The reason as operators know it: `Connection refused (os error 111)`; never a URL."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return str(cause)
        if isinstance(cause, OSError) and cause.errno is not None:
            return f"{os.strerror(cause.errno)} (os error {cause.errno})"
        cause = cause.__cause__ or cause.__context__
    if found := re.match(r"Error (\d+) ", str(error)):
        number = int(found[1])
        return f"{os.strerror(number)} (os error {number})"
    return str(error).split("://", 1)[0][:200] or type(error).__name__
