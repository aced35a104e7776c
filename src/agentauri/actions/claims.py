"""The dispatcher's SQL, in batches only: claim many deliveries in one transaction, record many outcomes in another.

A claim is `lease_owner`, `leased_until` and one more in `attempts`; an outcome counts only while its claim stands.
Ids come with their bounds, so that only the partitions of those days are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from agentauri.actions.types import Hold, Status, Verdict
from agentauri.database import Transaction
from agentauri.types import DeliveryId, TriggerId

CLAIM_MARGIN = 30.0
"""A claim outlives the action's timeout by this, to render, and to record what came of it."""

_MS = "(extract(epoch FROM {}) * 1000)::bigint"


class Refusal(NamedTuple):
    """Why a delivery is not sent now: what holds it, or the status that ends it."""

    id: DeliveryId
    status: Status = "pending"
    reason: str | None = None
    hold: Hold | None = None


class Result(NamedTuple):
    """What becomes of a delivery after an attempt. `status` None leaves the row as it is: the outcome came too late."""

    id: DeliveryId
    number: int
    status: Status | None
    reason: str | None
    wait: float | None
    receipt: str | None
    outcome: Verdict
    age: float
    took: float
    status_code: int | None
    error_kind: str | None
    error: str | None
    excerpt: str | None
    peer: str | None


async def now_ms(tx: Transaction) -> int:
    moment: int = await tx.fetchval(f"SELECT {_MS.format('clock_timestamp()')}")
    return moment


async def due(tx: Transaction, limit: int, window: int) -> list[DeliveryId]:
    """What is due and nobody's: the queue without Redis. Among the `window` that wait longest and as many of the latest
    it goes through the organizations by turns, the oldest of each first."""
    waiting = """SELECT id, organization_id, due_at FROM deliveries WHERE status = 'pending' AND hold IS NULL
        AND due_at <= now() AND (leased_until IS NULL OR leased_until <= now()) ORDER BY due_at"""
    records = await tx.fetch(
        f"""SELECT id FROM (
                SELECT id, due_at, row_number() OVER (PARTITION BY organization_id ORDER BY due_at, id) AS turn
                FROM (({waiting} LIMIT $2) UNION ({waiting} DESC LIMIT $2)) AS seen) AS ranked
            ORDER BY turn, due_at LIMIT $1""",  # noqa: S608 (our own words)
        limit,
        window,
    )
    return [record["id"] for record in records]


async def lock_for_claim(tx: Transaction, ids: Sequence[DeliveryId]) -> list[asyncpg.Record]:
    """The rows, locked, but for those that somebody else has locked just now."""
    return await tx.fetch(
        f"""SELECT id, organization_id, trigger_id, trigger_version, action_id, action_type, event_seq, chain_id, kind,
                status, hold, attempts, schedule_from, priority, context::text AS context, parent_id, created_at,
                release_block, release_depth, lease_owner, leased_until IS NOT NULL AS tried,
                coalesce(leased_until > clock_timestamp(), false) AS taken,
                {_MS.format("due_at")} AS due, {_MS.format("clock_timestamp()")} AS now
            FROM deliveries WHERE id = ANY($1::uuid[]) AND id >= $2 AND id <= $3 ORDER BY id
            FOR NO KEY UPDATE SKIP LOCKED""",  # noqa: S608 (our own expressions)
        ids,
        *_bounds(ids),
    )


async def receipts(tx: Transaction, ids: Sequence[DeliveryId]) -> dict[DeliveryId, str]:
    """What was kept of the answers to these deliveries, as JSON."""
    records = await tx.fetch(
        """SELECT id, receipt::text AS receipt FROM deliveries
           WHERE id = ANY($1::uuid[]) AND id >= $2 AND id <= $3 AND receipt IS NOT NULL""",
        ids,
        *_bounds(ids),
    )
    return {record["id"]: record["receipt"] for record in records}


async def existing(tx: Transaction, ids: Sequence[DeliveryId]) -> set[DeliveryId]:
    records = await tx.fetch("SELECT id FROM deliveries WHERE id = ANY($1::uuid[])", ids)
    return {record["id"] for record in records}


