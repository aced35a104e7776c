"""The work itself: events that wait, triggers that cannot run, and who is there to do it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from uuid import uuid4

import asyncpg
import msgspec

from agentauri.database import Transaction
from agentauri.doctor.check import Check, Finding, Patient, fail, literal, of_database, ok, plural, psql, warn
from agentauri.errors import Unavailable
from agentauri.migrations import trigger_names

OLDEST_SECONDS = 60
SLOW_MS = 1000
BEAT_SECONDS = 30
RESTARTS_PER_HOUR = 5
PROBE_SECONDS = 1.0
SERVICES = {"evaluator": "event-processor", "indexer": "event-processor", "dispatcher": "action-workers",
            "http": "api-gateway"}  # fmt: skip
CHANNEL = "new_event"
ON_THE_WAY = ("events", "event_queue", "processed_events", "deliveries")
"""Tables that the evaluation of an event writes."""


async def _listener(patient: Patient) -> Sequence[Finding]:
    """Whether a notification comes back, and whether an evaluator says that it listens."""
    try:
        took = await _probe(patient)
    except TimeoutError:
        return [fail(f"a notification did not come back within {PROBE_SECONDS:.0f} s",
                     patient.restart("event-processor"))]  # fmt: skip
    async with patient.database.transaction(durable=False) as tx:
        rows = await tx.fetch(
            """SELECT instance, coalesce(status ->> 'listener', 'off') AS state FROM process_heartbeats
               WHERE role = 'evaluator' AND seen_at > now() - make_interval(secs => $1)""",
            BEAT_SECONDS,
        )
    deaf = [row["instance"] for row in rows if row["state"] != "ok"]
    if not rows:
        return [fail("no evaluator is there to listen", patient.restart("event-processor"))]
    if deaf:
        return [fail(f"{deaf[0]} does not listen on channel '{CHANNEL}'", patient.restart("event-processor"))]
    return [ok(f"{plural(len(rows), 'evaluator')} listening; a notification came back in {took * 1000:.0f} ms")]


async def _probe(patient: Patient) -> float:
    """Seconds from NOTIFY to its arrival, on the channel of the product: what cannot be read there only wakes."""
    heard = asyncio.Event()
    mark = f"doctor {time.monotonic_ns()}"
    async with patient.database.outside() as connection:
        await connection.add_listener(CHANNEL, lambda *said: heard.set() if said[-1] == mark else None)
        started = time.perf_counter()
        await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, mark)
        async with asyncio.timeout(PROBE_SECONDS):
            await heard.wait()
        return time.perf_counter() - started


async def _backlog(patient: Patient) -> Sequence[Finding]:
    async with patient.database.transaction(durable=False) as tx:
        depth = await patient.event_queue.depth(tx)
    text = f"{plural(depth.waiting, 'event')} waiting, the oldest for {depth.oldest_seconds:.0f} s"
    return [ok(text) if depth.oldest_seconds < OLDEST_SECONDS else fail(text, patient.restart("event-processor"))]


async def _parked(tx: Transaction) -> Finding:
    row = await tx.fetchrow(
        """SELECT left(last_error, 200) AS error, count(*) OVER () AS count FROM event_queue
           WHERE parked_at IS NOT NULL ORDER BY parked_at DESC LIMIT 1"""
    )
    if row is None:
        return ok("no event is set aside")
    return fail(
        f"{plural(row['count'], 'event')} set aside after too many failures, the last one for: {row['error']}",
        "agentauri events retry --parked",
    )


async def _processing_time(tx: Transaction) -> Finding:
    row = await tx.fetchrow(
        """SELECT count(*) AS events, avg(processing_duration_ms)::float AS average, max(processing_duration_ms) AS most
           FROM processed_events WHERE processed_at > now() - interval '1 hour'"""
    )
    assert row is not None
    if row["events"] == 0:
        return ok("no event in the last hour")
    text = (
        f"{row['average']:.0f} ms on average over {plural(row['events'], 'event')} in the last hour, "
        f"{row['most']} at most"
    )
    return ok(text) if row["average"] < SLOW_MS else warn(text, await _towards_speed(tx))


async def _towards_speed(tx: Transaction) -> str:
    """What is in the way, if that is known; else the statements that take longest; else figures for the planner."""
    if (foreign := await _foreign_trigger(tx, ON_THE_WAY)) is not None:
        return foreign
    if await tx.fetchval("SELECT to_regclass('pg_stat_statements') IS NOT NULL"):
        return psql("SELECT query, calls, mean_exec_time FROM pg_stat_statements ORDER BY mean_exec_time DESC LIMIT 10")
    return psql("ANALYZE")


async def _foreign_trigger(tx: Transaction, tables: Sequence[str]) -> str | None:
    """The statement that switches off the first trigger of somebody else's on one of these tables."""
    row = await tx.fetchrow(
        """SELECT tgname, c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
           WHERE NOT tgisinternal AND tgparentid = 0 AND tgenabled <> 'D' AND c.relname = ANY($1)
           AND c.relnamespace = current_schema()::regnamespace AND NOT tgname = ANY($2) ORDER BY 2, 1 LIMIT 1""",
        list(tables),
        sorted(trigger_names()),
    )
    return None if row is None else psql(f'ALTER TABLE {row["relname"]} DISABLE TRIGGER "{row["tgname"]}"')


