"""Pages of agents.

They are ordered by what was asked for, then by agent and chain. No index has the agents of all chains in such an order,
but each chain's has its own: a page is merged from the first rows of each, so that nothing is read that is not shown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Numeric,
    Select,
    and_,
    cast,
    func,
    literal_column,
    select,
    tuple_,
    union_all,
)

from agentauri.agents.tables import agent_metadata, agent_words, agents, feedback
from agentauri.agents.views import Agent, AgentFilter, at, at_or_none
from agentauri.database import Transaction
from agentauri.paging import COUNTED, Id, Whole, in_time, paged, read_cursor
from agentauri.types import ChainId, Page, Paged

TAG_CHARACTERS = 200
"""What the indexes on tags keep of them; the rest is compared on the row."""

TAGGED_COUNTED = 1_000
"""So far agents with a tag are counted: each of them takes a look at the feedback about it."""

RARE = 5_000
"""A tag is common from so much feedback on."""

_registered = func.coalesce(agents.c.registered_time, literal_column("0"))
_PLACES: dict[str, ColumnElement[int]] = {
    "registered_at": _registered,
    "updated_at": agents.c.updated_time,
    "feedback_count": agents.c.feedback_count,
}


class Key(NamedTuple):
    place: Whole
    agent_id: Id
    chain_id: Whole


async def page_of(tx: Transaction, wanted: AgentFilter, page: Page) -> Paged[Agent]:
    """
    Raises:
        Invalid: the cursor is not one of this list.
        SearchTooSlow: they were not found in time.
    """
    after = None if page.cursor is None else read_cursor(page.cursor, wanted, Key)
    async with in_time(tx):
        conditions = _conditions(wanted)
        if wanted.tag is not None:
            conditions.append(await _tagged(tx, wanted.tag, wanted.min_score))
        chains = await _chains(tx, wanted.chain_ids)
        if not chains:
            return Paged(data=[], total=0, has_more=False)
        rows = (await tx.execute(_statement(chains, conditions, wanted, page, after))).all()
        most = COUNTED if wanted.tag is None else TAGGED_COUNTED
        total: int = (await tx.execute(_counted(chains, conditions, wanted, most))).scalar_one()
    found = paged(
        rows, total, page, wanted, counted=most, key=lambda row: (row.place, str(int(row.agent_id)), row.chain_id)
    )
    return found.of([agent_of(row) for row in found.data])


async def _chains(tx: Transaction, among: Sequence[ChainId]) -> list[ChainId]:
    """Those that have agents, found by a look into the index for each."""
    rows = await tx.fetch(
        """WITH RECURSIVE present AS (
               (SELECT chain_id FROM agents ORDER BY chain_id LIMIT 1)
               UNION ALL
               SELECT (SELECT chain_id FROM agents WHERE chain_id > present.chain_id ORDER BY chain_id LIMIT 1)
               FROM present WHERE present.chain_id IS NOT NULL)
           SELECT chain_id FROM present WHERE chain_id IS NOT NULL"""
    )
    return [row["chain_id"] for row in rows if not among or row["chain_id"] in among]


def _statement(
    chains: Sequence[ChainId],
    conditions: Sequence[ColumnElement[bool]],
    wanted: AgentFilter,
    page: Page,
    after: Key | None,
) -> Select[Any]:
    place = _PLACES[wanted.sort]
    offset = page.offset if after is None else 0
    rows = offset + page.limit + 1
    branches = [
        _ordered(
            select(agents, place.label("place")).where(
                agents.c.chain_id == chain, *conditions, *_beyond(place, chain, after, wanted)
            ),
            wanted,
            place,
            agents.c.agent_id,
        )
        .limit(rows)
        .subquery()
        for chain in chains
    ]
    merged = union_all(*(select(branch) for branch in branches)).subquery()
    ordered = _ordered(select(merged), wanted, merged.c.place, merged.c.agent_id, merged.c.chain_id)
    return ordered.limit(page.limit + 1).offset(offset)


def _counted(
    chains: Sequence[ChainId], conditions: Sequence[ColumnElement[bool]], wanted: AgentFilter, most: int
) -> Select[Any]:
    """How many there are, counted to one more than `most`."""
    # Those since a time are the last of an index, and in no other order found without all that were before.
    since = _registered if wanted.registered_since is not None else agents.c.updated_time
    if wanted.registered_since is None and wanted.updated_since is None:
        found: Any = select(agents.c.chain_id).where(agents.c.chain_id.in_(chains), *conditions)
    else:
        branches = [
            select(agents.c.chain_id)
            .where(agents.c.chain_id == chain, *conditions)
            .order_by(since.desc(), agents.c.agent_id.desc())
            .limit(most + 1)
            .subquery()
            for chain in chains
        ]
        found = union_all(*(select(branch) for branch in branches))
    return select(func.count()).select_from(found.limit(most + 1).subquery())


def _ordered(statement: Select[Any], wanted: AgentFilter, *columns: ColumnElement[Any]) -> Select[Any]:
    return statement.order_by(*(c.desc() if wanted.order == "desc" else c.asc() for c in columns))


def _beyond(
    place: ColumnElement[int], chain: ChainId, after: Key | None, wanted: AgentFilter
) -> list[ColumnElement[bool]]:
    """What comes after the cursor on one chain; the agent itself does on the chains after the cursor's."""
    if after is None:
        return []
    here, key = tuple_(place, agents.c.agent_id), (after.place, Decimal(after.agent_id))
    if wanted.order == "desc":
        return [here <= key if chain < after.chain_id else here < key]
    return [here >= key if chain > after.chain_id else here > key]


