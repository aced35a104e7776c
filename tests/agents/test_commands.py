"""`projections rebuild` makes the same again, also while others write; `projections verify` finds what is not so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from agentauri import console
from agentauri.app import Application, Stores, assemble
from agentauri.chain import Step
from agentauri.config import Config, load
from agentauri.database import Database
from agentauri.demo import LocalChain
from support.agents_replay import feedback, make_event, record, stored
from support.events import CHAIN, insert_by_hand


@pytest.fixture
async def chain() -> AsyncIterator[LocalChain]:
    async with LocalChain.start() as started:
        yield started


@pytest.fixture
async def app(config: Config) -> AsyncIterator[Application]:
    assert config.database is not None
    assert config.redis is not None
    async with assemble(config, Stores(config.database, config.redis, None)) as application:
        yield application


async def fill(database: Database, agents: int, rounds: int, first_block: int = 1) -> None:
    for block in range(first_block, first_block + rounds):
        async with database.transaction() as tx:
            await record(
                tx,
                *(make_event("NewFeedback", block, agent, **feedback(agent, 3, block)) for agent in range(agents)),
            )


async def test_a_rebuild_gives_the_same_tables(app: Application, database: Database) -> None:
    await fill(database, 20, 3)
    async with database.transaction() as tx:
        before = await stored(tx)
        await tx.run("UPDATE agents SET feedback_count = 99; DELETE FROM feedback WHERE agent_id > 10")
        await tx.run("INSERT INTO agents (chain_id, agent_id, updated_block, updated_log, updated_time) "
                     f"VALUES ({CHAIN}, 777, 1, 1, 1)")  # fmt: skip

    lines = await console.rebuild_projections(app, None, None)

    assert lines == [f"{CHAIN}: 21 agents were made afresh, 0 counters corrected."]
    async with database.transaction() as tx:
        assert await stored(tx) == before


async def test_one_agent_is_rebuilt_alone(app: Application, database: Database) -> None:
    await fill(database, 3, 2)
    async with database.transaction() as tx:
        await tx.run("UPDATE agents SET feedback_count = 99")

    await console.rebuild_projections(app, CHAIN, 1)

    async with database.transaction() as tx:
        rows = await tx.fetch("SELECT agent_id, feedback_count FROM agents ORDER BY agent_id")
    assert [(int(agent), count) for agent, count in rows] == [(0, 99), (1, 2), (2, 99)]


async def test_whoever_indexes_meanwhile_loses_nothing(app: Application, database: Database) -> None:
    await fill(database, 20, 2)

    async def rebuild() -> None:
        for _ in range(5):
            await console.rebuild_projections(app, CHAIN, None)

    await asyncio.gather(rebuild(), fill(database, 20, 10, first_block=3))

    async with database.transaction() as tx:
        now = await stored(tx)
    await console.rebuild_projections(app, CHAIN, None)
    async with database.transaction() as tx:
        assert await stored(tx) == now
        assert await tx.fetchval("SELECT min(feedback_count) FROM agents") == 12
        assert await tx.fetchval("SELECT count FROM event_counters") == 240


async def test_what_others_write_reaches_the_agents_when_it_is_evaluated(app: Application, database: Database) -> None:
    async with database.transaction() as tx:
        seq = await insert_by_hand(tx, "by hand", agent_id=5, client_address="0xc", feedback_index=1)
    while await app.evaluator.step():
        pass
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT feedback_count FROM agents WHERE agent_id = 5") == 1
        assert await tx.fetchval("SELECT count FROM event_counters") == 1
        await tx.run("UPDATE events SET retracted_at = now() WHERE seq = $1", seq)
    while await app.evaluator.step():
        pass

    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT count(*) FROM agents") == 0
        assert await tx.fetchval("SELECT count FROM event_counters") == 0


async def test_verify_tells_what_the_contracts_say_otherwise(config: Config, chain: LocalChain) -> None:
    assert config.database is not None
    assert config.redis is not None
    environment = {
        "DATABASE_URL": config.database.url.reveal(),
        "REDIS_URL": config.redis.url.reveal(),
        "ENVIRONMENT": "development",
        "AGENTAURI_DATA_DIR": str(config.data_dir),
        **chain.settings,
    }
    agent, _ = await chain.register("https://a.example")
    await chain.give_feedback(agent, 5)
    await chain.give_feedback(agent, -2, 1)
    async with assemble(load(environment), Stores(config.database, config.redis, None)) as app:
        [indexer] = app.indexers
        while await indexer.step() is not Step.IDLE:
            pass
        lines, code = await console.verify_projections(app, chain.chain_id, 10)
        assert (code, len(lines)) == (0, 1), lines
        assert "0 different" in lines[0]

        async with app.database.transaction() as tx:
            await tx.run("UPDATE agents SET agent_uri = 'ipfs://wrong'; DELETE FROM feedback WHERE feedback_index = 2")
        lines, code = await console.verify_projections(app, chain.chain_id, 10)

    assert code == 1
    assert [line.strip().partition("(")[0] for line in lines[1:]] == ["tokenURI", "getLastIndex", "getSummary"]
    assert "here ipfs://wrong, there https://a.example" in lines[1]
