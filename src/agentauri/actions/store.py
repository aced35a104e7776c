"""Rows of `deliveries` and `attempts`, as the evaluator and the edge see them. What the dispatcher does is in `claims`.

Rows are locked in the order of their ids. Where ids are given, their bounds are too, so that only the partitions of
those days are looked at.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import NamedTuple, cast
from uuid import UUID

import asyncpg

from agentauri import metrics
from agentauri.actions.identity import correlation_prefix, delivery_id
from agentauri.actions.types import DeliveryDraft, DeliveryFilter, Pair, Release, SettledEvent
from agentauri.database import Transaction
from agentauri.types import ActionId, DeliveryId, EventSeq, OrganizationId, TriggerId

SLICE = 500
"""Rows made or written without a pause."""

FEW = 16
"""Rows for which COPY, two round trips instead of one, does not pay."""

LATEST = 1000
"""How many of a trigger's last deliveries are changed with it at once; the others follow when their turn comes."""

COUNTED = 10_000
"""Lists are counted up to this."""

_SHOWN = """d.id, d.kind, d.parent_id, d.trigger_id, d.trigger_version, d.action_id, d.action_type,
    coalesce(e.id, CASE WHEN d.event_seq < 0 THEN 'sample' END) AS event_id, d.chain_id, e.agent_id, d.environment,
    d.status, d.reason, d.hold, d.release_tag, d.release_block, d.attempts, d.due_at, d.destination, d.created_at,
    d.finished_at"""
JOINED = "deliveries d LEFT JOIN events e ON e.seq = d.event_seq"


class Inserted(NamedTuple):
    """The ids of new deliveries that wait to be sent, in their order, and how many are new of each kind."""

    pending: list[DeliveryId]
    kinds: Counter[str]


async def insert(
    tx: Transaction, drafts: Sequence[DeliveryDraft], *, fresh: bool, reached: Mapping[str, int]
) -> Inserted:
    """Write drafts that are not there yet; others get their turn in between. `fresh` says that none is, which is
    quicker where it is many. Those whose release is still to be `reached` are held.

    Raises:
        asyncpg.UniqueViolationError: one of them is not fresh.
    """
    new = Inserted([], Counter())
    alike = fresh and all(draft.environment == "live" for draft in drafts)
    for rows in await _rows(drafts, reached):
        if alike and len(rows) > FEW:
            await tx.copy("deliveries", _COLUMNS, rows)
            new.pending.extend(cast(DeliveryId, row[0]) for row in rows if row[_HOLD] is None)
            new.kinds.update(cast(str, row[_KIND]) for row in rows)
            continue
        for id_, kind, due in await tx.fetch(_INSERT, *map(list, zip(*rows, strict=True))):
            new.kinds[kind] += 1
            if due:
                new.pending.append(id_)
    return new


async def _rows(drafts: Sequence[DeliveryDraft], reached: Mapping[str, int]) -> list[list[tuple[object, ...]]]:
    """In slices, each in the order of the ids, as are the slices."""
    rows: list[tuple[object, ...]] = []
    for start in range(0, len(drafts), SLICE):
        rows += [_row(draft, reached) for draft in drafts[start : start + SLICE]]
        if len(drafts) > SLICE:
            await asyncio.sleep(0)
    rows.sort(key=_id)
    return [rows[start : start + SLICE] for start in range(0, len(rows), SLICE)]


_id = itemgetter(0)
_COLUMNS = (
    "id", "organization_id", "trigger_id", "environment", "trigger_version", "action_id", "action_type", "destination",
    "event_seq", "chain_id", "kind", "priority", "context", "parent_id", "hold", "release_tag", "release_block",
    "release_depth",
)  # fmt: skip
_KIND, _HOLD = _COLUMNS.index("kind"), _COLUMNS.index("hold")

_INSERT = f"""
    INSERT INTO deliveries ({", ".join(_COLUMNS)}, status, reason, finished_at)
    SELECT *,
        CASE environment WHEN 'test' THEN 'skipped' ELSE 'pending' END,
        CASE environment WHEN 'test' THEN 'test_environment' END,
        CASE environment WHEN 'test' THEN now() END
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::int[], $6::bigint[], $7::text[], $8::text[],
        $9::bigint[], $10::bigint[], $11::text[], $12::int[], $13::jsonb[], $14::uuid[], $15::text[], $16::text[],
        $17::bigint[], $18::int[])
        AS new ({", ".join(_COLUMNS)})
    ON CONFLICT (id) DO NOTHING RETURNING id, kind, status = 'pending' AND hold IS NULL"""  # noqa: S608 (our own column names)


