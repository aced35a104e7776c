"""SQL of keys and refused credentials."""

# ruff: noqa: S608  (what is put into the text is our own column lists; values are parameters)

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

import asyncpg
from msgspec import Struct

from agentauri.accounts.types import (
    ApiKey,
    ApiKeyPrincipal,
    AuthFailure,
    Environment,
    KeyDraft,
    KeyId,
    KeysByEnvironment,
    KeysByType,
    KeyStats,
)
from agentauri.database import Transaction
from agentauri.types import OrganizationId, Page, Paged, UserId

_USABLE = """(k.is_active AND (k.revoked_at IS NULL OR k.revoked_at > now())
    AND (k.expires_at IS NULL OR k.expires_at > now()))"""
_KEY = f"""k.id, k.organization_id, k.name, k.key_prefix, k.environment, k.key_type, k.permissions, k.scopes,
    k.rate_limit_override, {_USABLE} AS usable, k.last_used_at, k.last_used_ip, k.expires_at, k.created_at,
    k.created_by, k.revoked_at, k.revoked_at IS NOT NULL AND k.revoked_at <= now() AS is_revoked, k.replaced_by"""


class Use(Protocol):
    """How often a key was used and limited since the last time, and from where last."""

    calls: int
    limited: int
    address: str | None


class Recognised(Struct, frozen=True, kw_only=True):
    """What is stored about a key prefix. `ends_at` is when the key stops by itself."""

    digest: bytes
    usable: bool
    ends_at: datetime | None
    principal: ApiKeyPrincipal


async def recognise(tx: Transaction, prefix: str) -> Recognised | None:
    row = await tx.fetchrow(
        f"""SELECT k.id, k.organization_id, coalesce(k.created_by, o.owner_id) AS user_id, k.environment, k.scopes,
                   k.rate_limit_override, k.key_hash, least(k.expires_at, k.revoked_at) AS ends_at, {_USABLE} AS usable
            FROM api_keys k JOIN organizations o ON o.id = k.organization_id WHERE k.key_prefix = $1""",
        prefix,
    )
    if row is None:
        return None
    principal = ApiKeyPrincipal(
        key_id=KeyId(row["id"]),
        organization_id=OrganizationId(row["organization_id"]),
        user_id=UserId(row["user_id"]),
        environment=row["environment"],
        scopes=frozenset(row["scopes"]),
        rate_limit_override=row["rate_limit_override"],
    )
    return Recognised(digest=row["key_hash"], usable=row["usable"], ends_at=row["ends_at"], principal=principal)


async def insert_key(
    tx: Transaction,
    key_id: str,
    organization_id: OrganizationId,
    draft: KeyDraft,
    prefix: str,
    digest: bytes,
) -> ApiKey | None:
    """None when the prefix is taken. The draft's scopes are all that the key may do."""
    row = await tx.fetchrow(
        f"""INSERT INTO api_keys AS k (id, organization_id, name, key_prefix, key_hash, environment, key_type,
                                       permissions, scopes, rate_limit_override, expires_at, created_by)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
            ON CONFLICT (key_prefix) DO NOTHING
            RETURNING {_KEY}""",
        key_id,
        organization_id,
        draft.name,
        prefix,
        digest,
        draft.environment,
        draft.key_type,
        list(draft.permissions),
        list(draft.scopes or ()),
        draft.rate_limit_override,
        draft.expires_at,
        draft.created_by,
    )
    return _key(row) if row else None


async def list_keys(tx: Transaction, organization_id: OrganizationId | None) -> list[ApiKey]:
    rows = await tx.fetch(
        f"""SELECT {_KEY} FROM api_keys k WHERE $1::text IS NULL OR k.organization_id = $1
            ORDER BY k.created_at DESC, k.id DESC""",
        organization_id,
    )
    return [_key(row) for row in rows]


async def lock_key(tx: Transaction, organization_id: OrganizationId | None, reference: str) -> ApiKey | None:
    """The key with this id or prefix."""
    row = await tx.fetchrow(
        f"""SELECT {_KEY} FROM api_keys k
            WHERE (k.id = $2 OR k.key_prefix = $2) AND ($1::text IS NULL OR k.organization_id = $1)
            FOR UPDATE""",
        organization_id,
        reference,
    )
    return _key(row) if row else None


