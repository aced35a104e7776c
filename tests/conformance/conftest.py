"""Every scenario once on the scripted chain and once on anvil, with providers in front that can do wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import aiohttp
import pytest

from agentauri.chain import Indexer, indexers
from agentauri.config import RpcConfig
from agentauri.database import Database
from agentauri.events import EventService
from agentauri.types import ChainId, Secret
from chains.driving import FAST, Open, network
from chains.under_test import CHAINS, Anvil, ChainUnderTest
from conformance.stories import Story
from support.faulty_rpc import FaultyRpc

CHAIN_ID = 84532
Provider = Callable[[ChainUnderTest], Awaitable[FaultyRpc]]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


@pytest.fixture(params=sorted(CHAINS))
async def chain(request: pytest.FixtureRequest, stack: AsyncExitStack) -> ChainUnderTest:
    return await CHAINS[request.param](stack, CHAIN_ID)


@pytest.fixture
async def long_chain(chain: ChainUnderTest, long: int) -> ChainUnderTest:
    """Many empty blocks between a few with logs."""
    story = Story()
    for _ in range(4):
        await chain.mine(*story.several(2))
        await chain.mine(count=long // 4)
    return chain


@pytest.fixture
def long(chain: ChainUnderTest) -> int:
    """Blocks of a long chain. A real node needs far more time for each, and more the higher it is."""
    return 400 if isinstance(chain, Anvil) else 2_400


@pytest.fixture
def provider(stack: AsyncExitStack) -> Provider:
    """Start a provider of a chain."""

    async def start(chain: ChainUnderTest) -> FaultyRpc:
        return await stack.enter_async_context(FaultyRpc.serve(chain.url))

    return start


@pytest.fixture
async def open_indexer(database: Database, stack: AsyncExitStack) -> Open:
    """An indexer on these providers, which knows what is stored and nothing else."""
    session = await stack.enter_async_context(aiohttp.ClientSession())

    def make(*providers: FaultyRpc, rpc: RpcConfig = FAST, **changes: object) -> Indexer:
        urls = tuple(Secret(one.url) for one in providers)
        facts = network(id=ChainId(CHAIN_ID), rpc_urls=urls, **changes)
        (indexer,) = indexers(database, EventService(), [facts], session, rpc)
        return indexer

    return make
