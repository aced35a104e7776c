"""How far each chain has got: the blocks at which what happened there counts as confirmed, safe or final."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from agentauri.database import Transaction
from agentauri.events.queue import ABANDONED_HOURS
from agentauri.types import ChainId

Reached = Mapping[str, int]
"""The newest block that is the `head`, `safe` or `finalized` of a chain; one that is unknown is absent."""

UNKNOWN_DEPTH = 900
"""Blocks below its highest event that count as final on a chain that is neither indexed nor known."""


async def depths(
    tx: Transaction, chain_ids: Collection[ChainId], finality: Mapping[ChainId, int]
) -> dict[ChainId, Reached]:
    """These chains, and all that are indexed.

    A chain that nobody indexes is as high as its highest event, and final so many blocks below as `finality` says. A
    halted one has reached nothing: which of its blocks are real is not known.
    """
    rows = await tx.fetch(
        """SELECT chain_id, coalesce(c.status = 'halted', false) AS halted,
                  c.head_number AS head, greatest(c.safe_number, c.finalized_number) AS safe,
                  c.finalized_number AS finalized,
                  CASE WHEN (c.last_block_number >= 0
                             AND c.updated_at > clock_timestamp() - make_interval(hours => $2)) IS NOT TRUE
                  THEN (SELECT block_number FROM events e WHERE e.chain_id = wanted.chain_id AND retracted_at IS NULL
                        ORDER BY block_number DESC LIMIT 1) END AS highest
           FROM (SELECT unnest($1::bigint[]) UNION SELECT chain_id FROM checkpoints) AS wanted (chain_id)
           LEFT JOIN checkpoints c USING (chain_id)""",
        list(chain_ids),
        ABANDONED_HOURS,
    )
    found: dict[ChainId, Reached] = {}
    for chain_id, halted, head, safe, finalized, highest in rows:
        known = {"head": head, "safe": safe, "finalized": finalized}
        if highest is not None:
            final = highest - finality.get(chain_id, UNKNOWN_DEPTH)
            derived = {"head": highest, "safe": final, "finalized": final}
            known = {tag: block if known[tag] is None else max(known[tag], block) for tag, block in derived.items()}
        found[chain_id] = {} if halted else {tag: block for tag, block in known.items() if block is not None}
    return found


async def chain_times(tx: Transaction, chain_ids: Collection[ChainId]) -> dict[ChainId, int]:
    """The time of each chain, which is that of its newest block. One that is halted, or has none, has no time.

    Whoever reads the queue afterwards finds in it all events up to then that are not evaluated yet.
    """
    rows = await tx.fetch(
        """SELECT chain_id, CASE
               WHEN c.status = 'halted' THEN NULL
               WHEN c.last_block_number >= 0 AND c.updated_at > clock_timestamp() - make_interval(hours => $2)
               THEN c.last_block_time
               ELSE greatest(c.last_block_time, (
                   SELECT "timestamp" FROM events e WHERE e.chain_id = wanted.chain_id AND retracted_at IS NULL
                   ORDER BY block_number DESC LIMIT 1)) END
           FROM unnest($1::bigint[]) AS wanted (chain_id) LEFT JOIN checkpoints c USING (chain_id)""",
        list(chain_ids),
        ABANDONED_HOURS,
    )
    return {chain_id: time for chain_id, time in rows if time is not None}
