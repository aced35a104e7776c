"""Rows of `follows`, with what their triggers say."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import asyncpg

from agentauri.database import Transaction
from agentauri.types import OrganizationId

_FOLLOWS = """SELECT f.id, f.organization_id, f.environment, f.chain_id, f.agent_id::text AS agent_id, f.created_at,
        f.updated_at, coalesce(bool_and(t.enabled), false) AS enabled,
        coalesce(jsonb_object_agg(t.registry, t.id) FILTER (WHERE t.id IS NOT NULL), '{}')::text AS triggers
    FROM follows f LEFT JOIN triggers t ON t.managed_by = f.id"""


async def insert(tx: Transaction, values: Mapping[str, object]) -> bool:
    """False where the organization follows that agent already."""
    names = ", ".join(values)
    places = ", ".join(f"${place}" for place in range(1, len(values) + 1))
    return bool(
        await tx.run(
            f"INSERT INTO follows ({names}) VALUES ({places}) ON CONFLICT DO NOTHING",  # noqa: S608 (our own names)
            *values.values(),
        )
    )


async def lock(
    tx: Transaction, organization_id: OrganizationId, environment: str, chain_id: int, agent_id: int
) -> None:
    """Before the catalog, so that whoever changes a follow does so alone."""
    await tx.run(
        """SELECT FROM follows WHERE organization_id = $1 AND environment = $2 AND chain_id = $3 AND agent_id = $4
           FOR UPDATE""",
        organization_id,
        environment,
        chain_id,
        agent_id,
    )


async def get(
    tx: Transaction, organization_id: OrganizationId, environment: str, chain_id: int, agent_id: int
) -> asyncpg.Record | None:
    return await tx.fetchrow(
        f"""{_FOLLOWS} WHERE f.organization_id = $1 AND f.environment = $2 AND f.chain_id = $3 AND f.agent_id = $4
            GROUP BY f.id""",
        organization_id,
        environment,
        chain_id,
        agent_id,
    )


async def page(
    tx: Transaction,
    organization_id: OrganizationId,
    environment: str | None,
    chain_id: int | None,
    enabled: bool | None,
    limit: int,
    offset: int,
) -> tuple[list[asyncpg.Record], int]:
    """One page, newest first, and how many there are in all."""
    listed = f"""{_FOLLOWS} WHERE f.organization_id = $1 AND ($2::text IS NULL OR f.environment = $2)
            AND ($3::bigint IS NULL OR f.chain_id = $3) GROUP BY f.id
        HAVING $4::boolean IS NULL OR coalesce(bool_and(t.enabled), false) = $4"""
    filters = (organization_id, environment, chain_id, enabled)
    total: int = await tx.fetchval(f"SELECT count(*) FROM ({listed}) AS listed", *filters)  # noqa: S608
    records = await tx.fetch(
        f"{listed} ORDER BY f.created_at DESC, f.id DESC LIMIT $5 OFFSET $6", *filters, limit, offset
    )
    return records, total


async def among(
    tx: Transaction, organization_id: OrganizationId, environment: str | None, agents: Collection[tuple[int, str]]
) -> set[tuple[int, str]]:
    rows = await tx.fetch(
        """SELECT chain_id, agent_id::text FROM follows
           WHERE organization_id = $1 AND ($2::text IS NULL OR environment = $2)
             AND (chain_id, agent_id) IN (SELECT * FROM unnest($3::bigint[], $4::text[]::numeric[]))""",
        organization_id,
        environment,
        [chain for chain, _ in agents],
        [agent for _, agent in agents],
    )
    return {(row[0], row[1]) for row in rows}


async def touch(tx: Transaction, follow_id: str) -> None:
    await tx.run("UPDATE follows SET updated_at = now() WHERE id = $1", follow_id)


async def delete(tx: Transaction, follow_id: str) -> None:
    await tx.run("DELETE FROM follows WHERE id = $1", follow_id)


async def followed(
    tx: Transaction, organization_id: OrganizationId, environment: str, agents: Collection[tuple[int, int]]
) -> set[tuple[int, int]]:
    """Which of these agents, each a chain and an id, are followed."""
    records = await tx.fetch(
        """SELECT f.chain_id, f.agent_id FROM follows f
           JOIN unnest($3::bigint[], $4::numeric[]) AS asked (chain_id, agent_id) USING (chain_id, agent_id)
           WHERE f.organization_id = $1 AND f.environment = $2""",
        organization_id,
        environment,
        [chain_id for chain_id, _ in agents],
        [agent_id for _, agent_id in agents],
    )
    return {(record["chain_id"], int(record["agent_id"])) for record in records}


async def delete_all(tx: Transaction, organization_id: OrganizationId) -> None:
    await tx.run("DELETE FROM follows WHERE organization_id = $1", organization_id)


async def count(tx: Transaction, organization_id: OrganizationId) -> int:
    return int(await tx.fetchval("SELECT count(*) FROM follows WHERE organization_id = $1", organization_id))
