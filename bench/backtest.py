"""Stored events that a backtest judges a second: by a rule that looks at each alone, and by one that remembers."""

from __future__ import annotations

import time
from typing import ClassVar

import asyncpg

import harness
import scene
from agentauri.actions import ActionDraft
from agentauri.app import Application
from agentauri.triggers import Backtested, Condition, Range, TriggerDraft, Wanted
from agentauri.types import OrganizationId
from harness import Bench, Reading, Stage, WrongTotals, watched
from stateful import add_events

ORGANIZATION = OrganizationId("organization-00")
SAMPLE = 20
BARE = "the same columns of the same rows in the same order through a bare asyncpg cursor, and counted"


class Backtest(Bench):
    unit = "events/s"
    bare = BARE
    size = 100_000
    conditions: ClassVar[list[Condition]]

    async def prepare(self, stage: Stage) -> None:
        async with stage.application(harness.TEMPLATE) as application:
            await add_events(application, self.count)
            async with application.database.transaction() as tx:
                await tx.run("TRUNCATE event_queue")

    async def measure(self, stage: Stage) -> Reading:
        async with stage.fresh() as url, stage.application() as application:
            async with watched() as watch:
                done = await self._run(application)
            if (done.events_scanned, done.matches, done.complete) != (self.count, self.matching(), True):
                raise WrongTotals(f"{done.matches:,} of {done.events_scanned:,} instead of {self.matching():,}")
            bare = await _bare(url)
        return Reading(self.count / watch.seconds, self.count / bare, f"{done.matches:,} matches; {watch}")

    async def _run(self, application: Application) -> Backtested:
        """As the route does it: everything in one transaction that may only read."""
        action = ActionDraft(action_type="webhook", config={"url": "http://127.0.0.1:9/hook"})
        draft = TriggerDraft(name="What if", registry="reputation", conditions=list(self.conditions), actions=[action])
        prepared = await application.triggers.prepare(draft, ORGANIZATION, anonymous=True)
        wanted = Wanted(
            rule=application.explainer.drafted(ORGANIZATION, prepared),
            saved=None,
            range=Range(chain_id=scene.CHAIN, from_block=0, to_block=self.count),
            max_events=self.count,
            sample=SAMPLE,
        )
        async with application.database.transaction() as tx:
            await tx.run("SET TRANSACTION READ ONLY")
            return await application.backtester.run(tx, ORGANIZATION, wanted)

    def matching(self) -> int:
        """Of how many events the rule tells."""
        return self.count


class Stateless(Backtest):
    name = "backtest"
    what = "stored feedback through a rule of a score and a tag, in the order of time, with samples rendered"
    conditions: ClassVar[list[Condition]] = [
        {"condition_type": "score_threshold", "operator": "lt", "value": "60"},
        {"condition_type": "tag_equals", "field": "tag1", "value": "starred"},
    ]

    def matching(self) -> int:
        return sum(number % 5_000 < 1_000 for number in range(self.count))


class Remembering(Backtest):
    name = "backtest_stateful"
    what = "the same through an EMA and a rate limit of each agent, both true of every event"
    conditions: ClassVar[list[Condition]] = [
        {"condition_type": "ema_threshold", "operator": "gt", "value": "1", "config": {"window_size": 10}},
        {
            "condition_type": "rate_limit", "operator": "gte", "value": "1",
            "config": {"time_window": "1h", "scope": "agent"},
        },
    ]  # fmt: skip


async def _bare(url: str) -> float:
    connection = await asyncpg.connect(url)
    started = time.perf_counter()
    count = 0
    async with connection.transaction():
        async for _ in connection.cursor(
            """SELECT seq, chain_id, block_number, log_index, registry, event_type, "timestamp", origin,
                      agent_id::text, score, tag1
               FROM events WHERE retracted_at IS NULL AND chain_id = $1 ORDER BY "timestamp", seq""",
            scene.CHAIN,
            prefetch=1_000,
        ):
            count += 1
    seconds = time.perf_counter() - started
    await connection.close()
    return seconds


if __name__ == "__main__":
    for bench in (Stateless, Remembering):
        harness.run(bench)