async def page(
    tx: Transaction,
    organization_id: OrganizationId,
    environment: Environment | None,
    page: Page,
    *,
    include_revoked: bool,
) -> Paged[ApiKey]:
    which = """k.organization_id = $1 AND ($2::text IS NULL OR k.environment = $2)
        AND ($3 OR k.revoked_at IS NULL OR k.revoked_at > now())"""
    values = (organization_id, environment, include_revoked)
    rows = await tx.fetch(
        f"SELECT {_KEY} FROM api_keys k WHERE {which} ORDER BY k.created_at DESC, k.id DESC LIMIT $4 OFFSET $5",
        *values,
        page.limit,
        page.offset,
    )
    total = await tx.fetchval(f"SELECT count(*) FROM api_keys k WHERE {which}", *values)
    return Paged(data=[_key(row) for row in rows], total=total, has_more=page.offset + len(rows) < total)


async def get_key(
    tx: Transaction, organization_id: OrganizationId, key_id: str, *, lock: bool = False
) -> ApiKey | None:
    row = await tx.fetchrow(
        f"SELECT {_KEY} FROM api_keys k WHERE k.id = $2 AND k.organization_id = $1 {'FOR UPDATE' if lock else ''}",
        organization_id,
        key_id,
    )
    return _key(row) if row else None


async def update_key(tx: Transaction, key_id: KeyId, changes: Mapping[str, object]) -> ApiKey:
    """Not of a revoked key: one that has expired is active again when it ends at another time."""
    columns = [f"{name} = ${place}" for place, name in enumerate(changes, 2)]
    if "expires_at" in changes:
        columns.append("is_active = true")
    row = await tx.fetchrow(
        f"UPDATE api_keys AS k SET {', '.join(columns)} WHERE k.id = $1 RETURNING {_KEY}", key_id, *changes.values()
    )
    assert row is not None
    return _key(row)


async def replace_key(tx: Transaction, key_id: KeyId, new_id: KeyId, overlap: timedelta) -> datetime:
    """When the old key stops."""
    until: datetime = await tx.fetchval(
        """UPDATE api_keys SET replaced_by = $2, revoked_at = now() + $3::interval,
                  is_active = is_active AND $3::interval > interval '0'
           WHERE id = $1 RETURNING revoked_at""",
        key_id,
        new_id,
        overlap,
    )
    return until


async def revoke_key(tx: Transaction, key_id: KeyId, reason: str | None) -> ApiKey:
    row = await tx.fetchrow(
        f"""UPDATE api_keys AS k SET is_active = false, revoked_at = now(), revoked_reason = $2
            WHERE k.id = $1 RETURNING {_KEY}""",
        key_id,
        reason,
    )
    assert row is not None
    return _key(row)


async def end_due(tx: Transaction, most: int) -> list[ApiKey]:
    """Keys that are over and were not switched off yet; now they are."""
    rows = await tx.fetch(
        f"""UPDATE api_keys AS k SET is_active = false
            WHERE k.id IN (SELECT id FROM api_keys WHERE is_active AND least(expires_at, revoked_at) <= now()
                           ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED)
            RETURNING {_KEY}""",
        most,
    )
    return [_key(row) for row in rows]


async def count_active(tx: Transaction, organization_id: OrganizationId) -> int:
    return int(
        await tx.fetchval(
            f"SELECT count(*) FROM api_keys k WHERE k.organization_id = $1 AND {_USABLE} AND k.replaced_by IS NULL",
            organization_id,
        )
    )


async def stats(tx: Transaction, organization_id: OrganizationId, environment: Environment | None) -> KeyStats:
    row = await tx.fetchrow(
        f"""WITH own AS (SELECT k.*, {_USABLE} AS usable, k.revoked_at <= now() AS revoked FROM api_keys k
                         WHERE k.organization_id = $1 AND ($2::text IS NULL OR k.environment = $2)),
                 used AS (SELECT sum(calls) AS calls, sum(limited) AS limited FROM key_usage
                          WHERE key_id IN (SELECT id FROM own) AND hour > now() - interval '24 hours')
            SELECT count(*) AS total_keys, count(*) FILTER (WHERE usable) AS active_keys,
                   count(*) FILTER (WHERE expires_at <= now() AND revoked IS NOT TRUE) AS expired_keys,
                   count(*) FILTER (WHERE revoked) AS revoked_keys,
                   count(*) FILTER (WHERE last_used_at IS NULL) AS unused_keys,
                   count(*) FILTER (WHERE usable AND expires_at <= now() + interval '7 days') AS keys_expiring_soon,
                   coalesce(sum(calls), 0)::bigint AS api_calls_total,
                   (SELECT coalesce(calls, 0) FROM used)::bigint AS calls_24h,
                   (SELECT coalesce(limited, 0) FROM used)::bigint AS rate_limited_24h,
                   (SELECT count(*) FROM auth_failures WHERE kind = 'api_key'
                    AND prefix IN (SELECT key_prefix FROM own) AND created_at > now() - interval '24 hours'
                   ) AS failed_auth_24h,
                   count(*) FILTER (WHERE environment = 'live') AS live,
                   count(*) FILTER (WHERE environment = 'test') AS test,
                   count(*) FILTER (WHERE key_type = 'standard') AS standard,
                   count(*) FILTER (WHERE key_type = 'restricted') AS restricted,
                   count(*) FILTER (WHERE key_type = 'admin') AS admin
            FROM own""",
        organization_id,
        environment,
    )
    assert row is not None
    counts = dict(row)
    return KeyStats(
        keys_by_environment=KeysByEnvironment(counts.pop("live"), counts.pop("test")),
        keys_by_type=KeysByType(counts.pop("standard"), counts.pop("restricted"), counts.pop("admin")),
        **counts,
    )


