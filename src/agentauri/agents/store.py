"""SQL of the write side. The fold itself is a function in the schema, so that its version is that of what it made."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import Decimal

import asyncpg

from agentauri.agents.types import Gap, Miscount
from agentauri.database import Transaction, array
from agentauri.types import ChainId, EventSeq

REPORTED_GAPS = 20

_OF_INDEXER = "chain_id = $1 AND origin = 'chain' AND block_number"


async def project_blocks(tx: Transaction, chain_id: ChainId, first: int, last: int) -> list[Gap]:
    """Add what our indexer found in these blocks."""
    return _gaps(
        await tx.fetch(
            f"""SELECT * FROM project_events($1, ARRAY(
                    SELECT seq FROM events WHERE {_OF_INDEXER} BETWEEN $2 AND $3 AND retracted_at IS NULL))""",  # noqa: S608
            chain_id, first, last,
        )
    )  # fmt: skip


async def reproject_blocks(tx: Transaction, chain_id: ChainId, first: int, last: int) -> None:
    """Make afresh what they touch."""
    await tx.run(
        f"""SELECT reproject_events($1, ARRAY(
                SELECT seq FROM events WHERE {_OF_INDEXER} BETWEEN $2 AND $3 AND retracted_at IS NULL))""",  # noqa: S608
        chain_id, first, last,
    )  # fmt: skip


async def reproject_retracted(tx: Transaction, chain_id: ChainId, above: int) -> None:
    """Make afresh what those events touch that this transaction took back, and uncount them."""
    retracted = f"{_OF_INDEXER} > $2 AND retracted_at = now()"
    await tx.run(
        f"SELECT reproject_events($1, ARRAY(SELECT seq FROM events WHERE {retracted}))",  # noqa: S608
        chain_id, above,
    )  # fmt: skip
    await tx.run(
        f"""UPDATE event_counters c SET count = c.count - gone.count
            FROM (SELECT registry, event_type, count(*) AS count FROM events WHERE {retracted} GROUP BY 1, 2) AS gone
            WHERE c.chain_id = $1 AND c.registry = gone.registry AND c.event_type = gone.event_type""",  # noqa: S608
        chain_id, above,
    )  # fmt: skip


async def project(tx: Transaction, chain_id: ChainId, seqs: Collection[EventSeq]) -> list[Gap]:
    return _gaps(await tx.fetch("SELECT * FROM project_events($1, $2::text::bigint[])", chain_id, array(seqs)))


async def reproject(tx: Transaction, chain_id: ChainId, seqs: Collection[EventSeq]) -> None:
    await tx.run("SELECT reproject_events($1, $2::text::bigint[])", chain_id, array(seqs))


async def count(tx: Transaction, chain_id: ChainId, events: Mapping[tuple[str, str], int]) -> None:
    """Add to the counters of (registry, event type). The chain is locked, so nobody counts beside us."""
    await tx.run(
        """INSERT INTO event_counters AS known (chain_id, registry, event_type, count)
           SELECT $1, * FROM unnest($2::text[], $3::text[], $4::bigint[])
           ON CONFLICT (chain_id, registry, event_type) DO UPDATE SET count = known.count + excluded.count""",
        chain_id,
        [registry for registry, _ in sorted(events)],
        [event_type for _, event_type in sorted(events)],
        [number for _, number in sorted(events.items())],
    )


async def recount(tx: Transaction, chain_id: ChainId | None) -> list[Miscount]:
    return [Miscount(*row) for row in await tx.fetch("SELECT * FROM recount_events($1)", chain_id)]


def _gaps(rows: list[asyncpg.Record]) -> list[Gap]:
    return [Gap(int(agent), client, int(first), int(last)) for agent, client, first, last in rows]


async def refold_next(tx: Transaction, chain_id: ChainId, after: int | None, events: int) -> list[int]:
    """Make the next agents afresh, of which about so many events tell; who they were, none when all are done."""
    await tx.run("SELECT lock_agents($1)", chain_id)
    found = await tx.fetchval(
        "SELECT agents_after($1, $2, $3)", chain_id, Decimal("-Infinity") if after is None else after, events
    )
    if found:
        await tx.run("SELECT refold_agents($1, $2)", chain_id, found)
    return [int(agent) for agent in found or ()]


async def refold_one(tx: Transaction, chain_id: ChainId, agent_id: int) -> None:
    await tx.run("SELECT lock_agents($1)", chain_id)
    await tx.run("SELECT refold_agents($1, ARRAY[$2::numeric])", chain_id, agent_id)


async def refold_all_operators(tx: Transaction, chain_id: ChainId) -> None:
    await tx.run("SELECT lock_agents($1)", chain_id)
    await tx.run(
        """SELECT refold_operators($1, ARRAY(
               SELECT owner FROM agent_operators WHERE chain_id = $1 UNION
               SELECT owner FROM events WHERE chain_id = $1 AND event_type = 'ApprovalForAll'
                   AND owner IS NOT NULL))""",
        chain_id,
    )


async def chains(tx: Transaction) -> list[ChainId]:
    """The chains of which there is anything."""
    rows = await tx.fetch(
        "SELECT chain_id FROM event_counters UNION SELECT chain_id FROM checkpoints UNION SELECT chain_id FROM agents"
    )
    return sorted(row[0] for row in rows)
