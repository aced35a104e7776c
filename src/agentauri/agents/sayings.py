"""Pages of what is said of one agent: feedback with the responses to it, validations with their answers."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

import asyncpg
from msgspec import Meta
from sqlalchemy import ColumnElement, Select, func, literal_column, select, tuple_

from agentauri.agents.listing import TAG_CHARACTERS
from agentauri.agents.tables import feedback, validations
from agentauri.agents.views import (
    Direction,
    Feedback,
    FeedbackFilter,
    Response,
    Validation,
    ValidationFilter,
    ValidationResponse,
    at,
    at_or_none,
    plain,
)
from agentauri.database import Transaction
from agentauri.paging import COUNTED, Whole, in_time, paged, read_cursor
from agentauri.types import ChainId, Page, Paged

RESPONSES = 100
"""Anybody may respond to feedback as often as they please, and a validator to a request: so many are shown of each."""

_requested = tuple(
    func.coalesce(c, literal_column("-1")) for c in (validations.c.requested_block, validations.c.requested_log)
)


class FeedbackKey(NamedTuple):
    block_number: Whole
    log_index: Whole
    event_seq: Whole


class ValidationKey(NamedTuple):
    block_number: Whole
    log_index: Whole
    request_hash: Annotated[str, Meta(max_length=200)]


async def feedback_page(
    tx: Transaction, chain_id: ChainId, agent_id: int, wanted: FeedbackFilter, page: Page
) -> Paged[Feedback]:
    """Feedback by its place on the chain.

    Raises:
        Invalid: the cursor is not one of this list.
        SearchTooSlow: it was not found in time.
    """
    c, tied = feedback.c, (chain_id, agent_id, wanted)
    conditions = [c.chain_id == chain_id, c.agent_id == Decimal(agent_id), ~c.incomplete]
    if wanted.client is not None:
        conditions.append(c.client_address == wanted.client)
    if wanted.tag1 is not None:
        conditions.append(func.left(c.tag1, literal_column(str(TAG_CHARACTERS))) == wanted.tag1[:TAG_CHARACTERS])
        conditions.append(c.tag1 == wanted.tag1)
    if wanted.tag2 is not None:
        conditions.append(c.tag2 == wanted.tag2)
    if not wanted.include_revoked:
        conditions.append(~c.revoked)
    after = None if page.cursor is None else read_cursor(page.cursor, tied, FeedbackKey)
    place = (c.block_number, c.log_index, c.event_seq)
    async with in_time(tx):
        rows, total = await _page(tx, select(feedback), conditions, place, wanted.order, page, after)
        found = paged(rows, total, page, tied, lambda row: (row.block_number, row.log_index, row.event_seq))
        responses = await _responses(tx, chain_id, agent_id, found.data)
    return found.of([_feedback(row, responses) for row in found.data])


async def validations_page(
    tx: Transaction, chain_id: ChainId, agent_id: int, wanted: ValidationFilter, page: Page
) -> Paged[Validation]:
    """Validations by the place of their request, the latest first; those whose request was not seen at the end.

    Raises:
        Invalid: the cursor is not one of this list.
        SearchTooSlow: they were not found in time.
    """
    c, tied = validations.c, (chain_id, agent_id, wanted)
    conditions: list[ColumnElement[bool]] = [c.chain_id == chain_id, c.agent_id == Decimal(agent_id)]
    if wanted.validator is not None:
        conditions.append(c.validator_address == wanted.validator)
    if wanted.tag is not None:
        conditions.append(c.tag == wanted.tag)
    if wanted.answered is not None:
        conditions.append(c.response.is_not(None) if wanted.answered else c.response.is_(None))
    after = None if page.cursor is None else read_cursor(page.cursor, tied, ValidationKey)
    shown = select(validations, _requested[0].label("block"), _requested[1].label("log"))
    place = (*_requested, c.request_hash)
    async with in_time(tx):
        rows, total = await _page(tx, shown, conditions, place, "desc", page, after)
        found = paged(rows, total, page, tied, lambda row: (row.block, row.log, row.request_hash))
        answers = await _answers(tx, chain_id, agent_id, [row.request_hash for row in found.data])
    return found.of([_validation(row, answers.get(row.request_hash, [])) for row in found.data])


async def _page(
    tx: Transaction,
    statement: Select[Any],
    conditions: Sequence[ColumnElement[bool]],
    place: Sequence[ColumnElement[Any]],
    order: Direction,
    page: Page,
    after: tuple[Any, ...] | None,
) -> tuple[Sequence[Any], int]:
    """One row more than the page holds, if there is one, and how many there are, counted so far."""
    counted: Select[Any] = statement.with_only_columns(literal_column("1")).where(*conditions).limit(COUNTED + 1)
    statement = statement.where(*conditions).order_by(*(c.desc() if order == "desc" else c.asc() for c in place))
    if after is None:
        statement = statement.offset(page.offset)
    else:
        statement = statement.where(tuple_(*place) < after if order == "desc" else tuple_(*place) > after)
    rows = (await tx.execute(statement.limit(page.limit + 1))).all()
    total: int = (await tx.execute(select(func.count()).select_from(counted.subquery()))).scalar_one()
    return rows, total


Responses = dict[tuple[str, Decimal], list[asyncpg.Record]]


async def _responses(tx: Transaction, chain_id: ChainId, agent_id: int, rows: Sequence[Any]) -> Responses:
    """The first to each of these, one more than is shown."""
    found: Responses = {}
    for record in await tx.fetch(
        """SELECT asked.client_address, asked.feedback_index, r.*
           FROM unnest($3::text[], $4::numeric[]) AS asked (client_address, feedback_index) CROSS JOIN LATERAL (
               SELECT responder, response_uri, response_hash, block_number, transaction_hash FROM feedback_responses
               WHERE chain_id = $1 AND agent_id = $2 AND client_address = asked.client_address
                     AND feedback_index = asked.feedback_index
               ORDER BY block_number, log_index LIMIT $5) AS r""",
        chain_id,
        agent_id,
        [row.client_address for row in rows],
        [row.feedback_index for row in rows],
        RESPONSES + 1,
    ):
        found.setdefault((record["client_address"], record["feedback_index"]), []).append(record)
    return found


async def _answers(
    tx: Transaction, chain_id: ChainId, agent_id: int, hashes: Sequence[str]
) -> dict[str, list[asyncpg.Record]]:
    """The last to each of these, latest first, one more than is shown."""
    found: dict[str, list[asyncpg.Record]] = {}
    for record in await tx.fetch(
        """SELECT asked.request_hash, r.* FROM unnest($3::text[]) AS asked (request_hash) CROSS JOIN LATERAL (
               SELECT response, tag, response_uri, response_hash, block_time, block_number FROM validation_responses
               WHERE chain_id = $1 AND agent_id = $2 AND request_hash = asked.request_hash
               ORDER BY block_number DESC, log_index DESC LIMIT $4) AS r""",
        chain_id,
        agent_id,
        hashes,
        RESPONSES + 1,
    ):
        found.setdefault(record["request_hash"], []).append(record)
    return found


def _feedback(row: Any, responses: Responses) -> Feedback:
    theirs = responses.get((row.client_address, row.feedback_index), [])
    return Feedback(
        feedback_index=str(int(row.feedback_index)),
        client_address=row.client_address,
        value_raw=plain(row.value_raw),
        value_decimals=row.value_decimals,
        score=plain(row.score),
        tag1=row.tag1,
        tag2=row.tag2,
        endpoint=row.endpoint,
        feedback_uri=row.file_uri,
        feedback_hash=row.file_hash,
        revoked=row.revoked,
        responses=[
            Response(
                responder=record["responder"],
                response_uri=record["response_uri"],
                response_hash=record["response_hash"],
                block_number=record["block_number"],
                tx_hash=record["transaction_hash"],
            )
            for record in theirs[:RESPONSES]
        ],
        more_responses=len(theirs) > RESPONSES,
        block_number=row.block_number,
        tx_hash=row.transaction_hash,
        timestamp=at(row.block_time),
    )


def _validation(row: Any, answers: Sequence[asyncpg.Record]) -> Validation:
    return Validation(
        request_hash=row.request_hash,
        validator_address=row.validator_address,
        request_uri=row.request_uri,
        requested_at=at_or_none(row.requested_time),
        responses=[
            ValidationResponse(
                response=record["response"],
                tag=record["tag"],
                response_uri=record["response_uri"],
                response_hash=record["response_hash"],
                timestamp=at(record["block_time"]),
                block_number=record["block_number"],
            )
            for record in reversed(answers[:RESPONSES])
        ],
        more_responses=len(answers) > RESPONSES,
    )