async def claim(tx: Transaction, ids: Sequence[DeliveryId], seconds: Sequence[float], owner: str) -> None:
    await tx.run(
        """UPDATE deliveries d SET leased_until = clock_timestamp() + c.seconds * interval '1 second',
               lease_owner = $3, attempts = attempts + 1
           FROM unnest($1::uuid[], $2::float8[]) AS c (id, seconds) WHERE d.id = c.id AND d.id >= $4 AND d.id <= $5""",
        ids,
        seconds,
        owner,
        *_bounds(ids),
    )


async def refuse(tx: Transaction, refusals: Sequence[Refusal]) -> None:
    await tx.run(
        """UPDATE deliveries d SET status = r.status, reason = r.reason, hold = r.hold,
               leased_until = NULL, lease_owner = NULL,
               finished_at = CASE WHEN r.status <> 'pending' THEN clock_timestamp() END
           FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) AS r (id, status, reason, hold)
           WHERE d.id = r.id""",
        *_columns(refusals),
    )


async def put_off(tx: Transaction, due: Mapping[DeliveryId, float]) -> None:
    """Make those of them that are due and nobody's due later, at milliseconds of the database's clock, whatever is
    wrong with them."""
    await tx.run(
        """UPDATE deliveries d SET due_at = to_timestamp(p.due / 1000)
           FROM unnest($1::uuid[], $2::float8[]) AS p (id, due)
           WHERE d.id = p.id AND d.id IN (
               SELECT id FROM deliveries WHERE id = ANY($1) AND id >= $3 AND id <= $4 AND status = 'pending'
               AND hold IS NULL AND (leased_until IS NULL OR leased_until <= clock_timestamp())
               ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)""",
        list(due),
        list(due.values()),
        *_bounds(list(due)),
    )


async def note_abandoned(tx: Transaction, rows: Sequence[asyncpg.Record]) -> None:
    """The tries whose claims lapsed without an outcome. If that comes after all, it takes this row's place."""
    await tx.run(
        """INSERT INTO attempts (delivery_id, number, instance, started_at, outcome, error_kind, error)
           SELECT id, number, owner, now(), 'abandoned', 'abandoned', 'the claim lapsed without an outcome'
           FROM unnest($1::uuid[], $2::int[], $3::text[]) AS a (id, number, owner) ON CONFLICT DO NOTHING""",
        [row["id"] for row in rows],
        [row["attempts"] for row in rows],
        [row["lease_owner"] for row in rows],
    )


async def lock_claimed(tx: Transaction, ids: Sequence[DeliveryId]) -> dict[DeliveryId, asyncpg.Record]:
    """The rows, but for those that somebody else has locked just now."""
    records = await tx.fetch(
        """SELECT id, status, hold, attempts, schedule_from, lease_owner FROM deliveries
           WHERE id = ANY($1::uuid[]) AND id >= $2 AND id <= $3 ORDER BY id FOR NO KEY UPDATE SKIP LOCKED""",
        ids,
        *_bounds(ids),
    )
    return {record["id"]: record for record in records}


async def record(tx: Transaction, results: Sequence[Result], owner: str) -> dict[DeliveryId, tuple[int, datetime]]:
    """Write attempts, and what they make of their deliveries; when those that stay pending without a hold are due, in
    milliseconds and as a moment."""
    columns = _columns(results)
    ids = [result.id for result in results]
    records = await tx.fetch(
        f"""UPDATE deliveries d SET status = r.status, reason = r.reason, receipt = coalesce(r.receipt, d.receipt),
                due_at = CASE WHEN r.wait IS NULL THEN d.due_at ELSE now() + r.wait * interval '1 second' END,
                hold = CASE WHEN r.status = 'pending' THEN d.hold END,
                leased_until = NULL, lease_owner = NULL,
                finished_at = CASE WHEN r.status <> 'pending' THEN clock_timestamp() END
            FROM unnest($1::uuid[], $2::text[], $3::text[], $4::float8[], $5::jsonb[])
                AS r (id, status, reason, wait, receipt)
            WHERE d.id = r.id AND r.status IS NOT NULL AND d.id >= $6 AND d.id <= $7
            RETURNING d.id, d.status, d.hold, {_MS.format("d.due_at")} AS due, d.due_at""",  # noqa: S608
        ids,
        columns[2],
        columns[3],
        columns[4],
        columns[5],
        *_bounds(ids),
    )
    await tx.run(
        """INSERT INTO attempts (delivery_id, number, retry_at, outcome, started_at, duration_ms, status_code,
               error_kind, error, response_excerpt, peer_address, instance)
           SELECT id, number, now() + wait * interval '1 second', outcome,
               clock_timestamp() - age * interval '1 second', round(took * 1000)::int, status_code, error_kind, error,
               excerpt, peer, $12
           FROM unnest($1::uuid[], $2::int[], $3::float8[], $4::text[], $5::float8[], $6::float8[], $7::int[],
               $8::text[], $9::text[], $10::text[], $11::text[])
               AS r (id, number, wait, outcome, age, took, status_code, error_kind, error, excerpt, peer)
           ON CONFLICT (delivery_id, number) DO UPDATE SET outcome = excluded.outcome,
               started_at = excluded.started_at, duration_ms = excluded.duration_ms,
               status_code = excluded.status_code, error_kind = excluded.error_kind, error = excluded.error,
               response_excerpt = excluded.response_excerpt, peer_address = excluded.peer_address,
               instance = excluded.instance""",
        ids,
        columns[1],
        columns[4],
        *columns[6:],
        owner,
    )
    return {
        row["id"]: (row["due"], row["due_at"]) for row in records if row["status"] == "pending" and row["hold"] is None
    }


