"""Pages of events: filters and search. They are ordered by block time or by arrival, then by `seq`."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, NamedTuple

from msgspec import Meta
from sqlalchemy import ColumnElement, Select, and_, func, literal_column, or_, select, tuple_

from agentauri.database import Transaction
from agentauri.events.tables import events
from agentauri.events.types import EventFilter
from agentauri.paging import COUNTED, SECONDS, Whole, in_time, paged, read_cursor
from agentauri.types import EventSeq, Page, Paged

SEARCH_SECONDS = SECONDS

TAG_CHARACTERS = 200
"""What the indexes on tags keep of them; the rest is compared on the row."""

GAP_WINDOW = 10_000
"""How far back the newest numbers are looked through for one that an open transaction may yet fill."""


class Key(NamedTuple):
    timestamp: Whole
    seq: Annotated[EventSeq, Meta(ge=0, le=2**63 - 1)]


async def page_of(tx: Transaction, wanted: EventFilter, page: Page) -> Paged[Key]:
    """The keys of the rows of one page, in order.

    Raises:
        Invalid: the cursor is not one of this list.
        SearchTooSlow: they were not found in time.
    """
    conditions = _conditions(wanted)
    if wanted.sort == "ingested":
        conditions.append(events.c.seq <= await _filled_up_to(tx))
    statement = _ordered(select(events.c.timestamp, events.c.seq).where(*conditions), wanted)
    if page.cursor is None:
        statement = statement.offset(page.offset)
    else:
        statement = statement.where(_beyond(read_cursor(page.cursor, wanted, Key), wanted))
    counted = select(func.count()).select_from(select(events.c.seq).where(*conditions).limit(COUNTED + 1).subquery())
    async with in_time(tx, SEARCH_SECONDS):
        rows = [Key(row.timestamp, row.seq) for row in await tx.execute(statement.limit(page.limit + 1))]
        total: int = (await tx.execute(counted)).scalar_one()
    return paged(rows, total, page, wanted, tuple)


def _conditions(wanted: EventFilter) -> list[ColumnElement[bool]]:
    c = events.c
    lists = ((c.chain_id, wanted.chain_ids), (c.registry, wanted.registries), (c.event_type, wanted.event_types))
    found: list[ColumnElement[bool]] = [column.in_(values) for column, values in lists if values]
    agent_id = None if wanted.agent_id is None else Decimal(wanted.agent_id)  # an int would go out as a bigint
    equal = (
        (c.agent_id, agent_id), (c.client_address, wanted.client), (c.owner, wanted.owner),
        (c.validator_address, wanted.validator), (c.transaction_hash, wanted.transaction_hash),
    )  # fmt: skip
    found += [column == value for column, value in equal if value is not None]
    for column, tag in ((c.tag1, wanted.tag1), (c.tag2, wanted.tag2)):
        if tag is not None:
            found.append(
                and_(func.left(column, literal_column(str(TAG_CHARACTERS))) == tag[:TAG_CHARACTERS], column == tag)
            )
    at_least = ((c.block_number, wanted.from_block), (c.timestamp, wanted.from_time))
    found += [column >= value for column, value in at_least if value is not None]
    at_most = ((c.block_number, wanted.to_block), (c.timestamp, wanted.to_time))
    found += [column <= value for column, value in at_most if value is not None]
    if not wanted.include_retracted:
        found.append(c.retracted_at.is_(None))
    if wanted.search is not None:
        found.append(_search(wanted.search.strip()))
    return found


def _search(sought: str) -> ColumnElement[bool]:
    """Rows with this id, hash, address or agent, or with words that begin with each word given."""
    c = events.c
    ways: list[ColumnElement[bool]] = [c.id == sought]
    if re.fullmatch(r"0x[0-9a-fA-F]{40}", sought):
        ways += [column == sought.lower() for column in (c.client_address, c.owner, c.validator_address)]
    elif re.fullmatch(r"0x[0-9a-fA-F]{64}", sought):
        ways.append(c.transaction_hash == sought.lower())
    elif re.fullmatch(r"[0-9]{1,78}", sought):
        ways.append(c.agent_id == Decimal(sought))
    # The index blanks ASCII punctuation, so what is left between it are the words.
    words = re.findall(r"[^\s!-/:-@\[-`{-~]+", sought)
    if words:
        indexed = func.event_words(
            c.event_type, c.tag1, c.tag2, c.tag, c.endpoint, c.token_uri, c.file_uri, c.response_uri, c.request_uri
        )
        query = func.to_tsquery(literal_column("'simple'"), " & ".join(f"'{word}':*" for word in words))
        ways.append(indexed.op("@@")(query))
    return or_(*ways)


async def _filled_up_to(tx: Transaction) -> int:
    """A `seq` below which nothing can appear any more, however late its transaction commits.

    Whoever may yet fill a gap holds a lock on the table since before it drew its number.
    """
    newest: int = (await tx.fetchval("SELECT max(seq) FROM events")) or 0
    writing: bool = await tx.fetchval(
        """SELECT EXISTS (
               SELECT FROM pg_locks WHERE relation = 'events'::regclass AND mode = 'RowExclusiveLock'
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND pid <> pg_backend_pid())"""
    )
    if not writing:
        return newest
    gap: int | None = await tx.fetchval(
        """SELECT before + 1 FROM (
               SELECT seq, lag(seq, 1, seq - 1) OVER (ORDER BY seq) AS before
               FROM events WHERE seq > $1 AND seq <= $2) AS numbered
           WHERE seq > before + 1 ORDER BY seq LIMIT 1""",
        newest - GAP_WINDOW,
        newest,
    )
    return newest if gap is None else gap - 1


def _ordered(statement: Select[Key], wanted: EventFilter) -> Select[Key]:
    columns = [events.c.seq] if wanted.sort == "ingested" else [events.c.timestamp, events.c.seq]
    return statement.order_by(*(c.desc() if wanted.order == "desc" else c.asc() for c in columns))


def _beyond(key: Key, wanted: EventFilter) -> ColumnElement[bool]:
    if wanted.sort == "ingested":
        return events.c.seq < key[1] if wanted.order == "desc" else events.c.seq > key[1]
    place = tuple_(events.c.timestamp, events.c.seq)
    return place < key if wanted.order == "desc" else place > key
