"""SQL of users."""

# ruff: noqa: S608  (what is put into the text is our own column lists; values are parameters)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import asyncpg
from msgspec import Struct

from agentauri.accounts.errors import UserNotFound
from agentauri.accounts.types import User
from agentauri.database import Transaction
from agentauri.types import UserId

_USER = "id, username, email, email_verified, name, avatar, is_active, mfa_enabled, created_at, last_login_at"


class Known(Struct, frozen=True):
    """A user with the hash that her password is compared with; None where she has none."""

    user: User
    password_hash: str | None


async def lock_names(tx: Transaction) -> None:
    """One at a time takes a name or an e-mail."""
    await tx.fetchval("SELECT pg_advisory_xact_lock(hashtextextended('agentauri:users', 0))")


async def email_taken(tx: Transaction, email: str, but: UserId | None) -> bool:
    return bool(
        await tx.fetchval(
            "SELECT EXISTS (SELECT FROM users WHERE lower(email) = lower($1) AND id IS DISTINCT FROM $2)", email, but
        )
    )


async def insert(tx: Transaction, username: str, email: str, name: str | None, password_hash: str) -> User | None:
    """The user, with her identity; None when the name is taken."""
    row = await tx.fetchrow(
        f"""INSERT INTO users (id, username, email, name, password_hash) VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT DO NOTHING RETURNING {_USER}""",
        str(uuid4()),
        username,
        email,
        name.strip() if name else None,
        password_hash,
    )
    if row is None:
        return None
    await tx.run(
        "INSERT INTO identities (user_id, provider, subject) VALUES ($1, 'email', lower($2))", row["id"], email
    )
    return _user(row)


async def update(tx: Transaction, user_id: UserId, changes: Mapping[str, object]) -> User | None:
    """Her row with these columns set; None when the new name is taken."""
    columns = ["updated_at = now()", *(f"{name} = ${place}" for place, name in enumerate(changes, 2))]
    if "email" in changes:
        columns.append("email_verified = false")
    try:
        async with tx.savepoint():
            row = await tx.fetchrow(
                f"UPDATE users SET {', '.join(columns)} WHERE id = $1 RETURNING {_USER}", user_id, *changes.values()
            )
    except asyncpg.UniqueViolationError:
        return None
    if row is not None and "email" in changes:
        await tx.run(
            "UPDATE identities SET subject = lower($2) WHERE user_id = $1 AND provider = 'email'",
            user_id,
            changes["email"],
        )
    return _user(row) if row is not None else None


async def get(tx: Transaction, user_id: UserId) -> User | None:
    row = await tx.fetchrow(f"SELECT {_USER} FROM users WHERE id = $1", user_id)
    return _user(row) if row is not None else None


async def find(tx: Transaction, reference: str) -> User:
    """By id or name. Raises: UserNotFound."""
    row = await tx.fetchrow(f"SELECT {_USER} FROM users WHERE id = $1 OR lower(username) = lower($1)", reference)
    if row is None:
        raise UserNotFound("There is no such user.")
    return _user(row)


async def everybody(tx: Transaction) -> list[User]:
    return [_user(row) for row in await tx.fetch(f"SELECT {_USER} FROM users ORDER BY created_at, id")]


async def recognise(tx: Transaction, identifier: str) -> Known | None:
    """Whom this name or e-mail means; of several with an e-mail that nobody has verified, the oldest."""
    row = await tx.fetchrow(
        f"""SELECT {_USER}, password_hash FROM users WHERE lower(username) = lower($1) OR lower(email) = lower($1)
            ORDER BY lower(username) = lower($1) DESC, email_verified DESC, created_at LIMIT 1""",
        identifier,
    )
    return Known(_user(row), row["password_hash"]) if row is not None else None


async def set_password(tx: Transaction, user_id: UserId, password_hash: str) -> None:
    await tx.run("UPDATE users SET password_hash = $2, updated_at = now() WHERE id = $1", user_id, password_hash)


async def set_active(tx: Transaction, user_id: UserId, *, active: bool) -> None:
    await tx.run("UPDATE users SET is_active = $2, updated_at = now() WHERE id = $1", user_id, active)


async def logged_in(tx: Transaction, user_id: UserId) -> User:
    row = await tx.fetchrow(f"UPDATE users SET last_login_at = now() WHERE id = $1 RETURNING {_USER}", user_id)
    assert row is not None
    return _user(row)


async def token_version(tx: Transaction, user_id: UserId) -> int:
    return int(await tx.fetchval("SELECT token_version FROM users WHERE id = $1", user_id))


async def next_token_version(tx: Transaction, user_id: UserId) -> None:
    """No access token issued so far counts any more."""
    await tx.run("UPDATE users SET token_version = token_version + 1 WHERE id = $1", user_id)


async def providers(tx: Transaction, user_id: UserId) -> list[str]:
    rows = await tx.fetch("SELECT DISTINCT provider FROM identities WHERE user_id = $1 ORDER BY 1", user_id)
    return [row["provider"] for row in rows]


async def owns_shared(tx: Transaction, user_id: UserId) -> bool:
    """Whether an organization of hers has other members."""
    return bool(
        await tx.fetchval(
            """SELECT EXISTS (SELECT FROM organizations o JOIN memberships m ON m.organization_id = o.id
                              WHERE o.owner_id = $1 AND m.user_id <> $1)""",
            user_id,
        )
    )


async def delete(tx: Transaction, user_id: UserId) -> None:
    """Her, and her memberships. She owns nothing any more."""
    await tx.run("DELETE FROM users WHERE id = $1", user_id)


def _user(row: Any) -> User:
    return User(**{name: row[name] for name in User.__struct_fields__})
