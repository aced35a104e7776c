"""An agent and what is said of it, as callers are told. Large numbers and decimals are text; times are of blocks."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal, localcontext
from typing import Literal

from msgspec import Struct

from agentauri.types import ChainId

MEAN_PLACES = 36
"""A mean that goes on for ever is rounded to so many, half to even."""

AgentSort = Literal["registered_at", "updated_at", "feedback_count"]
Direction = Literal["asc", "desc"]


class Agent(Struct, frozen=True, kw_only=True):
    """What the identity registry says of an agent now, and how much the others say of it.

    Nothing but the id is there for an agent whose registration was not seen.
    """

    chain_id: ChainId
    agent_id: str
    owner: str | None
    agent_wallet: str | None
    agent_uri: str | None
    registered_at: datetime | None
    registered_block: int | None
    updated_at: datetime
    updated_block: int
    feedback_count: int
    client_count: int
    validation_count: int
    last_feedback_at: datetime | None


class Metadata(Struct, frozen=True, kw_only=True):
    """One key. `value` are its bytes as 0x hex, `text` is what they say where they are text."""

    key: str
    value: str
    text: str | None
    updated_block: int


class TagReputation(Struct, frozen=True, kw_only=True):
    """Unrevoked feedback with the same tag1, the only kind whose values are of one kind, too. Exact."""

    tag1: str
    count: int
    clients: int
    mean: str
    min: str
    max: str


class FeedbackCounts(Struct, frozen=True, kw_only=True):
    """`by_tag1` has the 20 tags with the most feedback."""

    count: int
    active: int
    revoked: int
    clients: int
    by_tag1: list[TagReputation]


class ValidationCounts(Struct, frozen=True, kw_only=True):
    """`average` is the exact mean of the last response to each answered request."""

    requests: int
    answered: int
    average: str | None


class AgentDetail(Agent, frozen=True, kw_only=True):
    metadata: list[Metadata]
    feedback: FeedbackCounts
    validations: ValidationCounts


class Response(Struct, frozen=True, kw_only=True):
    responder: str | None
    response_uri: str | None
    response_hash: str | None
    block_number: int
    tx_hash: str


class Feedback(Struct, frozen=True, kw_only=True):
    """One rating. `responses` are the first 100 to it, `more_responses` says that there are others."""

    feedback_index: str
    client_address: str
    value_raw: str | None
    value_decimals: int | None
    score: str | None
    tag1: str | None
    tag2: str | None
    endpoint: str | None
    feedback_uri: str | None
    feedback_hash: str | None
    revoked: bool
    responses: list[Response]
    more_responses: bool
    block_number: int
    tx_hash: str | None
    timestamp: datetime


class ValidationResponse(Struct, frozen=True, kw_only=True):
    response: int | None
    tag: str | None
    response_uri: str | None
    response_hash: str | None
    timestamp: datetime
    block_number: int


class Validation(Struct, frozen=True, kw_only=True):
    """A request to a validator. `responses` are the last 100, the latest last; `more_responses`: there are earlier
    ones. `requested_at` is null where the request itself was not seen."""

    request_hash: str
    validator_address: str | None
    request_uri: str | None
    requested_at: datetime | None
    responses: list[ValidationResponse]
    more_responses: bool


class AgentFilter(Struct, frozen=True, kw_only=True):
    """Which agents a list holds. An empty tuple and None restrict nothing; addresses in lower case.

    `min_score` goes with `tag`: the least mean of the feedback with that tag.
    """

    chain_ids: tuple[ChainId, ...] = ()
    owner: str | None = None
    wallet: str | None = None
    search: str | None = None
    has_feedback: bool | None = None
    tag: str | None = None
    min_score: Decimal | None = None
    registered_since: int | None = None
    updated_since: int | None = None
    sort: AgentSort = "registered_at"
    order: Direction = "desc"


class FeedbackFilter(Struct, frozen=True, kw_only=True):
    client: str | None = None
    tag1: str | None = None
    tag2: str | None = None
    include_revoked: bool = False
    order: Direction = "desc"


class ValidationFilter(Struct, frozen=True, kw_only=True):
    validator: str | None = None
    tag: str | None = None
    answered: bool | None = None


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def at_or_none(seconds: int | None) -> datetime | None:
    return None if seconds is None else at(seconds)


def plain(number: Decimal | None) -> str | None:
    """Without an exponent."""
    return None if number is None else format(number, "f")


def mean(total: Decimal, count: int) -> str:
    """Exact, or to `MEAN_PLACES`; no zeros at its end."""
    with localcontext() as context:
        context.prec = len(total.as_tuple().digits) + 2 * MEAN_PLACES
        text = format((total / count).quantize(Decimal(1).scaleb(-MEAN_PLACES)), "f")
    return text.rstrip("0").rstrip(".")
