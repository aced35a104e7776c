"""Events evaluated a second: 100,000 pieces of feedback, 1,000 triggers, one match and one delivery each.

With --sequences every tenth trigger has a sequence as well, which each of its events ends and begins anew.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

import redis.asyncio

import harness
import scene
from agentauri.app import Application
from agentauri.database import Database
from harness import Bench, Reading, Stage, holds, must_count, until, watched, working

URL = "http://127.0.0.1:9/hook"  # nobody sends here
PASS = 100
HIGH = 10_000


class Evaluate(Bench):
    name = "evaluate"
    unit = "events/s"
    what = "from queued events to committed deliveries and ledger, through the evaluator"
    bare = f"queue rows taken, two rows written for each and the queue rows deleted by bare unnest, {PASS} a commit"
    size = 100_000
    sequences = False

    async def prepare(self, stage: Stage) -> None:
        async with stage.application(harness.TEMPLATE) as application:
            await scene.add_triggers(application, URL, scene.agents(self.count), sequences=self.sequences)
            await scene.add_events(application, self.count)

    async def measure(self, stage: Stage) -> Reading:
        async with stage.fresh(), stage.application() as application:
            seconds, note = await evaluate_all(stage, application)
            await must_count(
                application.database,
                self.count,
                "SELECT count(*) FROM deliveries WHERE status = 'pending' AND attempts = 0",
                "SELECT count(DISTINCT event_seq) FROM deliveries",
                "SELECT count(*) FROM processed_events WHERE triggers_matched = 1 AND actions_enqueued = 1",
            )
        async with stage.fresh(), stage.application() as application, watched() as bare:
            await pass_through(application.database)
        return Reading(self.count / seconds, self.count / bare.seconds, note)


class Sequences(Evaluate):
    name = "evaluate-sequences"
    what = "the same, with a sequence on every tenth trigger"
    sequences = True


async def evaluate_all(stage: Stage, application: Application) -> tuple[float, str]:
    """Run the evaluator until the queue is empty; how long it took, and what else is to be said of it."""
    drain = asyncio.create_task(_drain(stage.redis_url))
    try:
        async with working(application.evaluator.run), watched() as watch:
            await until(lambda: holds(application.database, "SELECT NOT EXISTS (SELECT FROM event_queue)"))
    finally:
        drain.cancel()
        with suppress(asyncio.CancelledError):
            await drain
    return watch.seconds, str(watch)


async def _drain(url: str) -> None:
    """Stand in for the dispatcher: nobody sends here, and a full queue would rightly stop the evaluator."""
    client = redis.asyncio.from_url(url)
    try:
        while True:
            if await client.llen("action_jobs") > HIGH:
                await client.flushdb()
            await asyncio.sleep(0.2)
    finally:
        await client.aclose()


async def pass_through(database: Database) -> None:
    done = False
    while not done:
        async with database.transaction() as tx:
            rows = await tx.fetch(
                """SELECT position, event_seq, chain_id FROM event_queue WHERE due_at IS NULL
                   ORDER BY position LIMIT $1 FOR UPDATE SKIP LOCKED""",
                PASS,
            )
            seqs = [row["event_seq"] for row in rows]
            # A version 7 id is in the order of time, as ours are.
            await tx.run(
                """INSERT INTO deliveries (id, organization_id, trigger_id, environment, trigger_version, action_id,
                       action_type, destination, event_seq, chain_id, kind, due_at, created_at)
                   SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint), 12, '0') || '7000b000'
                           || lpad(to_hex(seq), 12, '0'))::uuid,
                       'organization', 'trigger', 'live', 1, 1, 'webhook', 'sink', seq, $2, 'match', now(), now()
                   FROM unnest($1::bigint[]) AS seq""",
                seqs,
                scene.CHAIN,
            )
            await tx.run(
                """INSERT INTO processed_events (event_seq, event_id, processing_duration_ms, processor_instance)
                   SELECT seq, seq::text, 0, 'bench' FROM unnest($1::bigint[]) AS seq""",
                seqs,
            )
            await tx.run(
                "DELETE FROM event_queue WHERE position = ANY($1::bigint[])", [row["position"] for row in rows]
            )
            done = len(rows) < PASS


if __name__ == "__main__":
    arguments = sys.argv[1:]
    chosen = Sequences if "--sequences" in arguments else Evaluate
    harness.run(chosen, [one for one in arguments if one != "--sequences"])
