"""SQL of organizations and their members."""

# ruff: noqa: S608  (what is put into the text is our own column lists; values are parameters)

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentauri.accounts.types import Member, Organization, OwnOrganization, Role
from agentauri.database import Transaction
from agentauri.types import OrganizationId, Page, Paged, Plan, UserId

COLUMNS = "id, name, slug, description, owner_id, plan, is_personal, created_at, updated_at"
_MEMBER = """m.user_id AS id, m.user_id, u.username, u.email, m.role, m.invited_by, m.created_at
    FROM memberships m JOIN users u ON u.id = m.user_id"""


async def any_user(tx: Transaction) -> bool:
    return bool(await tx.fetchval("SELECT EXISTS (SELECT FROM users)"))


async def ensure_user(tx: Transaction, user_id: str, username: str) -> UserId:
    """The user of this name, made without e-mail and password when there is none."""
    await tx.run("INSERT INTO users (id, username) VALUES ($1, $2) ON CONFLICT DO NOTHING", user_id, username)
    return UserId(await tx.fetchval("SELECT id FROM users WHERE lower(username) = lower($1)", username))


async def insert(
    tx: Transaction,
    organization_id: str,
    name: str,
    slug: str,
    owner_id: UserId,
    plan: Plan,
    *,
    personal: bool,
    description: str | None = None,
) -> Organization:
    """The organization, with its owner as its first member."""
    row = await tx.fetchrow(
        f"""INSERT INTO organizations (id, name, slug, owner_id, plan, is_personal, description)
            VALUES ($1, $2, $3, $4, $5, $6, $7)
            RETURNING {COLUMNS}""",
        organization_id,
        name,
        slug,
        owner_id,
        plan,
        personal,
        description,
    )
    assert row is not None
    await tx.run(
        "INSERT INTO memberships (organization_id, user_id, role) VALUES ($1, $2, 'owner')", organization_id, owner_id
    )
    return Organization(**dict(row))


async def find(tx: Transaction, references: Sequence[str]) -> list[Organization]:
    """Those whose id or slug is one of `references`, oldest first."""
    rows = await tx.fetch(
        f"""SELECT {COLUMNS} FROM organizations WHERE id = ANY($1) OR slug = ANY($1)
            ORDER BY created_at, id""",
        list(references),
    )
    return [Organization(**dict(row)) for row in rows]


async def get(tx: Transaction, organization_id: OrganizationId, *, hold: bool = False) -> Organization | None:
    # The lock that leaves keys and members free to be added by those who do not count them.
    lock = "FOR NO KEY UPDATE" if hold else ""
    row = await tx.fetchrow(f"SELECT {COLUMNS} FROM organizations WHERE id = $1 {lock}", organization_id)
    return Organization(**dict(row)) if row else None


async def everybodys(tx: Transaction) -> list[Organization]:
    rows = await tx.fetch(f"SELECT {COLUMNS} FROM organizations ORDER BY created_at, id")
    return [Organization(**dict(row)) for row in rows]


async def of_user(tx: Transaction, user_id: UserId, page: Page) -> Paged[OwnOrganization]:
    rows = await tx.fetch(
        f"""SELECT {", ".join(f"o.{name}" for name in COLUMNS.split(", "))}, m.role AS my_role
            FROM organizations o JOIN memberships m ON m.organization_id = o.id WHERE m.user_id = $1
            ORDER BY o.created_at DESC, o.id DESC LIMIT $2 OFFSET $3""",
        user_id,
        page.limit,
        page.offset,
    )
    total = await tx.fetchval("SELECT count(*) FROM memberships WHERE user_id = $1", user_id)
    found = [OwnOrganization(**dict(row)) for row in rows]
    return Paged(data=found, total=total, has_more=page.offset + len(found) < total)


async def count_owned(tx: Transaction, owner_id: UserId) -> int:
    """How many she owns; until the transaction ends nobody else counts them."""
    await tx.run("SELECT FROM users WHERE id = $1 FOR NO KEY UPDATE", owner_id)
    return int(await tx.fetchval("SELECT count(*) FROM organizations WHERE owner_id = $1", owner_id))


async def owned(tx: Transaction, owner_id: UserId) -> list[OrganizationId]:
    rows = await tx.fetch("SELECT id FROM organizations WHERE owner_id = $1 ORDER BY id FOR UPDATE", owner_id)
    return [OrganizationId(row["id"]) for row in rows]