class LimitedKey(NamedTuple):
    key_id: KeyId
    organization_id: OrganizationId


async def write_usage(tx: Transaction, uses: Mapping[KeyId, Use]) -> list[LimitedKey]:
    """Add to what is written; the keys that were limited now, and had not been in this hour."""
    ids = sorted(uses)
    await tx.run("SELECT FROM api_keys WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE", ids)
    columns = (ids, [uses[key].calls for key in ids], [uses[key].limited for key in ids])
    await tx.run(
        """UPDATE api_keys k SET calls = k.calls + u.calls, last_used_at = now(),
                                 last_used_ip = coalesce(u.address, k.last_used_ip)
           FROM unnest($1::text[], $2::bigint[], $3::text[]) AS u (id, calls, address) WHERE k.id = u.id""",
        *columns[:2],
        [uses[key].address for key in ids],
    )
    rows = await tx.fetch(
        """INSERT INTO key_usage AS kept (key_id, hour, calls, limited)
           SELECT u.id, date_trunc('hour', now(), 'UTC'), u.calls, u.limited
           FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS u (id, calls, limited) JOIN api_keys k USING (id)
           ON CONFLICT (key_id, hour) DO UPDATE
               SET calls = kept.calls + excluded.calls, limited = kept.limited + excluded.limited
           RETURNING key_id, limited, (SELECT organization_id FROM api_keys WHERE id = key_id) AS organization_id""",
        *columns,
    )
    return [
        LimitedKey(row["key_id"], row["organization_id"])
        for row in rows
        if row["limited"] == uses[row["key_id"]].limited > 0
    ]


FAILED = "api_key.auth_failed"


async def tell_failure(tx: Transaction, failure: AuthFailure) -> int:
    """An audit row for whose key the refused one looks like, unless there is one of the last ten minutes."""
    return await tx.run(
        """INSERT INTO audit_log (organization_id, event, actor_type, ip, user_agent, target_type, target_id)
           SELECT k.organization_id, $2, 'system', $3, $4, 'api_key', k.id FROM api_keys k
           WHERE k.key_prefix = $1
           AND NOT EXISTS (SELECT FROM audit_log a WHERE a.target_id = k.id AND a.event = $2 AND a.ip = $3
                           AND a.occurred_at > now() - interval '10 minutes')""",
        failure.presented[:16],
        FAILED,
        failure.address,
        failure.user_agent[:256],
    )


async def insert_failure(tx: Transaction, failure: AuthFailure) -> None:
    await tx.run(
        "INSERT INTO auth_failures (kind, prefix, address, user_agent, route) VALUES ($1, $2, $3, $4, $5)",
        failure.kind,
        failure.presented[:16],
        failure.address,
        failure.user_agent[:256],
        failure.route,
    )


def _key(row: asyncpg.Record) -> ApiKey:
    return ApiKey(
        id=KeyId(row["id"]),
        organization_id=OrganizationId(row["organization_id"]),
        name=row["name"],
        prefix=row["key_prefix"],
        environment=row["environment"],
        key_type=row["key_type"],
        permissions=tuple(row["permissions"]),
        scopes=tuple(row["scopes"]),
        rate_limit_override=row["rate_limit_override"],
        is_active=row["usable"],
        is_revoked=row["is_revoked"],
        last_used_at=row["last_used_at"],
        last_used_ip=row["last_used_ip"],
        expires_at=row["expires_at"],
        created_at=row["created_at"],
        created_by=row["created_by"],
        revoked_at=row["revoked_at"],
        replaced_by=row["replaced_by"],
    )
