"""What is told: one delivery with its event, as values for templates and as the default document of webhooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache

import asyncpg
import msgspec
from msgspec import Struct

from agentauri.actions.filters import UnixTime, plain
from agentauri.actions.identity import correlation_id
from agentauri.actions.template import ALIASES
from agentauri.actions.types import ChainLabel, Kind, TriggerFacts
from agentauri.types import ActionId, ChainId, DeliveryId, OrganizationId

EVENT_TYPES: dict[Kind, str] = {
    "match": "event.matched",
    "replay": "event.matched",
    "retraction": "event.retracted",
    "absence": "event.absent",
    "digest": "digest",
    "test": "test",
}
SHOWN = (
    "id", "registry", "event_type", "block_number", "block_hash", "transaction_hash", "transaction_index",
    "log_index", "timestamp", "contract_address", "agent_id", "owner", "client_address", "feedback_index", "score",
    "value_raw", "value_decimals", "tag1", "tag2", "tag", "endpoint", "token_uri", "metadata_key", "metadata_value",
    "file_uri", "file_hash", "responder", "response", "response_uri", "response_hash", "validator_address",
    "request_uri", "request_hash", "args",
)  # fmt: skip
"""The fields of an event in the default document, in its order."""

_AS_TEXT = frozenset({"agent_id", "feedback_index", "value_raw"})
"""Integers that a reader's double could not hold."""

LONG, KEPT = 4096, 512
"""Bytes of a field, as JSON, that are too many in a document that is too long, and characters that are kept then."""

_encoder = msgspec.json.Encoder()


class Message(Struct, frozen=True, kw_only=True):
    """`attempt` counts all tries of the delivery; `context` is the JSON that the match left behind, `retracts` the
    receipt of the message that this one takes back."""

    delivery_id: DeliveryId
    organization_id: OrganizationId
    action_id: ActionId
    kind: Kind
    attempt: int
    trigger: TriggerFacts
    trigger_version: int
    chain_id: ChainId
    chain: ChainLabel | None
    event: Mapping[str, object]
    event_id: str
    correlation_id: str
    context: str | None
    parent_id: DeliveryId | None
    created_at: datetime
    retracts: str | None = None

    def values(self) -> Mapping[str, object]:
        """Every name that a template may use."""
        event = self.event
        values = dict(event)
        for alias, name in ALIASES.items():
            values[alias] = event.get(name)
        timestamp = event.get("timestamp")
        values |= {
            "timestamp": UnixTime(timestamp) if isinstance(timestamp, int) else None,
            "event_id": self.event_id,
            "chain_name": self.chain.name if self.chain else None,
            "explorer_url": self._explorer_url(),
            "trigger_id": self.trigger.id,
            "trigger_name": self.trigger.name,
            "organization_id": self.organization_id,
            "delivery_id": str(self.delivery_id),
            "correlation_id": self.correlation_id,
            "kind": self.kind,
            "matched_at": self.created_at,
            "context": msgspec.json.decode(self.context) if self.context else None,
        }
        return values

    def document(self, most: int) -> bytes:
        """The default body: the same bytes at every attempt, as long as event and trigger stay as they are.

        Anybody may write an event as long as a block. Where the document would be longer than `most`, its long fields
        are cut or left out, and `shortened` names them: nobody may keep their own alert from being sent.
        """
        document = self._document(_shown(self.event))
        if len(document) <= most:
            return document
        return self._document(*_shortened(_shown(self.event)))

    def _document(self, event: Mapping[str, object], shortened: Sequence[str] = ()) -> bytes:
        data: dict[str, object] = {
            "delivery_id": str(self.delivery_id),
            "correlation_id": self.correlation_id,
            "kind": self.kind,
        }
        if self.kind == "retraction":
            data["retracts"] = str(self.parent_id)
        data |= {
            "trigger": {"id": self.trigger.id, "name": self.trigger.name, "version": self.trigger_version},
            "organization_id": self.organization_id,
            "chain": {"id": self.chain_id, "name": self.chain.name if self.chain else None},
            "event": event,
            "context": msgspec.Raw(self.context.encode()) if self.context else {},
        }
        if shortened:
            data["shortened"] = shortened
        return _encoder.encode(
            {"type": EVENT_TYPES[self.kind], "timestamp": _milliseconds(self.created_at), "data": data}
        )

    def _explorer_url(self) -> str | None:
        if self.chain is None or self.chain.explorer_url is None:
            return None
        return f"{self.chain.explorer_url.rstrip('/')}/tx/{self.event.get('transaction_hash')}"


def compose(
    row: asyncpg.Record,
    event: Mapping[str, object],
    trigger: TriggerFacts,
    chain: ChainLabel | None,
    attempt: int,
    retracts: str | None = None,
) -> Message:
    """The message of a row of `deliveries`; its `context` as text."""
    event_id = str(event["id"])
    return Message(
        delivery_id=row["id"],
        organization_id=row["organization_id"],
        action_id=row["action_id"],
        kind=row["kind"],
        attempt=attempt,
        trigger=trigger,
        trigger_version=row["trigger_version"],
        chain_id=row["chain_id"],
        chain=chain,
        event=event,
        event_id=event_id,
        correlation_id=correlation_id(trigger.id, event_id),
        context=row["context"],
        parent_id=row["parent_id"],
        created_at=row["created_at"],
        retracts=retracts,
    )


def _shown(event: Mapping[str, object]) -> dict[str, object]:
    shown = {name: value for name in SHOWN if (value := event.get(name)) is not None}
    for name in _AS_TEXT & shown.keys():
        shown[name] = str(shown[name])
    if isinstance(score := shown.get("score"), Decimal):
        shown["score"] = plain(score)
    return shown


def _shortened(event: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """The fields in few bytes each, and the names of those that were longer."""
    short: dict[str, object] = {}
    names = []
    for name, value in event.items():
        if len(_encoder.encode(value)) <= LONG:
            short[name] = value
            continue
        names.append(name)
        if isinstance(value, str):
            short[name] = value[:KEPT] + "…"
    return short, names


@lru_cache(maxsize=1024)  # many are made in one transaction, at one moment
def _milliseconds(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
