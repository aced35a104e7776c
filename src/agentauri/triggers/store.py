"""SQL of the evaluator and of the index. What callers configure has `configuration.py`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

import asyncpg
import msgspec
from msgspec import Struct

from agentauri.database import Transaction
from agentauri.events import COLUMNS, Event
from agentauri.types import ChainId, EventSeq, TriggerId

_OWN = len(COLUMNS)
_READ_AS = dict.fromkeys(("agent_id", "feedback_index", "value_raw", "args"), "e.{}::text")
"""What the driver would be slow to decode only for `Event` to do it again."""
_READ_AS |= dict.fromkeys(("topics", "data"), "NULL::bytea")
"""The log's own bytes mean nothing to triggers."""
EVENT = ", ".join(_READ_AS.get(name, 'e."{}"').format(name) for name in COLUMNS)
"""The columns of `events` as `e`, as `Event.from_row` takes them."""


class Resume(Struct, frozen=True):
    """How far an event with very many matches has got: written up to trigger `after`, in the order of their ids."""

    after: str = ""
    matched: int = 0
    deliveries: int = 0
    spent_ms: int = 0


_decode_resume = msgspec.json.Decoder(Resume).decode


class Row:
    """One queue row with its event. `again` says that the event was evaluated before, `returned` that the chain had
    taken it back in between."""

    __slots__ = ("_record", "again", "chain_id", "event_seq", "kind", "position", "resume", "returned", "trigger_id")

    def __init__(self, record: asyncpg.Record) -> None:
        self._record = record
        self.position: int
        self.event_seq: EventSeq
        self.chain_id: ChainId
        self.kind: str
        self.trigger_id: TriggerId | None
        self.returned: bool
        resume: str | None
        (self.position, self.event_seq, self.chain_id, self.kind, self.trigger_id, resume, self.returned, processed) = (
            record[_OWN : _OWN + 8]
        )
        self.resume = None if resume is None else _decode_resume(resume)
        self.again = self.returned or processed is not None

    @property
    def is_first(self) -> bool:
        """Nobody has evaluated the event before, for all triggers or for one."""
        return self.kind == "assert" and self.trigger_id is None and not self.again

    @property
    def event_id(self) -> str | None:
        """None where somebody deleted the event."""
        return self._record["id"]  # type: ignore[no-any-return]

    @property
    def created_at(self) -> datetime | None:
        return self._record["created_at"]  # type: ignore[no-any-return]

    def event(self) -> Event:
        """Decoded here and not before, so that an event which cannot be is a failure of its own."""
        return Event.from_row(self._record)


class Taken(NamedTuple):
    """`version` is the catalog's in the very snapshot of the rows."""

    version: int
    rows: list[Row]


_LANE = """
    SET LOCAL plan_cache_mode TO force_generic_plan; SET LOCAL enable_seqscan TO off; SET LOCAL enable_sort TO off;
    SET LOCAL enable_bitmapscan TO off; SET LOCAL enable_hashjoin TO off; SET LOCAL enable_mergejoin TO off"""


async def lock_lane(tx: Transaction, chain_id: ChainId) -> bool:
    """Have this lane to ourselves until the transaction ends; False when another evaluator has it.

    In this transaction a statement is planned once and reads by index, whatever statistics say: a plan that was made
    while a table was empty would read it from end to end once it is large, and planning anew costs as much as the work.
    """
    # Its own statement, so that the rows are read in a snapshot that is younger than the lock.
    lock = f"pg_try_advisory_xact_lock(hashtextextended('agentauri evaluator {chain_id:d}', 0))"
    return bool(await tx.run(f"{_LANE}; SELECT FROM (VALUES (1)) AS one WHERE {lock}"))


async def take(tx: Transaction, chain_id: ChainId, floor: int, limit: int) -> Taken:
    """The first rows of a lane, locked."""
    # In rows and in this order, which only the lane's own index has: the primary key would walk through other lanes.
    return await _take(
        tx,
        f"(chain_id, position) >= ($1, $2) AND (chain_id, position) <= ($1, {2**63 - 1})",
        limit,
        chain_id,
        floor,
    )


async def take_again(tx: Transaction, positions: Sequence[int]) -> Taken:
    """These rows, as far as nobody has dealt with them."""
    return await _take(tx, "position = ANY($1::bigint[])", len(positions), positions)


async def _take(tx: Transaction, which: str, limit: int, *arguments: object) -> Taken:
    records = await tx.fetch(
        f"""WITH taken AS (
                SELECT position, event_seq, chain_id, kind, trigger_id, resume, returned FROM event_queue
                WHERE due_at IS NULL AND {which} ORDER BY chain_id, position LIMIT {limit:d} FOR UPDATE SKIP LOCKED
            )
            SELECT {EVENT}, t.position, t.event_seq, t.chain_id, t.kind, t.trigger_id, t.resume::text, t.returned,
                   (SELECT true FROM processed_events p WHERE p.event_seq = t.event_seq),
                   (SELECT version FROM trigger_catalog)
            FROM taken t LEFT JOIN events e ON e.seq = t.event_seq
            ORDER BY t.position""",  # noqa: S608 (our own words; the limit stands in the text so that plans know it)
        *arguments,
    )
    return Taken(records[0][_OWN + 8] if records else 0, [Row(record) for record in records])


