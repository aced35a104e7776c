"""Back-pressure: while too many deliveries wait, no more events are taken. Nothing is refused, nothing lost."""

from __future__ import annotations

import time

from agentauri import metrics
from agentauri.actions.errors import RedisUnavailable
from agentauri.actions.queue import Queue
from agentauri.database import Database
from agentauri.log import Seldom, get_logger

log = get_logger(__name__)

READ_EVERY = 0.2


class BackPressure:
    """Reads the depth of the queue at most five times a second and says whether events may be taken."""

    def __init__(self, queue: Queue, database: Database, *, max_depth: int, critical_depth: int) -> None:
        self._queue = queue
        self._database = database
        self._max = max_depth
        self._critical = critical_depth
        self._seldom = Seldom()
        self._read_at = 0.0
        self._open = True

    async def is_open(self) -> bool:
        now = time.monotonic()
        if now - self._read_at >= READ_EVERY:
            self._read_at = now
            self.judge(await self._depth())
        return self._open

    def judge(self, depth: int) -> bool:
        """Close at the critical depth, open again only below the first mark; say so."""
        metrics.ACTION_QUEUE_DEPTH.set(depth)
        if depth < self._max:
            self._open = True
            if self._seldom.over("high"):
                self._seldom.over("critical")
                log.info("queue.normal", code="QUEUE_NORMAL_DEPTH", message="normal operation resumes", depth=depth)
            return True
        if self._seldom.due("high"):
            log.warning(
                "queue.high",
                code="QUEUE_HIGH_DEPTH",
                message=f"Queue depth > {self._max:,} ({depth}). Action workers falling behind",
                depth=depth,
            )
        if depth >= self._critical:
            self._open = False
        if not self._open and self._seldom.due("critical"):
            log.critical(
                "queue.critical",
                code="QUEUE_CRITICAL_DEPTH",
                message="CRITICAL_QUEUE_DEPTH reached: no more events are taken",
                depth=depth,
            )
        return self._open

    async def _depth(self) -> int:
        if not self._queue.away:
            try:
                return await self._queue.depth()
            except RedisUnavailable:
                pass
        async with self._database.transaction(durable=False) as tx:
            # Bounded: beyond the critical depth no number changes the answer.
            depth: int = await tx.fetchval(
                "SELECT count(*) FROM (SELECT FROM deliveries WHERE status = 'pending' AND hold IS NULL"
                " AND due_at <= now() LIMIT $1) AS due",
                self._critical,
            )
            return depth
