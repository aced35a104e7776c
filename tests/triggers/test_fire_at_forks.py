"""Whatever the chain takes back: what waits for depth is told once for each match that stays, and of no other."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from agentauri.database import Database
from agentauri.triggers import Evaluator
from triggers.conftest import MakeEvaluator
from triggers.making import ANY_EVENT, agent, finish, limit, make_trigger
from triggers.test_state_reorg import CHECKS, DROPPED, MOVED, World

DEPTH = 4
"""No fork here goes deeper: so long do deliveries wait."""
TRIGGERS: dict[str, tuple[list[Any], str]] = {
    "every": ([ANY_EVENT], f'{{"confirmations": {DEPTH}}}'),
    "one": ([agent(1)], '"finalized"'),
    "limits": ([limit(1, time_window="60s") | {"id": 1}], '"safe"'),
}
HISTORIES = st.lists(
    st.one_of(
        st.tuples(st.just("mine"), st.lists(st.integers(0, 3), min_size=1, max_size=4)),
        st.tuples(
            st.just("fork"),
            st.integers(1, DEPTH),
            st.lists(st.sampled_from(("kept", MOVED, DROPPED)), min_size=1, max_size=4),
        ),
        st.tuples(st.just("index"), st.integers(1, 9)),
        st.tuples(st.just("evaluate"), st.integers(1, 3)),
        st.tuples(st.just("chores")),
        st.tuples(st.just("send")),
    ),
    min_size=8,
    max_size=30,
)
Told = tuple[str, int]


class Receiver:
    """Takes what a dispatcher would send it, and remembers which trigger told it of which log."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.told: Counter[Told] = Counter()

    async def send(self) -> None:
        """What is not held, by the rules of a claim: the event stands where it was found deep enough."""
        world = self._world
        async with world.database.transaction() as tx:
            rows = await tx.fetch(
                """UPDATE deliveries d SET status = 'delivered', finished_at = now() FROM events e
                   WHERE e.seq = d.event_seq AND d.chain_id = $1 AND d.status = 'pending' AND d.hold IS NULL
                     AND d.kind = 'match' AND e.retracted_at IS NULL
                     AND e.block_number + d.release_depth <= d.release_block
                   RETURNING split_part(d.trigger_id, ' ', 1) AS name, e.block_number,
                             convert_from(e.data, 'UTF8')::int AS log""",
                world.chain_id,
            )
        for row in rows:
            assert row["block_number"] + DEPTH <= world.highest
            assert row["log"] in [log.number for log in world.blocks[row["block_number"] - 1]]
            self.told[row["name"], row["log"]] += 1


async def index(world: World, blocks: int) -> None:
    """Read on, with a head that stands where the reading ends."""
    await world.index(blocks)
    async with world.database.transaction() as tx:
        await tx.run(
            """UPDATE checkpoints SET head_number = last_block_number, safe_number = last_block_number - $2,
                      finalized_number = greatest(finalized_number, last_block_number - $2) WHERE chain_id = $1""",
            world.chain_id,
            DEPTH,
        )


async def live_through(world: World, receiver: Receiver, history: list[tuple[Any, ...]]) -> None:
    top = 0
    world.mine([world.log()])
    for kind, *arguments in history:
        top = max(top, len(world.blocks))
        if kind == "mine":
            for number in arguments[0]:
                world.mine([world.log() for _ in range(number)])
        elif kind == "fork":
            if (depth := min(arguments[0], len(world.blocks) - (top - DEPTH))) > 0:
                await world.fork(depth, arguments[1])
        elif kind == "index":
            await index(world, *arguments)
        elif kind == "chores":
            await world.evaluator.chores()
        elif kind == "send":
            await receiver.send()
        else:
            for _ in range(arguments[0]):
                await world.evaluator.step()
    while len(world.blocks) < top + 2 * DEPTH:
        world.mine([])
    while world.indexed < len(world.blocks):
        await index(world, 7)
    await finish(world.evaluator)
    await world.evaluator.chores()
    await receiver.send()


async def check(database: Database, evaluator: Evaluator, history: list[tuple[Any, ...]], seed: int) -> None:
    world = World(database, evaluator, random.Random(seed))
    receiver = Receiver(world)
    async with database.transaction() as tx:
        for name, (condition, fire_at) in TRIGGERS.items():
            start = f'{{"{world.chain_id}": 0}}'
            await make_trigger(
                tx, condition, trigger_id=f"{name} {world.chain_id}", chain_id=world.chain_id, start_blocks=start,
                fire_at=fire_at, on_reorg="notify",
            )  # fmt: skip
    await live_through(world, receiver, history)

    logs = [log for block in world.blocks for log in block]
    told = {name: {log for told, log in receiver.told if told == name} for name in TRIGGERS}
    assert set(receiver.told.values()) <= {1}
    assert told["every"] == {log.number for log in logs}
    assert told["one"] == {log.number for log in logs if log.agent == 1}
    async with database.transaction() as tx:
        rows = await tx.fetch("SELECT kind, status, hold FROM deliveries WHERE chain_id = $1", world.chain_id)
        await tx.run("DELETE FROM triggers")
    assert {(row["kind"], row["status"], row["hold"]) for row in rows} <= {
        ("match", "delivered", None), ("match", "skipped", None),
    }  # fmt: skip


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=CHECKS)
@given(history=HISTORIES, seed=st.integers(0, 2**32))
@example(
    history=[("mine", [1, 1]), ("index", 9), ("evaluate", 3), ("fork", 3, [MOVED]), ("index", 9), ("chores",)], seed=1
)
async def test_after_any_forks_each_match_that_stays_is_told_once_and_no_other(
    database: Database, make_evaluator: MakeEvaluator, history: list[tuple[Any, ...]], seed: int
) -> None:
    await check(database, make_evaluator(max_concurrent_events=13), history, seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=600, deadline=None, suppress_health_check=CHECKS, phases=[Phase.generate, Phase.shrink])
@given(history=HISTORIES, seed=st.integers(0, 2**32))
async def test_after_any_forks_each_match_that_stays_is_told_once_and_no_other_at_length(
    database: Database, make_evaluator: MakeEvaluator, history: list[tuple[Any, ...]], seed: int
) -> None:
    await check(database, make_evaluator(max_concurrent_events=13), history, seed)
