"""Credits: a balance that is the sum of a ledger's rows. The database books and keeps them; nothing changes one."""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import uuid4

from msgspec import Struct

from agentauri.database import Transaction
from agentauri.errors import FieldError, Invalid
from agentauri.types import OrganizationId, Page, Paged

MICRO = 1_000_000
LARGEST = 10**9
"""In USDC, of one booking."""
_AMOUNT = re.compile(r"-?[0-9]{1,10}(\.[0-9]{1,6})?")

TransactionType = Literal["purchase", "usage", "refund", "bonus", "adjustment"]


class CreditTransaction(Struct, frozen=True, kw_only=True):
    """One row of the ledger. Amounts are micro-USDC, negative where credit was used."""

    id: str
    amount: int
    transaction_type: TransactionType
    description: str | None
    reference_id: str | None
    balance_after: int
    created_at: datetime


_ROW = "id, amount, transaction_type, description, reference_id, balance_after, created_at"


def read_usdc(text: str) -> int:
    """Micro-USDC, of what people write.

    Raises:
        Invalid: no amount, none at all, or more than anybody means.
    """
    amount = Decimal(text) if _AMOUNT.fullmatch(text) else Decimal(0)
    if amount == 0 or abs(amount) > LARGEST:
        raise Invalid.fields(
            FieldError("amount", f"must be USDC up to {LARGEST}, with six decimals at most, and not 0")
        )
    return int(amount * MICRO)


def write_usdc(micro: int) -> str:
    """As people read it."""
    whole, part = divmod(abs(micro), MICRO)
    return f"{'-' if micro < 0 else ''}{whole}.{part:06} USDC"


class CreditService:
    async def balance(self, tx: Transaction, organization_id: OrganizationId) -> int:
        """In micro-USDC."""
        return int(await tx.fetchval("SELECT balance FROM credits WHERE organization_id = $1", organization_id))

    async def book(
        self,
        tx: Transaction,
        organization_id: OrganizationId,
        amount: int,
        transaction_type: TransactionType,
        *,
        description: str | None = None,
        reference_id: str | None = None,
    ) -> CreditTransaction:
        """Add a row to the ledger, and its amount to the balance; others who book for the organization wait."""
        row = await tx.fetchrow(
            f"""INSERT INTO credit_transactions
                    (id, organization_id, amount, transaction_type, description, reference_id)
                VALUES ($1, $2, $3, $4, $5, $6) RETURNING {_ROW}""",  # noqa: S608 (our own columns)
            str(uuid4()),
            organization_id,
            amount,
            transaction_type,
            description,
            reference_id,
        )
        assert row is not None
        return CreditTransaction(**dict(row))

    async def transactions(
        self, tx: Transaction, organization_id: OrganizationId, transaction_type: TransactionType | None, page: Page
    ) -> Paged[CreditTransaction]:
        """Newest first."""
        which = "organization_id = $1 AND ($2::text IS NULL OR transaction_type = $2)"
        rows = await tx.fetch(
            f"SELECT {_ROW} FROM credit_transactions WHERE {which} ORDER BY seq DESC LIMIT $3 OFFSET $4",  # noqa: S608
            organization_id,
            transaction_type,
            page.limit,
            page.offset,
        )
        total = await tx.fetchval(
            f"SELECT count(*) FROM credit_transactions WHERE {which}",  # noqa: S608
            organization_id,
            transaction_type,
        )
        found = [CreditTransaction(**dict(row)) for row in rows]
        return Paged(data=found, total=total, has_more=page.offset + len(found) < total)
