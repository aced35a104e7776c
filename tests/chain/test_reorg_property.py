"""After any history of forks and faults, what stands in the database is the canonical chain, log by log."""

from __future__ import annotations

from collections import deque
from contextlib import AsyncExitStack
from itertools import count, cycle
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agentauri.chain import Indexer, indexers
from agentauri.database import Database
from agentauri.events import EventService
from agentauri.types import ChainId, Secret
from chains import logs
from chains.driving import FAST, contents, drain, network, rows, truth, wake
from chains.scripted import ScriptedChain, ScriptedNode, Transaction, transaction

DEEPEST = 64
FINAL = 80
KEPT, MOVED, DROPPED = range(3)
_chain_ids = count(1_000_000)

SIZES = st.lists(st.integers(1, 3), max_size=2)  # the number of logs in each transaction of a block
MINE = st.tuples(st.just("mine"), st.lists(SIZES, min_size=1, max_size=12))
EMPTY = st.tuples(st.just("empty"), st.integers(1, 60))
FORK = st.tuples(
    st.just("fork"),
    st.integers(1, DEEPEST),
    st.lists(st.sampled_from((KEPT, MOVED, DROPPED)), min_size=1, max_size=8),
    st.integers(-3, 6),
)
STEP = st.tuples(st.just("step"), st.integers(1, 4))
FAULT = st.tuples(
    st.just("fault"), st.sampled_from(("lag", "down", "astray", "limit", "forgery", "restart", "heal", "heal"))
)
HISTORIES = st.lists(st.one_of(MINE, MINE, EMPTY, FORK, STEP, STEP, FAULT), min_size=4, max_size=30)


class World:
    """A chain, two providers of it, of which the second one is at worst late, and an indexer that may be restarted."""

    def __init__(self, database: Database, session: aiohttp.ClientSession, nodes: list[ScriptedNode]) -> None:
        self.chain = nodes[0].chain
        self.nodes = nodes
        self.mined: dict[str, Transaction] = {}
        self.longest = len(self.chain.blocks)
        self._database, self._session = database, session
        self._agents = count(1)
        self.indexer = self._start()

    def _start(self) -> Indexer:
        urls = tuple(Secret(node.url) for node in self.nodes)
        facts = network(id=ChainId(self.chain.chain_id), rpc_urls=urls)
        (indexer,) = indexers(self._database, EventService(), [facts], self._session, FAST)
        return indexer

    def _transaction(self, size: int) -> Transaction:
        agent = next(self._agents)
        kinds = (logs.transfer(agent), logs.feedback(agent % 3, agent), logs.unknown(agent % 5))
        made = transaction(*kinds[:size], name=f"{self.chain.chain_id} {agent}")
        self.mined[made.hash] = made
        return made

    def mine(self, blocks: list[list[int]]) -> None:
        for sizes in blocks:
            self.chain.mine(*(self._transaction(size) for size in sizes))
        self.longest = max(self.longest, len(self.chain.blocks))

    def fork(self, depth: int, fates: list[int], growth: int) -> None:
        """Drop blocks, never final ones; their transactions stay, move behind others, or are gone."""
        depth = min(depth, len(self.chain.blocks) - max(1, self.longest - FINAL + 1))
        if depth < 1:
            return
        fated = list(zip(self.chain.fork(depth), cycle(fates), strict=False))
        kept = deque(one for one, fate in fated if fate == KEPT)
        moved = [one for one, fate in fated if fate == MOVED]
        for _ in range(max(1, depth + growth)):
            self.chain.mine(*([kept.popleft()] if kept else []))
        self.chain.mine(*kept)
        self.chain.mine(self._transaction(3), *reversed(moved))
        self.longest = max(self.longest, len(self.chain.blocks))

    def fault(self, kind: str) -> None:
        first, second = self.nodes
        if kind == "restart":
            self.indexer = self._start()
        elif kind == "lag":
            first.lag, second.lag = 3, 1
        elif kind == "down":
            first.down = True
        elif kind == "limit":
            second.range_limit, second.range_dialect = 7, "offers_a_range"
        elif kind == "forgery":
            forged = logs.registered(999).topics
            first.tamper_logs = lambda found: [{**wire, "topics": forged} for wire in found]
        elif kind == "astray":
            first.chain = self.chain.copy()
            first.chain.fork(min(5, len(first.chain.blocks) - 1))
            first.chain.mine(transaction(logs.registered(998)), count=9)
            self.longest = max(self.longest, len(first.chain.blocks))  # what it calls final stays final
        else:
            first.chain, first.tamper_logs, second.range_limit = self.chain, None, None
            first.down, first.lag, second.lag = False, 0, 0
            wake(self.indexer)

    async def settle(self) -> None:
        self.fault("heal")
        self.mine([[1]] + [[]] * 12)  # beyond what a provider that went astray may have told
        await drain(self.indexer, most=300)


async def live_through(database: Database, history: list[Any]) -> World:
    """Play a history, heal, and catch up."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        chain = ScriptedChain(next(_chain_ids))
        nodes = [await stack.enter_async_context(ScriptedNode.serve(chain)) for _ in range(2)]
        for node in nodes:
            node.finality_depth = FINAL
        world = World(database, session, nodes)
        for kind, *arguments in history:
            if kind == "step":
                for _ in range(arguments[0]):
                    await world.indexer.step()
            elif kind == "empty":
                world.mine([[]] * arguments[0])
            else:
                getattr(world, kind)(*arguments)
        await world.settle()
        return world


async def check(database: Database, history: list[Any]) -> None:
    world = await live_through(database, history)
    chain_id = world.chain.chain_id

    assert await contents(database, chain_id) == truth(world.chain)
    # Nothing was settled, so whatever a transaction went through, each of its logs is one row, or none was ever seen.
    counts = await rows(
        database, "SELECT transaction_hash, count(*) FROM events WHERE chain_id = $1 GROUP BY 1", chain_id
    )
    for transaction_hash, stored in counts:
        if transaction_hash in world.mined:
            assert stored == min(2, len(world.mined[transaction_hash].logs))


CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=CHECKS)
@given(history=HISTORIES)
async def test_any_history_of_forks_and_faults_ends_in_the_canonical_chain(
    database: Database, history: list[Any]
) -> None:
    await check(database, history)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=1_500, deadline=None, suppress_health_check=CHECKS, phases=[Phase.generate, Phase.shrink])
@given(history=HISTORIES)
async def test_any_history_of_forks_and_faults_ends_in_the_canonical_chain_at_length(
    database: Database, history: list[Any]
) -> None:
    await check(database, history)
