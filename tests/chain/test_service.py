from __future__ import annotations

from datetime import UTC, datetime

import pytest

from agentauri.chain import ChainNotBegun, ChainNotFound, ChainService
from agentauri.database import Database
from agentauri.types import ChainId
from chains import logs
from chains.driving import MakeChain, Open, Serve, drain
from chains.scripted import ScriptedChain, transaction

BASE_SEPOLIA = ChainId(84532)


async def test_a_chain_says_where_it_stands(
    database: Database, serve: Serve, make_chain: MakeChain, open_indexer: Open
) -> None:
    chain = ScriptedChain()
    chain.mine(transaction(logs.registered(1)), count=100)
    node = await serve(chain)
    service = ChainService({BASE_SEPOLIA: make_chain(node)})
    async with database.transaction() as tx:
        before = await service.get(tx, BASE_SEPOLIA)
    assert (before.status, before.enabled, before.indexed_block) == ("starting", True, None)

    await drain(open_indexer(node))
    async with database.transaction() as tx:
        (now,) = await service.status(tx)

    assert (now.name, now.status, now.indexed_block, now.latest_block) == ("Base Sepolia", "live", 100, 100)
    assert (now.lag_blocks, now.lag_seconds, now.finalized_block, now.safe_block) == (0, 0, 36, 68)
    assert now.last_event_at == datetime.fromtimestamp(chain.blocks[1].time, UTC)
    assert now.registries["identity"].address == logs.IDENTITY
    assert now.registries["identity"].start_block == 1
    assert [(one.name, one.healthy) for one in now.providers] == [("rpc-1", True)]
    assert node.url not in str(now)


async def test_a_chain_without_a_provider_is_disabled(database: Database, make_chain: MakeChain) -> None:
    async with database.transaction() as tx:
        (status,) = await ChainService({BASE_SEPOLIA: make_chain()}).status(tx)

    assert (status.status, status.enabled, status.latest_block) == ("disabled", False, None)


async def test_a_chain_that_is_not_known_or_not_begun_cannot_be_reset(
    database: Database, make_chain: MakeChain
) -> None:
    service = ChainService({BASE_SEPOLIA: make_chain()})

    async with database.transaction() as tx:
        with pytest.raises(ChainNotFound):
            await service.get(tx, ChainId(5))
        with pytest.raises(ChainNotBegun):
            await service.request_reset(tx, BASE_SEPOLIA)


async def test_the_command_resets_a_chain_that_nobody_indexes(
    database: Database, serve: Serve, make_chain: MakeChain, open_indexer: Open
) -> None:
    chain = ScriptedChain()
    chain.mine(count=100)
    node = await serve(chain)
    running, command = open_indexer(node), open_indexer(node)
    await drain(running)
    service = ChainService({BASE_SEPOLIA: make_chain(node)})
    async with database.transaction() as tx:
        await service.request_reset(tx, BASE_SEPOLIA, 80)

    assert await running._locks.take(BASE_SEPOLIA)
    assert await command.reset_if_idle() is False
    await running._locks.release(BASE_SEPOLIA)
    assert await command.reset_if_idle() is True

    async with database.transaction() as tx:
        assert (await service.get(tx, BASE_SEPOLIA)).indexed_block == 80
