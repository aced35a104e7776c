"""SQL of what an indexer remembers: checkpoints, anchors, raw logs, contracts, providers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from agentauri.chain.rpc import Provider
from agentauri.chain.self_check import Contract
from agentauri.chain.types import (
    NO_BLOCK,
    Anchor,
    Checkpoint,
    EventCount,
    Log,
    ProviderStatus,
    Status,
    Undecoded,
)
from agentauri.database import Transaction
from agentauri.types import ChainId

KEPT_BELOW_FINALIZED = 64
SPARSE = 1_000  # of the anchors long final and without a log, the last of so many blocks is kept


class Overview(Struct, frozen=True):
    """A checkpoint as seen from outside; `behind_seconds` is the age of the last block read."""

    indexed_block: int | None
    first_block: int
    head: int | None
    safe: int | None
    finalized: int | None
    status: Status
    status_reason: str | None
    behind_seconds: int
    last_event_at: int | None
    updated_at: datetime


async def begin(tx: Transaction, chain_id: ChainId) -> None:
    """A checkpoint that has not begun, so that there is a row to say why."""
    await tx.run(
        """INSERT INTO checkpoints (chain_id, last_block_number, last_block_hash, last_block_time, first_block, status)
           VALUES ($1, $2, '', 0, $2, 'starting') ON CONFLICT DO NOTHING""",
        chain_id,
        NO_BLOCK,
    )


async def checkpoint(tx: Transaction, chain_id: ChainId) -> Checkpoint | None:
    row = await tx.fetchrow(
        """SELECT last_block_number, last_block_hash, last_block_time, first_block, head_number, safe_number,
                  finalized_number, finalized_hash, status, status_reason, reset_to
           FROM checkpoints WHERE chain_id = $1""",
        chain_id,
    )
    if row is None:
        return None
    return Checkpoint(
        block=Anchor(row["last_block_number"], row["last_block_hash"], row["last_block_time"]),
        first_block=row["first_block"],
        head=row["head_number"],
        safe=row["safe_number"],
        finalized=row["finalized_number"],
        finalized_hash=row["finalized_hash"],
        status=row["status"],
        status_reason=row["status_reason"],
        reset_to=row["reset_to"],
    )


async def move_checkpoint(tx: Transaction, chain_id: ChainId, old: Anchor, new: Anchor) -> bool:
    """Compare and set; False when another writer was here."""
    moved = await tx.run(
        """UPDATE checkpoints SET last_block_number = $4, last_block_hash = $5, last_block_time = $6,
                  progressed_at = now(), updated_at = now()
           WHERE chain_id = $1 AND last_block_number = $2 AND last_block_hash = $3""",
        chain_id,
        old.number,
        old.hash,
        new.number,
        new.hash,
        new.time,
    )
    return moved == 1


async def set_first_block(tx: Transaction, chain_id: ChainId, first_block: int) -> None:
    await tx.run("UPDATE checkpoints SET first_block = $2 WHERE chain_id = $1", chain_id, first_block)


async def set_status(tx: Transaction, chain_id: ChainId, status: Status, reason: str | None) -> None:
    await tx.run(
        """UPDATE checkpoints SET status = $2, status_reason = $3, updated_at = now()
           WHERE chain_id = $1 AND (status, coalesce(status_reason, '')) IS DISTINCT FROM ($2, coalesce($3, ''))""",
        chain_id,
        status,
        reason,
    )


async def set_heads(
    tx: Transaction, chain_id: ChainId, head: int, safe: int | None, finalized: int | None, finalized_hash: str | None
) -> None:
    """What the chain says of itself; what is None stays as it was, and finality never goes back."""
    await tx.run(
        """UPDATE checkpoints SET head_number = $2, safe_number = coalesce($3, safe_number),
                  finalized_hash = CASE WHEN $4 > coalesce(finalized_number, -1) THEN $5 ELSE finalized_hash END,
                  finalized_number = greatest($4, finalized_number), updated_at = now()
           WHERE chain_id = $1""",
        chain_id,
        head,
        safe,
        finalized,
        finalized_hash,
    )


async def forget_heads(tx: Transaction, chain_id: ChainId) -> None:
    await tx.run(
        """UPDATE checkpoints SET head_number = NULL, safe_number = NULL, finalized_number = NULL,
                  finalized_hash = NULL, reset_to = NULL, updated_at = now() WHERE chain_id = $1""",
        chain_id,
    )


async def finish_reset(tx: Transaction, chain_id: ChainId, block: Anchor) -> None:
    """Nothing above the block counts as final any more, and what was asked for is done. What is unknown stays so."""
    await tx.run(
        """UPDATE checkpoints SET reset_to = NULL,
                  safe_number = CASE WHEN safe_number > $2 THEN $2 ELSE safe_number END,
                  finalized_hash = CASE WHEN finalized_number > $2 THEN $3 ELSE finalized_hash END,
                  finalized_number = CASE WHEN finalized_number > $2 THEN $2 ELSE finalized_number END,
                  updated_at = now()
           WHERE chain_id = $1""",
        chain_id,
        block.number,
        block.hash,
    )


async def ask_for_reset(tx: Transaction, chain_id: ChainId, to_block: int) -> None:
    await tx.run("UPDATE checkpoints SET reset_to = $2, updated_at = now() WHERE chain_id = $1", chain_id, to_block)


async def append_anchors(tx: Transaction, chain_id: ChainId, anchors: Iterable[Anchor]) -> None:
    """Remember blocks of which none is remembered yet."""
    await tx.copy(
        "block_anchors",
        ("chain_id", "block_number", "block_hash", "parent_hash", "block_time"),
        [(chain_id, one.number, one.hash, one.parent_hash, one.time) for one in anchors],
    )


async def add_anchors(tx: Transaction, chain_id: ChainId, anchors: Iterable[Anchor]) -> None:
    """Remember blocks, whatever was remembered of their heights."""
    rows = sorted(anchors, key=lambda anchor: anchor.number)
    await tx.run(
        """INSERT INTO block_anchors (chain_id, block_number, block_hash, parent_hash, block_time)
           SELECT $1, number, hash, nullif(parent, ''), time
           FROM unnest($2::bigint[], $3::text[], $4::text[], $5::bigint[]) AS new (number, hash, parent, time)
           ON CONFLICT (chain_id, block_number) DO UPDATE
           SET block_hash = excluded.block_hash, parent_hash = excluded.parent_hash,
               block_time = excluded.block_time""",
        chain_id,
        [row.number for row in rows],
        [row.hash for row in rows],
        [row.parent_hash or "" for row in rows],
        [row.time for row in rows],
    )


async def anchors_below(tx: Transaction, chain_id: ChainId, most: int, count: int) -> list[Anchor]:
    """The highest `count` anchors at or below `most`, highest first."""
    rows = await tx.fetch(
        """SELECT block_number, block_hash, block_time, parent_hash FROM block_anchors
           WHERE chain_id = $1 AND block_number <= $2 ORDER BY block_number DESC LIMIT $3""",
        chain_id,
        most,
        count,
    )
    return [Anchor(*row) for row in rows]


async def drop_anchors_above(tx: Transaction, chain_id: ChainId, block_number: int) -> None:
    await tx.run("DELETE FROM block_anchors WHERE chain_id = $1 AND block_number > $2", chain_id, block_number)


async def prune_anchors(tx: Transaction, chain_id: ChainId, finalized: int, since: int) -> int:
    """Thin out the anchors above `since` that are long final; up to which block that is done.

    Kept are the newest below the finalized block, each block with a log, and of the others the last in every
    thousand: enough to go back to.
    """
    edge = await tx.fetchval(
        """SELECT block_number FROM block_anchors WHERE chain_id = $1 AND block_number < $2
           ORDER BY block_number DESC OFFSET $3 LIMIT 1""",
        chain_id,
        finalized,
        KEPT_BELOW_FINALIZED,
    )
    if edge is None or edge <= since:
        return since
    await tx.run(
        """DELETE FROM block_anchors AS anchor USING (
               SELECT block_number FROM block_anchors
               WHERE chain_id = $1 AND block_number > $2 AND block_number <= $3
               EXCEPT SELECT block_number FROM events WHERE chain_id = $1 AND block_number > $2 AND block_number <= $3
               EXCEPT SELECT block_number FROM raw_logs WHERE chain_id = $1 AND block_number > $2 AND block_number <= $3
           ) AS bare
           WHERE anchor.chain_id = $1 AND anchor.block_number = bare.block_number
             AND EXISTS (SELECT FROM block_anchors AS later WHERE later.chain_id = $1
                         AND later.block_number > anchor.block_number
                         AND later.block_number < (anchor.block_number / $4 + 1) * $4)
             AND anchor.block_number > (SELECT min(block_number) FROM block_anchors WHERE chain_id = $1)""",
        chain_id,
        since,
        edge,
        SPARSE,
    )
    return int(edge)


async def add_raw_logs(tx: Transaction, chain_id: ChainId, logs: Sequence[tuple[Log, int, Undecoded]]) -> None:
    """Keep logs that are no event, with the time of their block."""
    if not logs:
        return
    # What a reorg took away and put elsewhere: the row of its old place would say that it was gone.
    await tx.run(
        """DELETE FROM raw_logs USING unnest($2::text[], $3::text[], $4::bytea[], $5::bytea[])
                  AS back (transaction_hash, address, topics, data)
           WHERE raw_logs.chain_id = $1 AND raw_logs.transaction_hash = back.transaction_hash
             AND raw_logs.address = back.address AND raw_logs.topics = back.topics AND raw_logs.data = back.data
             AND raw_logs.retracted_at IS NOT NULL""",
        chain_id,
        [log.transaction_hash for log, _, _ in logs],
        [log.address for log, _, _ in logs],
        [log.topics for log, _, _ in logs],
        [log.data for log, _, _ in logs],
    )
    await tx.run_many(
        """INSERT INTO raw_logs (chain_id, block_number, block_hash, transaction_hash, transaction_index, log_index,
                                 address, topics, data, block_time, reason)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
           ON CONFLICT (chain_id, transaction_hash, log_index) DO UPDATE
           SET block_number = excluded.block_number, block_hash = excluded.block_hash,
               transaction_index = excluded.transaction_index, address = excluded.address, topics = excluded.topics,
               data = excluded.data, block_time = excluded.block_time, reason = excluded.reason, retracted_at = NULL""",
        [
            (
                chain_id,
                log.block_number,
                log.block_hash,
                log.transaction_hash,
                log.transaction_index,
                log.log_index,
                log.address,
                log.topics,
                log.data,
                time,
                undecoded.reason,
            )
            for log, time, undecoded in logs
        ],
    )


async def first_upgrades(tx: Transaction, chain_ids: Sequence[ChainId]) -> dict[tuple[ChainId, str], int]:
    """The block in which each registry got its first code, as far as that has been read."""
    rows = await tx.fetch(
        """SELECT chain_id, registry, min(block_number) FROM events
           WHERE event_type = 'Upgraded' AND chain_id = ANY($1::bigint[]) AND retracted_at IS NULL AND origin = 'chain'
           GROUP BY chain_id, registry""",
        chain_ids,
    )
    return {(row[0], row[1]): row[2] for row in rows}


async def retract_raw_logs_above(tx: Transaction, chain_id: ChainId, block_number: int) -> None:
    await tx.run(
        """UPDATE raw_logs SET retracted_at = now()
           WHERE chain_id = $1 AND block_number > $2 AND retracted_at IS NULL""",
        chain_id,
        block_number,
    )


async def count_events_above(tx: Transaction, chain_id: ChainId, block_number: int) -> int:
    return int(
        await tx.fetchval(
            """SELECT count(*) FROM events WHERE chain_id = $1 AND block_number > $2
               AND retracted_at IS NULL AND origin = 'chain'""",
            chain_id,
            block_number,
        )
    )


async def has_unsettled(tx: Transaction, chain_id: ChainId) -> bool:
    return bool(
        await tx.fetchval(
            """SELECT EXISTS (SELECT FROM events WHERE chain_id = $1 AND origin = 'chain'
                              AND retracted_at IS NOT NULL AND settled_at IS NULL)""",
            chain_id,
        )
    )


async def save_contracts(tx: Transaction, chain_id: ChainId, contracts: Sequence[Contract]) -> None:
    await tx.run_many(
        """INSERT INTO registry_contracts (chain_id, registry, address, version, implementation, identity_registry,
                                           checked_at)
           VALUES ($1, $2, $3, $4, $5, $6, now())
           ON CONFLICT (chain_id, registry) DO UPDATE
           SET address = excluded.address, version = excluded.version, implementation = excluded.implementation,
               identity_registry = excluded.identity_registry, checked_at = excluded.checked_at""",
        [(chain_id, one.registry, one.address, one.version, one.implementation, one.identity) for one in contracts],
    )


async def mark_upgraded(tx: Transaction, chain_id: ChainId, registry: str, time: int) -> None:
    await tx.run(
        """UPDATE registry_contracts SET upgraded_at = to_timestamp($3) WHERE chain_id = $1 AND registry = $2""",
        chain_id,
        registry,
        time,
    )


async def save_providers(tx: Transaction, chain_id: ChainId, providers: Iterable[Provider]) -> None:
    """Each provider's record, for those who look from outside."""
    now = time.monotonic()
    await tx.run_many(
        """INSERT INTO rpc_providers (chain_id, name, score, latency_ms, successes, failures, consecutive_failures,
                                      state, open_until, last_error, last_ok_at, updated_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now() + $9, $10, $11, now())
           ON CONFLICT (chain_id, name) DO UPDATE
           SET score = excluded.score, latency_ms = excluded.latency_ms, successes = excluded.successes,
               failures = excluded.failures, consecutive_failures = excluded.consecutive_failures,
               state = excluded.state, open_until = excluded.open_until, last_error = excluded.last_error,
               last_ok_at = coalesce(excluded.last_ok_at, rpc_providers.last_ok_at),
               updated_at = excluded.updated_at""",
        [
            (
                chain_id,
                one.name,
                one.health.score(),
                None if one.health.latency is None else one.health.latency * 1000,
                one.health.successes,
                one.health.failures,
                one.health.consecutive_failures,
                "resting" if one.health.rests(now) else "ok",
                timedelta(seconds=one.health.resting_until - now) if one.health.rests(now) else None,
                one.health.last_error,
                one.last_ok_at,
            )
            for one in providers
        ],
    )