async def _trigger_count(patient: Patient) -> Sequence[Finding]:
    most = patient.config.evaluator.trigger_count_warning
    async with patient.database.transaction(durable=False) as tx:
        row = await tx.fetchrow(
            """SELECT count(*) AS events, max(triggers_matched) AS most FROM processed_events
               WHERE processed_at > now() - interval '24 hours' AND triggers_matched > $1""",
            most,
        )
    assert row is not None
    if row["events"] == 0:
        return [ok(f"no event of the last day matched more than {most} triggers")]
    return [warn(
        f"{plural(row['events'], 'event')} of the last day matched more than {most} triggers, {row['most']} at"
        " most; all were served",
        psql("SELECT trigger_id, count(*) FROM deliveries GROUP BY trigger_id ORDER BY 2 DESC LIMIT 20"),
    )]  # fmt: skip


async def _conditions(tx: Transaction) -> Finding:
    rows = await tx.fetch(
        """SELECT id, left(invalid_reason, 100) AS reason, count(*) OVER () AS count FROM triggers
           WHERE enabled AND invalid_reason IS NOT NULL ORDER BY created_at LIMIT 1"""
    )
    if not rows:
        return ok("every trigger that is enabled can run")
    return fail(
        f"{plural(rows[0]['count'], 'trigger')} cannot run; {rows[0]['id']}: {rows[0]['reason']}",
        psql(f"UPDATE triggers SET enabled = false WHERE id = {literal(rows[0]['id'])}"),  # noqa: S608 (printed)
    )


async def _workers(patient: Patient) -> Sequence[Finding]:
    async with patient.database.transaction(durable=False) as tx:
        rows = await tx.fetch(
            """SELECT role, instance, extract(epoch FROM now() - seen_at)::int AS age, status::text AS status
               FROM process_heartbeats WHERE seen_at > now() - interval '1 hour' ORDER BY seen_at DESC"""
        )
    wanted = ["dispatcher", "evaluator", *(["indexer"] if patient.config.chains else [])]
    fresh = {row["role"]: row["instance"] for row in reversed(rows) if row["age"] < BEAT_SECONDS}
    found = [
        fail(f"no {role} has been seen for {BEAT_SECONDS} s", patient.restart(SERVICES[role]), role)
        for role in wanted
        if role not in fresh
    ]
    for instance, status in {row["instance"]: row["status"] for row in rows if row["age"] < BEAT_SECONDS}.items():
        restarts = msgspec.json.decode(status or "{}").get("restarts", 0)
        if restarts > RESTARTS_PER_HOUR:
            found.append(warn(f"workers of {instance} crashed {restarts} times in the last hour",
                              "agentauri doctor --bundle agentauri-report.tar.gz", instance))  # fmt: skip
    return found or [ok(f"{', '.join(wanted)}: all seen within {BEAT_SECONDS} s")]


async def _breakers(patient: Patient) -> Sequence[Finding]:
    async with patient.database.transaction(durable=False) as tx:
        rows = await tx.fetch(
            """SELECT trigger_id, failure_count, last_failure_at, left(last_error, 160) AS error
               FROM circuit_breaker_state WHERE state = 'open' ORDER BY last_failure_at DESC NULLS LAST LIMIT 20"""
        )
    if not rows:
        return [ok("no breaker is open")]
    return [
        warn(
            f"open after {plural(row['failure_count'], 'failure')}, the last at {row['last_failure_at']:%H:%M:%S}: "
            f"{row['error']}" if row["last_failure_at"] else f"open: {row['error']}",
            psql(
                "UPDATE circuit_breaker_state SET state = 'closed', failure_count = 0, success_count = 0 "  # noqa: S608
                f"WHERE trigger_id = {literal(row['trigger_id'])}"
            ),
            row["trigger_id"],
        )
        for row in rows
    ]  # fmt: skip


class _Undo(Exception):
    """Ends a transaction of which nothing is to stay."""


