"""After any history of growth, forks, faults and restarts, what is stored is what a replay of the chain says."""

from __future__ import annotations

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
from chains.driving import FAST, drain, network, wake
from chains.scripted import RANGE_DIALECTS
from chains.under_test import CHAINS, FINALITY, ChainUnderTest
from conformance.stories import Story
from conformance.verdict import assert_replayed
from support.faulty_rpc import THROTTLE_DIALECTS, FaultyRpc

KEPT, MOVED, DROPPED = range(3)
_chain_ids = count(2_000_000)

MINE = st.tuples(st.just("mine"), st.lists(st.integers(0, 3), min_size=1, max_size=12))
EMPTY = st.tuples(st.just("empty"), st.integers(1, 60))
FORK = st.tuples(
    st.just("fork"),
    st.integers(1, 64),
    st.lists(st.sampled_from((KEPT, MOVED, DROPPED)), min_size=1, max_size=8),
    st.integers(-3, 6),
)
STEP = st.tuples(st.just("step"), st.integers(1, 4))
FAULTS = ("lag", "down", "dies", "limit", "forgery", "throttled", "astray", "heal", "heal")
FAULT = st.tuples(st.just("fault"), st.sampled_from(FAULTS), st.integers(0, 5))
RESTART = st.tuples(st.just("restart"))
HISTORIES = st.lists(st.one_of(MINE, MINE, EMPTY, FORK, STEP, STEP, FAULT, RESTART), min_size=4, max_size=20)


class World:
    """A chain, two providers of it, of which the second one is at worst late, and an indexer that may be restarted."""

    def __init__(self, chain: ChainUnderTest, chain_id: int, providers: list[FaultyRpc]) -> None:
        self.chain, self.chain_id, self.providers = chain, chain_id, providers
        self.longest = chain.head
        self.indexer: Indexer
        self._story = Story(f"{chain_id}")

    async def mine(self, blocks: list[int]) -> None:
        for transactions in blocks:
            await self.chain.mine(*self._story.several(transactions))
        self.longest = max(self.longest, self.chain.head)

    async def empty(self, blocks: int) -> None:
        await self.chain.mine(count=blocks)
        self.longest = max(self.longest, self.chain.head)

    async def fork(self, depth: int, fates: list[int], growth: int) -> None:
        """Drop blocks, never final ones; their transactions stay, move behind others, or are gone."""
        depth = min(depth, self.chain.head - max(1, self.longest - FINALITY))
        if depth < 1:
            return
        fated = list(zip(await self.chain.fork(depth), cycle(fates), strict=False))
        kept = [one for one, fate in fated if fate == KEPT]
        moved = [one for one, fate in fated if fate == MOVED]
        for one in kept[: max(1, depth + growth)]:
            await self.chain.mine(one)
        await self.chain.mine(*kept[max(1, depth + growth) :])
        await self.chain.mine(self._story.next(), *reversed(moved))
        await self.empty(max(1, depth + growth - len(kept)))

    async def fault(self, kind: str, number: int) -> None:
        first, second = self.providers
        if kind == "lag":
            first.lag, second.lag = 2 + number, 1
        elif kind == "down":
            first.down = True
        elif kind == "dies":
            first.dies_in = 1 + number
        elif kind == "limit":
            second.range_limit, second.range_dialect = 7, sorted(RANGE_DIALECTS)[number]
        elif kind == "forgery":
            # At any height: what a bloom alone gives away is believed further down, where no header is read.
            first.tamper_logs = lambda found: [{**wire, "address": "0x" + "77" * 20} for wire in found]
        elif kind == "throttled":
            first.throttled = sorted(THROTTLE_DIALECTS)[number // 2]
        elif kind == "astray":
            other = await self.chain.branch()
            if other.head > 1:
                await other.fork(min(5, other.head - 1))
            await other.mine(Story(f"astray {self.chain_id}").next(), count=9)
            self.longest = max(self.longest, other.head)  # what it calls final stays final
            first.upstream = other.url
        else:
            for one in self.providers:
                one.heal()
            first.upstream = self.chain.url
            wake(self.indexer)


async def live_through(kind: str, database: Database, history: list[Any]) -> None:
    """Play a history, heal, catch up, and compare."""
    chain_id = next(_chain_ids)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        chain = await CHAINS[kind](stack, chain_id)
        providers = [await stack.enter_async_context(FaultyRpc.serve(chain.url)) for _ in range(2)]
        world = World(chain, chain_id, providers)
        facts = network(id=ChainId(chain_id), rpc_urls=tuple(Secret(one.url) for one in providers))

        def restart() -> None:
            (world.indexer,) = indexers(database, EventService(), [facts], session, FAST)

        restart()
        for what, *arguments in history:
            if what == "restart":
                restart()
            elif what == "step":
                for _ in range(arguments[0]):
                    await world.indexer.step()
            else:
                await getattr(world, what)(*arguments)
        await world.fault("heal", 0)
        await world.mine([1] + [0] * 12)  # beyond what a provider that went astray may have told
        await drain(world.indexer, most=300)
        await assert_replayed(database, chain, chain_id)


CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
EITHER = pytest.mark.parametrize("kind", sorted(CHAINS))


@EITHER
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=CHECKS, phases=[Phase.generate])
@given(history=HISTORIES)
async def test_any_history_ends_in_what_a_replay_says(kind: str, database: Database, history: list[Any]) -> None:
    await live_through(kind, database, history)


@EITHER
@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=500, deadline=None, suppress_health_check=CHECKS, phases=[Phase.generate, Phase.shrink])
@given(history=HISTORIES)
async def test_any_history_ends_in_what_a_replay_says_at_length(
    kind: str, database: Database, history: list[Any]
) -> None:
    await live_through(kind, database, history)
