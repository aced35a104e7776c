"""Upkeep: partitions ahead of time, what has outlived its use, and the audit of the event queue.

Every job is a bounded transaction that may be repeated; one that has more to do runs again at once. Several processes
may have a janitor: a job that another one is at is left to it. What goes wrong with one job does not keep the others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import date

import asyncpg
from msgspec import Struct

from agentauri import metrics
from agentauri.config import RetentionConfig
from agentauri.database import Database, DatabaseUnavailable, PoolExhausted, Transaction
from agentauri.events import EventQueue
from agentauri.log import get_logger
from agentauri.migrations import drop_partitions, ensure_partitions, partition_days, partition_name
from agentauri.supervisor import wait_until

log = get_logger(__name__)

IDLE_SECONDS = 15.0
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
BATCH = 10_000
PARKED_DAYS, CHANGES_DAYS, HEARTBEAT_DAYS = 90, 7, 1
SESSION_DAYS, KEY_USAGE_DAYS = 7, 90

_SAME_KEY = "{0}.trigger_id = {1}.trigger_id AND {0}.leaf_id = {1}.leaf_id AND {0}.scope_key = {1}.scope_key"

# What may still be taken back has a row in the undo log, and no event to come is older than what may not.
_OUT_OF_WINDOWS = f"""swept.ctid IN (
    SELECT w.ctid FROM trigger_state s
    CROSS JOIN LATERAL (SELECT coalesce(min((u.input ->> 't')::bigint), s.last_event_time) AS since
                        FROM state_undo u WHERE {_SAME_KEY.format("u", "s")}) AS open
    JOIN window_samples w ON {_SAME_KEY.format("w", "s")}
        AND w.event_time < open.since - (s.state ->> 'seconds')::bigint
    WHERE s.state ? 'seconds' LIMIT {BATCH})"""  # noqa: S608 (our own words)

_OLDER = "{} < now() - make_interval(days => $1)"

# Nothing is left of its level: one wears off with each day.
_FORGIVEN = """last_failure_at < now() - interval '48 hours'
    AND level * interval '24 hours' <= now() - last_failure_at"""

OF_GONE_TRIGGERS = ("trigger_state", "window_samples", "state_undo", "timers", "circuit_breaker_state")
"""Tables without foreign keys, whose rows end with their trigger."""


class Job(Struct, frozen=True):
    """`run` does a bounded part of the work, and returns whether there is more of it."""

    name: str
    table: str
    every: float
    run: Callable[[Transaction], Awaitable[bool]]


class Janitor:
    """`more` are jobs of other packages."""

    def __init__(
        self, database: Database, queue: EventQueue, retention: RetentionConfig, more: Sequence[Job] = ()
    ) -> None:
        self._database = database
        self._queue = queue
        self._retention = retention
        self._jobs = [
            Job("partitions", "deliveries", HOUR, self._make_partitions),
            Job("audit", "event_queue", 10 * MINUTE, self._audit),
            Job("deliveries", "deliveries", HOUR, self._retire_deliveries),
            Job("parked", "event_queue", HOUR, self._drop_parked),
            Job("invalid_indexes", "pg_index", HOUR, self._report_invalid_indexes),
            *_sweeps_of_records(retention),
            *_sweeps_of_memories(retention),
            *more,
        ]
        self._due: dict[str, float] = {}

    async def run(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                more = await self.step()
            except DatabaseUnavailable:
                await self._database.up()
                continue
            if not more:
                await wait_until(stopping, IDLE_SECONDS)

    async def step(self) -> bool:
        """Run each job that is due once; whether any of them has more to do.

        Raises:
            DatabaseUnavailable: there is no point in going on now.
        """
        more = False
        for job in self._jobs:
            if time.monotonic() < self._due.get(job.name, 0.0):
                continue
            if await self._attempt(job):
                more = True
            else:
                self._due[job.name] = time.monotonic() + job.every
        return more

    async def _attempt(self, job: Job) -> bool:
        try:
            async with self._database.transaction() as tx:
                return await _is_alone(tx) and await job.run(tx)
        except PoolExhausted as error:
            reason = error.message
        except asyncpg.PostgresError as error:
            if isinstance(error, asyncpg.PostgresConnectionError):
                raise
            reason = str(error)
        log.error("janitor.failed", code="STATE_CLEANUP_FAILED", step=job.name, table=job.table, reason=reason)
        return False

    async def _make_partitions(self, tx: Transaction) -> bool:
        made = await ensure_partitions(tx)
        if made:
            tx.on_commit(lambda: log.info("janitor.partitions_made", partitions=made))
        return bool(made)

    async def _audit(self, tx: Transaction) -> bool:
        return not (await self._queue.audit(tx)).complete

    async def _retire_deliveries(self, tx: Transaction) -> bool:
        """Drop the oldest day of deliveries and attempts beyond retention, after its last pending rows have ended."""
        today: date = await tx.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
        days = [day for day in await partition_days(tx) if (today - day).days > self._retention.deliveries_days]
        if not days:
            return False
        table = partition_name("deliveries", days[0])
        # A delivery that is being sent at this moment keeps its day until the next run.
        expired = await tx.fetch(
            f"""UPDATE {table} SET status = 'skipped', reason = 'expired', hold = NULL, leased_until = NULL,
                       lease_owner = NULL, finished_at = now()
                WHERE id IN (SELECT id FROM {table} WHERE status = 'pending'
                             AND (leased_until IS NULL OR leased_until < clock_timestamp())
                             ORDER BY id LIMIT {BATCH} FOR UPDATE)
                RETURNING action_type""",  # noqa: S608 (our own table's name)
        )
        for row in expired:
            metrics.DELIVERIES_FINISHED.labels("skipped", row["action_type"]).inc()
        if len(expired) == BATCH:
            return True
        if await tx.fetchval(f"SELECT EXISTS (SELECT FROM {table} WHERE status = 'pending')"):  # noqa: S608
            return False
        await drop_partitions(tx, days[0])
        tx.on_commit(lambda: log.info("janitor.partitions_dropped", day=str(days[0]), expired=len(expired)))
        return len(days) > 1

    async def _drop_parked(self, tx: Transaction) -> bool:
        rows = await tx.fetch(
            """DELETE FROM event_queue WHERE position IN (
                   SELECT position FROM event_queue WHERE parked_at < now() - make_interval(days => $1)
                   ORDER BY position LIMIT 100)
               RETURNING event_seq, trigger_id, last_error""",
            PARKED_DAYS,
        )
        for row in rows:
            log.warning(
                "janitor.parked_event_dropped",
                event_seq=row["event_seq"],
                trigger_id=row["trigger_id"],
                error=row["last_error"],
            )
        return len(rows) == 100

    async def _report_invalid_indexes(self, tx: Transaction) -> bool:
        for row in await tx.fetch("SELECT indexrelid::regclass::text AS name FROM pg_index WHERE NOT indisvalid"):
            log.warning("janitor.index_invalid", index=row["name"], remedy=f"REINDEX INDEX CONCURRENTLY {row['name']}")
        return False


def _sweep(name: str, table: str, every: float, condition: str, *arguments: object, allowed: bool = False) -> Job:
    """A job that deletes by one condition."""

    async def run(tx: Transaction) -> bool:
        if allowed:  # the table keeps its rows from everybody else
            await tx.run("SET LOCAL agentauri.retention = 'on'")
        count = await tx.run(
            f"""DELETE FROM {table} WHERE ctid = ANY(ARRAY(
                    SELECT ctid FROM {table} swept WHERE {condition} LIMIT {BATCH}))""",  # noqa: S608
            *arguments,
        )
        if count:
            metrics.JANITOR_DELETED.labels(name).inc(count)
            tx.on_commit(lambda: log.info("janitor.swept", step=name, table=table, rows=count))
        return count == BATCH

    metrics.JANITOR_DELETED.labels(name)  # told as 0 until then
    return Job(name, table, every, run)


def _sweeps_of_records(keep: RetentionConfig) -> list[Job]:
    """What was written down, and has been kept for long enough."""
    return [
        _sweep("ledger", "processed_events", HOUR, _OLDER.format("processed_at"), keep.processed_days),
        _sweep("changes", "trigger_changes", HOUR, _OLDER.format("changed_at"), CHANGES_DAYS),
        _sweep("signing_secrets", "signing_secrets", MINUTE, "expires_at <= now()"),
        _sweep("sessions", "sessions", HOUR, _OLDER.format("least(ended_at, expires_at)"), SESSION_DAYS),
        _sweep("auth_failures", "auth_failures", HOUR, _OLDER.format("created_at"), keep.auth_failures_days),
        _sweep("lockouts", "lockouts", HOUR, _FORGIVEN),
        _sweep("key_usage", "key_usage", DAY, _OLDER.format("hour"), KEY_USAGE_DAYS),
        _sweep("audit_log", "audit_log", DAY, _OLDER.format("occurred_at"), keep.audit_days, allowed=True),
        _sweep("heartbeats", "process_heartbeats", HOUR, _OLDER.format("seen_at"), HEARTBEAT_DAYS),
    ]


def _sweeps_of_memories(keep: RetentionConfig) -> list[Job]:
    """What triggers remember, and nothing can need any more."""
    return [
        _sweep("idle_state", "trigger_state", DAY, _OLDER.format("updated_at"), keep.state_idle_days),
        _sweep(
            "undo", "state_undo", HOUR,
            """EXISTS (SELECT FROM checkpoints c
                       WHERE c.chain_id = swept.chain_id AND c.finalized_number >= swept.block_number)""",
        ),
        _sweep(
            "undo_unindexed", "state_undo", DAY,
            """NOT EXISTS (SELECT FROM checkpoints c WHERE c.chain_id = swept.chain_id)
               AND EXISTS (SELECT FROM events e WHERE e.seq = swept.event_seq
                           AND e.created_at < now() - make_interval(days => $1))""",
            keep.deliveries_days,
        ),
        _sweep(
            "timers", "timers", HOUR,
            """(swept.fired_at IS NOT NULL OR swept.cancelled_by IS NOT NULL) AND NOT EXISTS (
                SELECT FROM state_undo u WHERE u.event_seq IN (swept.event_seq, swept.cancelled_by))""",
        ),
        _sweep("samples", "window_samples", HOUR, _OUT_OF_WINDOWS),
        _sweep(
            "lost_samples", "window_samples", DAY,
            f"NOT EXISTS (SELECT FROM trigger_state s WHERE {_SAME_KEY.format('s', 'swept')})",
        ),
        *(
            _sweep(
                f"gone_{table}", table, HOUR,
                "NOT EXISTS (SELECT FROM triggers t WHERE t.id = swept.trigger_id)",
            )
            for table in OF_GONE_TRIGGERS
        ),
    ]  # fmt: skip


async def _is_alone(tx: Transaction) -> bool:
    return bool(await tx.fetchval("SELECT pg_try_advisory_xact_lock(hashtextextended('agentauri.janitor', 0))"))
