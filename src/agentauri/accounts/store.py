"""SQL of organizations, users, keys and refused credentials."""

# ruff: noqa: S608  (what is put into the text is our own column lists; values are parameters)

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg
from msgspec import Struct

from agentauri.accounts.types import (
    ApiKey,
    ApiKeyPrincipal,
    AuthFailure,
    KeyDraft,
    KeyId,
    Organization,
    Plan,
)
from agentauri.database import Transaction
from agentauri.types import OrganizationId, UserId

_USABLE = """(k.is_active AND (k.revoked_at IS NULL OR k.revoked_at > now())
    AND (k.expires_at IS NULL OR k.expires_at > now()))"""
_KEY = f"""k.id, k.organization_id, k.name, k.key_prefix, k.environment, k.key_type, k.permissions, k.scopes,
    k.rate_limit_override, {_USABLE} AS usable, k.last_used_at, k.last_used_ip, k.expires_at, k.created_at,
    k.created_by, k.revoked_at, k.replaced_by"""
_ORGANIZATION = "id, name, slug, description, owner_id, plan, is_personal, created_at, updated_at"


class Recognised(Struct, frozen=True, kw_only=True):
    """What is stored about a key prefix. `ends_at` is when the key stops by itself."""

    digest: bytes
    usable: bool
    ends_at: datetime | None
    principal: ApiKeyPrincipal


async def recognise(tx: Transaction, prefix: str) -> Recognised | None:
    row = await tx.fetchrow(
        f"""SELECT k.id, k.organization_id, coalesce(k.created_by, o.owner_id) AS user_id, k.environment, k.scopes,
                   k.key_hash, least(k.expires_at, k.revoked_at) AS ends_at, {_USABLE} AS usable
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
    )
    return Recognised(digest=row["key_hash"], usable=row["usable"], ends_at=row["ends_at"], principal=principal)


async def insert_key(
    tx: Transaction,
    key_id: str,
    organization_id: OrganizationId,
    draft: KeyDraft,
    scopes: Sequence[str],
    prefix: str,
    digest: bytes,
) -> ApiKey | None:
    """None when the prefix is taken."""
    row = await tx.fetchrow(
        f"""INSERT INTO api_keys AS k (id, organization_id, name, key_prefix, key_hash, environment, key_type,
                                       permissions, scopes, expires_at, created_by)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
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
        list(scopes),
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


async def revoke_key(tx: Transaction, key_id: KeyId) -> ApiKey:
    row = await tx.fetchrow(
        f"UPDATE api_keys AS k SET is_active = false, revoked_at = now() WHERE k.id = $1 RETURNING {_KEY}", key_id
    )
    assert row is not None
    return _key(row)


async def insert_failure(tx: Transaction, failure: AuthFailure) -> None:
    await tx.run(
        "INSERT INTO auth_failures (kind, prefix, address, user_agent, route) VALUES ($1, $2, $3, $4, $5)",
        failure.kind,
        failure.presented[:16],
        failure.address,
        failure.user_agent[:256],
        failure.route,
    )


async def any_user(tx: Transaction) -> bool:
    return bool(await tx.fetchval("SELECT EXISTS (SELECT FROM users)"))


async def ensure_user(tx: Transaction, user_id: str, username: str) -> UserId:
    """The user of this name, made without e-mail and password when there is none."""
    await tx.run("INSERT INTO users (id, username) VALUES ($1, $2) ON CONFLICT DO NOTHING", user_id, username)
    return UserId(await tx.fetchval("SELECT id FROM users WHERE lower(username) = lower($1)", username))


async def insert_organization(
    tx: Transaction, organization_id: str, name: str, slug: str, owner_id: UserId, plan: Plan, *, personal: bool
) -> Organization:
    """The organization, with its owner as its first member."""
    row = await tx.fetchrow(
        f"""INSERT INTO organizations (id, name, slug, owner_id, plan, is_personal) VALUES ($1, $2, $3, $4, $5, $6)
            RETURNING {_ORGANIZATION}""",
        organization_id,
        name,
        slug,
        owner_id,
        plan,
        personal,
    )
    assert row is not None
    await tx.run(
        "INSERT INTO memberships (organization_id, user_id, role) VALUES ($1, $2, 'owner')", organization_id, owner_id
    )
    return _organization(row)


async def find_organizations(tx: Transaction, references: Sequence[str]) -> list[Organization]:
    """Those whose id or slug is one of `references`, oldest first."""
    rows = await tx.fetch(
        f"""SELECT {_ORGANIZATION} FROM organizations WHERE id = ANY($1) OR slug = ANY($1)
            ORDER BY created_at, id""",
        list(references),
    )
    return [_organization(row) for row in rows]


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
        is_revoked=row["revoked_at"] is not None,
        last_used_at=row["last_used_at"],
        last_used_ip=row["last_used_ip"],
        expires_at=row["expires_at"],
        created_at=row["created_at"],
        created_by=row["created_by"],
        revoked_at=row["revoked_at"],
        replaced_by=row["replaced_by"],
    )


def _organization(row: Any) -> Organization:
    return Organization(**dict(row))
