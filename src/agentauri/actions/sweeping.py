"""Puts back into Redis what it should hold: PostgreSQL knows everything that is due."""

from __future__ import annotations

from agentauri import metrics
from agentauri.actions import claims
from agentauri.actions.clock import DatabaseClock
from agentauri.actions.queue import Queue
from agentauri.config import DispatcherConfig
from agentauri.database import Database
from agentauri.log import get_logger

log = get_logger(__name__)

PAGE = 1000
PAGES = 20


class Sweeper:
    """One pass over the due rows, a bounded part at a time. Ready is filled to one below the depth at which
    back-pressure begins, so that a sweep alone can neither close the gate nor hold it shut."""

    def __init__(self, database: Database, queue: Queue, clock: DatabaseClock, config: DispatcherConfig) -> None:
        self._database = database
        self._queue = queue
        self._clock = clock
        self._horizon = config.horizon
        self._mark = config.max_queue_depth - 1
        self._cursor = claims.BEGINNING
        self._suspect = False
        self._left = False

    @property
    def suspicious(self) -> bool:
        """The keys did not add up; a second look decides, and should come soon."""
        return self._suspect

    def hungry(self, depth: int) -> bool:
        """Rows were left over, and ready has fallen below half the mark meanwhile."""
        return self._left and depth < self._mark // 2

    async def sweep(self) -> int:
        """Push what is missing; how many ids were."""
        thorough = await self._inspect()
        restored = 0
        page = 0
        while page < PAGES or thorough:
            page += 1
            async with self._database.transaction(durable=False) as tx:
                if not await tx.fetchval("SELECT pg_try_advisory_xact_lock(hashtextextended('agentauri.sweep', 0))"):
                    break
                rows = await claims.page_to_restore(tx, self._cursor, self._horizon, PAGE)
            self._left = bool(rows)
            if not rows:
                self._cursor = claims.BEGINNING
                break
            answer = await self._queue.restore(
                [(str(row["id"]), row["due"]) for row in rows], now=self._clock.now(), mark=self._mark
            )
            restored += answer.pushed
            if answer.read:
                last = rows[answer.read - 1]
                self._cursor = claims.Cursor(last["due_at"], last["id"])
            if answer.read < len(rows):  # ready is full
                break
            if len(rows) < PAGE:
                self._cursor, self._left = claims.BEGINNING, False
                break
        metrics.QUEUE_RESTORED.inc(restored)
        return restored

    async def _inspect(self) -> bool:
        """Whether Redis has lost so much that all of it is to be gone through. Keys that do not add up twice running
        were touched by hand: what is known is then counted anew."""
        census = await self._queue.census()
        metrics.ACTION_QUEUE_DEPTH.set(census.ready)
        if not census.consistent:
            if self._suspect:
                known = await self._queue.rebuild()
                log.warning("queue.rebuilt", known=known, was=census.known)
            self._suspect = not self._suspect
        else:
            self._suspect = False
        thorough = not census.consistent or census.known == 0
        if thorough:
            self._cursor = claims.BEGINNING
        return thorough
