"""SQL of deliveries that wait until their event is deep enough in its chain.

A row says for itself what it waits for, whatever its trigger asks for by now: that the chain's `release_tag` reaches
`release_block`, which is `release_depth` above its event. A reorg may move the event to another block before anybody
gets round to the row, so its event is looked at again before it is released.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from agentauri.database import Transaction
from agentauri.types import ChainId, DeliveryId, EventSeq

Reached = Mapping[str, int]
"""The block that each of a chain's tags has reached; one that is absent has reached none."""

_BY_INDEX = "SET LOCAL enable_seqscan TO off; SET LOCAL enable_bitmapscan TO off"
"""A plan that was made while nothing waited would read everything that waits, due or not."""

_NOW_DUE = "coalesce(e.block_number + d.release_depth, d.release_block)"
_REACHED = "(SELECT r.block FROM unnest($2::text[], $3::bigint[]) AS r (tag, block) WHERE r.tag = d.release_tag)"
_DEEP = f"coalesce({_NOW_DUE} <= {_REACHED}, false)"


async def waiting_chains(tx: Transaction) -> list[ChainId]:
    """Where any delivery waits for depth."""
    await tx.run(_BY_INDEX)
    rows = await tx.fetch(
        """WITH RECURSIVE waiting AS (
               (SELECT chain_id FROM deliveries WHERE hold = 'depth' ORDER BY chain_id LIMIT 1)
               UNION ALL
               SELECT (SELECT d.chain_id FROM deliveries d WHERE d.hold = 'depth' AND d.chain_id > waiting.chain_id
                       ORDER BY d.chain_id LIMIT 1) FROM waiting WHERE waiting.chain_id IS NOT NULL
           ) SELECT chain_id FROM waiting WHERE chain_id IS NOT NULL"""
    )
    return [row["chain_id"] for row in rows]


async def due_chains(tx: Transaction, reached: Mapping[ChainId, Reached]) -> list[ChainId]:
    """Where any delivery has waited long enough."""
    asked = [(chain_id, tag, block) for chain_id, blocks in reached.items() for tag, block in blocks.items()]
    if not asked:
        return []
    await tx.run(_BY_INDEX)
    rows = await tx.fetch(
        """SELECT DISTINCT r.chain_id FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS r (chain_id, tag, block)
           CROSS JOIN LATERAL (SELECT FROM deliveries d WHERE d.hold = 'depth' AND d.chain_id = r.chain_id
                               AND d.release_tag = r.tag AND d.release_block <= r.block LIMIT 1) AS found""",
        *(list(column) for column in zip(*asked, strict=True)),
    )
    return [row["chain_id"] for row in rows]


async def due(tx: Transaction, chain_id: ChainId, reached: Reached, limit: int) -> list[DeliveryId]:
    """Deliveries that have waited long enough, those that wait longest of each tag."""
    await tx.run(_BY_INDEX)
    rows = await tx.fetch(
        """SELECT found.id FROM unnest($2::text[], $3::bigint[]) AS r (tag, block)
           CROSS JOIN LATERAL (SELECT d.id FROM deliveries d WHERE d.hold = 'depth' AND d.chain_id = $1
                               AND d.release_tag = r.tag AND d.release_block <= r.block
                               ORDER BY d.release_block LIMIT $4) AS found LIMIT $4""",
        chain_id,
        list(reached),
        list(reached.values()),
        limit,
    )
    return [row["id"] for row in rows]


async def release(
    tx: Transaction, ids: Sequence[DeliveryId], reached: Reached
) -> tuple[list[DeliveryId], list[DeliveryId]]:
    """Lift the hold of those of them whose events are deep enough where they are now; the others wait on, and those
    whose event is gone for the time being are the retraction's. What was released, and all that was dealt with."""
    rows = await tx.fetch(
        f"""UPDATE deliveries AS held SET hold = now.hold, release_block = now.release_block,
                due_at = greatest(held.due_at, now())
            FROM (SELECT d.id, {_NOW_DUE} AS release_block,
                         CASE WHEN e.retracted_at IS NOT NULL THEN 'retraction'
                              WHEN NOT {_DEEP} THEN 'depth' END AS hold
                  FROM deliveries d LEFT JOIN events e ON e.seq = d.event_seq
                  WHERE d.id = ANY($1::uuid[]) AND d.id >= $4 AND d.id <= $5 AND d.hold = 'depth'
                  ORDER BY d.id FOR NO KEY UPDATE OF d SKIP LOCKED) AS now
            WHERE held.id = now.id AND held.id >= $4 AND held.id <= $5 RETURNING held.id, held.hold""",  # noqa: S608
        list(ids),
        list(reached),
        list(reached.values()),
        min(ids),
        max(ids),
    )
    return [row["id"] for row in rows if row["hold"] is None], [row["id"] for row in rows]


async def weigh(tx: Transaction, event_seqs: Collection[EventSeq], reached: Reached) -> list[DeliveryId]:
    """Set anew, by the block where these events are now, whether what waits has to go on waiting; what need not any
    more. What waits for something else as well goes on doing that."""
    rows = await tx.fetch(
        f"""UPDATE deliveries AS held SET hold = now.hold, release_block = now.release_block
            FROM (SELECT d.id, d.hold AS before, {_NOW_DUE} AS release_block,
                         CASE WHEN NOT {_DEEP} THEN 'depth' WHEN d.hold <> 'depth' THEN d.hold END AS hold
                  FROM deliveries d JOIN events e ON e.seq = d.event_seq
                  WHERE d.event_seq = ANY($1::bigint[]) AND d.status = 'pending' AND d.release_tag IS NOT NULL
                    AND d.hold IS DISTINCT FROM 'retraction'
                  ORDER BY d.id FOR NO KEY UPDATE OF d) AS now
            WHERE held.id = now.id RETURNING held.id, now.before = 'depth' AND held.hold IS NULL AS free""",  # noqa: S608
        list(event_seqs),
        list(reached),
        list(reached.values()),
    )
    return [row["id"] for row in rows if row["free"]]