async def slug_taken(tx: Transaction, owner_id: UserId, slug: str) -> bool:
    """Whether she owns one of this slug."""
    await tx.run("SELECT FROM users WHERE id = $1 FOR NO KEY UPDATE", owner_id)
    return bool(
        await tx.fetchval("SELECT EXISTS (SELECT FROM organizations WHERE owner_id = $1 AND slug = $2)", owner_id, slug)
    )


async def update(tx: Transaction, organization_id: OrganizationId, changes: Mapping[str, object]) -> Organization:
    columns = ["updated_at = now()", *(f"{name} = ${place}" for place, name in enumerate(changes, 2))]
    row = await tx.fetchrow(
        f"UPDATE organizations SET {', '.join(columns)} WHERE id = $1 RETURNING {COLUMNS}",
        organization_id,
        *changes.values(),
    )
    assert row is not None
    return Organization(**dict(row))


async def hand_over(
    tx: Transaction, organization_id: OrganizationId, old_owner_id: UserId, new_owner_id: UserId
) -> Organization:
    await set_role(tx, organization_id, old_owner_id, "admin")
    await set_role(tx, organization_id, new_owner_id, "owner")
    return await update(tx, organization_id, {"owner_id": new_owner_id})


async def delete(tx: Transaction, organization_id: OrganizationId) -> None:
    """With its members, keys and balance."""
    await tx.run("DELETE FROM organizations WHERE id = $1", organization_id)


async def hold_active_member(tx: Transaction, organization_id: OrganizationId, user_id: UserId) -> bool:
    """Whether she is one; if so she stays one until the transaction ends."""
    return bool(
        await tx.fetchval(
            """SELECT true FROM memberships m JOIN users u ON u.id = m.user_id
               WHERE m.organization_id = $1 AND m.user_id = $2 AND u.is_active FOR UPDATE OF m""",
            organization_id,
            user_id,
        )
    )


async def members(tx: Transaction, organization_id: OrganizationId, page: Page) -> Paged[Member]:
    """Oldest first."""
    rows = await tx.fetch(
        f"SELECT {_MEMBER} WHERE m.organization_id = $1 ORDER BY m.created_at, m.user_id LIMIT $2 OFFSET $3",
        organization_id,
        page.limit,
        page.offset,
    )
    total = await tx.fetchval("SELECT count(*) FROM memberships WHERE organization_id = $1", organization_id)
    found = [Member(**dict(row)) for row in rows]
    return Paged(data=found, total=total, has_more=page.offset + len(found) < total)


async def lock_member(tx: Transaction, organization_id: OrganizationId, user_id: UserId) -> Member | None:
    row = await tx.fetchrow(
        f"SELECT {_MEMBER} WHERE m.organization_id = $1 AND m.user_id = $2 FOR UPDATE OF m", organization_id, user_id
    )
    return Member(**dict(row)) if row else None


async def add_member(
    tx: Transaction, organization_id: OrganizationId, user_id: UserId, role: Role, invited_by: UserId | None
) -> bool:
    """False where she is one already."""
    return bool(
        await tx.run(
            """INSERT INTO memberships (organization_id, user_id, role, invited_by) VALUES ($1, $2, $3, $4)
               ON CONFLICT DO NOTHING""",
            organization_id,
            user_id,
            role,
            invited_by,
        )
    )


async def set_role(tx: Transaction, organization_id: OrganizationId, user_id: UserId, role: Role) -> None:
    await tx.run(
        "UPDATE memberships SET role = $3 WHERE organization_id = $1 AND user_id = $2", organization_id, user_id, role
    )


async def remove_member(tx: Transaction, organization_id: OrganizationId, user_id: UserId) -> None:
    await tx.run("DELETE FROM memberships WHERE organization_id = $1 AND user_id = $2", organization_id, user_id)


async def active_keys_of(tx: Transaction, organization_id: OrganizationId, user_id: UserId) -> list[str]:
    """Prefixes of the keys that she made there, and that are accepted."""
    rows = await tx.fetch(
        """SELECT key_prefix FROM api_keys WHERE organization_id = $1 AND created_by = $2 AND is_active
           AND (revoked_at IS NULL OR revoked_at > now()) AND (expires_at IS NULL OR expires_at > now())
           ORDER BY created_at, id""",
        organization_id,
        user_id,
    )
    return [row["key_prefix"] for row in rows]