def _row(draft: DeliveryDraft, reached: Mapping[str, int]) -> tuple[object, ...]:
    return (
        id_of(draft), draft.organization_id, draft.trigger_id, draft.environment, draft.trigger_version,
        draft.action_id, draft.action_type, draft.destination, draft.event_seq, draft.chain_id, draft.kind,
        draft.priority, None if draft.context is None else draft.context.decode(), draft.parent_id,
        *(_UNHELD if draft.release is None else _held(draft, draft.release, reached)),
    )  # fmt: skip


_UNHELD = (None, None, None, None)


def _held(draft: DeliveryDraft, release: Release, reached: Mapping[str, int]) -> tuple[object, ...]:
    deep = draft.environment == "test" or release.block <= reached.get(release.tag, -1)
    return (None if deep else "depth", release.tag, release.block, release.depth)


def id_of(draft: DeliveryDraft) -> DeliveryId:
    return delivery_id(
        origin=draft.event_created_at,
        organization_id=draft.organization_id,
        event_id=draft.event_id,
        epoch=draft.event_epoch,
        trigger_id=draft.trigger_id,
        trigger_version=draft.trigger_version,
        action_id=draft.action_id,
        kind=draft.kind,
        request_id=draft.request_id,
    )


async def matches_of(tx: Transaction, events: Collection[SettledEvent]) -> list[asyncpg.Record]:
    """Locked deliveries of these events that tell of a match, in any epoch, and whatever is held by a retraction."""
    return await tx.fetch(
        """SELECT d.*, d.leased_until > clock_timestamp() AS claimed FROM deliveries d
           WHERE event_seq = ANY($1::bigint[]) AND (kind IN ('match', 'absence') OR hold = 'retraction')
           ORDER BY id FOR NO KEY UPDATE""",
        [event.seq for event in events],
    )


def is_present(record: asyncpg.Record, event: SettledEvent) -> bool:
    """Whether the row tells of a match in the event's present epoch, since it has the id that it would have there.
    Another one belongs to an earlier life of the event."""
    return record["kind"] in ("match", "absence") and record["id"] == delivery_id(
        origin=event.created_at,
        organization_id=record["organization_id"],
        event_id=event.event_id,
        epoch=event.epoch,
        trigger_id=record["trigger_id"],
        trigger_version=record["trigger_version"],
        action_id=record["action_id"],
        kind=record["kind"],
    )


async def hold_retracted(tx: Transaction, event_seqs: Collection[EventSeq]) -> int:
    return await tx.run(
        """UPDATE deliveries SET hold = 'retraction' WHERE id IN (
               SELECT id FROM deliveries WHERE event_seq = ANY($1::bigint[]) AND status = 'pending'
               AND kind <> 'retraction' AND hold IS DISTINCT FROM 'retraction' ORDER BY id FOR NO KEY UPDATE)""",
        list(event_seqs),
    )


async def resume(tx: Transaction, reinstated: Mapping[EventSeq, Collection[Pair]]) -> list[DeliveryId]:
    rows = [(seq, trigger, action) for seq, pairs in reinstated.items() for trigger, action in pairs]
    if not rows:
        return []
    seqs, triggers, actions = (list(column) for column in zip(*rows, strict=True))
    records = await tx.fetch(
        """UPDATE deliveries SET hold = NULL WHERE id IN (
               SELECT d.id FROM deliveries d
               JOIN unnest($1::bigint[], $2::text[], $3::bigint[]) AS back (seq, trigger_id, action_id)
                   ON d.event_seq = back.seq AND d.trigger_id = back.trigger_id AND d.action_id = back.action_id
               WHERE d.hold = 'retraction' ORDER BY d.id FOR NO KEY UPDATE OF d) RETURNING id""",
        seqs,
        triggers,
        actions,
    )
    return [record["id"] for record in records]


