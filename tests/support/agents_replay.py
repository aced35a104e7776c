"""What the projections are to be, told the slow way: every canonical event in the order of the chain, one at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from agentauri.agents import Projections
from agentauri.database import Transaction
from agentauri.events import EventService, NewEvent
from agentauri.types import ChainId, EventId
from support.events import CHAIN

ZERO = "0x" + "00" * 20
TABLES = (
    "agents", "agent_operators", "agent_metadata", "agent_words", "feedback", "feedback_responses", "validations",
    "validation_responses",
)  # fmt: skip
REGISTRIES = {
    "NewFeedback": "reputation", "FeedbackRevoked": "reputation", "ResponseAppended": "reputation",
    "ValidationRequest": "validation", "ValidationResponse": "validation",
}  # fmt: skip

Rows = dict[str, list[tuple[Any, ...]]]


def person(number: int) -> str:
    return f"0x{number:040x}"


def make_event(kind: str, block: int, log: int, **fields: Any) -> NewEvent:
    """A decoded log; its content is its fields."""
    told = hashlib.sha256(repr((kind, sorted(fields.items()))).encode()).hexdigest()
    transaction = fields.pop("transaction", "0x" + told)
    values: dict[str, Any] = {
        "id": EventId(f"{kind}-{transaction}-{log}"),
        "chain_id": CHAIN,
        "block_number": block,
        "block_hash": f"0x{block}",
        "transaction_hash": transaction,
        "log_index": log,
        "registry": REGISTRIES.get(kind, "identity"),
        "event_type": kind,
        "timestamp": 1_700_000_000 + 2 * block,
        "contract_address": "0xregistry",
        "topics": told.encode(),
        "data": b"",
    }
    return NewEvent(**(values | fields))


def transfer(agent: int, sender: str, receiver: str) -> dict[str, Any]:
    return {"agent_id": agent, "args": {"from": sender, "to": receiver, "tokenId": str(agent)}}


def metadata(agent: int, key: str, value: bytes) -> dict[str, Any]:
    return {
        "agent_id": agent,
        "metadata_key": key,
        "metadata_value": _text(value) if _text(value) is not None else "0x" + value.hex(),
        "args": {"metadataValue": "0x" + value.hex()},
    }


def _text(value: bytes) -> str | None:
    return value.decode() if value.isascii() and b"\0" not in value else None


async def record(tx: Transaction, *events: NewEvent) -> None:
    """As the indexer does it."""
    ordered = sorted(events, key=lambda event: (event.block_number, event.log_index))
    recorded = await EventService().record(tx, CHAIN, ordered)
    await Projections().recorded(tx, CHAIN, ordered, recorded)


async def take_back(tx: Transaction, above: int) -> None:
    """As the indexer does it; and each time is another transaction's, though it is one for the test."""
    await EventService().retract_above(tx, CHAIN, above)
    await Projections().retracted(tx, CHAIN, above)
    await tx.run("UPDATE events SET retracted_at = retracted_at - interval '1 second' WHERE retracted_at = now()")


async def remake(tx: Transaction, chain_id: ChainId = CHAIN) -> None:
    """From nothing."""
    for table in TABLES:
        await tx.run(f"DELETE FROM {table} WHERE chain_id = $1", chain_id)
    after = None
    while made := await Projections().remake(tx, chain_id, after):
        after = made[-1]
    await Projections().remake_operators(tx, chain_id)


async def stored(tx: Transaction) -> Rows:
    found: Rows = {}
    for table in TABLES:
        rows = [tuple(row) for row in await tx.fetch(f"SELECT * FROM {table}")]
        found[table] = sorted(rows, key=repr)
    return found


async def counters(tx: Transaction) -> dict[str, int]:
    rows = await tx.fetch("SELECT event_type, count FROM event_counters WHERE chain_id = $1 AND count <> 0", CHAIN)
    return dict(tuple(row) for row in rows)


async def replayed(tx: Transaction) -> tuple[Rows, dict[str, int]]:
    """What is to be stored now, and counted."""
    rows = await tx.fetch(
        "SELECT * FROM events WHERE retracted_at IS NULL AND chain_id = $1 ORDER BY block_number, log_index, seq", CHAIN
    )
    replay = Replay()
    for row in rows:
        replay.see(dict(row))
    return replay.rows(), replay.counts


