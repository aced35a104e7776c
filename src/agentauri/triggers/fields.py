"""What a condition may look at: the columns of an event, their other names, and `args.<name>`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from typing import cast

import msgspec
from msgspec import Struct

from agentauri.events import Event

Getter = Callable[[Event], object]


class Kind(StrEnum):
    """How the values of a field compare: exactly as decimals, as text, or as hex whose case says nothing."""

    NUMBER = "number"
    TEXT = "text"
    HEX = "hex"


class Field(Struct, frozen=True):
    """`column` is the attribute of an event, or `args.<name>`; `open` means that values of any type occur in it."""

    column: str
    kind: Kind
    open: bool = False


_COLUMNS = {
    Kind.NUMBER: (
        "seq", "chain_id", "block_number", "log_index", "transaction_index", "timestamp", "agent_id",
        "feedback_index", "score", "value_raw", "value_decimals", "response", "epoch",
    ),
    Kind.TEXT: (
        "id", "registry", "event_type", "token_uri", "metadata_key", "metadata_value", "tag1", "tag2", "tag",
        "endpoint", "file_uri", "response_uri", "request_uri", "origin",
    ),
    Kind.HEX: (
        "block_hash", "transaction_hash", "contract_address", "owner", "client_address", "file_hash", "responder",
        "response_hash", "validator_address", "request_hash",
    ),
}  # fmt: skip

ADDRESSES = frozenset({"contract_address", "owner", "client_address", "responder", "validator_address"})

FIELDS = {column: Field(column, kind) for kind, columns in _COLUMNS.items() for column in columns}
FIELDS |= {
    "agent_uri": FIELDS["token_uri"],
    "feedback_uri": FIELDS["file_uri"],
    "feedback_hash": FIELDS["file_hash"],
    "value": FIELDS["score"],
}

_ADMINISTRATIVE = {"Upgraded", "Initialized", "OwnershipTransferred"}
EVENT_TYPES: dict[str, frozenset[str]] = {
    "identity": frozenset({
        "Registered", "MetadataSet", "URIUpdated", "Transfer", "Approval", "ApprovalForAll", "MetadataUpdate",
        "BatchMetadataUpdate", "EIP712DomainChanged", *_ADMINISTRATIVE,
    }),
    "reputation": frozenset({"NewFeedback", "FeedbackRevoked", "ResponseAppended", *_ADMINISTRATIVE}),
    "validation": frozenset({"ValidationRequest", "ValidationResponse", *_ADMINISTRATIVE}),
}  # fmt: skip
"""The events that each registry can emit."""

_ARGUMENT = re.compile(r"args\.[A-Za-z_][A-Za-z0-9_]{0,63}\Z")


def find_field(name: str) -> Field | None:
    """The field of that name, if conditions may use it."""
    if (known := FIELDS.get(name)) is not None:
        return known
    return Field(name, Kind.TEXT, open=True) if _ARGUMENT.match(name) else None


def getter(column: str, *, folded: bool) -> Getter:
    """Reads a column from an event, None when it is absent; `folded` text comes in lower case, arguments as text."""
    if column == "score":
        return _score
    read: Getter = _argument(column[5:]) if column.startswith("args.") else operator.attrgetter(column)
    return _lower(read) if folded else read


def _score(event: Event) -> Decimal | None:
    # PostgreSQL's numeric knows NaN, which an outside writer may store; ordering it raises in Python.
    score = event.score
    return None if score is None or score.is_nan() else score


def _lower(read: Getter) -> Getter:
    def lowered(event: Event) -> str | None:
        value = cast("str | None", read(event))
        return None if value is None else value.lower()

    return lowered


def _argument(name: str) -> Getter:
    def read(event: Event) -> str | None:
        value = event.args.get(name)
        return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()

    return read
