"""After any forks, what was matched and what is remembered is what a fresh run over the canonical chain makes of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import count
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from agentauri.database import Database, Transaction
from agentauri.events import EventService, NewEvent
from agentauri.events.queue import SETTLE_BLOCKS
from agentauri.triggers import Evaluator
from agentauri.types import ChainId, EventId
from triggers.making import (
    ANY_EVENT,
    absence,
    agent,
    average,
    field,
    finish,
    limit,
    make_trigger,
    sequence,
    window,
)

_chains = count(5_000_000)
AGENTS, TAGS, START, STEP = 2, ("a", "b", "c"), 1_700_000_000, 7
MOVED, DROPPED = "moved", "dropped"

TRIGGERS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "averages": ([average(2) | {"id": 1}, {"not": field("tag1", "eq", "c")}], {}),
    "limits": ([limit(2, time_window="60s", reset_on_trigger=True, scope="agent") | {"id": 1}], {}),
    "sums": ([window("sum", 5, window="50s", scope=["chain_id"]) | {"id": 1}], {"cooldown_seconds": 20}),
    "extremes": (
        [
            {"any": [window("max", 3, window="40s") | {"id": 1}, agent(9)]},
            {"not": window("min", -3, operator="lt", window="90s", scope=["chain_id", "tag1"]) | {"id": 2}},
        ],
        {},
    ),
    "means": (
        [window("avg", 1, window="35s", where=field("tag1", "ne", "b"), scope=["chain_id"]) | {"id": 1}],
        {"cooldown_seconds": 15, "dedupe_key": "{{chain_id}} {{agent_id}}"},
    ),
    "sequences": (
        [
            {"any": [sequence(field("tag1", "eq", "a"), field("score", "gt", 0), "40s") | {"id": 1}, agent(9)]},
            {"not": sequence(ANY_EVENT, field("tag1", "eq", "b"), "20s", scope=["chain_id", "tag1"]) | {"id": 2}},
        ],
        {},
    ),
    "absences": ([absence(field("tag1", "eq", "a"), field("score", "gt", 0), "30s") | {"id": 1}], {}),
    "rarely": (
        [
            absence(field("tag1", "ne", "a"), field("tag1", "eq", "a"), "20s", scope=["chain_id"]) | {"id": 1},
            {"not": average(5) | {"id": 2}},
        ],
        {"cooldown_seconds": 40, "dedupe_key": "{{chain_id}} {{agent_id}}"},
    ),
    "silent": ([ANY_EVENT], {"cooldown_seconds": 30, "dedupe_key": "{{chain_id}} {{tag1}}"}),
}


class Log(NamedTuple):
    """One log, known by its number: what it says stays the same in whatever block it is."""

    number: int
    agent: int
    score: Decimal
    tag: str

    def rest(self) -> dict[str, Any]:
        """What else it says."""
        rng = random.Random(self.number)
        return {
            "tag2": rng.choice(("a", "c", None)),
            "client_address": rng.choice(("0x" + "ab" * 20, "0x" + "cd" * 20, None)),
            "value_raw": rng.choice((1, -3, None)),
            "feedback_index": rng.choice((1, 2, None)),
            "args": rng.choice(({}, {"x": "a"}, {"x": "cab"})),
        }


class World:
    """A chain in memory, and what our indexer would write of it."""

    def __init__(self, database: Database, evaluator: Evaluator, rng: random.Random) -> None:
        self.database, self.evaluator, self.rng = database, evaluator, rng
        self.chain_id = ChainId(next(_chains))
        self.blocks: list[list[Log]] = []
        self.hashes: list[str] = []
        self.highest = 0
        self.indexed = 0
        self._logs, self._forks = count(1), count(1)

    def log(self) -> Log:
        rng = self.rng
        score = Decimal(rng.randint(-9, 9)) / rng.choice((1, 2, 4))
        return Log(next(self._logs), rng.randint(1, AGENTS), score, rng.choice(TAGS))

    def mine(self, logs: list[Log]) -> None:
        self.blocks.append(logs)
        self.hashes.append(f"0x{len(self.blocks)}f{next(self._forks)}")

    async def fork(self, depth: int, fates: list[str]) -> None:
        """The newest blocks are replaced: of their logs some stay in their order, some move, some are gone."""
        depth = min(depth, len(self.blocks))
        point = len(self.blocks) - depth
        old = [log for block in self.blocks[point:] for log in block]
        del self.blocks[point:], self.hashes[point:]
        if self.indexed > point:
            async with self.database.transaction() as tx:
                await EventService().retract_above(tx, self.chain_id, point)
                await self._advance(tx, point)
            self.indexed = point
        kept: list[Log] = []
        moved: list[Log] = []
        for log in old:
            fate = self.rng.choice(fates)
            if fate != DROPPED:
                (moved if fate == MOVED else kept).append(log)
        self.rng.shuffle(moved)
        for at in range(max(1, depth + self.rng.randint(-2, 2))):
            cut = self.rng.randint(0, 3)
            block, kept = kept[:cut], kept[cut:]
            if moved and self.rng.random() < 0.5:
                block.insert(self.rng.randint(0, len(block)), moved.pop())
            self.mine(block + ([self.log()] if at == 0 else []))
        self.mine(kept + moved)

    def events(self, first: int, last: int) -> Iterator[NewEvent]:
        for number in range(first, last):
            for index, log in enumerate(self.blocks[number]):
                yield NewEvent(
                    id=EventId(f"reputation-{self.chain_id}-0xt{log.number}-{index}"),
                    chain_id=self.chain_id,
                    block_number=number + 1,
                    block_hash=self.hashes[number],
                    transaction_hash=f"0xt{log.number}",
                    log_index=index,
                    registry="reputation",
                    event_type="NewFeedback",
                    timestamp=START + STEP * number,
                    contract_address="0xregistry",
                    agent_id=log.agent,
                    tag1=log.tag,
                    score=log.score,
                    **log.rest(),
                    topics=b"topics",
                    data=b"%d" % log.number,
                )

    async def index(self, blocks: int) -> None:
        """Read on, as the indexer does: a range is one transaction, with the checkpoint."""
        last = min(len(self.blocks), self.indexed + blocks)
        if last == self.indexed:
            return
        async with self.database.transaction() as tx:
            await EventService().record(tx, self.chain_id, list(self.events(self.indexed, last)))
            await self._advance(tx, last)
        self.indexed = last
        self.highest = max(self.highest, last)

    async def _advance(self, tx: Transaction, block: int) -> None:
        await tx.run(
            """INSERT INTO checkpoints (chain_id, last_block_number, last_block_hash, last_block_time, first_block,
                                        status, progressed_at, updated_at)
               VALUES ($1, $2, 'x', $3, 0, 'live', now(), now())
               ON CONFLICT (chain_id) DO UPDATE SET last_block_number = excluded.last_block_number,
                   last_block_time = excluded.last_block_time""",
            self.chain_id,
            block,
            START + STEP * (block - 1),
        )

    async def settle(self) -> None:
        while self.indexed < len(self.blocks):
            await self.index(5)
        await finish(self.evaluator)
        for _ in range(3):
            await self.evaluator.chores()


async def make_triggers(tx: Transaction, world: World) -> None:
    for name, (condition, columns) in TRIGGERS.items():
        start = f'{{"{world.chain_id}": 0}}'
        await make_trigger(
            tx, condition, trigger_id=f"{name} {world.chain_id}", chain_id=world.chain_id, start_blocks=start, **columns
        )


_LOGS = """
    WITH log AS (SELECT seq, convert_from(data, 'UTF8') AS number FROM events WHERE chain_id = $1)"""


async def outcome(database: Database, chain_id: int) -> dict[str, list[tuple[Any, ...]]]:
    """What holds at the end, by transactions and contents: their rows have other numbers after a fork."""
    chain = str(chain_id)
    async with database.transaction() as tx:
        found = {
            "matches": await tx.fetch(
                _LOGS
                + """SELECT split_part(trigger_id, ' ', 1), number FROM deliveries d
                    JOIN log ON log.seq = d.event_seq WHERE kind IN ('match', 'absence') AND d.chain_id = $1
                    AND d.reason IS DISTINCT FROM 'retracted'""",
                chain_id,
            ),
            "states": await tx.fetch(
                _LOGS
                + """SELECT split_part(trigger_id, ' ', 1), leaf_id, replace(scope_key, $2, '-'), state::text,
                        number, last_event_time
                    FROM trigger_state LEFT JOIN log ON log.seq = last_event_seq WHERE trigger_id LIKE '%' || $2""",
                chain_id,
                chain,
            ),
            "samples": await tx.fetch(
                _LOGS
                + """SELECT split_part(trigger_id, ' ', 1), leaf_id, replace(scope_key, $2, '-'), event_time,
                        log.number, value, by.number
                    FROM window_samples LEFT JOIN log ON log.seq = event_seq LEFT JOIN log AS by ON by.seq = consumed_by
                    WHERE trigger_id LIKE '%' || $2""",
                chain_id,
                chain,
            ),
            "timers": await tx.fetch(
                _LOGS
                + """SELECT split_part(trigger_id, ' ', 1), leaf_id, replace(scope_key, $2, '-'), number, due_time,
                        cancelled_by IS NULL, fired_at IS NULL, told, (context -> 'leaves' -> '1')::text
                    FROM timers JOIN log ON log.seq = event_seq WHERE chain_id = $1""",
                chain_id,
                chain,
            ),
            "undo": await tx.fetch(
                _LOGS
                + """SELECT split_part(trigger_id, ' ', 1), leaf_id, replace(scope_key, $2, '-'), number,
                        (before - 'seq')::text, input::text
                    FROM state_undo LEFT JOIN log ON log.seq = event_seq WHERE chain_id = $1""",
                chain_id,
                chain,
            ),
        }
    return {name: sorted((tuple(row) for row in rows), key=str) for name, rows in found.items()}


Step = tuple[Any, ...]
HISTORIES = st.lists(
    st.one_of(
        st.tuples(st.just("mine"), st.lists(st.integers(0, 4), min_size=1, max_size=8)),
        st.tuples(
            st.just("fork"),
            st.one_of(st.integers(1, 8), st.integers(1, 64)),
            st.lists(st.sampled_from(("kept", MOVED, DROPPED)), min_size=1, max_size=4),
        ),
        st.tuples(st.just("index"), st.integers(1, 9)),
        st.tuples(st.just("evaluate"), st.integers(1, 3)),
        st.tuples(st.just("chores")),
    ),
    min_size=6,
    max_size=24,
)


async def live_through(world: World, history: list[Step]) -> None:
    async with world.database.transaction() as tx:
        await make_triggers(tx, world)
    world.mine([world.log()])
    for kind, *arguments in history:
        if kind == "mine":
            for number in arguments[0]:
                world.mine([world.log() for _ in range(number)])
        elif kind == "fork":
            await world.fork(*arguments)
        elif kind == "index":
            await world.index(*arguments)
        elif kind == "chores":
            await world.evaluator.chores()
        else:
            for _ in range(arguments[0]):
                await world.evaluator.step()
    while len(world.blocks) < world.highest + SETTLE_BLOCKS:
        world.mine([])  # a fork may be shorter, and what it dropped is settled by its height
    await world.settle()


async def check(database: Database, evaluator: Evaluator, history: list[Step], seed: int) -> None:
    world = World(database, evaluator, random.Random(seed))
    await live_through(world, history)
    fresh = World(database, evaluator, random.Random(0))
    fresh.blocks, fresh.hashes = world.blocks, world.hashes
    async with database.transaction() as tx:
        await make_triggers(tx, fresh)
    await fresh.settle()

    assert await outcome(database, world.chain_id) == await outcome(database, fresh.chain_id)
    async with database.transaction() as tx:
        await tx.run("DELETE FROM triggers")  # or each history would go through those of all before


MATCHES_NOT_AND_AGAIN: list[Step] = [
    ("mine", [0, 1]),
    ("index", 1),
    ("mine", [0, 0, 2, 4, 4]),
    ("evaluate", 1),
    ("fork", 8, ["kept", "kept", MOVED, "kept"]),
    ("index", 5),
    ("fork", 7, ["kept"]),
]
"""A log matches where it is first, does not after a fork, and does after the next, before it was settled."""
CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
MakeOne = Callable[..., Evaluator]


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=CHECKS)
@given(history=HISTORIES, seed=st.integers(0, 2**32))
@example(history=[("mine", [0, 1]), ("fork", 1, ["kept"]), ("index", 1), ("mine", [0]), ("fork", 5, ["kept"])], seed=0)
@example(history=[("mine", [0, 2]), ("index", 3), ("evaluate", 1), ("fork", 3, ["dropped"])], seed=0)
@example(history=MATCHES_NOT_AND_AGAIN, seed=16380)
async def test_any_forks_leave_what_the_canonical_chain_alone_would(
    database: Database, make_evaluator: MakeOne, history: list[Step], seed: int
) -> None:
    await check(database, make_evaluator(max_concurrent_events=13), history, seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=1_200, deadline=None, suppress_health_check=CHECKS, phases=[Phase.generate, Phase.shrink])
@given(history=HISTORIES, seed=st.integers(0, 2**32))
async def test_any_forks_leave_what_the_canonical_chain_alone_would_at_length(
    database: Database, make_evaluator: MakeOne, history: list[Step], seed: int
) -> None:
    await check(database, make_evaluator(max_concurrent_events=13), history, seed)


async def test_logs_that_come_back_are_queued_as_they_stand_on_the_chain(
    database: Database, make_evaluator: MakeOne
) -> None:
    world = World(database, make_evaluator(), random.Random(1))
    logs = [world.log() for _ in range(6)]
    world.mine(logs[:3])
    world.mine(logs[3:])
    await world.settle()
    async with database.transaction() as tx:
        await EventService().retract_above(tx, world.chain_id, 0)
    await finish(world.evaluator)
    world.blocks[:] = [[logs[5], logs[0]], [world.log(), logs[4], logs[2], world.log(), logs[1]]]
    world.hashes[:] = ["0xnew1", "0xnew2"]
    world.indexed = 0
    await world.index(2)

    async with database.transaction() as tx:
        rows = await tx.fetch(
            "SELECT convert_from(data, 'UTF8') FROM event_queue JOIN events ON seq = event_seq ORDER BY position"
        )
    assert [int(row[0]) for row in rows] == [log.number for block in world.blocks for log in block]


async def test_what_a_settled_event_left_is_gone_and_its_match_is_taken_back(
    database: Database, make_evaluator: MakeOne
) -> None:
    world = World(database, make_evaluator(), random.Random(1))
    async with database.transaction() as tx:
        await make_trigger(
            tx, [limit(1, reset_on_trigger=True)], trigger_id="t", on_reorg="notify",
            start_blocks=f'{{"{world.chain_id}": 0}}',
        )  # fmt: skip
    world.mine([world.log()])
    world.mine([world.log()])
    await world.settle()
    async with database.transaction() as tx:
        await tx.run("UPDATE deliveries SET status = 'delivered', finished_at = now()")
    await world.fork(1, [DROPPED])
    world.blocks[1:] = [[], [], []]
    world.hashes[1:] = ["0xn1", "0xn2", "0xn3"]
    await world.settle()

    async with database.transaction() as tx:
        assert [row[0] for row in await tx.fetch("SELECT kind FROM deliveries ORDER BY created_at")] == [
            "match",
            "retraction",
        ]
        assert await tx.fetchval("SELECT state::text FROM trigger_state") == '{"count": 1, "seconds": 3600}'
        assert await tx.fetchval("SELECT consumed_by FROM window_samples") is None
