"""The worker that sends: leases ids, claims their rows, sends, records; and keeps queue, holds and breakers moving.

Three loops share one process. Intake leases and claims in batches and has the sends begin. The recorder groups what
came of them. Upkeep ticks breakers and sweeps. Without Redis, intake takes what is due from PostgreSQL itself.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeVar

import asyncpg

from agentauri import metrics
from agentauri.actions import claims
from agentauri.actions.claiming import Claimed, Claimer, Waiting, report_unknown
from agentauri.actions.clock import DatabaseClock
from agentauri.actions.configuration import ActionService
from agentauri.actions.destinations import Destinations
from agentauri.actions.errors import DeliveryFailed, RedisUnavailable
from agentauri.actions.holding import Holds
from agentauri.actions.identity import parse_id
from agentauri.actions.queue import Queue
from agentauri.actions.recording import Outcome, Recorder
from agentauri.actions.sending import Sends
from agentauri.actions.slots import Slots, Wish, bounded
from agentauri.actions.sweeping import Sweeper
from agentauri.actions.types import ChainLabel, LoadSubjects
from agentauri.breaker import BreakerService
from agentauri.config import DispatcherConfig
from agentauri.database import Database
from agentauri.errors import Unavailable
from agentauri.faults import reach
from agentauri.log import Seldom, get_logger
from agentauri.supervisor import Wake, wait_for, wait_until
from agentauri.types import ChainId, DeliveryId

log = get_logger(__name__)

LOOK_SECONDS = 0.1
"""How soon to look again for what has become due."""

MOST_AT_ONCE, DIRECT_BATCH, DIRECT_WINDOW = 128, 50, 500
"""Deliveries claimed in one transaction, with Redis and without, and among how many these are chosen."""

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
        self._slots = Slots(queue)
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
            database=database, queue=queue, breakers=breakers, load_subjects=load_subjects, clock=clock, config=config
        )
        self._sweeper = Sweeper(database, queue, clock, config)
        self._sends = Sends(clock, ended=self._sent, unsent=self._claimer.give_back)
        self.wake = Wake()
        self._breaker_wake = Wake()
        self._look_at = 0.0
        self._depth = 0
        self._refused = 0
        self._seldom = Seldom()
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
                await self._sends.over()
                closing.set()
        finally:
            self._sends.give_up()

    async def step(self) -> bool:
        """Send what is due and record what came of it; False when nothing was."""
        taken = await self.take()
        await self._sends.over()
        while self._recorder.ready:
            await self._recorder.flush()
        return taken

    async def tick(self) -> int:
        """Let breakers probe and release what they no longer hold."""
        return await self._holds.tick()

    async def tidy(self) -> bool:
        """Give up what has been held for too long, resume what is paused no longer; True when there is more of it."""
        return await self._holds.tidy()

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
        return await self._take_leased(slots)

    async def _take_leased(self, slots: int) -> bool:
        now = self._clock.now()
        if time.monotonic() >= self._look_at:
            promoted = await self._queue.promote(now)
            due = promoted.due
            wait = LOOK_SECONDS if due is None else min(LOOK_SECONDS, max(0.0, (due - now) / 1000))
            self._look_at = time.monotonic() + wait
            if not promoted.ready:
                self._note_depth(0)
                return False
        leased = await self._queue.lease(slots, now=now)
        self._note_depth(leased.depth)
        if not leased.ids:
            return False
        reach("dispatcher.leased")
        ids, strange = _parsed(leased.ids)
        if strange:
            report_unknown(strange)
            await self._queue.ack(strange)
        try:
            await self._claim(ids, queued=True, contended=leased.lanes > 1)
        except Unavailable:
            await self._queue.retry([(str(id_), 0) for id_ in ids], now=now)
            raise
        return True

    def _note_depth(self, ready: int) -> None:
        self._depth = ready
        metrics.ACTION_QUEUE_DEPTH.set(ready)

    async def _take_directly(self, limit: int) -> bool:
        async with self._database.transaction(durable=False) as tx:
            ids = await claims.due(tx, limit, DIRECT_WINDOW)
        if await self._claim(ids, queued=False):
            return True
        self._look_at = time.monotonic() + LOOK_SECONDS
        return False

    async def _claim(
        self,
        ids: Sequence[DeliveryId],
        *,
        queued: bool,
        contended: bool = False,
        permitted: Collection[DeliveryId] = (),
    ) -> bool:
        """Claim a batch; False when all of it is as it was, and to be looked at again. One delivery that breaks it must
        not keep others from being sent."""
        if not ids:
            return False
        try:
            with self._claimer.batch() as claimed:
                async with self._database.transaction(durable=False) as tx:
                    await self._claimer.claim(tx, claimed, ids, self._is_busy, permitted=permitted, contended=contended)
        except Unavailable:
            raise
        except Exception:
            if len(ids) > 1:
                halves = ids[: len(ids) // 2], ids[len(ids) // 2 :]
                return any(
                    [
                        await self._claim(half, queued=queued, contended=contended, permitted=permitted)
                        for half in halves
                    ]
                )
            log.exception("delivery.not_claimed", delivery_id=str(ids[0]))
            await self._put_off({ids[0]: self._clock.now() + UNCLAIMABLE_MS}, queued=queued)
            return True
        reach("dispatcher.claimed")
        self._begin(claimed)
        if queued:
            await self._queue.ack(claimed.forget)
            await self._queue.retry(claimed.later, now=claimed.now)
        if claimed.waiting:
            await self._line_up(claimed, queued=queued, contended=contended)
        return bool(claimed.sends or claimed.forget or claimed.waiting)

    async def _line_up(self, claimed: Claimed, *, queued: bool, contended: bool) -> None:
        """Give a moment of its own to each that waits; those whose moment is now are claimed after all."""
        go: list[DeliveryId] = []
        later: dict[DeliveryId, float] = {}
        left = claimed.waiting
        while left:
            crowds: defaultdict[str, list[Waiting]] = defaultdict(list)
            for waiting in left:
                crowds[waiting.crowd].append(waiting)
            wishes = [Wish(key, crowd[0].interval * 1000, len(crowd), crowd[0].paced) for key, crowd in crowds.items()]
            left = []
            for crowd, turns in zip(crowds.values(), await self._slots.reserve(wishes, now=claimed.now), strict=True):
                go += [waiting.id for waiting in crowd[: turns.go] if not waiting.then]
                left += [Waiting.turn(waiting.id, waiting.then) for waiting in crowd[: turns.go] if waiting.then]
                for place, waiting in enumerate(crowd[turns.go :]):
                    wait = turns.first + place * waiting.interval * 1000 - claimed.now
                    later[waiting.id] = claimed.now + bounded(wait, paced=waiting.paced)
        await self._put_off(later, queued=queued)
        await self._claim(go, queued=queued, contended=contended, permitted=frozenset(go))

    async def _put_off(self, due: Mapping[DeliveryId, float], *, queued: bool) -> None:
        """Have them come again at their time. Redis brings what is near; the rest is written down and swept."""
        now = self._clock.now()
        horizon = now + self._config.horizon * 1000 if queued else now
        near = [(str(id_), int(moment)) for id_, moment in due.items() if moment <= horizon]
        far = {id_: moment for id_, moment in due.items() if moment > horizon}
        if far:
            async with self._database.transaction(durable=False) as tx:
                await claims.put_off(tx, far)
        if queued:
            await self._queue.ack([str(id_) for id_ in far])
            await self._queue.retry(near, now=now)

    def _begin(self, claimed: Claimed) -> None:
        if claimed.now:
            self._clock.set(claimed.now)
        self._count_refused(claimed)
        self._sends.add(claimed.sends)

    def _sent(self, outcome: Outcome) -> None:
        send, result = outcome.send, outcome.result
        if send.target is not None:
            failure = result.kind if isinstance(result, DeliveryFailed) else None
            took = outcome.ended - outcome.started
            self._destinations.leave(send.target, send.message.organization_id, took, failure)
        self._recorder.add(outcome)

    async def _intake(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                if await self.take():
                    await self._room(stopping)
                else:
                    await self.wake.wait(stopping, max(0.001, self._look_at - time.monotonic()))
            except RedisUnavailable:
                continue  # the next round goes without
            except Unavailable:
                await wait_for(self._database.up(), stopping)

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
            await self._look_after(self.tick, stopping)
            if not self._queue.away and (started >= sweep_at or self._sweeper.hungry(self._depth)):
                swept = await self._look_after(self.sweep, stopping)
                soon = swept is None or self._sweeper.suspicious
                sweep_at = started + (TICK_SECONDS if soon else self._config.sweep_interval)
            if started >= tidy_at:
                more = await self._look_after(self.tidy, stopping)
                tidy_at = started + (TICK_SECONDS if more else TIDY_SECONDS)
            await wait_until(stopping, TICK_GAP_SECONDS)
            await self._breaker_wake.wait(stopping, TICK_SECONDS - TICK_GAP_SECONDS)

    async def _look_after(self, job: Callable[[], Awaitable[T]], stopping: asyncio.Event) -> T | None:
        """Do one job of upkeep; None where it could not be done. What PostgreSQL has against it must not end the sends
        that are under way: the next round tries again."""
        try:
            return await job()
        except RedisUnavailable:
            pass
        except Unavailable:
            await wait_for(self._database.up(), stopping)
        except asyncpg.PostgresError as error:
            if self._seldom.due(job.__name__):
                log.error("upkeep.failed", job=job.__name__, error=repr(error)[:500])
        return None

    async def _set_clock(self) -> None:
        if not self._clock.is_set:
            async with self._database.transaction(durable=False) as tx:
                self._clock.set(await claims.now_ms(tx))

    @property
    def _free(self) -> int:
        return self._config.max_in_flight - len(self._sends) - len(self._recorder)

    def _is_busy(self, id_: DeliveryId) -> bool:
        """We are about to send it, sending it, or about to write down what came of it."""
        return self._sends.has(id_) or self._recorder.has(id_)

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
