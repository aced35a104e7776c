"""Rows of `trigger_actions` and `signing_secrets`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

import asyncpg
import msgspec

from agentauri.actions.types import Action, CheckedAction, Json
from agentauri.database import Transaction
from agentauri.types import ActionId, OrganizationId, TriggerId

_SHOWN = "id, trigger_id, action_type, priority, enabled, config::text AS config, destination, created_at, updated_at"

_PAIRS = ", ".join(f"'{name}', a.{name}" for name in Action.__struct_fields__ if name != "signing_secret")
ACTIONS_OF_T = f"""(SELECT json_agg(json_build_object({_PAIRS}) ORDER BY a.priority, a.id)::text
    FROM trigger_actions a WHERE a.trigger_id = t.id)"""  # noqa: S608 (our own column names)
"""For whoever reads a trigger `t`: its actions as the text that `read_actions` takes, so that they come with it."""
_actions = msgspec.json.Decoder(list[Action])

MOST_SECRETS = 5
"""An action signs with so many at once: each is 48 bytes of a header."""


class StoredSecret(NamedTuple):
    """A sealed signing secret; without `created_at` it is made now, without `expires_at` it stays."""

    sealed: bytes
    created_at: datetime | None = None
    expires_at: datetime | None = None


def read_actions(text: str | None) -> list[Action]:
    """The actions, lower priority first."""
    return [] if text is None else _actions.decode(text)


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


async def locked_group(
    tx: Transaction, organization_id: OrganizationId, environment: str | None, action_id: ActionId
) -> list[asyncpg.Record]:
    """The action, if it is the organization's, with those of the same follow: they share their signing secret."""
    return await tx.fetch(
        """SELECT a.id, a.action_type FROM trigger_actions a JOIN triggers t ON t.id = a.trigger_id,
               (SELECT o.id, o.managed_by FROM trigger_actions n JOIN triggers o ON o.id = n.trigger_id
                WHERE n.id = $1 AND o.organization_id = $2 AND ($3::text IS NULL OR o.environment = $3)) AS named
           WHERE t.organization_id = $2 AND (a.id = $1 OR t.managed_by = named.managed_by)
           ORDER BY a.id FOR NO KEY UPDATE OF a""",
        action_id,
        organization_id,
        environment,
    )


async def insert_signing_secrets(
    tx: Transaction, action_ids: Collection[ActionId], secrets: Sequence[StoredSecret]
) -> datetime:
    """Give each action these secrets, the last one the newest; when that is."""
    made: datetime = await tx.fetchval("SELECT now()")
    for secret in secrets:
        await tx.run(
            """INSERT INTO signing_secrets (organization_id, action_id, secret, created_at, expires_at)
               SELECT t.organization_id, a.id, $2, $3, $4 FROM trigger_actions a JOIN triggers t ON t.id = a.trigger_id
               WHERE a.id = ANY($1::bigint[])""",
            list(action_ids),
            secret.sealed,
            secret.created_at or made,
            secret.expires_at,
        )
    return made


async def signing_secrets_of(tx: Transaction, trigger_ids: Collection[TriggerId]) -> list[StoredSecret]:
    """The secrets in force of one of the triggers' actions, the newest last. They share them."""
    records = await tx.fetch(
        """SELECT secret, created_at, expires_at FROM signing_secrets
           WHERE action_id = (
               SELECT max(s.action_id) FROM signing_secrets s JOIN trigger_actions a ON a.id = s.action_id
               WHERE a.trigger_id = ANY($1::text[]))
           AND (expires_at IS NULL OR expires_at > now()) ORDER BY id""",
        list(trigger_ids),
    )
    return [StoredSecret(*record) for record in records]


async def expire_signing_secrets(tx: Transaction, action_ids: Collection[ActionId], overlap: float) -> datetime | None:
    """Let what these actions sign with run out, and when the last of it has; at once and all of it without `overlap`.

    What is running out already keeps its time: whoever rotates twice may not have seen the first new secret.
    """
    await tx.run(
        """DELETE FROM signing_secrets s WHERE action_id = ANY($1::bigint[]) AND ($2::float8 <= 0 OR $3 <= (
               SELECT count(*) FROM signing_secrets n WHERE n.action_id = s.action_id AND n.id >= s.id))""",
        list(action_ids),
        overlap,
        MOST_SECRETS,
    )
    await tx.run(
        """UPDATE signing_secrets SET expires_at = now() + $2 * interval '1 second'
           WHERE action_id = ANY($1::bigint[]) AND expires_at IS NULL""",
        list(action_ids),
        overlap,
    )
    last: datetime | None = await tx.fetchval(
        "SELECT max(expires_at) FROM signing_secrets WHERE action_id = ANY($1::bigint[])", list(action_ids)
    )
    return last


async def signing_secrets_page(
    tx: Transaction, organization_id: OrganizationId, environment: str | None, limit: int, offset: int
) -> tuple[list[asyncpg.Record], int]:
    """The secrets in force, newest first, and how many there are."""
    listed = """signing_secrets s JOIN trigger_actions a ON a.id = s.action_id JOIN triggers t ON t.id = a.trigger_id
        WHERE t.organization_id = $1 AND ($2::text IS NULL OR t.environment = $2)
        AND (s.expires_at IS NULL OR s.expires_at > now())"""
    total: int = await tx.fetchval(f"SELECT count(*) FROM {listed}", organization_id, environment)  # noqa: S608
    records = await tx.fetch(
        f"""SELECT s.action_id, t.managed_by, s.secret, s.created_at, s.expires_at FROM {listed}
            ORDER BY s.created_at DESC, s.id DESC LIMIT $3 OFFSET $4""",  # noqa: S608
        organization_id,
        environment,
        limit,
        offset,
    )
    return records, total


class Place(NamedTuple):
    """A column that holds sealed values."""

    table: str
    column: str


async def lock_sealed_otherwise(
    tx: Transaction, place: Place, current: bytes, after: int, limit: int
) -> list[tuple[int, bytes]]:
    """The next rows after this id whose value does not begin like those of the current key. Whoever writes actions
    locks the catalog first."""
    await tx.run("SELECT FROM trigger_catalog FOR UPDATE")
    records = await tx.fetch(
        f"""SELECT id, {place.column} FROM {place.table}
            WHERE id > $1 AND substring({place.column} FROM 1 FOR {len(current)}) <> $2
            ORDER BY id LIMIT $3 FOR NO KEY UPDATE""",  # noqa: S608 (our own names)
        after,
        current,
        limit,
    )
    return [(record[0], record[1]) for record in records]


async def replace_sealed(tx: Transaction, place: Place, sealed: Sequence[tuple[int, bytes]]) -> None:
    if sealed:
        await tx.run(
            f"""UPDATE {place.table} AS old SET {place.column} = new.sealed
                FROM unnest($1::bigint[], $2::bytea[]) AS new (id, sealed) WHERE old.id = new.id""",  # noqa: S608
            *map(list, zip(*sealed, strict=True)),
        )


def _json(config: Json) -> str:
    return msgspec.json.encode(config).decode()