async def skip(tx: Transaction, ids: Collection[DeliveryId], reason: str) -> None:
    await tx.run(
        """UPDATE deliveries SET status = 'skipped', reason = $2, hold = NULL, leased_until = NULL, lease_owner = NULL,
               finished_at = clock_timestamp() WHERE id = ANY($1::uuid[])""",
        list(ids),
        reason,
    )
    tx.on_commit(lambda: metrics.DELIVERIES_FINISHED.labels("skipped", "none").inc(len(ids)))


async def latest_pending(tx: Transaction, trigger_id: TriggerId) -> list[DeliveryId]:
    """The pending ones among the trigger's last deliveries. A caller of ours waits for no more than these."""
    records = await tx.fetch(
        """SELECT id FROM (SELECT id, status FROM deliveries WHERE trigger_id = $1 ORDER BY id DESC LIMIT $2) AS latest
           WHERE status = 'pending'""",
        trigger_id,
        LATEST,
    )
    return [record["id"] for record in records]


async def skip_waiting(
    tx: Transaction, ids: Collection[DeliveryId], reason: str, action_ids: Collection[ActionId] | None
) -> int:
    """Not what is being sent just now, nor what somebody has locked."""
    records = await tx.fetch(
        """SELECT id FROM deliveries WHERE id = ANY($1::uuid[]) AND status = 'pending'
           AND (leased_until IS NULL OR leased_until <= clock_timestamp())
           AND ($2::bigint[] IS NULL OR action_id = ANY($2)) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED""",
        list(ids),
        None if action_ids is None else list(action_ids),
    )
    await skip(tx, [record["id"] for record in records], reason)
    return len(records)


async def pause(tx: Transaction, ids: Collection[DeliveryId]) -> int:
    return await tx.run(
        """UPDATE deliveries SET hold = 'paused' WHERE id IN (
               SELECT id FROM deliveries WHERE id = ANY($1::uuid[]) AND status = 'pending'
               AND (hold IS NULL OR hold = 'breaker') ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)""",
        list(ids),
    )


async def unpause(tx: Transaction, limit: int, among: Collection[DeliveryId] | None = None) -> list[DeliveryId]:
    """Lift the hold of those whose trigger and action are enabled, or gone: then their claim gives them up."""
    records = await tx.fetch(
        f"""UPDATE deliveries SET hold = NULL, due_at = greatest(due_at, now()) WHERE id IN (
               SELECT d.id FROM deliveries d LEFT JOIN triggers t ON t.id = d.trigger_id
                   LEFT JOIN trigger_actions a ON a.id = d.action_id
               WHERE d.hold = 'paused' AND t.enabled IS DISTINCT FROM false AND a.enabled IS DISTINCT FROM false
               {"" if among is None else "AND d.id = ANY($2::uuid[])"}
               ORDER BY d.id LIMIT $1 FOR NO KEY UPDATE OF d SKIP LOCKED) RETURNING id""",  # noqa: S608 (our own words)
        limit,
        *(() if among is None else (list(among),)),
    )
    return _oldest_first(records)


async def release(tx: Transaction, trigger_id: TriggerId, limit: int) -> list[DeliveryId]:
    """Lift a breaker's hold, oldest first. What was due stays due; what waits for a later time goes on waiting."""
    records = await tx.fetch(
        """UPDATE deliveries SET hold = NULL, due_at = greatest(due_at, now()) WHERE id IN (
               SELECT id FROM deliveries WHERE trigger_id = $1 AND hold = 'breaker' ORDER BY id LIMIT $2
               FOR NO KEY UPDATE SKIP LOCKED) RETURNING id""",
        trigger_id,
        limit,
    )
    return _oldest_first(records)


def _oldest_first(records: Iterable[asyncpg.Record]) -> list[DeliveryId]:
    return sorted((record["id"] for record in records), key=lambda id_: id_.bytes)


async def held(tx: Transaction, trigger_id: TriggerId) -> int:
    number: int = await tx.fetchval(
        "SELECT count(*) FROM deliveries WHERE trigger_id = $1 AND hold = 'breaker'", trigger_id
    )
    return number


async def by_hold(tx: Transaction) -> dict[str, int]:
    records = await tx.fetch("SELECT hold, count(*) AS number FROM deliveries WHERE hold IS NOT NULL GROUP BY hold")
    return {record["hold"]: record["number"] for record in records}


