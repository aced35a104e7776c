from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from msgspec.structs import replace

from agentauri.chain import Chain, Indexer, indexers, load_chains
from agentauri.config import ChainSettings, Config, RpcConfig, load
from agentauri.database import Database
from agentauri.events import EventService
from agentauri.types import ChainId, Secret
from chains.driving import FAST, MakeChain, Open, Serve
from chains.scripted import ScriptedChain, ScriptedNode


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start a node that serves a chain."""
    async with AsyncExitStack() as stack:

        async def start(chain: ScriptedChain) -> ScriptedNode:
            return await stack.enter_async_context(ScriptedNode.serve(chain))

        yield start


@pytest.fixture
def bare_config(tmp_path: Path) -> Config:
    """Development settings without any server."""
    return load({"ENVIRONMENT": "development", "AGENTAURI_DATA_DIR": str(tmp_path / "data")}, tmp_path)


@pytest.fixture
def make_chain(bare_config: Config) -> MakeChain:
    """A packaged network with these nodes as providers; its block time is none, so that nothing waits for a block."""

    def make(*nodes: ScriptedNode, chain_id: int = 84532, **changes: object) -> Chain:
        settings = ChainSettings(chain_id=chain_id, rpc_urls=tuple(Secret(node.url) for node in nodes))
        chain = load_chains(replace(bare_config, chains=(settings,)))[ChainId(chain_id)]
        return replace(chain, **{"block_time": 0.0, "start_block": 1} | changes)

    return make


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
def open_indexer(database: Database, make_chain: MakeChain, session: aiohttp.ClientSession) -> Open:
    """An indexer on these nodes; `rpc` and any field of the chain may be given."""

    def make(*nodes: ScriptedNode, rpc: RpcConfig = FAST, **changes: object) -> Indexer:
        (indexer,) = indexers(database, EventService(), [make_chain(*nodes, **changes)], session, rpc)
        return indexer

    return make
