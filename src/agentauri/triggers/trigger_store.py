"""SQL of what callers configure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Literal, NamedTuple

import asyncpg

from agentauri.actions import ACTIONS_OF_T, Action, read_actions
from agentauri.database import Transaction
from agentauri.triggers.types import BreakerSummary, TriggerFilter
from agentauri.types import OrganizationId, Page, TriggerId


class StoredTrigger(NamedTuple):
    """A row with what is derived from its neighbours; jsonb as text."""

    id: TriggerId
    organization_id: str
    user_id: str
    name: str
    environment: str
    managed_by: str | None
    description: str | None
    chain_id: int | None
    registry: str | None
    enabled: bool
    is_stateful: bool
    condition: str
    fire_at: str
    on_reorg: str
    on_open: str
    cooldown_seconds: int
    dedupe_key: str | None
    circuit_breaker_config: str
    version: int
    invalid_reason: str | None
    created_at: datetime
    updated_at: datetime
    status: str
    last_matched_at: datetime | None


_OWN = ", ".join(f"t.{name}" for name in StoredTrigger._fields[:-2])
_STATUS = """CASE WHEN NOT t.enabled THEN 'disabled'
                  WHEN t.invalid_reason IS NOT NULL THEN 'invalid'
                  WHEN t.condition = 'null'::jsonb OR NOT EXISTS (
                      SELECT FROM trigger_actions a WHERE a.trigger_id = t.id AND a.enabled) THEN 'draft'
                  ELSE 'active' END"""
_LAST_MATCHED = """(SELECT d.created_at FROM deliveries d WHERE d.trigger_id = t.id AND d.kind = 'match'
                    ORDER BY d.id DESC LIMIT 1)"""

_LISTED = f"""triggers t LEFT JOIN circuit_breaker_state b ON b.trigger_id = t.id
    WHERE t.organization_id = $1
      AND ($2::boolean IS NULL OR t.enabled = $2)
      AND ($3::text IS NULL OR {_STATUS} = $3)
      AND ($4::text IS NULL OR t.registry = $4)
      AND ($5::bigint IS NULL OR t.chain_id = $5)
      AND ($6::text IS NULL OR coalesce(b.state, 'closed') = $6)
      AND ($7::text IS NULL OR t.environment = $7)
      AND ($8::boolean IS NULL OR (t.managed_by IS NOT NULL) = $8)
      AND ($9::text IS NULL OR position(lower($9) IN lower(t.name)) > 0)"""

_PAST_ENDS = """(SELECT coalesce(max(seq), 0) FROM events),
                (SELECT coalesce(jsonb_object_agg(chain_id, greatest(head_number, last_block_number)), '{}')
                 FROM checkpoints WHERE greatest(head_number, last_block_number) >= 0)"""
"""Start of a trigger's life: after the newest event, and above the newest block known of each chain. A chain of which
nothing was read yet has none."""

COUNTED = 10_000
"""Lists are counted up to this."""

_STATE_TABLES = ("trigger_state", "window_samples", "state_undo", "timers")


async def lock_catalog(tx: Transaction) -> None:
    """Write alone. Any statement on triggers or actions locks the catalog first, so whoever reads before takes it."""
    await tx.run("SELECT FROM trigger_catalog FOR UPDATE")


async def insert(tx: Transaction, values: Mapping[str, object]) -> None:
    """A new trigger that sees what happens from now on."""
    names = ", ".join(values)
    places = ", ".join(f"${place}" for place in range(1, len(values) + 1))
    await tx.run(
        f"INSERT INTO triggers ({names}, start_seq, start_blocks) VALUES ({places}, {_PAST_ENDS})",  # noqa: S608
        *values.values(),
    )


async def update(tx: Transaction, trigger_id: TriggerId, values: Mapping[str, object], *, restart: bool) -> None:
    """Change columns and count the version up; with `restart` the past ends anew."""
    changes = "".join(f"{name} = ${place}, " for place, name in enumerate(values, 2))
    if restart:
        changes += f"(start_seq, start_blocks) = (SELECT {_PAST_ENDS}), "
    await tx.run(
        f"UPDATE triggers SET {changes} version = version + 1, updated_at = now() WHERE id = $1",  # noqa: S608
        trigger_id,
        *values.values(),
    )


async def delete(tx: Transaction, trigger_id: TriggerId) -> None:
    """The trigger and its state; its actions go with it."""
    await tx.run("DELETE FROM triggers WHERE id = $1", trigger_id)
    await forget_everything(tx, trigger_id)


async def ids_of(tx: Transaction, organization_id: OrganizationId) -> list[TriggerId]:
    rows = await tx.fetch("SELECT id FROM triggers WHERE organization_id = $1 ORDER BY id", organization_id)
    return [TriggerId(row["id"]) for row in rows]


async def count(tx: Transaction, organization_id: OrganizationId) -> int:
    """Without those that follows manage."""
    return int(
        await tx.fetchval(
            "SELECT count(*) FROM triggers WHERE organization_id = $1 AND managed_by IS NULL", organization_id
        )
    )


async def forget_everything(tx: Transaction, trigger_id: TriggerId) -> None:
    """Drop what a trigger remembers. A batch that is writing some of it just now is waited for."""
    for table in _STATE_TABLES:
        await tx.run(f"DELETE FROM {table} WHERE trigger_id = $1", trigger_id)  # noqa: S608


async def states(
    tx: Transaction, trigger_id: TriggerId, scope_key: str | None, page: Page
) -> tuple[list[asyncpg.Record], int]:
    """One page of what a trigger remembers, by leaf and scope, and how much there is in all, counted up to a bound."""
    which = "trigger_id = $1 AND ($2::text IS NULL OR scope_key = $2) AND state <> 'null'::jsonb"
    total: int = await tx.fetchval(
        f"SELECT count(*) FROM (SELECT FROM trigger_state WHERE {which} LIMIT {COUNTED + 1}) AS counted",  # noqa: S608
        trigger_id,
        scope_key,
    )
    rows = await tx.fetch(
        f"""SELECT leaf_id, scope_key, state::text AS state, updated_at FROM trigger_state WHERE {which}
            ORDER BY leaf_id, scope_key LIMIT $3 OFFSET $4""",  # noqa: S608
        trigger_id,
        scope_key,
        page.limit,
        page.offset,
    )
    return rows, total


async def forget_leaves(tx: Transaction, trigger_id: TriggerId, but: Collection[int]) -> None:
    """Drop what a trigger's leaves remember, but for those that stay; when it fired last stays as well."""
    for table in _STATE_TABLES:
        await tx.run(
            f"DELETE FROM {table} WHERE trigger_id = $1 AND leaf_id <> 0 AND leaf_id <> ALL($2::int[])",  # noqa: S608
            trigger_id,
            list(but),
        )