async def one(tx: Transaction, organization_id: OrganizationId | None, id_: DeliveryId) -> asyncpg.Record | None:
    return await tx.fetchrow(
        f"""SELECT {_SHOWN}, d.organization_id, d.event_seq, d.context::text AS context, e.retracted_at
            FROM {JOINED} WHERE d.id = $1 AND ($2::text IS NULL OR d.organization_id = $2)""",  # noqa: S608
        id_,
        organization_id,
    )


async def now(tx: Transaction) -> datetime:
    moment: datetime = await tx.fetchval("SELECT clock_timestamp()")
    return moment


async def revive(tx: Transaction, ids: Collection[DeliveryId]) -> None:
    """Pending and due now; the schedule starts again after the attempts made so far. What was never tried may not have
    been deep enough yet: that is found out."""
    await tx.run(
        """UPDATE deliveries SET status = 'pending', reason = NULL, due_at = now(), finished_at = NULL,
               hold = CASE WHEN release_tag IS NOT NULL AND attempts = 0 THEN 'depth' END,
               schedule_from = attempts, leased_until = NULL, lease_owner = NULL WHERE id = ANY($1::uuid[])""",
        list(ids),
    )


async def attempts_of(tx: Transaction, id_: DeliveryId) -> list[asyncpg.Record]:
    return await tx.fetch(
        """SELECT number, started_at, duration_ms, outcome, status_code, error_kind, error, response_excerpt, retry_at
           FROM attempts WHERE delivery_id = $1 ORDER BY number""",
        id_,
    )


async def page(
    tx: Transaction,
    organization_id: OrganizationId | None,
    wanted: DeliveryFilter,
    *,
    limit: int,
    offset: int,
    after: UUID | None,
) -> tuple[list[asyncpg.Record], int]:
    """One page in the order of ids, which is that of creation, and how many there are in all, counted up to a bound."""
    where = Where()
    if organization_id is not None:
        where.add("d.organization_id = {}", organization_id)
    narrow(where, wanted)
    total: int = await tx.fetchval(
        f"SELECT count(*) FROM (SELECT FROM {JOINED} WHERE {where} LIMIT {COUNTED + 1}) AS counted",  # noqa: S608
        *where.values,
    )
    descending = wanted.order == "desc"
    if after is not None:
        where.add("d.id < {}" if descending else "d.id > {}", after)
    records = await tx.fetch(
        f"""SELECT {_SHOWN} FROM {JOINED} WHERE {where} ORDER BY d.id {"DESC" if descending else "ASC"}
            LIMIT {int(limit)} OFFSET {int(offset)}""",  # noqa: S608
        *where.values,
    )
    return records, total


class Where:
    """Conditions joined by AND, with their values in the order of their placeholders."""

    def __init__(self) -> None:
        self._conditions = ["true"]
        self.values: list[object] = []

    def add(self, condition: str, value: object) -> None:
        self.values.append(value)
        self._conditions.append(condition.format(f"${len(self.values)}"))

    def __str__(self) -> str:
        return " AND ".join(self._conditions)


def narrow(where: Where, wanted: DeliveryFilter) -> None:
    """Add what a filter asks for, over `JOINED`."""
    if wanted.status:
        where.add("d.status = ANY({}::text[])", list(wanted.status))
    equal: Iterable[tuple[str, object]] = (
        ("d.trigger_id = {}", wanted.trigger_id),
        ("d.action_id = {}", wanted.action_id),
        ("d.action_type = {}", wanted.action_type),
        ("d.event_seq = (SELECT seq FROM events WHERE id = {})", wanted.event_id),
        ("d.chain_id = {}", wanted.chain_id),
        ("e.agent_id = {}::numeric", wanted.agent_id),
        ("d.environment = {}", wanted.environment),
        ("d.kind = {}", wanted.kind),
        ("d.hold = {}", wanted.hold),
        ("d.created_at >= {}", wanted.since),
        ("d.created_at < {}", wanted.until),
    )
    for condition, value in equal:
        if value is not None:
            where.add(condition, value)
    if wanted.correlation_id is not None:
        where.add(
            "left(encode(sha256(convert_to(d.trigger_id || chr(31) || e.id, 'UTF8')), 'hex'), 32) = {}",
            correlation_prefix(wanted.correlation_id) or "",
        )
