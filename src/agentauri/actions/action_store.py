"""Rows of `trigger_actions` and `signing_secrets`."""

from __future__ import annotations

from collections.abc import Collection

import asyncpg
import msgspec

from agentauri.actions.types import CheckedAction, Json
from agentauri.database import Transaction
from agentauri.types import ActionId, TriggerId

_SHOWN = "id, trigger_id, action_type, priority, enabled, config::text AS config, destination, created_at, updated_at"


async def of_triggers(tx: Transaction, trigger_ids: Collection[TriggerId]) -> list[asyncpg.Record]:
    return await tx.fetch(
        f"SELECT {_SHOWN} FROM trigger_actions WHERE trigger_id = ANY($1::text[]) ORDER BY priority, id",  # noqa: S608
        list(trigger_ids),
    )


async def enabled_of(tx: Transaction, trigger_ids: Collection[TriggerId]) -> list[asyncpg.Record]:
    return await tx.fetch(
        "SELECT trigger_id, id, action_type, destination, priority FROM trigger_actions"
        " WHERE trigger_id = ANY($1::text[]) AND enabled ORDER BY priority, id",
        list(trigger_ids),
    )


async def to_send(tx: Transaction, action_ids: Collection[ActionId]) -> list[asyncpg.Record]:
    """All that sending needs; `keys` are the sealed signing secrets in force, newest first."""
    return await tx.fetch(
        """SELECT id, trigger_id, action_type, enabled, config::text AS config, secrets,
                  (SELECT array_agg(secret ORDER BY s.id DESC) FROM signing_secrets s
                   WHERE s.action_id = a.id AND (s.expires_at IS NULL OR s.expires_at > now())) AS keys
           FROM trigger_actions a WHERE id = ANY($1::bigint[])""",
        list(action_ids),
    )


async def exists(tx: Transaction, action_id: ActionId) -> bool:
    found: bool = await tx.fetchval("SELECT EXISTS (SELECT FROM trigger_actions WHERE id = $1)", action_id)
    return found


async def lock_of(tx: Transaction, trigger_id: TriggerId) -> dict[ActionId, asyncpg.Record]:
    """The trigger's actions with their secrets, kept from others until the transaction ends."""
    records = await tx.fetch(
        """SELECT id, action_type, config::text AS config, secrets,
                  EXISTS (SELECT FROM signing_secrets s WHERE s.action_id = a.id) AS signs
           FROM trigger_actions a WHERE trigger_id = $1 ORDER BY id FOR UPDATE""",
        trigger_id,
    )
    return {record["id"]: record for record in records}


async def insert(
    tx: Transaction, trigger_id: TriggerId, checked: CheckedAction, secrets: bytes | None
) -> asyncpg.Record:
    draft = checked.draft
    record = await tx.fetchrow(
        f"""INSERT INTO trigger_actions (trigger_id, action_type, priority, config, secrets, destination, enabled)
            VALUES ($1, $2, $3, $4::jsonb, $5, $6, $7) RETURNING {_SHOWN}""",  # noqa: S608
        trigger_id,
        draft.action_type,
        draft.priority,
        _json(checked.config),
        secrets,
        checked.destination,
        draft.enabled,
    )
    assert record is not None
    return record


async def update(tx: Transaction, action_id: ActionId, checked: CheckedAction, secrets: bytes | None) -> asyncpg.Record:
    draft = checked.draft
    record = await tx.fetchrow(
        f"""UPDATE trigger_actions SET action_type = $2, priority = $3, config = $4::jsonb, secrets = $5,
                destination = $6, enabled = $7, updated_at = now() WHERE id = $1 RETURNING {_SHOWN}""",  # noqa: S608
        action_id,
        draft.action_type,
        draft.priority,
        _json(checked.config),
        secrets,
        checked.destination,
        draft.enabled,
    )
    assert record is not None
    return record


async def delete(tx: Transaction, action_ids: Collection[ActionId]) -> None:
    await tx.run("DELETE FROM trigger_actions WHERE id = ANY($1::bigint[])", list(action_ids))


async def insert_signing_secret(tx: Transaction, action_id: ActionId, sealed: bytes) -> None:
    await tx.run(
        """INSERT INTO signing_secrets (organization_id, action_id, secret)
           SELECT t.organization_id, a.id, $2 FROM trigger_actions a JOIN triggers t ON t.id = a.trigger_id
           WHERE a.id = $1""",
        action_id,
        sealed,
    )


def _json(config: Json) -> str:
    return msgspec.json.encode(config).decode()