async def get(tx: Transaction, organization_id: OrganizationId, trigger_id: TriggerId) -> StoredTrigger | None:
    record = await tx.fetchrow(
        f"SELECT {_OWN}, {_STATUS}, {_LAST_MATCHED} FROM triggers t WHERE t.id = $1 AND t.organization_id = $2",  # noqa: S608
        trigger_id,
        organization_id,
    )
    return None if record is None else StoredTrigger(*record)


async def whole(
    tx: Transaction, organization_id: OrganizationId, trigger_id: TriggerId
) -> tuple[StoredTrigger, list[Action], BreakerSummary] | None:
    """A trigger with its actions and its breaker, in one statement: this is what callers read most."""
    record = await tx.fetchrow(
        f"""SELECT {_OWN}, {_STATUS}, {_LAST_MATCHED}, {ACTIONS_OF_T}, coalesce(b.state, 'closed'),
                   coalesce(b.failure_count, 0)
            FROM triggers t LEFT JOIN circuit_breaker_state b ON b.trigger_id = t.id
            WHERE t.id = $1 AND t.organization_id = $2""",  # noqa: S608 (our own column names)
        trigger_id,
        organization_id,
    )
    if record is None:
        return None
    *own, actions, state, failures = record
    return StoredTrigger(*own), read_actions(actions), BreakerSummary(state, failures)


async def page(
    tx: Transaction, organization_id: OrganizationId, wanted: TriggerFilter, page: Page
) -> tuple[list[StoredTrigger], int]:
    """One page in the order of creation, and how many there are in all."""
    filters = (
        organization_id,
        wanted.enabled,
        wanted.status,
        wanted.registry,
        wanted.chain_id,
        wanted.breaker_state,
        wanted.environment,
        wanted.managed,
        wanted.search,
    )
    direction = "ASC" if wanted.order == "asc" else "DESC"
    total: int = await tx.fetchval(f"SELECT count(*) FROM {_LISTED}", *filters)  # noqa: S608
    records = await tx.fetch(
        f"""SELECT t.*, {_LAST_MATCHED} FROM (
                SELECT {_OWN}, {_STATUS} AS status FROM {_LISTED}
                ORDER BY t.created_at {direction}, t.id {direction} LIMIT $10 OFFSET $11
            ) AS t ORDER BY t.created_at {direction}, t.id {direction}""",  # noqa: S608
        *filters,
        page.limit,
        page.offset,
    )
    return [StoredTrigger(*record) for record in records], total


class StoredFacts(NamedTuple):
    id: TriggerId
    name: str
    version: int
    organization_id: str
    enabled: bool
    on_open: Literal["hold", "skip"]
    circuit_breaker_config: str


async def facts(tx: Transaction, trigger_ids: Collection[TriggerId]) -> list[StoredFacts]:
    records = await tx.fetch(
        f"SELECT {', '.join(StoredFacts._fields)} FROM triggers WHERE id = ANY($1::text[])",  # noqa: S608
        list(trigger_ids),
    )
    return [StoredFacts(*record) for record in records]
