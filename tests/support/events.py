"""Events for tests: as our indexer writes them, and as anybody may by hand."""

from __future__ import annotations

from typing import Any

from agentauri.database import Transaction
from agentauri.events import EventService, NewEvent
from agentauri.types import ChainId, EventId, EventSeq

CHAIN = ChainId(84532)


def make_log(
    transaction: str = "0xt1", log_index: int = 0, block: int = 10, fork: str = "a", **fields: Any
) -> NewEvent:
    """A decoded log; its content is its transaction and `data`, its place the block (of a fork) and the index."""
    values: dict[str, Any] = {
        "id": EventId(f"reputation-{CHAIN}-{transaction}-{log_index}"),
        "chain_id": CHAIN,
        "block_number": block,
        "block_hash": f"0x{block}{fork}",
        "transaction_hash": transaction,
        "log_index": log_index,
        "registry": "reputation",
        "event_type": "NewFeedback",
        "timestamp": 1_700_000_000 + block,
        "contract_address": "0xregistry",
        "topics": b"topics",
        "data": b"data",
    }
    return NewEvent(**(values | fields))


async def record(tx: Transaction, *logs: NewEvent) -> list[EventSeq]:
    """Store logs as the indexer does; the numbers of their rows."""
    await EventService().record(tx, logs[0].chain_id, logs)
    rows = await tx.fetch(
        "SELECT seq FROM events WHERE transaction_hash = ANY($1) ORDER BY seq", [log.transaction_hash for log in logs]
    )
    return [row["seq"] for row in rows]


async def insert_by_hand(tx: Transaction, event_id: str, **columns: object) -> EventSeq:
    """A row with no more than the columns that somebody must give, and `columns`."""
    values: dict[str, object] = {
        "id": event_id,
        "chain_id": CHAIN,
        "block_number": 1,
        "block_hash": "0xb1",
        "transaction_hash": "0xt1",
        "log_index": 0,
        "registry": "reputation",
        "event_type": "NewFeedback",
        "timestamp": 1_700_000_000,
    } | columns
    names = ", ".join(f'"{name}"' for name in values)
    places = ", ".join(f"${place}" for place in range(1, len(values) + 1))
    seq: EventSeq = await tx.fetchval(f"INSERT INTO events ({names}) VALUES ({places}) RETURNING seq", *values.values())
    return seq