def _conditions(wanted: AgentFilter) -> list[ColumnElement[bool]]:
    c = agents.c
    found: list[ColumnElement[bool]] = []
    if wanted.owner is not None:
        found.append(c.owner == wanted.owner)
    if wanted.wallet is not None:
        found.append(c.agent_wallet == wanted.wallet)
    if wanted.has_feedback is not None:
        found.append(c.feedback_count > 0 if wanted.has_feedback else c.feedback_count == 0)
    if wanted.registered_since is not None:
        found.append(_registered >= wanted.registered_since)
    if wanted.updated_since is not None:
        found.append(c.updated_time >= wanted.updated_since)
    if wanted.search is not None:
        found.append(_search(wanted.search.strip()))
    return found


def _tag_is(tag: str) -> ColumnElement[bool]:
    f = feedback.c
    return and_(
        func.left(f.tag1, literal_column(str(TAG_CHARACTERS))) == tag[:TAG_CHARACTERS], f.tag1 == tag, ~f.revoked
    )


def _enough(min_score: Decimal) -> ColumnElement[bool]:
    """The mean is at least that where the sum is at least so often that; a division might round."""
    f = feedback.c
    return func.sum(f.score) >= min_score * func.count(f.score)


async def _tagged(tx: Transaction, tag: str, min_score: Decimal | None) -> ColumnElement[bool]:
    """The agents with a rare tag are those that its feedback is about; with a common one, each is looked at in turn."""
    f = feedback.c
    some = select(literal_column("1")).where(_tag_is(tag)).select_from(feedback).limit(RARE + 1).subquery()
    if (await tx.execute(select(func.count()).select_from(some))).scalar_one() <= RARE:
        theirs = select(f.chain_id, f.agent_id).where(_tag_is(tag)).group_by(f.chain_id, f.agent_id)
        rows = (await tx.execute(theirs if min_score is None else theirs.having(_enough(min_score)))).all()
        # As values, of which the planner sees that they are few.
        pairs = select(
            func.unnest(cast([row.chain_id for row in rows], ARRAY(BigInteger))),
            func.unnest(cast([row.agent_id for row in rows], ARRAY(Numeric))),
        )
        return tuple_(agents.c.chain_id, agents.c.agent_id).in_(pairs)
    about = and_(f.chain_id == agents.c.chain_id, f.agent_id == agents.c.agent_id, _tag_is(tag))
    if min_score is None:
        one: Select[Any] = select(literal_column("true")).select_from(feedback).where(about).limit(1)
    else:
        one = select(_enough(min_score)).where(about)
    return one.correlate(agents).scalar_subquery()


def _search(sought: str) -> ColumnElement[bool]:
    """Agents of this id, owner or wallet, or with words in URI or metadata that begin with each word given."""
    c, m, w = agents.c, agent_metadata.c, agent_words.c
    ways: list[ColumnElement[bool]] = []
    if re.fullmatch(r"0x[0-9a-fA-F]{40}", sought):
        ways += [c.owner == sought.lower(), c.agent_wallet == sought.lower()]
    elif re.fullmatch(r"[0-9]{1,78}", sought):
        ways.append(c.agent_id == Decimal(sought))
    found = [select(c.chain_id, c.agent_id).where(way) for way in ways]
    # The index blanks ASCII punctuation, so what is left between it are the words.
    words = re.findall(r"[^\s!-/:-@\[-`{-~]+", sought)
    if words:
        query = func.to_tsquery(literal_column("'simple'"), " & ".join(f"'{word}':*" for word in words))
        found.append(select(w.chain_id, w.agent_id).where(w.words.op("@@")(query)))
        found.append(select(m.chain_id, m.agent_id).where(func.text_words(m.value_text).op("@@")(query)))
    if not found:
        return literal_column("false")
    return tuple_(c.chain_id, c.agent_id).in_(union_all(*found))


def agent_of(row: Any) -> Agent:
    return Agent(**agent_fields(row))


def agent_fields(row: Any) -> dict[str, Any]:
    """Of a row of `agents`."""
    return {
        "chain_id": row.chain_id,
        "agent_id": str(int(row.agent_id)),
        "owner": row.owner,
        "agent_wallet": row.agent_wallet,
        "agent_uri": row.agent_uri,
        "registered_at": at_or_none(row.registered_time),
        "registered_block": row.registered_block,
        "updated_at": at(row.updated_time),
        "updated_block": row.updated_block,
        "feedback_count": row.feedback_count,
        "client_count": row.client_count,
        "validation_count": row.validation_count,
        "last_feedback_at": at_or_none(row.last_feedback_time),
    }