class Cursor(NamedTuple):
    """Where a sweep stands in the order of due times."""

    due_at: datetime
    id: UUID


BEGINNING = Cursor(datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))


async def page_to_restore(tx: Transaction, after: Cursor, horizon: float, limit: int) -> list[asyncpg.Record]:
    """What should be in Redis, in the order of due times. What became due in the last seconds is left to those who are
    pushing it just now."""
    return await tx.fetch(
        f"""SELECT id, due_at, {_MS.format("due_at")} AS due FROM deliveries
            WHERE status = 'pending' AND hold IS NULL AND (leased_until IS NULL OR leased_until <= now())
            AND due_at <= now() + $3 * interval '1 second'
            AND NOT (due_at > now() - interval '5 seconds' AND due_at <= now())
            AND (due_at, id) > ($1, $2) ORDER BY due_at, id LIMIT $4""",  # noqa: S608
        after.due_at,
        after.id,
        horizon,
        limit,
    )


async def held_triggers(tx: Transaction, after: TriggerId, limit: int) -> list[TriggerId]:
    """Triggers with deliveries that wait for their breaker, read off the index a trigger at a time."""
    records = await tx.fetch(
        """WITH RECURSIVE held AS (
               (SELECT trigger_id, 1 AS number FROM deliveries WHERE hold = 'breaker' AND trigger_id > $1
                ORDER BY trigger_id LIMIT 1)
               UNION ALL
               SELECT (SELECT d.trigger_id FROM deliveries d WHERE d.hold = 'breaker' AND d.trigger_id > held.trigger_id
                       ORDER BY d.trigger_id LIMIT 1), number + 1
               FROM held WHERE held.trigger_id IS NOT NULL AND number < $2)
           SELECT trigger_id FROM held WHERE trigger_id IS NOT NULL""",
        after,
        limit,
    )
    return [record["trigger_id"] for record in records]


async def expire(tx: Transaction, max_age_hours: int, limit: int) -> int:
    """Give up what has been held for too long."""
    return await tx.run(
        """UPDATE deliveries SET status = 'skipped', reason = 'expired', hold = NULL, finished_at = clock_timestamp()
           WHERE id IN (SELECT id FROM deliveries WHERE hold IN ('breaker', 'paused')
               AND due_at < now() - $1 * interval '1 hour' ORDER BY id LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED)""",
        max_age_hours,
        limit,
    )


def _bounds(ids: Sequence[DeliveryId]) -> tuple[DeliveryId, DeliveryId]:
    keys = [id_.bytes for id_ in ids]
    return DeliveryId(UUID(bytes=min(keys))), DeliveryId(UUID(bytes=max(keys)))


def _columns(rows: Sequence[tuple[object, ...]]) -> list[list[Any] | None]:
    """For `unnest`, which fills a column that is missing with NULL; encoding an array costs more than sending it."""
    columns = map(list, zip(*rows, strict=True))
    return [None if column.count(None) == len(column) else column for column in columns]
