"""What a million triggers cost an event: the same work, one match each, with a thousandth, a tenth and all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from msgspec.structs import replace

import harness
import scene
from agentauri.app import Application
from agentauri.events import NewEvent
from agentauri.pulse import resident_bytes
from evaluate import URL, evaluate_all
from harness import Bench, Reading, Stage, holds, must_count, until, watched, working

STRIDE = 611_953  # prime, so that the events go round all triggers
NO_AGENT = 10**9
BATCH = 2_000


class Measured(NamedTuple):
    """`triggers` in the index: microseconds for an event, and what it took to have them there."""

    triggers: int
    microseconds: float
    load_seconds: float
    load_lag: float
    resident_mib: float

    def __str__(self) -> str:
        return (
            f"{self.triggers:,} triggers: {self.microseconds:.0f} µs an event, loaded in {self.load_seconds:.1f} s "
            f"with a loop lag of p99 {self.load_lag * 1000:.0f} ms, {self.resident_mib:.0f} MiB"
        )


class Scale(Bench):
    name = "scale"
    unit = "µs/event"
    what = "an event's share of the evaluator's time, one match each, among all triggers"
    bare = "the same with a thousandth of the triggers"
    size = 1_000_000
    runs = 1

    async def measure(self, stage: Stage) -> Reading:
        events = max(200, self.count // 20)
        sizes = (max(10, self.count // 1000), max(10, self.count // 10), self.count)
        few, some, all_ = [await _measured(stage, triggers, events) for triggers in sizes]
        return Reading(all_.microseconds, few.microseconds, "; ".join(map(str, (few, some, all_))))


async def _measured(stage: Stage, triggers: int, events: int) -> Measured:
    async with stage.fresh(), stage.application() as application:
        await _add_triggers(application, triggers)
        started = time.perf_counter()
        async with watched() as load, working(application.evaluator.run):
            # One event is enough to have the index loaded, and nothing is taken before it is complete.
            await _add_events(application, triggers, 0, 1)
            await until(lambda: holds(application.database, "SELECT EXISTS (SELECT FROM processed_events)"))
            load_seconds = time.perf_counter() - started
        await _add_events(application, triggers, 1, events)
        seconds, _ = await evaluate_all(stage, application)
        await must_count(
            application.database,
            events,
            "SELECT count(DISTINCT event_seq) FROM deliveries WHERE status = 'pending'",
            "SELECT count(*) FROM deliveries",
            "SELECT count(*) FROM processed_events WHERE triggers_matched = 1 AND actions_enqueued = 1",
        )
        resident = resident_bytes() / 2**20
    return Measured(triggers, seconds / (events - 1) * 1e6, load_seconds, load.lag, resident)


async def _add_triggers(application: Application, count: int) -> None:
    """By hand: of ten triggers seven ask for an agent, two for a tag, one for a client. All ask for a score as well."""
    async with application.database.transaction() as tx:
        # A million changes need not be logged for an index that has read nothing yet.
        await tx.run("SET LOCAL session_replication_role TO replica; SET LOCAL statement_timeout TO 0")
        await tx.run(
            """INSERT INTO triggers (id, organization_id, user_id, name, environment, registry, enabled, is_stateful,
                   condition, fire_at, on_reorg, circuit_breaker_config, on_open, on_release, start_seq, start_blocks)
               SELECT md5(n::text)::uuid::text, 'organization-' || n % 50, 'bench', 'Trigger ' || n, 'live',
                   'reputation', true, false, jsonb_build_array(
                       CASE WHEN n % 10 < 7
                           THEN jsonb_build_object('id', 1, 'condition_type', 'agent_id_equals', 'value', n::text)
                       WHEN n % 10 < 9
                           THEN jsonb_build_object('id', 1, 'condition_type', 'tag_equals', 'field', 'tag1',
                                                   'value', 'tag-' || n)
                       ELSE jsonb_build_object('id', 1, 'condition_type', 'field', 'field', 'client_address',
                                               'operator', 'eq', 'value', '0x' || lpad(to_hex(n), 40, '0')) END,
                       jsonb_build_object('id', 2, 'condition_type', 'score_threshold', 'operator', 'gte',
                                          'value', '50')),
                   '"seen"', 'ignore', '{}', 'hold', 'each', 0, '{}'
               FROM generate_series(0, $1::int - 1) AS n""",
            count,
        )
        await tx.run(
            """INSERT INTO trigger_actions (trigger_id, action_type, config, destination)
               SELECT id, 'webhook', jsonb_build_object('url', $1::text), $1 FROM triggers""",
            URL,
        )
    async with application.database.outside() as connection:
        await connection.execute("VACUUM ANALYZE triggers, trigger_actions")


async def _add_events(application: Application, triggers: int, first: int, last: int) -> None:
    for start in range(first, last, BATCH):
        async with application.database.transaction() as tx:
            await application.events.record(tx, scene.CHAIN, list(_events(start, min(last, start + BATCH), triggers)))


def _events(first: int, last: int, triggers: int) -> Iterator[NewEvent]:
    """Feedback that one trigger asks for: for its agent, its tag, or its client, and for nothing of another one."""
    for event in scene.feedback(first, last, 1):
        wanted = event.block_number * STRIDE % triggers
        kind = wanted % 10
        yield replace(
            event,
            agent_id=wanted if kind < 7 else NO_AGENT,
            tag1=f"tag-{wanted}" if 7 <= kind < 9 else "",
            client_address=f"0x{wanted:040x}" if kind == 9 else event.client_address,
            score=Decimal(80),
        )


if __name__ == "__main__":
    harness.run(Scale)