class Replay:
    def __init__(self, chain_id: int = CHAIN) -> None:
        self.chain_id = chain_id
        self.agents: dict[int, dict[str, Any]] = {}
        self.operators: dict[tuple[str, str], tuple[Any, ...]] = {}
        self.metadata: dict[tuple[int, str], tuple[bytes, int]] = {}
        self.feedback: dict[tuple[int, str, int], dict[str, Any]] = {}
        self.responses: list[dict[str, Any]] = []
        self.validations: dict[tuple[int, str], dict[str, Any]] = {}
        self.answers: list[dict[str, Any]] = []
        self.counts: dict[str, int] = {}
        self.before: dict[int, list[tuple[int, int, str]]] = {}

    def see(self, event: dict[str, Any]) -> None:
        event["args"] = json.loads(event["args"])
        kind, agent_id = event["event_type"], event["agent_id"]
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if agent_id is None:
            if kind == "ApprovalForAll":
                approved = event["block_number"] if event["args"]["approved"] else None
                place = (approved, event["block_number"], event["log_index"])
                self.operators[event["owner"], event["args"]["operator"]] = place
            return
        agent = self.agents.setdefault(
            agent_id,
            dict.fromkeys(("owner", "uri", "wallet", "approved", "registered", "rated"), None),
        )
        agent["latest"] = (event["block_number"], event["log_index"], event["timestamp"])
        just_before = {
            kind
            for block, log, kind in self.before.get(agent_id, [])
            if (block, log) == (event["block_number"], event["log_index"] - 1)
        }
        self.before.setdefault(agent_id, []).append((event["block_number"], event["log_index"], kind))
        if handle := getattr(self, f"_{kind}", None):
            handle(event, agent, just_before)

    def _Transfer(self, event: Any, agent: Any, just_before: set[str]) -> None:  # noqa: N802
        agent["owner"], agent["approved"] = event["args"]["to"], None
        if event["args"]["from"] == ZERO and agent["registered"] is None:
            agent["registered"] = (event["block_number"], event["timestamp"])

    def _Approval(self, event: Any, agent: Any, just_before: set[str]) -> None:  # noqa: N802
        agent["approved"] = None if event["args"]["approved"] == ZERO else event["args"]["approved"]

    def _Registered(self, event: Any, agent: Any, just_before: set[str]) -> None:  # noqa: N802
        if agent["registered"] is None:
            agent["registered"] = (event["block_number"], event["timestamp"])
        if event["token_uri"] != "" or "MetadataUpdate" in just_before:
            agent["uri"] = event["token_uri"]

    def _URIUpdated(self, event: Any, agent: Any, just_before: set[str]) -> None:  # noqa: N802
        agent["uri"] = event["token_uri"]

    def _MetadataSet(self, event: Any, agent: Any, just_before: set[str]) -> None:  # noqa: N802
        key = (event["agent_id"], event["metadata_key"])
        if event["metadata_key"] == "agentWallet":
            if "Registered" in just_before and key in self.metadata:
                return
            agent["wallet"] = event["args"]["metadataValue"] if len(event["args"]["metadataValue"]) == 42 else None
        self.metadata[key] = (bytes.fromhex(event["args"]["metadataValue"][2:]), event["block_number"])

    def _key(self, event: Any) -> tuple[int, str, int]:
        return event["agent_id"], event["client_address"], event["feedback_index"]

    def _NewFeedback(self, event: Any, agent: Any, just_before: set[str]) -> None:  # noqa: N802
        if "layout" not in event["args"]:
            self.feedback[self._key(event)] = {"event": event, "revoked": None}
            agent["rated"] = event["timestamp"]

    def _FeedbackRevoked(self, event: Any, agent: Any, just_before: set[str]) -> None:  # noqa: N802
        known = self.feedback.setdefault(self._key(event), {"event": None, "revoked": None})
        known["revoked"] = event["block_number"] if known["revoked"] is None else known["revoked"]

    def _ResponseAppended(self, event: Any, agent: Any, just_before: set[str]) -> None:  # noqa: N802
        self.feedback.setdefault(self._key(event), {"event": None, "revoked": None})
        self.responses.append(event)

    def _ValidationRequest(self, event: Any, agent: Any, just_before: set[str]) -> None:  # noqa: N802
        known = self.validations.setdefault((event["agent_id"], event["request_hash"]), {"request": None, "last": None})
        known["request"] = known["request"] or event

    def _ValidationResponse(self, event: Any, agent: Any, just_before: set[str]) -> None:  # noqa: N802
        known = self.validations.setdefault((event["agent_id"], event["request_hash"]), {"request": None, "last": None})
        known["last"], known["first"] = event, known.get("first", event)
        known["count"] = known.get("count", 0) + 1
        self.answers.append(event)

    def rows(self) -> Rows:
        found: Rows = {
            "agents": [self._agent(agent_id, agent) for agent_id, agent in self.agents.items()],
            "agent_operators": [(self.chain_id, *key, *place) for key, place in self.operators.items()],
            "agent_metadata": [
                (self.chain_id, agent, key, value, _text(value), block)
                for (agent, key), (value, block) in self.metadata.items()
            ],
            "feedback": [self._feedback(key, one) for key, one in self.feedback.items()],
            "feedback_responses": [
                _pick(one, "seq chain_id agent_id client_address feedback_index responder response_uri response_hash "
                           "block_number log_index timestamp transaction_hash")
                for one in self.responses
            ],
            "validations": [self._validation(key, one) for key, one in self.validations.items()],
            "validation_responses": [
                _pick(one, "seq chain_id agent_id request_hash response response_uri response_hash tag block_number "
                           "log_index timestamp transaction_hash")
                for one in self.answers
            ],
        }  # fmt: skip
        return {table: sorted(rows, key=repr) for table, rows in found.items()}

    def _agent(self, agent_id: int, agent: dict[str, Any]) -> tuple[Any, ...]:
        mine = [key for key in self.feedback if key[0] == agent_id]
        block, log, time = agent["latest"]
        return (
            self.chain_id, agent_id, agent["owner"], agent["uri"], agent["wallet"], agent["approved"],
            *(agent["registered"] or (None, None)), block, log, time, len(mine), len({key[1] for key in mine}),
            sum(key[0] == agent_id for key in self.validations), agent["rated"],
        )  # fmt: skip

    def _feedback(self, key: tuple[int, str, int], one: dict[str, Any]) -> tuple[Any, ...]:
        fields = "value_raw value_decimals score tag1 tag2 endpoint file_uri file_hash"
        places = "block_number log_index timestamp transaction_hash seq"
        event = one["event"] or dict.fromkeys(f"{fields} {places}".split())
        told = (one["revoked"] is not None, one["revoked"])
        return (self.chain_id, *key, *_pick(event, fields), *told, *_pick(event, places), one["event"] is None)

    def _validation(self, key: tuple[int, str], one: dict[str, Any]) -> tuple[Any, ...]:
        asked = "validator_address request_uri block_number log_index timestamp"
        answered = "response response_uri response_hash tag"
        request = one["request"] or {**dict.fromkeys(asked.split())}
        if one["request"] is None:
            request["validator_address"] = one["last"]["validator_address"]
        last = one["last"] or dict.fromkeys(f"{answered} block_number timestamp".split())
        return (
            self.chain_id, *key, *_pick(request, asked), *_pick(last, answered), one.get("count", 0),
            *_pick(last, "block_number timestamp"), one["request"] is None,
        )  # fmt: skip


