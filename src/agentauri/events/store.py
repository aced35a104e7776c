"""SQL of the events table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence

import asyncpg
import msgspec
from msgspec.structs import astuple

from agentauri.database import Transaction
from agentauri.events.reappear import Stored
from agentauri.events.types import Event, NewEvent, select_list
from agentauri.types import ChainId, EventId, EventSeq

SLICE = 200  # rows prepared between two turns of the event loop
LOOK_BACK = 10_000
"""Numbers among which an example is looked for: a registry without events must not cost a look at all others."""

_WRITTEN = NewEvent.__struct_fields__
_ARGS = _WRITTEN.index("args")
_encode_args = msgspec.json.Encoder().encode

_REVIVED = ", ".join(f'"{name}" = ${place}' for place, name in enumerate(_WRITTEN) if name != "id")
assert _WRITTEN[0] == "id"


async def is_fresh(tx: Transaction, chain_id: ChainId, first_block: int, last_block: int) -> bool:
    """Whether no stored row of the chain can be one of the logs of these blocks, an equal id aside."""
    return bool(
        await tx.fetchval(
            """SELECT NOT EXISTS (SELECT FROM events WHERE chain_id = $1
                                  AND retracted_at IS NOT NULL AND settled_at IS NULL)
                  AND NOT EXISTS (SELECT FROM events WHERE chain_id = $1 AND block_number BETWEEN $2 AND $3)""",
            chain_id,
            first_block,
            last_block,
        )
    )


async def insert(tx: Transaction, events: Sequence[NewEvent]) -> bool:
    """Append rows of our indexer; False, and nothing done, when one of the ids is held already."""
    try:
        # The rows that the statement triggers see would else be written to a file and read back, twice.
        await tx.run("SET LOCAL work_mem TO '64MB'")
        async with tx.savepoint():
            await tx.copy("events", (*_WRITTEN, "origin"), _rows(events))
    except asyncpg.UniqueViolationError:
        return False
    return True


async def related(tx: Transaction, chain_id: ChainId, logs: Sequence[NewEvent]) -> list[Stored]:
    """The rows of the logs' transactions, and those that hold the logs' ids; locked."""
    rows = await tx.fetch(
        """SELECT seq, id, block_hash, log_index, transaction_hash, contract_address, topics, data,
                  CASE WHEN retracted_at IS NULL THEN 'living' WHEN settled_at IS NULL THEN 'retracted'
                       ELSE 'settled' END AS state
           FROM events WHERE (chain_id = $1 AND transaction_hash = ANY($2::text[])) OR id = ANY($3::text[])
           ORDER BY seq FOR UPDATE""",
        chain_id,
        list({log.transaction_hash for log in logs}),
        [log.id for log in logs],
    )
    return [
        Stored(
            seq=row["seq"],
            id=row["id"],
            block_hash=row["block_hash"],
            log_index=row["log_index"],
            content=(row["transaction_hash"], row["contract_address"], row["topics"], row["data"]),
            state=row["state"],
        )
        for row in rows
    ]


async def move(tx: Transaction, pairs: Sequence[tuple[EventSeq, NewEvent]]) -> None:
    """Reinstate rows in the blocks that their transactions are in now."""
    await tx.run(
        """UPDATE events SET block_number = now_in.number, block_hash = now_in.hash, "timestamp" = now_in.time,
                  transaction_index = now_in.transaction_index, log_index = now_in.log_index, retracted_at = NULL
           FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::int[], $6::int[])
                AS now_in (seq, number, hash, time, transaction_index, log_index)
           WHERE events.seq = now_in.seq""",
        [seq for seq, _ in pairs],
        [log.block_number for _, log in pairs],
        [log.block_hash for _, log in pairs],
        [log.timestamp for _, log in pairs],
        [log.transaction_index for _, log in pairs],
        [log.log_index for _, log in pairs],
    )


async def revive(tx: Transaction, pairs: Sequence[tuple[EventSeq, NewEvent]]) -> None:
    """Reinstate settled rows with the content of the logs, in their next epoch. Rare, so a statement each."""
    await tx.run_many(
        f"""UPDATE events SET {_REVIVED}, retracted_at = NULL, settled_at = NULL, epoch = epoch + 1
            WHERE seq = ${len(_WRITTEN)}""",  # noqa: S608 (our own column names)
        [(*_values(log)[1:], seq) for seq, log in pairs],
    )


async def retract_above(tx: Transaction, chain_id: ChainId, block_number: int) -> int:
    return await tx.run(
        """UPDATE events SET retracted_at = now()
           WHERE chain_id = $1 AND block_number > $2 AND retracted_at IS NULL AND origin = 'chain'""",
        chain_id,
        block_number,
    )


async def by_seqs(tx: Transaction, seqs: Collection[EventSeq]) -> dict[EventSeq, Event]:
    rows = await tx.fetch(
        f"SELECT {select_list('events')} FROM events WHERE seq = ANY($1::bigint[])",  # noqa: S608
        list(seqs),
    )
    return {row["seq"]: Event.from_row(row) for row in rows}


async def by_id(tx: Transaction, event_id: EventId) -> Event | None:
    row = await tx.fetchrow(f"SELECT {select_list('events')} FROM events WHERE id = $1", event_id)  # noqa: S608
    return None if row is None else Event.from_row(row)


async def newest(tx: Transaction, registry: str | None, chain_id: ChainId | None) -> EventSeq | None:
    """The last event of a registry and chain, if there is one among the last of all."""
    seq: EventSeq | None = await tx.fetchval(
        """SELECT seq FROM events WHERE seq > (SELECT max(seq) FROM events) - $3 AND retracted_at IS NULL
           AND ($1::text IS NULL OR registry = $1) AND ($2::bigint IS NULL OR chain_id = $2)
           ORDER BY seq DESC LIMIT 1""",
        registry,
        chain_id,
        LOOK_BACK,
    )
    return seq


async def _rows(events: Sequence[NewEvent]) -> AsyncIterator[Sequence[object]]:
    """What is to be copied, with a turn for others in between: the loop has more to do than this."""
    for start in range(0, len(events), SLICE):
        for event in events[start : start + SLICE]:
            yield (*_values(event), "chain")
        await asyncio.sleep(0)


def _values(event: NewEvent) -> list[object]:
    values: list[object] = list(astuple(event))
    values[_ARGS] = _encode_args(event.args).decode()
    return values
