"""The state of agents as the rules say, folded one event after the other from a replay of the chain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
ZERO = "0x" + "00" * 20
WALLET = "agentWallet"


class _Fold:
    def __init__(self) -> None:
        self.agents: dict[int, Row] = {}
        self.operators: dict[tuple[str, str], Row] = {}
        self.metadata: dict[tuple[int, str], Row] = {}
        self.feedback: dict[tuple[int, str, int], Row] = {}
        self.responses: list[Row] = []
        self.validations: dict[tuple[int, str], Row] = {}
        self.answers: list[Row] = []
        self.counts: Counter[tuple[str, str]] = Counter()

    def add(self, event: Row, before: Row | None) -> None:
        """`before` is the event of the log directly before this one, if that is of the same block."""
        self.counts[event["registry"], event["event_type"]] += 1
        if event["event_type"] == "ApprovalForAll":
            block = event["block_number"] if event["args"]["approved"] else None
            key = event["owner"], event["args"]["operator"]
            self.operators[key] = {"owner": key[0], "operator": key[1], "approved_block": block}
        if event["agent_id"] is None:
            return
        fresh = dict.fromkeys(("owner", "agent_uri", "agent_wallet", "approved"))
        fresh |= dict.fromkeys(("registered_block", "registered_time", "last_feedback_time"))
        agent = self.agents.setdefault(event["agent_id"], {"agent_id": event["agent_id"], **fresh})
        agent |= {"updated_block": event["block_number"], "updated_time": event["timestamp"]}
        follows = before if before is not None and before["agent_id"] == event["agent_id"] else None
        getattr(self, f"_{event['event_type']}")(event, agent, follows["event_type"] if follows else None)

    def _Registered(self, event: Row, agent: Row, follows: str | None) -> None:  # noqa: N802 (as the event)
        self._seen_born(event, agent)
        if event["token_uri"] or follows == "MetadataUpdate":
            agent["agent_uri"] = event["token_uri"]

    def _URIUpdated(self, event: Row, agent: Row, _: str | None) -> None:  # noqa: N802
        agent["agent_uri"] = event["token_uri"]

    def _MetadataUpdate(self, event: Row, agent: Row, _: str | None) -> None:  # noqa: N802
        pass

    def _Transfer(self, event: Row, agent: Row, _: str | None) -> None:  # noqa: N802
        if event["args"]["from"] == ZERO:
            self._seen_born(event, agent)
        agent |= {"owner": event["args"]["to"], "approved": None}

    def _Approval(self, event: Row, agent: Row, _: str | None) -> None:  # noqa: N802
        approved = event["args"]["approved"]
        agent["approved"] = None if approved == ZERO else approved

    def _MetadataSet(self, event: Row, agent: Row, follows: str | None) -> None:  # noqa: N802
        key, value = event["metadata_key"], bytes.fromhex(event["args"]["metadataValue"][2:])
        place = event["agent_id"], key
        if key == WALLET and follows == "Registered" and place in self.metadata:
            return
        self.metadata[place] = {
            "agent_id": place[0], "key": key, "value": value, "updated_block": event["block_number"],
        }  # fmt: skip
        if key == WALLET:
            agent["agent_wallet"] = "0x" + value.hex() if len(value) == 20 else None

    def _NewFeedback(self, event: Row, agent: Row, _: str | None) -> None:  # noqa: N802
        given = self._given(event) | {"revoked": False, "revoked_block": None}  # what was before is of another one
        said = ("value_raw", "value_decimals", "score", "tag1", "tag2", "endpoint", "file_uri", "file_hash")
        given |= {name: event[name] for name in (*said, "block_number", "log_index")}
        given |= {"block_time": event["timestamp"], "incomplete": False}
        self.feedback[given["agent_id"], given["client_address"], given["feedback_index"]] = given
        agent["last_feedback_time"] = max(agent["last_feedback_time"] or 0, event["timestamp"])

    def _FeedbackRevoked(self, event: Row, agent: Row, _: str | None) -> None:  # noqa: N802
        given = self._given(event)
        if not given["revoked"]:
            given |= {"revoked": True, "revoked_block": event["block_number"]}

    def _ResponseAppended(self, event: Row, agent: Row, _: str | None) -> None:  # noqa: N802
        self._given(event)
        names = ("agent_id", "client_address", "feedback_index", "responder", "response_uri", "response_hash")
        self.responses.append({name: event[name] for name in (*names, "block_number", "log_index")})

    def _ValidationRequest(self, event: Row, agent: Row, _: str | None) -> None:  # noqa: N802
        asked = self._asked(event)
        if asked["incomplete"]:
            asked |= {name: event[name] for name in ("validator_address", "request_uri")}
            asked |= {"requested_block": event["block_number"], "incomplete": False}

    def _ValidationResponse(self, event: Row, agent: Row, _: str | None) -> None:  # noqa: N802
        asked = self._asked(event)
        said = ("response", "response_uri", "response_hash", "tag")
        if asked["validator_address"] is None:
            asked["validator_address"] = event["validator_address"]
        asked |= {name: event[name] for name in said} | {"last_response_block": event["block_number"]}
        asked["responses"] += 1
        self.answers.append({name: event[name] for name in ("agent_id", "request_hash", *said, "block_number")})

    def _seen_born(self, event: Row, agent: Row) -> None:
        if agent["registered_block"] is None:
            agent |= {"registered_block": event["block_number"], "registered_time": event["timestamp"]}

    def _given(self, event: Row) -> Row:
        """The feedback that an event speaks of, known or not."""
        names = ("agent_id", "client_address", "feedback_index")
        unknown = ("value_raw", "value_decimals", "score", "tag1", "tag2", "endpoint", "file_uri", "file_hash")
        place = ("block_number", "log_index", "block_time", "revoked_block")
        stub = (
            {name: event[name] for name in names}
            | dict.fromkeys(unknown + place)
            | {"revoked": False, "incomplete": True}
        )
        return self.feedback.setdefault((stub["agent_id"], stub["client_address"], stub["feedback_index"]), stub)

    def _asked(self, event: Row) -> Row:
        """The validation that an event speaks of, known or not."""
        unknown = ("validator_address", "request_uri", "requested_block", "response", "response_uri", "response_hash")
        stub = {"agent_id": event["agent_id"], "request_hash": event["request_hash"], **dict.fromkeys(unknown)}
        stub |= {"tag": None, "last_response_block": None, "responses": 0, "incomplete": True}
        return self.validations.setdefault((stub["agent_id"], stub["request_hash"]), stub)


def fold(events: Sequence[Row]) -> dict[str, list[Row]]:
    """Each table's rows, in no order, with the columns that the rules settle."""
    state, last = _Fold(), None
    for event in events:
        place = event["block_number"], event["log_index"] - 1
        state.add(event, last if last and (last["block_number"], last["log_index"]) == place else None)
        last = event
    for number, agent in state.agents.items():
        given = [client for one, client, _ in state.feedback if one == number]
        agent |= {"feedback_count": len(given), "client_count": len(set(given))}
        agent["validation_count"] = sum(one == number for one, _ in state.validations)
    return {
        "agents": list(state.agents.values()),
        "agent_operators": list(state.operators.values()),
        "agent_metadata": list(state.metadata.values()),
        "feedback": list(state.feedback.values()),
        "feedback_responses": state.responses,
        "validations": list(state.validations.values()),
        "validation_responses": state.answers,
        "event_counters": [
            {"registry": registry, "event_type": kind, "count": count}
            for (registry, kind), count in state.counts.items()
        ],
    }


def in_order(rows: Sequence[Row]) -> list[Row]:
    """By content, so that two sets of rows can be compared."""
    return sorted(rows, key=lambda row: [str(value) for _, value in sorted(row.items())])
