"""Who did what, kept in the transaction of the deed: rows that nobody can change, and that outlive what they name."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from agentauri import metrics
from agentauri.database import Transaction
from agentauri.paging import COUNTED, paged, read_cursor
from agentauri.types import OrganizationId, Page, Paged, UserId

AGENT_LENGTH = 256


class Actor(Struct, frozen=True, kw_only=True):
    """Who acts, and by which request. `name` is what she was called then."""

    type: Literal["user", "api_key", "system"] = "system"
    id: str | None = None
    name: str | None = None
    ip: str | None = None
    user_agent: str | None = None
    request_id: str | None = None


SYSTEM = Actor()
"""The product itself, or its operator at the console."""


class Target(Struct, frozen=True):
    type: str
    id: str


class AuditEntry(Struct, frozen=True, kw_only=True):
    id: int
    event: str
    occurred_at: datetime
    actor: Actor
    target: Target | None
    details: dict[str, Any]


class AuditFilter(Struct, frozen=True, kw_only=True):
    """`event` that ends in a dot is a prefix. Times: from `since` on, before `until`."""

    event: str | None = None
    actor_id: str | None = None
    target_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    order: Literal["asc", "desc"] = "desc"


class _Key(NamedTuple):
    id: Annotated[int, Meta(ge=0, le=2**63 - 1)]


class AuditTrail:
    async def record(
        self,
        tx: Transaction,
        actor: Actor,
        event: str,
        *,
        organization_id: OrganizationId | None = None,
        target: Target | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        """One row, in the caller's transaction. `details` hold names and old and new values, never a secret."""
        await tx.run(
            """INSERT INTO audit_log (organization_id, event, actor_type, actor_id, actor_name, ip, user_agent,
                                      request_id, target_type, target_id, details)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::text::jsonb)""",
            organization_id,
            event,
            actor.type,
            actor.id,
            actor.name,
            actor.ip,
            actor.user_agent[:AGENT_LENGTH] if actor.user_agent else None,
            actor.request_id,
            target.type if target else None,
            target.id if target else None,
            msgspec.json.encode(details or {}, enc_hook=str).decode(),
        )
        metrics.AUDIT_ROWS.labels(event).inc()

    async def of_organization(
        self, tx: Transaction, organization_id: OrganizationId, wanted: AuditFilter, page: Page
    ) -> Paged[AuditEntry]:
        """Newest first, unless asked otherwise.

        Raises:
            Invalid: the cursor is not one of this list.
        """
        return await _page(tx, "organization_id = $1", organization_id, wanted, page)

    async def of_user(self, tx: Transaction, user_id: UserId, wanted: AuditFilter, page: Page) -> Paged[AuditEntry]:
        """What she did, in whichever organization. Raises: Invalid, as above."""
        return await _page(tx, "actor_type = 'user' AND actor_id = $1", user_id, wanted, page)


_FILTERED = """{whose} AND ($2::text IS NULL OR event = $2 OR (right($2, 1) = '.' AND starts_with(event, $2)))
    AND ($3::text IS NULL OR actor_id = $3) AND ($4::text IS NULL OR target_id = $4)
    AND ($5::timestamptz IS NULL OR occurred_at >= $5) AND ($6::timestamptz IS NULL OR occurred_at < $6)"""


async def _page(tx: Transaction, whose: str, who: str, wanted: AuditFilter, page: Page) -> Paged[AuditEntry]:
    where = _FILTERED.format(whose=whose)
    values = (who, wanted.event, wanted.actor_id, wanted.target_id, wanted.since, wanted.until)
    after = read_cursor(page.cursor, wanted, _Key).id if page.cursor is not None else None
    beyond, direction = ("<", "DESC") if wanted.order == "desc" else (">", "ASC")
    rows = await tx.fetch(
        f"""SELECT id, event, occurred_at, actor_type, actor_id, actor_name, ip, user_agent, request_id, target_type,
                   target_id, details::text AS details
            FROM audit_log WHERE {where} AND ($7::bigint IS NULL OR id {beyond} $7)
            ORDER BY id {direction} LIMIT $8 OFFSET $9""",  # noqa: S608 (our own words)
        *values,
        after,
        page.limit + 1,
        page.offset if page.cursor is None else 0,
    )
    total = await tx.fetchval(
        f"SELECT count(*) FROM (SELECT FROM audit_log WHERE {where} LIMIT $7) AS counted",  # noqa: S608
        *values,
        COUNTED + 1,
    )
    return paged([_entry(row) for row in rows], total, page, wanted, lambda entry: _Key(entry.id))


def _entry(row: Any) -> AuditEntry:
    return AuditEntry(
        id=row["id"],
        event=row["event"],
        occurred_at=row["occurred_at"],
        actor=Actor(
            type=row["actor_type"],
            id=row["actor_id"],
            name=row["actor_name"],
            ip=row["ip"],
            user_agent=row["user_agent"],
            request_id=row["request_id"],
        ),
        target=Target(row["target_type"], row["target_id"]) if row["target_id"] is not None else None,
        details=msgspec.json.decode(row["details"]),
    )
