"""SQL of making events of raw logs."""

from __future__ import annotations

from collections.abc import Sequence

from agentauri.chain.types import Log, RawLog
from agentauri.database import Transaction
from agentauri.events import NewEvent
from agentauri.types import ChainId, EventSeq


async def lock_checkpoint(tx: Transaction, chain_id: ChainId) -> None:
    """Have the chain's indexer wait with what it wants to store until this transaction has ended."""
    await tx.run("SELECT FROM checkpoints WHERE chain_id = $1 FOR UPDATE", chain_id)


async def raw_logs_after(tx: Transaction, chain_id: ChainId, block: int, log_index: int, count: int) -> list[RawLog]:
    """The first raw logs after a place of the chain that stand, in its order."""
    rows = await tx.fetch(
        """SELECT id, block_time, address, topics, data, block_number, block_hash, transaction_hash, transaction_index,
                  log_index
           FROM raw_logs WHERE chain_id = $1 AND (block_number, log_index) > ($2, $3) AND retracted_at IS NULL
           ORDER BY block_number, log_index LIMIT $4""",
        chain_id,
        block,
        log_index,
        count,
    )
    return [RawLog(row[0], Log(*list(row)[2:]), row[1]) for row in rows]


async def drop_raw_logs(tx: Transaction, ids: Sequence[int]) -> None:
    """They are events now, and an event has its log's bytes."""
    await tx.run("DELETE FROM raw_logs WHERE id = ANY($1::bigint[])", ids)


async def seqs_of(tx: Transaction, chain_id: ChainId, events: Sequence[NewEvent]) -> list[EventSeq]:
    """The numbers of stored events, by their places."""
    rows = await tx.fetch(
        """SELECT seq FROM events JOIN unnest($2::text[], $3::text[], $4::int[]) AS log (tx, block, index)
           ON transaction_hash = log.tx AND block_hash = log.block AND log_index = log.index
           WHERE chain_id = $1 AND retracted_at IS NULL AND origin = 'chain' ORDER BY seq""",
        chain_id,
        [event.transaction_hash for event in events],
        [event.block_hash for event in events],
        [event.log_index for event in events],
    )
    return [row["seq"] for row in rows]
