"""An event as it is stored, as it is written, and what is said about either."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, Self

import msgspec
from msgspec import Struct, field

from agentauri.types import ChainId, EventId, EventSeq, TriggerId

_decode_args = msgspec.json.Decoder(dict[str, object]).decode


class Event(Struct, frozen=True):
    """One row of `events`, its fields the columns in the table's order.

    `seq`, `id` and `created_at` never change; the block fields do when a reorg moves the transaction. `epoch` counts
    how often its absence was taken as real before it came back.
    """

    seq: EventSeq
    id: EventId
    chain_id: ChainId
    block_number: int
    block_hash: str
    transaction_hash: str
    log_index: int
    registry: str
    event_type: str
    timestamp: int
    transaction_index: int | None
    contract_address: str | None
    agent_id: int | None
    owner: str | None
    token_uri: str | None
    metadata_key: str | None
    metadata_value: str | None
    client_address: str | None
    tag1: str | None
    tag2: str | None
    tag: str | None
    endpoint: str | None
    file_uri: str | None
    file_hash: str | None
    responder: str | None
    response_uri: str | None
    response_hash: str | None
    validator_address: str | None
    request_uri: str | None
    request_hash: str | None
    feedback_index: int | None
    response: int | None
    value_raw: int | None
    value_decimals: int | None
    score: Decimal | None
    args: dict[str, object]
    topics: bytes | None
    data: bytes | None
    origin: str
    epoch: int
    retracted_at: datetime | None
    settled_at: datetime | None
    created_at: datetime

    @classmethod
    def from_row(cls, row: Iterable[Any]) -> Self:
        """From a row of `COLUMNS` as the driver gives it; what follows the columns in the row is left alone."""
        values = list(row)[: len(COLUMNS)]
        for place in _INTEGERS:
            if values[place] is not None:
                values[place] = int(values[place])  # a numeric comes as a Decimal
        values[_ARGS] = _decode_args(values[_ARGS])  # jsonb comes as text
        return cls(*values)

    def fields(self) -> Mapping[str, object]:
        """Every column by its name."""
        return msgspec.structs.asdict(self)


COLUMNS = Event.__struct_fields__
"""The table's columns in order."""

_ABOUT = frozenset(
    {
        "seq", "id", "chain_id", "block_number", "block_hash", "transaction_hash", "log_index", "registry",
        "event_type", "timestamp", "transaction_index", "contract_address", "agent_id", "args", "topics", "data",
        "origin", "epoch", "retracted_at", "settled_at", "created_at",
    }
)  # fmt: skip
DATA_COLUMNS = tuple(name for name in COLUMNS if name not in _ABOUT)
"""The columns that an event has or not, according to its type."""

_INTEGERS = tuple(COLUMNS.index(name) for name in ("agent_id", "feedback_index", "value_raw"))
_ARGS = COLUMNS.index("args")


def select_list(table: str) -> str:
    """`COLUMNS` for a SELECT whose rows `Event.from_row` takes."""
    return ", ".join(f'{table}."{name}"' + ("::text" if name == "args" else "") for name in COLUMNS)


class NewEvent(Struct, frozen=True, gc=False):
    """A log as the indexer writes it. `id` carries the log's index as it is now; a log that was seen before keeps the
    id of then. Nothing in it refers to anything else, so the garbage collector need not look at thousands of them."""

    id: EventId
    chain_id: ChainId
    block_number: int
    block_hash: str
    transaction_hash: str
    log_index: int
    registry: str
    event_type: str
    timestamp: int
    transaction_index: int | None = None
    contract_address: str | None = None
    agent_id: int | None = None
    owner: str | None = None
    token_uri: str | None = None
    metadata_key: str | None = None
    metadata_value: str | None = None
    client_address: str | None = None
    tag1: str | None = None
    tag2: str | None = None
    tag: str | None = None
    endpoint: str | None = None
    file_uri: str | None = None
    file_hash: str | None = None
    responder: str | None = None
    response_uri: str | None = None
    response_hash: str | None = None
    validator_address: str | None = None
    request_uri: str | None = None
    request_hash: str | None = None
    feedback_index: int | None = None
    response: int | None = None
    value_raw: int | None = None
    value_decimals: int | None = None
    score: Decimal | None = None
    args: dict[str, object] = field(default_factory=dict)
    topics: bytes | None = None
    data: bytes | None = None


class Recorded(Struct, frozen=True, kw_only=True):
    """What became of the logs that were written. `entered` are those that were not canonical before; `displaced` is how
    many were, in another block."""

    inserted: int = 0
    reinstated: int = 0
    unchanged: int = 0
    displaced: int = 0
    entered: Sequence[NewEvent] = ()

    def __add__(self, other: Self) -> Self:
        return type(self)(
            inserted=self.inserted + other.inserted,
            reinstated=self.reinstated + other.reinstated,
            unchanged=self.unchanged + other.unchanged,
            displaced=self.displaced + other.displaced,
            entered=[*self.entered, *other.entered],
        )


class EventFilter(Struct, frozen=True, kw_only=True):
    """Which events a list holds. An empty tuple and None restrict nothing; addresses and hashes in lower case."""

    chain_ids: tuple[ChainId, ...] = ()
    registries: tuple[str, ...] = ()
    event_types: tuple[str, ...] = ()
    agent_id: int | None = None
    client: str | None = None
    owner: str | None = None
    validator: str | None = None
    tag1: str | None = None
    tag2: str | None = None
    transaction_hash: str | None = None
    from_block: int | None = None
    to_block: int | None = None
    from_time: int | None = None
    to_time: int | None = None
    search: str | None = None
    include_retracted: bool = False
    sort: Literal["time", "ingested"] = "time"
    order: Literal["asc", "desc"] = "desc"


class Lane(Struct, frozen=True):
    """A chain with events to evaluate, and the lowest queue position of one."""

    chain_id: ChainId
    position: int


class Finished(Struct, frozen=True, kw_only=True):
    """One queue row that has been dealt with."""

    position: int
    kind: Literal["assert", "retract"]
    event_seq: EventSeq
    event_id: EventId
    trigger_id: TriggerId | None = None
    duration_ms: int = 0
    triggers_matched: int = 0
    actions_enqueued: int = 0


class Depth(Struct, frozen=True, kw_only=True):
    """How much the queue holds. `oldest_seconds` is the age of the first waiting event, 0 when none waits."""

    waiting: int
    parked: int
    oldest_seconds: float


class Audited(Struct, frozen=True):
    """What an audit queued, and whether it got to the end of what there is to see."""

    missed: list[EventSeq]
    complete: bool