async def overview(tx: Transaction, chain_ids: Sequence[ChainId]) -> dict[ChainId, Overview]:
    rows = await tx.fetch(
        """SELECT chain_id, nullif(last_block_number, -1), first_block, head_number, safe_number, finalized_number,
                  status, status_reason, greatest(0, extract(epoch FROM now())::bigint - last_block_time),
                  (SELECT "timestamp" FROM events WHERE events.chain_id = checkpoints.chain_id
                   ORDER BY block_number DESC LIMIT 1), updated_at
           FROM checkpoints WHERE chain_id = ANY($1::bigint[])""",
        chain_ids,
    )
    return {row[0]: Overview(*row[1:]) for row in rows}


async def event_totals(tx: Transaction, chain_ids: Sequence[ChainId]) -> dict[ChainId, int]:
    rows = await tx.fetch(
        """SELECT chain_id, sum(count)::bigint FROM event_counters WHERE chain_id = ANY($1::bigint[])
           GROUP BY chain_id""",
        chain_ids,
    )
    return {row[0]: row[1] for row in rows}


async def event_counts(tx: Transaction) -> list[EventCount]:
    """An administrative event is counted once, whichever registries it is of."""
    rows = await tx.fetch(
        """SELECT chain_id, event_type, sum(count)::bigint FROM event_counters WHERE count > 0
           GROUP BY 1, 2 ORDER BY 1, 2"""
    )
    return [EventCount(chain_id=row[0], event_name=row[1], count=row[2]) for row in rows]


async def providers(tx: Transaction, chain_ids: Sequence[ChainId]) -> dict[ChainId, list[ProviderStatus]]:
    rows = await tx.fetch(
        """SELECT chain_id, name, (open_until IS NULL OR open_until <= now()) AND consecutive_failures = 0 AS healthy,
                  latency_ms, last_ok_at
           FROM rpc_providers WHERE chain_id = ANY($1::bigint[]) ORDER BY chain_id, length(name), name""",
        chain_ids,
    )
    found: dict[ChainId, list[ProviderStatus]] = {}
    for row in rows:
        found.setdefault(row["chain_id"], []).append(
            ProviderStatus(
                name=row["name"],
                healthy=row["healthy"],
                latency_ms=row["latency_ms"],
                last_ok_at=row["last_ok_at"],
            )
        )
    return found
