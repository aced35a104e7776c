"""Deliveries that wait for something other than time: released when it is over, given up when it takes too long."""

from __future__ import annotations

from collections.abc import Sequence

from agentauri import metrics
from agentauri.actions import claims, store
from agentauri.actions.clock import DatabaseClock
from agentauri.actions.queue import Queue
from agentauri.actions.types import LoadSubjects
from agentauri.breaker import BreakerService
from agentauri.config import DispatcherConfig
from agentauri.database import Database, Transaction
from agentauri.types import DeliveryId, TriggerId

RELEASED_AT_ONCE = 500
TRIGGERS_AT_ONCE = 200
TIDIED_AT_ONCE = 1000
HOLDS = ("depth", "breaker", "retraction", "paused")

_FIRST = TriggerId("")


class Holds:
    """Looks after holds `breaker` and `paused`. A breaker changes in one transaction and what it held is released in
    the next, so that deliveries are always locked before breakers."""

    def __init__(
        self,
        *,
        database: Database,
        queue: Queue,
        breakers: BreakerService,
        load_subjects: LoadSubjects,
        clock: DatabaseClock,
        config: DispatcherConfig,
    ) -> None:
        self._database = database
        self._queue = queue
        self._breakers = breakers
        self._load_subjects = load_subjects
        self._clock = clock
        self._max_age_hours = config.hold_max_age_hours
        self._after = _FIRST
        self._hinted: set[TriggerId] = set()

    def hint(self, trigger_id: TriggerId) -> None:
        """The trigger's breaker has changed: look at it with the next tick, whatever its turn."""
        self._hinted.add(trigger_id)

    async def tick(self) -> int:
        """Let time change breakers and release what they no longer hold; how many deliveries that were."""
        async with self._database.transaction() as tx:
            self._clock.set(await claims.now_ms(tx))
            changed = await self._breakers.tick(tx)
        self._hinted.update(transition.trigger_id for transition in changed)
        async with self._database.transaction() as tx:
            page = await claims.held_triggers(tx, self._after, TRIGGERS_AT_ONCE)
            self._after = page[-1] if len(page) == TRIGGERS_AT_ONCE else _FIRST
            hinted, self._hinted = self._hinted, set()
            return await self._release(tx, sorted(hinted.union(page)))

    async def _release(self, tx: Transaction, trigger_ids: Sequence[TriggerId]) -> int:
        if not trigger_ids:
            return 0
        triggers = (await self._load_subjects(tx, (), trigger_ids)).triggers
        room = await self._breakers.room(
            tx, {key: trigger.breaker for key, trigger in triggers.items()}, RELEASED_AT_ONCE
        )
        released: list[DeliveryId] = []
        for trigger_id in trigger_ids:
            trigger = triggers.get(trigger_id)
            # Without a trigger that is enabled, nothing is sent: the claim says what becomes of each.
            limit = RELEASED_AT_ONCE if trigger is None or not trigger.enabled else room[trigger_id]
            if limit:
                released += await store.release(tx, trigger_id, limit)
        if released:
            tx.on_commit(lambda: self._queue.push(released))
        return len(released)

    async def tidy(self) -> bool:
        """The slow chores: give up what was held for too long, and resume what is paused no longer. True when there is
        more of it."""
        async with self._database.transaction() as tx:
            expired = await claims.expire(tx, self._max_age_hours, TIDIED_AT_ONCE)
            metrics.DELIVERIES_FINISHED.labels("skipped", "none").inc(expired)
        async with self._database.transaction() as tx:
            resumed = await store.unpause(tx, TIDIED_AT_ONCE)
            if resumed:
                tx.on_commit(lambda: self._queue.push(resumed))
        if TIDIED_AT_ONCE in (expired, len(resumed)):
            return True
        await self._count()
        return False

    async def _count(self) -> None:
        async with self._database.transaction(durable=False) as tx:
            held = await store.by_hold(tx)
            metrics.BREAKERS_OPEN.set(await self._breakers.count_open(tx))
        for hold in HOLDS:
            metrics.DELIVERIES_HELD.labels(hold).set(held.get(hold, 0))
