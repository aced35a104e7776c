"""After any history of forks and of hands that write out of order, the state is that of the canonical events."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agentauri.agents import Projections
from agentauri.config import database_config
from agentauri.database import Database, Transaction
from agentauri.events import NewEvent
from agentauri.types import EventSeq
from support import agents_replay as replaying
from support.agents_replay import ZERO, make_event, metadata, person, take_back, transfer
from support.events import CHAIN, insert_by_hand

AGENTS = st.integers(0, 2)
PEOPLE = st.integers(1, 3).map(person)
CLIENTS, INDEXES = st.integers(1, 2), st.integers(1, 3)
URIS = st.sampled_from(("", "https://a.example/agent", "ipfs://bafy"))
VALUES = st.sampled_from((b"", b"text", b"\xff\xfe", bytes(range(20)), b"\x01" * 20))


def told(kind: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    return kind, fields


LOGS = st.one_of(
    st.builds(lambda a, f, t: told("Transfer", **transfer(a, f, t)), AGENTS, st.just(ZERO) | PEOPLE, PEOPLE),
    st.builds(lambda a, u, o: told("Registered", agent_id=a, token_uri=u, owner=o), AGENTS, URIS, PEOPLE),
    st.builds(lambda a, u: told("URIUpdated", agent_id=a, token_uri=u), AGENTS, URIS),
    st.builds(lambda a: told("MetadataUpdate", agent_id=a), AGENTS),
    st.builds(lambda a, v: told("MetadataSet", **metadata(a, "agentWallet", v)), AGENTS, VALUES),
    st.builds(lambda a, v: told("MetadataSet", **metadata(a, "did", v)), AGENTS, VALUES),
    st.builds(lambda a, o: told("Approval", agent_id=a, args={"approved": o}), AGENTS, st.just(ZERO) | PEOPLE),
    st.builds(
        lambda o, p, yes: told("ApprovalForAll", owner=o, args={"operator": p, "approved": yes}),
        PEOPLE, PEOPLE, st.booleans(),
    ),
    st.builds(
        lambda a, c, i, v: told("NewFeedback", **replaying.feedback(a, c, i, v)),
        AGENTS, CLIENTS, INDEXES, st.integers(-9, 9),
    ),
    st.builds(
        lambda a, c, i: told("NewFeedback", **replaying.feedback(a, c, i, args={"layout": "801d7d42"})),
        AGENTS, CLIENTS, INDEXES,
    ),
    st.builds(lambda a, c, i: told("FeedbackRevoked", **replaying.about_feedback(a, c, i)), AGENTS, CLIENTS, INDEXES),
    st.builds(lambda a, c, i: told("ResponseAppended", **replaying.response(a, c, i)), AGENTS, CLIENTS, INDEXES),
    st.builds(
        lambda a, n: told("ValidationRequest", **replaying.validation(a, n, request_uri="ipfs://q")),
        AGENTS, st.integers(1, 2),
    ),
    st.builds(
        lambda a, n, r: told("ValidationResponse", **replaying.validation(
            a, n, response=r, response_uri="", response_hash="0x00", tag="hard")),
        AGENTS, st.integers(1, 2), st.integers(0, 3),
    ),
)  # fmt: skip
BLOCKS = st.lists(st.lists(LOGS, min_size=1, max_size=5), min_size=1, max_size=3)
STEPS = st.one_of(
    st.tuples(st.just("mine"), BLOCKS),
    st.tuples(st.just("mine"), BLOCKS),
    st.tuples(st.just("fork"), st.integers(1, 4), st.lists(st.sampled_from("kmd"), min_size=1, max_size=4)),
    st.tuples(st.just("write"), st.integers(1, 12), st.integers(0, 6), LOGS),
    st.tuples(st.just("unwrite"), st.integers(0, 5)),
)
HISTORIES = st.lists(STEPS, min_size=2, max_size=9)


class History:
    """A chain in memory, an indexer of it, and somebody who writes events by hand."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._chain: list[list[NewEvent]] = []
        self._by_hand: dict[EventSeq, tuple[str, str]] = {}
        self._number = 0

    async def mine(self, blocks: list[list[tuple[str, dict[str, Any]]]]) -> None:
        made = []
        for logs in blocks:
            self._number += 1
            transaction = f"0xt{self._number}"
            made.append([make_event(kind, 0, 0, transaction=transaction, **fields) for kind, fields in logs])
        await self._append(made)

    async def _append(self, blocks: list[list[NewEvent]]) -> None:
        self._number += 1
        first = len(self._chain) + 1
        placed = [
            [
                replace(
                    event, id=f"{event.transaction_hash}-{log}", block_number=block, log_index=log,
                    block_hash=f"0x{block}-{self._number}", timestamp=1_700_000_000 + 2 * block,
                    topics=f"{event.event_type}{log}".encode() if event.topics is None else event.topics,
                )
                for log, event in enumerate(logs)
            ]
            for block, logs in enumerate(blocks, first)
        ]  # fmt: skip
        self._chain += placed
        await replaying.record(self._tx, *(event for logs in placed for event in logs))

    async def fork(self, depth: int, fates: str) -> None:
        """Blocks go; their transactions stay, come behind the others, or are gone."""
        depth = min(depth, len(self._chain))
        gone = self._chain[len(self._chain) - depth :]
        del self._chain[len(self._chain) - depth :]
        await take_back(self._tx, len(self._chain))
        await replaying.check(self._tx)
        fated = [(logs, fates[place % len(fates)]) for place, logs in enumerate(gone)]
        blocks = [logs for logs, fate in fated if fate == "k"] + [logs for logs, fate in fated if fate == "m"]
        if blocks:
            await self._append(blocks)

    async def write(self, block: int, log: int, what: tuple[str, dict[str, Any]]) -> None:
        kind, fields = what
        event = make_event(kind, block, log, **fields)
        self._number += 1
        seq = await insert_by_hand(
            self._tx, f"hand-{self._number}", **{
                name: getattr(event, name) for name in (
                    "block_number", "log_index", "timestamp", "registry", "event_type", "agent_id", "owner",
                    "token_uri", "metadata_key", "metadata_value", "client_address", "feedback_index", "value_raw",
                    "value_decimals", "score", "tag1", "tag2", "endpoint", "file_uri", "file_hash", "responder",
                    "response_uri", "response_hash", "request_uri", "request_hash", "validator_address", "response",
                    "tag",
                )
            },
            args=replaying.encoded(event.args),
        )  # fmt: skip
        self._by_hand[seq] = (event.registry, kind)
        await Projections().written(self._tx, CHAIN, [seq], [], {(event.registry, kind): 1})

    async def unwrite(self, place: int) -> None:
        """Take one of those back, or put it back."""
        if not self._by_hand:
            return
        seq = sorted(self._by_hand)[place % len(self._by_hand)]
        back = await self._tx.fetchval(
            """UPDATE events SET retracted_at = CASE WHEN retracted_at IS NULL THEN now() - interval '1 second' END
               WHERE seq = $1 RETURNING retracted_at IS NULL""",
            seq,
        )
        await Projections().written(self._tx, CHAIN, [], [seq], {self._by_hand[seq]: 1 if back else -1})


async def live_through(tx: Transaction, history: list[Any]) -> None:
    world = History(tx)
    for what, *arguments in history:
        await getattr(world, what)(*arguments)
    await replaying.check(tx)


async def in_vain(url: str, history: list[Any]) -> None:
    class Undo(Exception):
        pass

    async with Database.open(database_config(url, (20, 30))) as database:
        with suppress(Undo):
            async with database.transaction() as tx:
                await live_through(tx, history)
                raise Undo


COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=25, derandomize=True, phases=(Phase.explicit, Phase.generate), **COMMON)  # type: ignore[arg-type]
@given(history=HISTORIES)
async def test_the_state_is_that_of_the_canonical_events_whatever_happened(
    shared_database_url: str, history: list[Any]
) -> None:
    await in_vain(shared_database_url, history)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=5_000, **COMMON)  # type: ignore[arg-type]
@given(history=HISTORIES)
async def test_the_state_is_that_of_the_canonical_events_after_a_great_many_histories(
    shared_database_url: str, history: list[Any]
) -> None:
    await in_vain(shared_database_url, history)
