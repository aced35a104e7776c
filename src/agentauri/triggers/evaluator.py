"""The worker between the log of facts and the deliveries: takes events, lane by lane, and writes what they mean.

A batch is one transaction. One that fails is halved until the event to blame is alone; that one waits, and is parked in
the end, while all others go on in the same pass. An outage is nobody's fault and counts against no event.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Annotated

import asyncpg
import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from agentauri import metrics
from agentauri.actions import DeliveryService
from agentauri.config import EvaluatorConfig
from agentauri.database import Database, DatabaseUnavailable, Transaction
from agentauri.errors import Unavailable
from agentauri.events import Depth, EventQueue, Lane
from agentauri.faults import reach
from agentauri.log import Seldom, get_logger
from agentauri.supervisor import Wake, wait_for, wait_until
from agentauri.triggers import store, timer_store
from agentauri.triggers.batch import Batch, facts_of
from agentauri.triggers.catalog import Catalog
from agentauri.triggers.lanes import Lanes
from agentauri.triggers.store import Row, Taken
from agentauri.triggers.tide import Tide
from agentauri.triggers.timers import Timers, due_chains
from agentauri.triggers.watch import Watch
from agentauri.types import ChainId, utc_now

log = get_logger(__name__)

FULL_POLL_SECONDS = 10.0
"""How often a poll looks below the floor, for rows that were committed late."""
LATE_POLL_SECONDS = 1.0
"""The same after a notification for which nothing was found, at most so often."""
CHORE_SECONDS, GAUGE_SECONDS, STATS_SECONDS = 1.0, 10.0, 60.0
MAX_CONSECUTIVE_FAILURES = 10
RELEASED_AT_ONCE = 1000
FIRST_PAUSE = 0.05

Gate = Callable[[], Awaitable[bool]]
Take = Callable[[Transaction], Awaitable[Taken]]


async def _give_way() -> None:
    await asyncio.sleep(0)


class _Hint(Struct):
    """What counts of a notification."""

    chain_id: Annotated[int, msgspec.Meta(gt=0, le=2**63 - 1)]


_decode_hint = msgspec.json.Decoder(_Hint).decode


class Tally(Struct):
    """What became of the events this process took on, since it started."""

    tasks_spawned: int = 0
    tasks_succeeded: int = 0
    tasks_failed: int = 0
    tasks_panicked: int = 0
    tasks_timeout: int = 0
    active_tasks: int = 0


class Evaluator:
    """`gate` says whether events may be taken just now; `wake` is set by whoever has a hint that there are some.
    Deliveries of events that are older than `deliveries_days` may be forgotten. `finality` has the depth at which a
    block counts as final on a chain that nobody indexes.
    """

    def __init__(
        self,
        database: Database,
        queue: EventQueue,
        deliveries: DeliveryService,
        catalog: Catalog,
        gate: Gate,
        config: EvaluatorConfig,
        deliveries_days: int,
        finality: Mapping[ChainId, int],
    ) -> None:
        self._database = database
        self._queue = queue
        self._deliveries = deliveries
        self._catalog = catalog
        self._gate = gate
        self._config = config
        self._kept = timedelta(days=deliveries_days)
        self._lanes = Lanes()
        self._tide = Tide(deliveries, finality)
        self._watch = Watch(config.watchdog_idle)
        self._seldom = Seldom()
        self._due: dict[str, float] = {}
        self._heard = False
        self._follow_ups: deque[asyncio.Task[None]] = deque()
        self.tally = Tally()
        self.wake = Wake()

    def heard(self, payload: str = "") -> None:
        """Somebody notified of a new event; the payload is a hint where to look first."""
        self._heard = True
        self._watch.notified()
        with suppress(msgspec.MsgspecError):
            self._lanes.hint(ChainId(_decode_hint(payload).chain_id))
        self.wake.set()

    def configured(self, _payload: str = "") -> None:
        """Somebody notified of a changed trigger: take that work out of the next batch."""
        self._catalog.hint()
        self.wake.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Poll whatever happens, notified or not."""
        failures = 0
        try:
            while not stopping.is_set():
                try:
                    busy = await self._advance()
                    await self._upkeep()
                except Unavailable as error:
                    failures += 1
                    await self._sit_out(error, failures, stopping)
                else:
                    failures = 0
                    self._seldom.over("outage")
                    if not busy:
                        await self.wake.wait(stopping, self._config.poll_interval)
        finally:
            await self._followed_up()

    async def step(self) -> bool:
        """Evaluate one batch, and have its deliveries queued; False when there was none to take."""
        busy = await self._advance()
        await self._followed_up()
        return busy

    async def _advance(self) -> bool:
        """Evaluate one batch. Queueing its deliveries goes on meanwhile."""
        if not await self._gate():
            return False
        await self._catalog.prepare()
        hinted = bool(self._lanes) and not self._is_due("poll", self._config.poll_interval)
        if not hinted:
            await self._poll()
        found = await self._serve_next()
        if hinted and not found:
            await self._poll()
            found = await self._serve_next()
        return found or self._catalog.behind

    async def _serve_next(self) -> bool:
        while (lane := self._lanes.next()) is not None:
            if await self._serve(lane):
                return True
        return False

    def _follow(self, work: Coroutine[object, object, None]) -> None:
        self._follow_ups.append(asyncio.create_task(work, name="evaluator-follow-up"))

    async def _followed_up(self, *, but: int = 0) -> None:
        """Wait until no more than so many batches still have deliveries to queue."""
        while len(self._follow_ups) > but:
            await self._follow_ups.popleft()

    async def _poll(self) -> None:
        full = self._is_due("full poll", FULL_POLL_SECONDS)
        async with self._database.transaction() as tx:
            lanes = await self._queue.lanes(tx, 0 if full else self._lanes.floor)
            if not lanes and self._heard and not full and self._is_due("late poll", LATE_POLL_SECONDS):
                lanes, full = await self._queue.lanes(tx, 0), True
        if lanes or full:
            self._heard = False
        self._lanes.found(lanes)

    async def _serve(self, lane: Lane) -> bool:
        """Evaluate the next rows of a lane; False when another evaluator has it, or nothing is left there."""
        await self._followed_up(but=1)
        limit = self._config.max_concurrent_events
        take = partial(store.take, chain_id=lane.chain_id, floor=lane.position, limit=limit)
        rows, goes_on_at = await self._pass(lane.chain_id, take)
        if not rows:
            return False
        self._heard = False
        self._tide.touched(lane.chain_id)
        born = rows[-1].created_at
        if born is not None and (utc_now() - born).total_seconds() < self._config.watchdog_idle:
            self._watch.took(asyncio.get_running_loop().time())  # a backlog was announced long ago, if ever
        if goes_on_at is None:
            self._lanes.served(lane, rows[-1].position + 1, more=len(rows) == limit)
        else:
            self._lanes.served(lane, goes_on_at, more=True)
        return True

    async def _pass(self, chain_id: ChainId, take: Take, *, fresh: bool = True) -> tuple[Sequence[Row], int | None]:
        """One transaction. The rows taken, and the position of the first that is still to be done, if there is one.

        What is evaluated for the first time has no deliveries yet, usually: that is found out by taking it for granted.
        """
        rows: Sequence[Row] = ()
        batch: Batch | None = None
        try:
            async with self._database.transaction(later=self._follow) as tx:
                if await store.lock_lane(tx, chain_id):
                    version, rows = await take(tx)
                if not rows or not await self._catalog.catch_up(tx, version):
                    return (), None
                self._active(len(rows))
                reach("evaluator.taken")
                tx.on_commit(partial(reach, "evaluator.committed"))
                # Neither the wait for a connection nor what follows the commit is these events' doing.
                async with asyncio.timeout(self._config.event_timeout) as deadline:
                    batch = Batch(self._catalog.index, partial(self._extend, deadline), self._kept, self._tide)
                    await batch.evaluate(tx, rows)
                    reach("evaluator.matched")
                    await batch.write(tx, self._deliveries, self._queue, self._config.event_max_attempts, fresh=fresh)
                tx.on_commit(partial(reach, "evaluator.pushed"))
        except Unavailable:
            raise
        except Exception as error:
            if batch is not None and fresh and isinstance(error, asyncpg.UniqueViolationError):
                return await self._pass(chain_id, take, fresh=False)
            if batch is not None:
                await self._isolate(chain_id, rows, error)
                return rows, rows[0].position
            if isinstance(error, asyncpg.QueryCanceledError):
                raise DatabaseUnavailable("The database is too slow to give events out.") from error
            raise
        finally:
            self._active(0)
        self._record(batch)
        return rows, batch.goes_on_at(rows)

    def _extend(self, deadline: asyncio.Timeout) -> None:
        deadline.reschedule(asyncio.get_running_loop().time() + self._config.event_timeout)

    async def _isolate(self, chain_id: ChainId, rows: Sequence[Row], error: Exception) -> None:
        """Repeat a failed batch in halves, so that the one to blame ends up alone and counts its failure."""
        if len(rows) > 1:
            log.warning("batch.halved", chain_id=chain_id, taken=len(rows), error=repr(error)[:500])
            middle = len(rows) // 2
            for half in (rows[:middle], rows[middle:]):
                positions = [row.position for row in half]
                await self._pass(chain_id, partial(store.take_again, positions=positions))
            return
        [row] = rows
        about = {"event_id": row.event_id, "event_seq": row.event_seq, "chain_id": chain_id}
        self.tally.tasks_failed += 1
        if isinstance(error, TimeoutError):
            self.tally.tasks_timeout += 1
            metrics.TASK_TIMEOUT.inc()
            log.error("event.timed_out", code="EVENT_PROCESSING_TIMEOUT", **about)
        elif not isinstance(error, asyncpg.PostgresError):
            self.tally.tasks_panicked += 1
            metrics.TASK_PANICKED.labels("evaluator").inc()
            log.error("event.panicked", code="TASK_PANIC", exc_info=error, **about)
        log.error("event.failed", code="POLLING_FALLBACK_EVENT_FAILED", error=repr(error)[:500], **about)
        async with self._database.transaction() as tx:
            await self._queue.fail(tx, [row.position], repr(error), self._config.event_max_attempts)

    def _record(self, batch: Batch) -> None:
        batch.report(self._config.trigger_count_warning)
        events, elapsed = len(batch.verdicts), batch.elapsed_ms()
        self.tally.tasks_succeeded += events
        self.tally.tasks_panicked += len(batch.raised)
        self._watch.finished(asyncio.get_running_loop().time(), events, events * elapsed)

    def _active(self, events: int) -> None:
        self.tally.tasks_spawned += events
        self.tally.active_tasks = events
        metrics.ACTIVE_TASKS.set(events)

    async def chores(self) -> None:
        """What comes up every second: failed events whose wait is over come again, what has been away from its chain
        long enough is taken as gone for good, what did not come in time is told, what waited for its event to be deep
        enough goes, triggers that cannot run are marked."""
        everywhere = self._is_due("everywhere", FULL_POLL_SECONDS)
        async with self._database.transaction() as tx:
            lowest = await self._queue.release_due(tx)
            chains = await store.unsettled_chains(tx)
            ringing = await due_chains(tx)
            risen = await self._tide.risen(tx, everywhere=everywhere)
        if lowest is not None:
            self._lanes.back(lowest)
            self.wake.set()
        for chain_id in chains:
            await self._settle(chain_id)
        if (ringing or risen) and await self._gate():
            for chain_id in ringing:
                await self._ring(chain_id)
            for chain_id in risen:
                await self._release(chain_id)
        await self._catalog.mark()

    async def _settle(self, chain_id: ChainId) -> None:
        async with self._database.transaction() as tx:
            if not await store.lock_lane(tx, chain_id):
                return
            facts = [facts_of(event) for event in await self._queue.unsettled(tx, chain_id)]
            if not facts:
                return
            # The retraction may still be in the queue behind much else: what it would hold is held here.
            await self._deliveries.hold_retracted(tx, [event.seq for event in facts])
            existing = await self._deliveries.existing(tx, facts)
            triggers = {trigger_id for pairs in existing.values() for trigger_id, _ in pairs}
            settled = await self._deliveries.settle(tx, facts, await store.notifying(tx, triggers))
            await self._queue.mark_settled(tx, settled)

    async def _ring(self, chain_id: ChainId) -> None:
        """Tell a part of what did not happen in time; the rest follows after the next batch of events."""
        async with self._database.transaction(later=self._follow) as tx:
            if not await store.lock_lane(tx, chain_id):
                return
            if not await self._catalog.catch_up(tx, await timer_store.catalog_version(tx)):
                return
            more = await Timers(self._catalog.index, self._deliveries, self._tide, _give_way).ring(tx, chain_id)
        if more:
            self._due["chores"] = 0.0
            self.wake.set()

    async def _release(self, chain_id: ChainId) -> None:
        """Let go a part of what has waited long enough; the rest follows after the next batch of events."""
        async with self._database.transaction() as tx:
            if not await store.lock_lane(tx, chain_id):
                return
            reached = await self._tide.reached(tx, chain_id)
            more = await self._deliveries.release(tx, chain_id, reached, RELEASED_AT_ONCE)
        if more:
            self._due["chores"] = 0.0
            self.wake.set()
        else:
            self._tide.done(chain_id)

    async def gauge(self) -> Depth:
        """Show how much waits."""
        async with self._database.transaction(durable=False) as tx:
            depth = await self._queue.depth(tx)
        metrics.EVENT_QUEUE_DEPTH.set(depth.waiting)
        metrics.EVENT_QUEUE_OLDEST.set(depth.oldest_seconds)
        metrics.EVENTS_PARKED.set(depth.parked)
        return depth

    async def watch(self) -> None:
        """Look at the queue as an operator would, and say what is wrong."""
        depth = await self.gauge()
        async with self._database.transaction(durable=False) as tx:
            quiet = await store.idle_for(tx, self._config.watchdog_idle)
        alarms = self._watch.check(
            asyncio.get_running_loop().time(),
            depth=depth.waiting,
            oldest_seconds=depth.oldest_seconds,
            nothing_processed=quiet,
        )
        for alarm in alarms:
            log.warning(alarm.event, code=alarm.code, message=alarm.message, depth=depth.waiting)

    async def _upkeep(self) -> None:
        if self._is_due("chores", CHORE_SECONDS):
            await self.chores()
        if self._is_due("gauge", GAUGE_SECONDS):
            await self.gauge()
        if self._is_due("watch", self._config.watchdog_interval):
            await self.watch()
        if self._is_due("stats", STATS_SECONDS):
            log.info("evaluator.stats", **asdict(self.tally))

    def _is_due(self, what: str, every: float) -> bool:
        now = asyncio.get_running_loop().time()
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + every
        return True

    async def _sit_out(self, error: Unavailable, failures: int, stopping: asyncio.Event) -> None:
        """Wait for better weather: for a moment at first, then until the database answers."""
        if failures % MAX_CONSECUTIVE_FAILURES == 0:
            self._lanes = Lanes()
            log.error(
                "evaluator.aborted",
                code="POLLING_FALLBACK_BATCH_ABORTED",
                message=f"{failures} consecutive failures, waiting until the database answers",
                cause="database",
                failures=failures,
            )
            await wait_for(self._database.up(), stopping)
        elif self._seldom.due("outage"):
            log.error("evaluator.query_failed", code="POLLING_FALLBACK_QUERY_ERROR", error=error.message)
        await wait_until(stopping, min(FIRST_PAUSE * 2**failures, self._config.poll_interval))
        await wait_for(self._database.up(), stopping, self._config.poll_interval)
