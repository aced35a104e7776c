"""SQL of the timers that tell of absences. What sets, cancels and revives them is in `state.store`.

A timer is open until it rings or is cancelled. `told` says that deliveries of its match may be on their way; one that
is cancelled nevertheless is void, and they are to be taken back.
"""

# ruff: noqa: S608 (all that is put into these statements are our own words)

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import asyncpg

from agentauri.database import Transaction
from agentauri.events import COLUMNS, Event
from agentauri.triggers.store import EVENT
from agentauri.types import ChainId, EventSeq, TriggerId

_OPEN = "cancelled_by IS NULL AND fired_at IS NULL"
_VOID = "told AND cancelled_by IS NOT NULL"
_OWN = len(COLUMNS)


class Timer(NamedTuple):
    """A timer with its event; `told` says that there may be deliveries of it."""

    id: int
    trigger_id: TriggerId
    leaf_id: int
    due_time: int
    told: bool
    context: bytes | None
    event: Event


async def catalog_version(tx: Transaction) -> int:
    version: int = await tx.fetchval("SELECT version FROM trigger_catalog")
    return version


async def first_due(tx: Transaction) -> dict[ChainId, int]:
    """When the first open timer of each chain is due."""
    rows = await tx.fetch(
        f"""WITH RECURSIVE first AS (
               (SELECT chain_id, due_time FROM timers WHERE {_OPEN} ORDER BY chain_id, due_time LIMIT 1)
               UNION ALL
               SELECT further.chain_id, further.due_time FROM first CROSS JOIN LATERAL (
                   SELECT chain_id, due_time FROM timers WHERE {_OPEN} AND chain_id > first.chain_id
                   ORDER BY chain_id, due_time LIMIT 1) AS further
           ) SELECT chain_id, due_time FROM first"""
    )
    return {row[0]: row[1] for row in rows}


async def void_chains(tx: Transaction) -> list[ChainId]:
    rows = await tx.fetch(f"SELECT DISTINCT chain_id FROM timers WHERE {_VOID}")
    return [row[0] for row in rows]


async def due(tx: Transaction, chain_id: ChainId, time: int, limit: int) -> list[Timer]:
    """Open timers of a chain that were due before a time, the first of them.

    None while the chain has events that wait to be evaluated, and none of a trigger for which alone one does: any of
    them may be what is waited for.
    """
    waits = "SELECT FROM event_queue q WHERE q.chain_id = $1 AND q.trigger_id"
    idle, failed = "q.due_at IS NULL", "q.due_at IS NOT NULL AND q.parked_at IS NULL"
    records = await tx.fetch(
        f"""SELECT {EVENT}, t.id, t.trigger_id, t.leaf_id, t.due_time, t.told, t.context::text
            FROM timers t JOIN events e ON e.seq = t.event_seq
            WHERE t.chain_id = $1 AND t.due_time < $2 AND {_OPEN} AND e.retracted_at IS NULL
                AND NOT EXISTS ({waits} IS NULL AND {idle}) AND NOT EXISTS ({waits} IS NULL AND {failed})
                AND NOT EXISTS ({waits} = t.trigger_id AND {idle})
                AND NOT EXISTS ({waits} = t.trigger_id AND {failed})
            ORDER BY t.due_time, e.block_number, e.log_index, t.id LIMIT {limit:d}""",
        chain_id,
        time,
    )
    return [_timer(record) for record in records]


async def void(tx: Transaction, chain_id: ChainId, limit: int) -> list[Timer]:
    """Timers of a chain whose matches are to be taken back, since what they waited for came after all."""
    records = await tx.fetch(
        f"""SELECT {EVENT}, t.id, t.trigger_id, t.leaf_id, t.due_time, t.told, t.context::text
            FROM timers t JOIN events e ON e.seq = t.event_seq
            WHERE t.chain_id = $1 AND {_VOID} AND e.retracted_at IS NULL ORDER BY t.id LIMIT {limit:d}""",
        chain_id,
    )
    return [_timer(record) for record in records]


def _timer(record: asyncpg.Record) -> Timer:
    id_, trigger_id, leaf_id, due_time, told, context = record[_OWN : _OWN + 6]
    encoded = None if context is None else context.encode()
    return Timer(id_, trigger_id, leaf_id, due_time, told, encoded, Event.from_row(record))


async def reopen(tx: Transaction, chain_id: ChainId, trigger_id: TriggerId, after: int) -> list[EventSeq]:
    """Let timers of a trigger ring once more that are due after a time; the events of those."""
    rows = await tx.fetch(
        """UPDATE timers SET fired_at = NULL WHERE trigger_id = $2 AND chain_id = $1 AND due_time > $3
               AND fired_at IS NOT NULL AND cancelled_by IS NULL RETURNING event_seq""",
        chain_id,
        trigger_id,
        after,
    )
    return [row[0] for row in rows]


async def rang(tx: Transaction, timers: Sequence[tuple[int, bool]]) -> None:
    """Note of timers that they rang, and whether there are deliveries of it."""
    ids, told = zip(*timers, strict=True)
    await tx.run(
        """UPDATE timers t SET fired_at = now(), told = r.told
           FROM unnest($1::bigint[], $2::boolean[]) AS r (id, told) WHERE t.id = r.id""",
        list(ids),
        list(told),
    )


async def taken_back(tx: Transaction, ids: Collection[int]) -> None:
    """Note of void timers that nothing is told of them any more."""
    await tx.run("UPDATE timers SET fired_at = NULL, told = false WHERE id = ANY($1::bigint[])", list(ids))


async def remember_told(tx: Transaction, pairs: Collection[tuple[EventSeq, TriggerId]]) -> None:
    """Note of timers that were set once more that there are deliveries of when they rang before."""
    seqs, triggers = zip(*pairs, strict=True)
    await tx.run(
        """UPDATE timers t SET told = true FROM unnest($1::bigint[], $2::text[]) AS r (seq, trigger_id)
           WHERE t.trigger_id = r.trigger_id AND t.event_seq = r.seq""",
        list(seqs),
        list(triggers),
    )
