"""The worker that sends: leases ids, claims their rows, sends, records; and keeps queue, holds and breakers moving.

Three loops share one process. Intake leases and claims in batches and starts a task per send. The recorder groups what
came of them. Upkeep ticks breakers and sweeps. Without Redis, intake takes what is due from PostgreSQL itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import TypeVar

from agentauri import metrics
from agentauri.actions import claims
from agentauri.actions.channels import Sent
from agentauri.actions.claiming import Claimed, Claimer, Send, report_unknown
from agentauri.actions.clock import DatabaseClock
from agentauri.actions.configuration import ActionService
from agentauri.actions.destinations import Destinations
from agentauri.actions.errors import DeliveryFailed, RedisUnavailable, Retryable
from agentauri.actions.holding import Holds
from agentauri.actions.identity import parse_id
from agentauri.actions.queue import Queue
from agentauri.actions.recording import Outcome, Recorder
from agentauri.actions.sweeping import Sweeper
from agentauri.actions.types import ChainLabel, LoadSubjects
from agentauri.breaker import BreakerService
from agentauri.config import DispatcherConfig
from agentauri.database import Database
from agentauri.errors import Unavailable
from agentauri.faults import reach
from agentauri.log import get_logger
from agentauri.supervisor import Wake, wait_until
from agentauri.types import ChainId, DeliveryId

log = get_logger(__name__)

PROMOTE_SECONDS = 0.1
MOST_AT_ONCE, DIRECT_BATCH = 256, 50
"""Deliveries claimed in one transaction, with Redis and without."""

TICK_SECONDS, TICK_GAP_SECONDS = 1.0, 0.2
TIDY_SECONDS = 60.0
UNCLAIMABLE_MS = 60_000
REFUSED_BATCHES = 10

T = TypeVar("T")


class Dispatcher:
    """Worker `dispatcher`. Any number of processes may run one: rows, not processes, decide who sends."""

    def __init__(
        self,
        database: Database,
        queue: Queue,
        breakers: BreakerService,
        actions: ActionService,
        *,
        load_subjects: LoadSubjects,
        chains: Mapping[ChainId, ChainLabel],
        config: DispatcherConfig,
        instance: str,
    ) -> None:
        self._database = database
        self._queue = queue
        self._breakers = breakers
        self._config = config
        self._clock = clock = DatabaseClock()
        self._freed = asyncio.Event()
        self._destinations = Destinations(config.destination_concurrency, config.max_in_flight)
        self._claimer = Claimer(
            actions=actions,
            breakers=breakers,
            load_subjects=load_subjects,
            chains=chains,
            destinations=self._destinations,
            config=config,
            instance=instance,
        )
        self._recorder = Recorder(
            database=database,
            queue=queue,
            breakers=breakers,
            config=config,
            instance=instance,
            on_written=self._freed.set,
        )
        self._holds = Holds(
            database=database,
            queue=queue,
            breakers=breakers,
            load_subjects=load_subjects,
            clock=clock,
            config=config,
        )
        self._sweeper = Sweeper(database, queue, clock, config)
        self._sending: dict[DeliveryId, asyncio.Task[None]] = {}
        self.wake = Wake()
        self._breaker_wake = Wake()
        self._promote_at = 0.0
        self._depth = 0
        self._refused = 0
        queue.on_wake(self.wake.set)

    @property
    def degraded(self) -> str | None:
        """Why we work with less than usual, if we do."""
        return "Redis is away: delivering straight from PostgreSQL" if self._queue.away else None

    def breaker_changed(self, payload: str) -> None:
        """For the listener: a breaker changed somewhere, perhaps by hand."""
        trigger_id = self._breakers.heard(payload)
        if trigger_id is not None:
            self._holds.hint(trigger_id)
        self._breaker_wake.set()

    async def run(self, stopping: asyncio.Event) -> None:
        closing = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._recorder.run(closing))
                group.create_task(self._upkeep(stopping))
                group.create_task(self._queue.listen(stopping))
                await self._intake(stopping)
                await self._sent()
                closing.set()
        finally:
            for task in self._sending.values():
                task.cancel()

    async def step(self) -> bool:
        """Send what is due and record what came of it; False when nothing was."""
        taken = await self.take()
        await self._sent()
        while self._recorder.ready:
            await self._recorder.flush()
        return taken

    async def tick(self) -> int:
        """Let breakers probe and release what they no longer hold."""
        return await self._holds.tick()

    async def tidy(self) -> None:
        """Give up what has been held for too long; resume what is paused no longer."""
        await self._holds.tidy()

    async def sweep(self) -> int:
        """Push to Redis what it should know and does not; how many ids that were."""
        await self._set_clock()
        return await self._sweeper.sweep()

    async def take(self) -> bool:
        """Lease as much as there are free slots, claim what may go and begin to send it; False when nothing was due."""
        slots = min(self._free, MOST_AT_ONCE)
        if slots <= 0:
            return False
        await self._set_clock()
        if self._queue.away:
            return await self._take_directly(min(slots, DIRECT_BATCH))
        now = self._clock.now()
        if time.monotonic() >= self._promote_at:
            due = await self._queue.promote(now)
            wait = PROMOTE_SECONDS if due is None else min(PROMOTE_SECONDS, max(0.0, (due - now) / 1000))
            self._promote_at = time.monotonic() + wait
        leased = await self._queue.lease(slots, now=now)
        self._depth = leased.depth
        if not leased.ids:
            return False
        reach("dispatcher.leased")
        ids, strange = _parsed(leased.ids)
        if strange:
            report_unknown(strange)
            await self._queue.ack(strange)
        try:
            await self._claim(ids)
        except Unavailable:
            await self._queue.retry([(str(id_), 0) for id_ in ids], now=now)
            raise
        return True

    async def _take_directly(self, limit: int) -> bool:
        async with self._database.transaction(durable=False) as tx:
            ids = await claims.due(tx, limit)
            claimed = await self._claimer.claim(tx, ids, self._busy(), queued=False) if ids else Claimed()
        self._begin(claimed)
        return bool(ids)

    async def _claim(self, ids: Sequence[DeliveryId]) -> None:
        """Claim a batch. One delivery that breaks it must not keep others from being sent."""
        if not ids:
            return
        try:
            async with self._database.transaction(durable=False) as tx:
                claimed = await self._claimer.claim(tx, ids, self._busy(), queued=True)
        except Unavailable:
            raise
        except Exception:
            if len(ids) > 1:
                await self._claim(ids[: len(ids) // 2])
                await self._claim(ids[len(ids) // 2 :])
                return
            log.exception("delivery.not_claimed", delivery_id=str(ids[0]))
            now = self._clock.now()
            await self._queue.retry([(str(ids[0]), now + UNCLAIMABLE_MS)], now=now)
            return
        reach("dispatcher.claimed")
        self._begin(claimed)
        await self._queue.ack(claimed.forget)
        await self._queue.retry(claimed.later, now=claimed.now)

    def _begin(self, claimed: Claimed) -> None:
        if claimed.now:
            self._clock.set(claimed.now)
        self._count_refused(claimed)
        for send in claimed.sends:
            self._sending[send.id] = asyncio.create_task(self._send(send))

    async def _send(self, send: Send) -> None:
        started = time.monotonic()
        try:
            result = await self._exchange(send)
            ended = time.monotonic()
            if send.target is not None:
                failure = result.kind if isinstance(result, DeliveryFailed) else None
                self._destinations.leave(send.target, ended - started, failure)
            reach("dispatcher.sent")
            self._recorder.add(Outcome(send, result, started, ended))
        finally:
            del self._sending[send.id]

    async def _exchange(self, send: Send) -> Sent | DeliveryFailed:
        if isinstance(send.prepared, DeliveryFailed):
            return send.prepared
        if send.message.attempt == 1:
            waited = self._clock.now() / 1000 - send.message.created_at.timestamp()
            metrics.DELIVERY_LATENCY.observe(max(0.0, waited))
        try:
            return await send.prepared.send(send.message)
        except DeliveryFailed as failed:
            return failed
        except Exception as error:
            log.exception("delivery.crashed", delivery_id=str(send.id), trigger_id=send.message.trigger.id)
            return Retryable("internal", f"a fault of ours: {type(error).__name__}")

    async def _intake(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                if await self.take():
                    await self._room(stopping)
                else:
                    await self.wake.wait(stopping, max(0.001, self._promote_at - time.monotonic()))
            except RedisUnavailable:
                continue  # the next round goes without
            except Unavailable:
                await _unless(stopping, self._database.up())

    async def _room(self, stopping: asyncio.Event) -> None:
        """Wait for a quarter of the slots, so that claims stay batches; but not for long, since some may hang."""
        wanted, patience = self._config.max_in_flight // 4, 0.01
        deadline = time.monotonic() + patience
        while not stopping.is_set() and self._free < wanted:
            left = deadline - time.monotonic()
            if left <= 0 and self._free > 0:
                return
            self._freed.clear()
            await wait_until(stopping, left if left > 0 else 1.0, self._freed)

    async def _upkeep(self, stopping: asyncio.Event) -> None:
        sweep_at = tidy_at = 0.0
        while not stopping.is_set():
            started = time.monotonic()
            try:
                await self.tick()
                if not self._queue.away and (started >= sweep_at or self._sweeper.hungry(self._depth)):
                    await self.sweep()
                    soon = TICK_SECONDS if self._sweeper.suspicious else self._config.sweep_interval
                    sweep_at = started + soon
                if started >= tidy_at:
                    await self.tidy()
                    tidy_at = started + TIDY_SECONDS
            except RedisUnavailable:
                pass
            except Unavailable:
                await _unless(stopping, self._database.up())
            await wait_until(stopping, TICK_GAP_SECONDS)
            await self._breaker_wake.wait(stopping, TICK_SECONDS - TICK_GAP_SECONDS)

    async def _sent(self) -> None:
        """Wait for the sends that are under way."""
        while self._sending:
            await asyncio.wait(list(self._sending.values()))

    async def _set_clock(self) -> None:
        if not self._clock.is_set:
            async with self._database.transaction(durable=False) as tx:
                self._clock.set(await claims.now_ms(tx))

    @property
    def _free(self) -> int:
        return self._config.max_in_flight - len(self._sending) - len(self._recorder)

    def _busy(self) -> set[DeliveryId]:
        return self._recorder.busy().union(self._sending)

    def _count_refused(self, claimed: Claimed) -> None:
        """Tell operators when nothing goes out because every breaker is open."""
        if claimed.sends:
            self._refused = 0
        elif claimed.refused:
            self._refused += 1
            if self._refused % REFUSED_BATCHES == 0:
                log.error(
                    "poll.aborted",
                    code="POLLING_FALLBACK_BATCH_ABORTED",
                    message=f"{REFUSED_BATCHES} consecutive failures",
                    cause="breakers_open",
                )


def _parsed(ids: Sequence[str]) -> tuple[list[DeliveryId], list[str]]:
    """Ids, and what is none: anybody can push to a list. Another spelling of an id is another member of our sets."""
    parsed: list[DeliveryId] = []
    strange: list[str] = []
    for text in ids:
        try:
            id_ = parse_id(text)
        except ValueError:
            strange.append(text)
            continue
        if str(id_) == text:
            parsed.append(id_)
        else:
            strange.append(text)
    return parsed, strange


async def _unless(stopping: asyncio.Event, work: Coroutine[object, object, T]) -> None:
    """Wait for `work`, or for `stopping`."""
    task = asyncio.ensure_future(work)
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
        stop.cancel()
