from __future__ import annotations

import asyncio

from agentauri.chain.locks import ChainLocks
from agentauri.database import Database
from agentauri.types import ChainId
from chains import logs
from chains.driving import Open, Serve, contents, truth, until
from chains.scripted import ScriptedChain, transaction

ONE, OTHER = ChainId(1), ChainId(2)


async def test_one_process_at_a_time_has_a_chain(database: Database) -> None:
    ours, theirs = ChainLocks(database), ChainLocks(database)

    assert await ours.take(ONE)
    assert await ours.take(ONE)
    assert not await theirs.take(ONE)
    assert await theirs.take(OTHER)
    await ours.release(ONE)
    assert await theirs.take(ONE)

    await theirs.release(OTHER)
    assert not await ours.take(ONE)
    await theirs.release(ONE)
    assert await ours.take(ONE)
    await ours.release(ONE)


async def test_a_lock_that_was_lost_with_its_connection_is_taken_again(database: Database) -> None:
    ours, theirs = ChainLocks(database), ChainLocks(database)
    await ours.take(ONE)
    async with database.outside() as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE locktype = 'advisory' AND datname = current_database()"
        )

    assert await theirs.take(ONE)
    await until(lambda: ours._connection is None or ours._connection.is_closed())
    assert not await ours.take(ONE)

    await theirs.release(ONE)
    assert await ours.take(ONE)
    await ours.release(ONE)


async def test_a_worker_follows_its_chain_until_it_is_stopped(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = ScriptedChain()
    chain.mine(transaction(logs.registered(1)), count=2_500)
    node = await serve(chain)
    indexer, stopping = open_indexer(node), asyncio.Event()

    running = asyncio.create_task(indexer.run(stopping))
    await until(lambda: len(node.ranges) > 1 and node.ranges[-1][1] == 2_500 and len(node.requests[-1]) == 2)
    stopping.set()
    await running

    assert indexer.worker.name == "indexer:84532"
    assert await contents(database) == truth(chain)
    assert await ChainLocks(database).take(ChainId(84532))