async def _breaker_writes(patient: Patient) -> Sequence[Finding]:
    """Whether a breaker could be written down; what is tried is undone."""
    probe = f"doctor-{uuid4()}"
    try:
        async with patient.database.transaction(durable=False) as tx:
            await tx.run("INSERT INTO circuit_breaker_state (trigger_id, state) VALUES ($1, 'closed')", probe)
            await tx.run("UPDATE circuit_breaker_state SET state = 'open' WHERE trigger_id = $1", probe)
            raise _Undo
    except _Undo:
        return [ok("the state of a breaker can be written")]
    except (asyncpg.PostgresError, Unavailable) as error:
        words = str(error.__cause__ or error) if isinstance(error, Unavailable) else str(error)
    async with patient.database.transaction(durable=False) as tx:
        fix = await _foreign_trigger(tx, ("circuit_breaker_state",))
    return [fail(f"Circuit breaker state may be inconsistent: it cannot be written: {words}",
                 fix or patient.restart("event-processor"))]  # fmt: skip


async def _dead_letters(tx: Transaction) -> Finding:
    rows = await tx.fetch(
        """SELECT coalesce(reason, 'unknown') AS reason, count(*) AS count,
                  to_char(min(finished_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS') AS since
           FROM deliveries WHERE status = 'dead' AND finished_at > now() - interval '24 hours'
           GROUP BY 1 ORDER BY 2 DESC"""
    )
    if not rows:
        return ok("nothing was given up in the last day")
    reasons = ", ".join(f"{row['count']} × {row['reason']}" for row in rows)
    oldest = min(row["since"] for row in rows)
    return warn(f"given up in the last day: {reasons}", f"agentauri deliveries redeliver --since {oldest}")


async def _queue_depth(patient: Patient) -> Sequence[Finding]:
    most = patient.config.dispatcher.max_queue_depth
    depth = await patient.queue.depth()
    text = f"{plural(depth, 'delivery', 'deliveries')} ready in action_jobs"
    if depth < most:
        return [ok(text)]
    at_once = patient.config.dispatcher.max_in_flight
    more = (  # on servers of our own there is one process
        patient.change("action-workers", f"MAX_IN_FLIGHT_DELIVERIES={min(5000, 4 * at_once)}")
        if patient.embedded
        else "docker compose up -d --scale action-workers=3"
    )
    return [warn(f"{text}, {most} is high: action workers are falling behind", more)]


async def _queue_consistency(patient: Patient) -> Sequence[Finding]:
    census = await patient.queue.census()
    async with patient.database.transaction(durable=False) as tx:
        late = await tx.fetchval(
            """SELECT count(*) FROM (
                   SELECT FROM deliveries WHERE status = 'pending' AND hold IS NULL
                   AND due_at < now() - interval '60 seconds'
                   AND (leased_until IS NULL OR leased_until < now()) LIMIT 1001) AS late"""
        )
    if not census.consistent:
        others = census.ready + census.delayed + census.leased
        return [fail(f"{census.known} ids are known, and {others} are anywhere", "agentauri queue rebuild")]
    if late and census.ready < patient.config.dispatcher.max_queue_depth:
        return [fail(f"{'more than 1000' if late > 1000 else late} deliveries due for a minute, and unclaimed",
                     "agentauri queue rebuild")]  # fmt: skip
    return [ok(f"{census.known} ids known, all of them somewhere; nothing is late")]


async def _rebuild(patient: Patient) -> str | None:
    try:
        census = await patient.queue.census()
        if census.consistent:
            return None
        return f"known ids are {await patient.queue.rebuild()} now"
    except Unavailable:
        return None


STORED = ("database", "schema")
CHECKS = (
    Check(name="listener", why="Without notifications events wait for the next poll, up to a second.",
          look=_listener, needs=STORED),
    Check(name="workers", why="Nobody else does their work.", look=_workers, needs=STORED),
    Check(name="backlog", why="Events are evaluated within milliseconds, unless something holds them up.",
          look=_backlog, needs=STORED),
    Check(name="parked", why="An event that was set aside is matched by nothing until it is tried again.",
          look=of_database(_parked), needs=STORED),
    Check(name="processing_time", why="Events that take longer than they come pile up.",
          look=of_database(_processing_time), needs=STORED),
    Check(name="trigger_count", why="An event that many triggers match makes as many deliveries.",
          look=_trigger_count, needs=STORED),
    Check(name="conditions", why="A trigger that was made invalid by hand never fires.",
          look=of_database(_conditions), needs=STORED),
    Check(name="queue_depth", why="At 50,000 the evaluators wait until it drains.", look=_queue_depth,
          needs=(*STORED, "redis")),
    Check(name="queue_consistency", why="An id that is known and nowhere would never be sent.",
          look=_queue_consistency, needs=(*STORED, "redis"), heal=_rebuild),
    Check(name="breakers", why="While a breaker is open, its trigger's deliveries are held.", look=_breakers,
          needs=STORED),
    Check(name="breaker_writes", why="What is not written is forgotten by the next process, and known to no other.",
          look=_breaker_writes, needs=STORED),
    Check(name="dead_letters", why="What was given up reaches nobody unless it is sent again.",
          look=of_database(_dead_letters), needs=STORED),
)  # fmt: skip