async def remember(tx: Transaction, resumes: Mapping[int, Resume]) -> None:
    """Note how far rows have got that stay in the queue."""
    await tx.run(
        """UPDATE event_queue q SET resume = r.resume
           FROM unnest($1::bigint[], $2::jsonb[]) AS r (position, resume) WHERE q.position = r.position""",
        list(resumes),
        [msgspec.json.encode(resume).decode() for resume in resumes.values()],
    )


async def postpone(tx: Transaction, positions: Collection[int]) -> None:
    """Let rows come again in a second, without counting it as a failure."""
    await tx.run(
        "UPDATE event_queue SET due_at = clock_timestamp() + interval '1 second' WHERE position = ANY($1::bigint[])",
        list(positions),
    )


async def unsettled_chains(tx: Transaction) -> list[ChainId]:
    rows = await tx.fetch("SELECT DISTINCT chain_id FROM events WHERE retracted_at IS NOT NULL AND settled_at IS NULL")
    return [row[0] for row in rows]


async def notifying(tx: Transaction, trigger_ids: Collection[TriggerId]) -> set[TriggerId]:
    """Those of the triggers whose owners want to hear that the chain took an event back."""
    rows = await tx.fetch(
        "SELECT id FROM triggers WHERE id = ANY($1::text[]) AND on_reorg = 'notify'", list(trigger_ids)
    )
    return {row[0] for row in rows}


async def idle_for(tx: Transaction, seconds: float) -> bool:
    """Whether no evaluator at all has finished an event for so long."""
    active: bool = await tx.fetchval(
        """SELECT EXISTS (SELECT FROM processed_events
                          WHERE processed_at > clock_timestamp() - make_interval(secs => $1))""",
        seconds,
    )
    return not active


class TriggerRow(NamedTuple):
    """A trigger as the index reads it; jsonb as text."""

    id: TriggerId
    organization_id: str
    version: int
    environment: Literal["live", "test"]
    chain_id: int | None
    registry: str | None
    enabled: bool
    condition: str
    fire_at: str
    cooldown_seconds: int
    dedupe_key: str | None
    start_seq: int
    start_blocks: str
    created: int
    invalid_reason: str | None


_TRIGGER = """id, organization_id, version, environment, chain_id, registry, enabled, condition::text, fire_at::text,
              cooldown_seconds, dedupe_key, start_seq, start_blocks::text,
              extract(epoch FROM created_at)::bigint AS created, invalid_reason"""


class Changes(NamedTuple):
    """What has changed since a version; `ids` may be cut at the limit that was asked for."""

    version: int
    moment: datetime
    ids: list[TriggerId]


async def changes(tx: Transaction, since: int, limit: int) -> Changes:
    record = await tx.fetchrow(
        """SELECT version, clock_timestamp(), ARRAY(
               SELECT DISTINCT trigger_id FROM trigger_changes WHERE version > $1 LIMIT $2)
           FROM trigger_catalog""",
        since,
        limit,
    )
    assert record is not None
    return Changes(*record)


async def trigger_rows(tx: Transaction, trigger_ids: Collection[TriggerId]) -> list[TriggerRow]:
    records = await tx.fetch(f"SELECT {_TRIGGER} FROM triggers WHERE id = ANY($1::text[])", list(trigger_ids))  # noqa: S608
    return [TriggerRow(*record) for record in records]


async def trigger_page(tx: Transaction, after: str, limit: int) -> list[TriggerRow]:
    """Triggers that might fire, in the order of their ids, to stream all of them."""
    records = await tx.fetch(
        f"""SELECT {_TRIGGER} FROM triggers
            WHERE id > $1 AND enabled AND condition <> 'null'::jsonb ORDER BY id LIMIT {limit:d}""",  # noqa: S608 (the
        # limit stands in the text: a plan that does not know how few are wanted sorts all of them for each page)
        after,
    )
    return [TriggerRow(*record) for record in records]


async def mark_invalid(tx: Transaction, reasons: Mapping[TriggerId, str | None]) -> None:
    """Write down why triggers cannot run, or that they can again; rows that say so already are not touched.

    Waits for a lock only for a moment.
    """
    await tx.run("SET LOCAL lock_timeout TO '200ms'")
    await tx.run(
        """UPDATE triggers t SET invalid_reason = r.reason
           FROM unnest($1::text[], $2::text[]) AS r (id, reason)
           WHERE t.id = r.id AND t.invalid_reason IS DISTINCT FROM r.reason""",
        list(reasons),
        list(reasons.values()),
    )
