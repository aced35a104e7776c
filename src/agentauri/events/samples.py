"""Events that nobody emitted, one per registry: what is tried out before anything was read has something to tell of."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from agentauri.events.types import COLUMNS, Event
from agentauri.types import ChainId, EventId, EventSeq

SAMPLE_ID = EventId("sample")

_OWNER, _CLIENT, _VALIDATOR = ("0x" + digit * 40 for digit in "abc")
_HASH = "0x" + "0" * 64
_PLACE: dict[str, Any] = {
    "id": SAMPLE_ID,
    "chain_id": ChainId(84532),
    "block_number": 1,
    "block_hash": _HASH,
    "transaction_hash": _HASH,
    "transaction_index": 0,
    "log_index": 0,
    "timestamp": 1_767_225_600,
    "agent_id": 42,
    "args": {},
    "origin": "sample",
    "epoch": 0,
    "created_at": datetime(2026, 1, 1, tzinfo=UTC),
}
_CONTENTS: Mapping[str, dict[str, Any]] = {
    "reputation": {
        "event_type": "NewFeedback",
        "client_address": _CLIENT,
        "feedback_index": 1,
        "value_raw": 9977,
        "value_decimals": 2,
        "score": Decimal("99.77"),
        "tag1": "uptime",
        "tag2": "",
        "endpoint": "https://agent.example/",
        "file_uri": "https://client.example/feedback.json",
        "file_hash": _HASH,
    },
    "identity": {
        "event_type": "Registered",
        "owner": _OWNER,
        "token_uri": "https://agent.example/registration.json",
    },
    "validation": {
        "event_type": "ValidationResponse",
        "validator_address": _VALIDATOR,
        "request_hash": _HASH,
        "response": 100,
        "response_uri": "https://validator.example/response.json",
        "response_hash": _HASH,
        "tag": "tests",
    },
}


def _make(seq: EventSeq, registry: str) -> Event:
    values: dict[str, Any] = dict.fromkeys(COLUMNS)
    values |= _PLACE | _CONTENTS[registry] | {"seq": seq, "registry": registry}
    return Event(**values)


SAMPLES: Mapping[EventSeq, Event] = {
    EventSeq(-number): _make(EventSeq(-number), registry) for number, registry in enumerate(_CONTENTS, 1)
}
"""By their numbers, which are negative: no stored event has such a one."""


def sample_of(registry: str | None) -> Event:
    """The sample of a registry; of any where it is None."""
    return next(event for event in SAMPLES.values() if registry in (None, event.registry))
