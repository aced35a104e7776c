"""Long lists, page by page: cursors that neither repeat nor skip a row, totals at a bounded price, an end to patience.

A list has a total order. Its cursor names the last row of a page by its key in that order, so rows that come in
meanwhile shift nothing, and it is tied to the list that it was made for.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, TypeVar

import asyncpg
import msgspec
from msgspec import Meta
from sqlalchemy.exc import DBAPIError

from agentauri.database import Transaction
from agentauri.errors import FieldError, Invalid, Unavailable
from agentauri.types import Page, Paged

COUNTED = 10_000
"""Totals are counted so far, to bound their price."""

SECONDS = 2.0
"""Anybody may ask for a list, and for one that no index helps to find."""

Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Id = Annotated[str, Meta(pattern=r"^[0-9]{1,78}$")]
"""Parts of a key: what fits a bigint, and a number of any size as text."""

K = TypeVar("K")
R = TypeVar("R")


class SearchTooSlow(Unavailable):
    """No index helps to find these rows in time: the words are too common, or the filters leave too much to read."""

    def __init__(self) -> None:
        super().__init__("The search took too long. Narrow it with a filter, or give rarer words.")


@asynccontextmanager
async def in_time(tx: Transaction, seconds: float | None = None) -> AsyncIterator[None]:
    """Give up what takes longer than anybody may ask for.

    Raises:
        SearchTooSlow: it does.
    """
    await tx.run(f"SET LOCAL statement_timeout = '{seconds or SECONDS}s'")
    try:
        yield
    except asyncpg.QueryCanceledError as error:
        raise SearchTooSlow from error
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) == asyncpg.QueryCanceledError.sqlstate:
            raise SearchTooSlow from error
        raise
    await tx.run("SET LOCAL statement_timeout TO DEFAULT")


def paged(
    rows: Sequence[R],
    total: int,
    page: Page,
    wanted: object,
    key: Callable[[R], tuple[object, ...]],
    counted: int = COUNTED,
) -> Paged[R]:
    """A page of which one row more than its limit was fetched, where there is one, and `counted` + 1 counted at most.

    `wanted` is what tells this list from others.
    """
    shown, more = list(rows[: page.limit]), len(rows) > page.limit
    return Paged(
        data=shown,
        total=min(total, counted),
        has_more=more,
        next_cursor=write_cursor(key(shown[-1]), wanted) if more else None,
        total_is_exact=total <= counted,
    )


def write_cursor(key: tuple[object, ...], wanted: object) -> str:
    payload = msgspec.json.encode(key)
    return base64.urlsafe_b64encode(_seal(payload, wanted) + payload).decode().rstrip("=")


def read_cursor(cursor: str, wanted: object, shape: type[K]) -> K:
    """The key that was written.

    Raises:
        Invalid: the cursor was altered, or made for another list.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        key: K = msgspec.json.decode(raw[8:], type=shape)
    except (ValueError, msgspec.DecodeError) as error:
        raise _bad_cursor() from error
    if raw[:8] != _seal(raw[8:], wanted):
        raise _bad_cursor()
    return key


def _seal(payload: bytes, wanted: object) -> bytes:
    """No secret, since a forged cursor shows nothing that its forger could not ask for."""
    return hashlib.sha256(msgspec.json.encode(wanted) + payload).digest()[:8]


def _bad_cursor() -> Invalid:
    return Invalid.fields(FieldError("query.cursor", "must be the next_cursor of a page of this same list"))
