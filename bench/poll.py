"""One empty poll of the evaluator: what a process with nothing to do asks PostgreSQL every second, at its p99.

The ledger holds 10,000,000 processed events. Half of the polls are made while a snapshot of before the last 600,000 of
them is held open, which keeps their dead rows in the queue's indexes. Ledger and dead rows are made by
`generate_series`, without events: an empty poll looks at the queue alone, and the ledger is there to show that. After
the dead rows come real events, evaluated while the snapshot is open, as in a process that works on.
"""

from __future__ import annotations

import time

import asyncpg

import harness
import scene
from agentauri.app import Application
from agentauri.database import Database
from harness import Bench, Reading, Stage, holds, must_count, percentile, until

URL = "http://127.0.0.1:9/hook"  # nobody sends here
DEAD_SHARE = 600_000 / 10_000_000
POLLS = 1_000
EVENTS = 100
AT_ONCE = 100_000


class Poll(Bench):
    name = "poll"
    unit = "ms p99"
    what = "one empty poll of the evaluator, among many processed events and with an old snapshot held open"
    bare = "SELECT 1 in a bare transaction, as often"
    size = 10_000_000
    runs = 3

    def __init__(self, scale: float) -> None:
        super().__init__(scale)
        self._dead = max(1, round(self.count * DEAD_SHARE))

    async def prepare(self, stage: Stage) -> None:
        async with stage.application(harness.TEMPLATE) as application:
            await scene.add_triggers(application, URL, scene.agents(EVENTS))
            for first in range(0, self.count, AT_ONCE):
                async with application.database.transaction() as tx:
                    await tx.run(
                        """INSERT INTO processed_events
                               (event_seq, event_id, processing_duration_ms, processor_instance)
                           SELECT -n, 'reputation-84532-' || n, 1, 'bench'
                           FROM generate_series($1::int, $2::int) AS n""",
                        first + 1,
                        min(self.count, first + AT_ONCE),
                    )

    async def measure(self, stage: Stage) -> Reading:
        async with stage.fresh() as url, stage.application() as application:
            quiet = await _polls(application)
            connection = await asyncpg.connect(url)
            try:
                # The snapshot is taken by the first statement.
                await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                await connection.fetchval("SELECT count(*) FROM event_queue")
                await self._leave_dead_rows(application.database)
                await scene.add_events(application, EVENTS)
                await until(lambda: _evaluated(application), every=0.0)
                held = await _polls(application)
                unfloored = await _look_everywhere(application)
            finally:
                await connection.close()
            await must_count(application.database, self.count + EVENTS, "SELECT count(*) FROM processed_events")
            await must_count(application.database, 0, "SELECT count(*) FROM event_queue")
            bare = await _bare(url)
        worst = max(percentile(quiet, 99), percentile(held, 99))
        note = (
            f"p99 {percentile(quiet, 99):.2f} without, {percentile(held, 99):.2f} with the snapshot (p50 "
            f"{percentile(quiet, 50):.2f}, {percentile(held, 50):.2f}); without its floor, every 10 s, {unfloored:.0f}"
        )
        return Reading(worst, percentile(bare, 99), note)

    async def _leave_dead_rows(self, database: Database) -> None:
        async with database.transaction() as tx:
            await tx.run(
                """INSERT INTO event_queue (event_seq, chain_id, kind)
                   SELECT -n, $1, 'assert' FROM generate_series(1, $2::int) AS n""",
                scene.CHAIN,
                self._dead,
            )
            await tx.run("DELETE FROM event_queue WHERE event_seq < 0")


async def _evaluated(application: Application) -> bool:
    """One step more; whether that was all."""
    await application.evaluator.step()
    return await holds(application.database, "SELECT NOT EXISTS (SELECT FROM event_queue)")


async def _polls(application: Application) -> list[float]:
    """Milliseconds that each of many empty polls took."""
    took = []
    for _ in range(POLLS):
        started = time.perf_counter()
        if await application.evaluator.step():
            raise harness.WrongTotals("a poll that was to be empty found something")
        took.append((time.perf_counter() - started) * 1000)
    return took


async def _look_everywhere(application: Application) -> float:
    async with application.database.transaction() as tx:
        started = time.perf_counter()
        await application.event_queue.lanes(tx)
        return (time.perf_counter() - started) * 1000


async def _bare(url: str) -> list[float]:
    connection = await asyncpg.connect(url)
    took = []
    for _ in range(POLLS):
        started = time.perf_counter()
        async with connection.transaction():
            await connection.fetchval("SELECT 1")
        took.append((time.perf_counter() - started) * 1000)
    await connection.close()
    return took


if __name__ == "__main__":
    harness.run(Poll)
