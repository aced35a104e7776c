"""Transaction D: what came of sends, written down many at once, each only while its claim stands."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from functools import cache

import asyncpg
import msgspec
from msgspec import Struct, field

from agentauri import metrics
from agentauri.actions import claims, retry
from agentauri.actions.channels import Sent
from agentauri.actions.claiming import Send
from agentauri.actions.claims import Result
from agentauri.actions.errors import DeliveryFailed, RedisUnavailable, Retryable
from agentauri.actions.queue import Due, Queue
from agentauri.actions.types import Status, Verdict
from agentauri.breaker import BreakerBusy, BreakerService
from agentauri.breaker import Outcome as BreakerOutcome
from agentauri.config import DispatcherConfig
from agentauri.database import Database, Transaction
from agentauri.errors import Unavailable
from agentauri.faults import reach
from agentauri.log import get_logger, info_each
from agentauri.supervisor import wait_until
from agentauri.types import DeliveryId

log = get_logger(__name__)

BATCH = 200
GATHER_SECONDS = 0.005
BUSY_SECONDS, FAILED_SECONDS = 0.1, 1.0
"""When to try again to record an outcome whose rows are locked by others, or that broke its transaction."""

TOLD_AT_ONCE = 50
"""Failures that are logged in one turn of the loop."""

ERROR_LENGTH = 500
RATE_LIMITED = 429


class Outcome(Struct, frozen=True):
    """How a send ended. `started` and `ended` are of the monotonic clock, `expires` is when its claim does."""

    send: Send
    result: Sent | DeliveryFailed
    started: float
    ended: float

    @property
    def expires(self) -> float:
        return self.started + self.send.claim_seconds


class _Settled(Struct):
    """What a transaction came to, for the queue and the log."""

    results: list[tuple[Outcome, Result]] = field(default_factory=list)
    busy: list[Outcome] = field(default_factory=list)
    due: dict[DeliveryId, object] = field(default_factory=dict)
    forget: list[str] = field(default_factory=list)
    later: list[Due] = field(default_factory=list)


class Recorder:
    """Gathers outcomes and writes them in groups. An outcome that cannot be written waits until its claim ends. There
    are never more than the dispatcher has slots, since it counts them."""

    def __init__(
        self,
        *,
        database: Database,
        queue: Queue,
        breakers: BreakerService,
        config: DispatcherConfig,
        instance: str,
        on_written: Callable[[], None],
    ) -> None:
        self._on_written = on_written
        self._database = database
        self._queue = queue
        self._breakers = breakers
        self._config = config
        self._instance = instance
        self._waiting: deque[Outcome] = deque()
        self._arrived = asyncio.Event()
        self._writing: dict[DeliveryId, Outcome] = {}
        self._later: dict[tuple[DeliveryId, int], Outcome] = {}
        self._telling: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._writing) + len(self._later)

    @property
    def ready(self) -> bool:
        """There are outcomes that could be written now."""
        return bool(self._waiting)

    def has(self, id_: DeliveryId) -> bool:
        """An outcome of this delivery is not written yet."""
        waiting = (outcome.send.id for outcome in (*self._waiting, *self._later.values()))
        return id_ in self._writing or id_ in waiting

    def add(self, outcome: Outcome) -> None:
        self._waiting.append(outcome)
        self._arrived.set()

    async def run(self, closing: asyncio.Event) -> None:
        """Write outcomes as they come, until `closing` is set and none is left."""
        try:
            while len(self) or not closing.is_set():
                await wait_until(closing, 1.0, self._arrived)
                if not self.ready:
                    await asyncio.sleep(BUSY_SECONDS if closing.is_set() and len(self) else 0)
                elif len(self._waiting) < BATCH:
                    await asyncio.sleep(GATHER_SECONDS)
                await self._write()
            await self._told()
        finally:
            if self._telling is not None:
                self._telling.cancel()

    async def flush(self) -> None:
        """Write one group and tell of it."""
        await self._write()
        await self._told()

    async def _write(self) -> None:
        """Write one group. In an outage its outcomes go back to wait, and so do we."""
        group = self._take()
        if not group:
            return
        self._writing = {outcome.send.id: outcome for outcome in group}
        try:
            await self._record_or_split(group)
        except Unavailable:
            self._waiting.extendleft(reversed([outcome for outcome in group if self._may_wait(outcome)]))
            self._arrived.set()
            await self._database.up()
        finally:
            self._writing = {}
            self._on_written()

    def _take(self) -> list[Outcome]:
        """Up to a group of outcomes in the order in which they ended, no delivery twice."""
        self._arrived.clear()
        group: dict[DeliveryId, Outcome] = {}
        while self._waiting and len(group) < BATCH and self._waiting[0].send.id not in group:
            outcome = self._waiting.popleft()
            group[outcome.send.id] = outcome
        if self._waiting:
            self._arrived.set()
        return list(group.values())

    async def _record_or_split(self, group: Sequence[Outcome]) -> None:
        """One outcome that cannot be written must not keep others from being written."""
        try:
            settled = _Settled()
            async with self._database.transaction() as tx:
                await self._record(tx, group, settled)
        except Unavailable:
            raise
        except BreakerBusy as busy:
            await self._record_without(group, busy)
            return
        except Exception:
            if len(group) == 1:
                log.exception("delivery.not_recorded", delivery_id=str(group[0].send.id))
                self._add_later(group[0], FAILED_SECONDS)
                return
            middle = len(group) // 2
            await self._record_or_split(group[:middle])
            await self._record_or_split(group[middle:])
            return
        reach("dispatcher.recorded")
        for outcome in settled.busy:
            self._add_later(outcome, BUSY_SECONDS)
        for outcome, _ in settled.results:
            del self._writing[outcome.send.id]
        self._on_written()
        await self._told()
        self._telling = asyncio.create_task(self._tell(settled))  # while the next group is written

    async def _told(self) -> None:
        """Wait until the last group that was written is told of."""
        telling, self._telling = self._telling, None
        if telling is not None:
            await telling

    async def _record_without(self, group: Sequence[Outcome], busy: BreakerBusy) -> None:
        others = []
        for outcome in group:
            if outcome.send.message.trigger.id in busy.trigger_ids:
                self._add_later(outcome, BUSY_SECONDS)
            else:
                others.append(outcome)
        if others:
            await self._record_or_split(others)

    def _add_later(self, outcome: Outcome, seconds: float) -> None:
        if not self._may_wait(outcome):
            return
        key = outcome.send.id, outcome.send.message.attempt

        def add() -> None:
            del self._later[key]
            self.add(outcome)

        self._later[key] = outcome
        asyncio.get_running_loop().call_later(seconds, add)

    async def _record(self, tx: Transaction, group: Sequence[Outcome], settled: _Settled) -> None:
        rows = await claims.lock_claimed(tx, [outcome.send.id for outcome in group])
        told = []
        for outcome in group:
            row = rows.get(outcome.send.id)
            if row is None:
                settled.busy.append(outcome)
                continue
            stands = _claim_stands(row, outcome, self._instance)
            settled.results.append((outcome, self._result(row, outcome, stands)))
            if stands:
                told.append(_for_breaker(outcome))
        if not settled.results:
            return
        due = await claims.record(tx, [result for _, result in settled.results], self._instance)
        await self._breakers.record(tx, told)
        for _, result in settled.results:
            if result.id in due:
                milliseconds, settled.due[result.id] = due[result.id]
                if result.wait is not None and result.wait <= self._config.horizon:
                    settled.later.append((str(result.id), milliseconds))
                    continue
            settled.forget.append(str(result.id))

    def _result(self, row: asyncpg.Record, outcome: Outcome, stands: bool) -> Result:
        result = outcome.result
        verdict: Verdict = "delivered"
        status: Status | None = "delivered"
        reason, wait = None, None
        if isinstance(result, DeliveryFailed):
            verdict, status, reason, wait = self._failure(row, result)
        if not stands and (verdict != "delivered" or row["status"] != "pending"):
            status, reason, wait = None, None, None
        failed = result if isinstance(result, DeliveryFailed) else None
        receipt = result.receipt if isinstance(result, Sent) else None
        return Result(
            id=outcome.send.id,
            number=outcome.send.message.attempt,
            status=status,
            reason=reason,
            wait=wait,
            receipt=None if receipt is None else msgspec.json.encode(receipt).decode(),
            outcome=verdict,
            age=time.monotonic() - outcome.started,
            took=outcome.ended - outcome.started,
            status_code=result.status,
            error_kind=failed.kind if failed else None,
            error=failed.message[:ERROR_LENGTH] if failed else None,
            excerpt=result.excerpt,
            peer=result.peer,
        )

    def _failure(self, row: asyncpg.Record, failed: DeliveryFailed) -> tuple[Verdict, Status, str | None, float | None]:
        if not isinstance(failed, Retryable):
            return "permanent", "dead", failed.reason, None
        wait = retry.wait(
            self._config.retry_schedule,
            row["attempts"] - row["schedule_from"],
            random.random(),  # noqa: S311 (spreads retries, guards nothing)
            failed.after,
        )
        if wait is None:
            return "retryable", "dead", "attempts_exhausted", None
        return "retryable", "pending", None, wait

    async def _tell(self, settled: _Settled) -> None:
        """Redis, then the log and the metrics. If Redis does not hear of it, the lease lapses and the row is read."""
        if not self._queue.away:
            try:
                await self._queue.ack(settled.forget)
                await self._queue.retry(settled.later, now=0)
            except RedisUnavailable:
                pass
        reach("dispatcher.acked")
        _count(settled.results)
        delivered = [_line(*one) for one in settled.results if one[1].outcome == "delivered"]
        info_each(log, "delivery.attempted", delivered)
        failed = [one for one in settled.results if one[1].outcome != "delivered"]
        for number, (outcome, result) in enumerate(failed, 1):
            _report_failure(outcome, result, settled.due.get(result.id))
            if number % TOLD_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _may_wait(self, outcome: Outcome) -> bool:
        """Whether one that could not be written is worth another try. One that comes late, as after a standstill of the
        process, is written like any other: it counts for as much as its claim still does."""
        if outcome.expires >= time.monotonic():
            return True
        log.error(
            "delivery.outcome_dropped",
            message="The outcome could not be recorded before its claim ended; the delivery repeats under its id",
            delivery_id=str(outcome.send.id),
            trigger_id=outcome.send.message.trigger.id,
        )
        return False


def _claim_stands(row: asyncpg.Record, outcome: Outcome, instance: str) -> bool:
    return bool(
        row["lease_owner"] == instance
        and row["attempts"] == outcome.send.message.attempt
        and row["status"] == "pending"
    )


def _for_breaker(outcome: Outcome) -> BreakerOutcome:
    trigger = outcome.send.message.trigger
    result = outcome.result
    ok: bool | None = isinstance(result, Sent)
    if isinstance(result, Retryable) and result.status == RATE_LIMITED:
        ok = None  # alive and well, only busy
    error = result.message if isinstance(result, DeliveryFailed) else None
    return BreakerOutcome(trigger_id=trigger.id, ok=ok, error=error, config=trigger.breaker)


# Looking a metric's child up by its labels costs more than counting.
_seconds = cache(metrics.DELIVERY_ATTEMPT.labels)


def _count(results: Sequence[tuple[Outcome, Result]]) -> None:
    took: defaultdict[str, list[float]] = defaultdict(list)
    for outcome, result in results:
        took[outcome.send.action_type].append(result.took)
    for channel, seconds in took.items():
        metrics.observe_each(_seconds(channel), seconds)
    for (channel, verdict), number in Counter((o.send.action_type, r.outcome) for o, r in results).items():
        metrics.DELIVERY_ATTEMPTS.labels(channel, verdict).inc(number)
    for (status, channel), number in Counter((r.status, o.send.action_type) for o, r in results).items():
        if status in ("delivered", "dead"):
            metrics.DELIVERIES_FINISHED.labels(status, channel).inc(number)


def _line(outcome: Outcome, result: Result) -> dict[str, object]:
    send = outcome.send
    return {
        "trigger_id": send.message.trigger.id,
        "delivery_id": str(send.id),
        "event_id": send.message.event_id,
        "organization_id": send.message.organization_id,
        "channel": send.action_type,
        "status": result.status_code,
        "attempt": result.number,
        "outcome": result.outcome,
        "took_ms": round(result.took * 1000, 1),
    }


def _report_failure(outcome: Outcome, result: Result, due_at: object) -> None:
    log.error(
        "delivery.attempted",
        **_line(outcome, result),
        error_kind=result.error_kind,
        error=result.error,
        retry_at=due_at,
        reason=result.reason,
    )