def _pick(row: dict[str, Any], names: str) -> tuple[Any, ...]:
    return tuple(row[name] for name in names.split())


def feedback(agent: int, client: int, index: int, value: int = 80, **fields: Any) -> dict[str, Any]:
    return {
        "agent_id": agent, "client_address": person(client), "feedback_index": index, "value_raw": value,
        "value_decimals": 1, "score": Decimal(value).scaleb(-1), "tag1": "starred", "tag2": "", "endpoint": "",
        "file_uri": "", "file_hash": "0x" + "00" * 32, **fields,
    }  # fmt: skip


def about_feedback(agent: int, client: int, index: int, **fields: Any) -> dict[str, Any]:
    return {"agent_id": agent, "client_address": person(client), "feedback_index": index, **fields}


def response(agent: int, client: int, index: int, uri: str = "ipfs://r") -> dict[str, Any]:
    return about_feedback(agent, client, index, responder=person(99), response_uri=uri, response_hash="0x00")


def validation(agent: int, number: int, **fields: Any) -> dict[str, Any]:
    return {"agent_id": agent, "request_hash": f"0x{number:064x}", "validator_address": person(50), **fields}


async def check(tx: Transaction) -> None:
    """What is stored is what an independent replay says, and what it would be afresh."""
    now = await stored(tx)
    expected, counts = await replayed(tx)
    assert {table: now[table] for table in expected} == expected
    assert await counters(tx) == counts
    await remake(tx)
    assert await stored(tx) == now


def ordered(events: Sequence[NewEvent]) -> list[NewEvent]:
    return sorted(events, key=lambda event: (event.block_number, event.log_index))


def encoded(args: dict[str, object]) -> str:
    return json.dumps(args)
