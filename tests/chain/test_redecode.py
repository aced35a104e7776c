"""Logs that were kept raw become events in their place, without being fetched again."""

from __future__ import annotations

import pytest

from agentauri.actions import ActionDraft
from agentauri.app import Application, Stores, assemble
from agentauri.chain import Redecoded, Redecoder
from agentauri.config import Config
from agentauri.database import Database
from agentauri.events import EventService
from agentauri.triggers import TriggerDraft
from agentauri.types import OrganizationId, UserId
from chains import logs
from chains.driving import MakeChain, Open, Serve, canonical_events, contents, drain, rows, truth
from chains.logs import IDENTITY, account
from chains.scripted import ScriptedChain, transaction

OLD_NAME = "UriUpdated(uint256 indexed agentId, string newURI, address indexed updatedBy)"
OLD_RELEASE = {"class_": "mainnet"}
"""A mainnet reads no old layouts, so its indexer is to a test network's as an old release is to a new one."""


def renamed(agent_id: int) -> logs.ScriptedLog:
    return logs.emit(IDENTITY, OLD_NAME, agentId=agent_id, newURI=f"ipfs://{agent_id}", updatedBy=account(1))


def make_scripted() -> ScriptedChain:
    """Agents register; in some blocks a log follows that only a newer release understands, or none does."""
    chain = ScriptedChain()
    for number in range(1, 41):
        chain.mine(
            transaction(logs.transfer(number), logs.registered(number)),
            transaction(
                *([renamed(number)] if number % 2 else []), *([logs.unknown(number)] if number % 5 == 0 else [])
            ),
        )
    return chain


@pytest.fixture
def redecoder(database: Database, make_chain: MakeChain) -> Redecoder:
    return Redecoder(database, EventService(), make_chain())


async def test_raw_logs_that_decode_now_become_events_in_their_place(
    database: Database, serve: Serve, open_indexer: Open, redecoder: Redecoder
) -> None:
    chain = make_scripted()
    node = await serve(chain)
    await drain(open_indexer(node, **OLD_RELEASE))
    node.requests.clear()

    assert await redecoder.run(dry_run=True) == Redecoded(28, 20)
    assert await rows(database, "SELECT count(*) FROM raw_logs") == [(28,)]
    assert await redecoder.run() == Redecoded(28, 20)
    assert await redecoder.run() == Redecoded(8, 0)

    assert node.requests == []
    assert await contents(database) == truth(chain)
    found = await canonical_events(database)
    assert [kind for _, kind, block, _ in found if block == 3] == ["Transfer", "Registered", "URIUpdated"]
    assert await rows(database, "SELECT count(*) FROM event_queue WHERE kind = 'assert'") == [(100,)]


async def test_what_is_told_of_agents_is_what_a_release_that_knew_the_logs_would_tell(
    database: Database, serve: Serve, open_indexer: Open, redecoder: Redecoder
) -> None:
    chain = ScriptedChain()
    chain.mine(transaction(logs.transfer(1), logs.registered(1)))
    chain.mine(transaction(renamed(1)))
    chain.mine(transaction(logs.emit(IDENTITY, logs.URI_UPDATED, agentId=1, newURI="ipfs://new", updatedBy=account(1))))
    chain.mine(transaction(logs.transfer(2), logs.registered(2)))
    chain.mine(transaction(renamed(2)))
    await drain(open_indexer(await serve(chain), **OLD_RELEASE))

    await redecoder.run()

    assert await rows(database, "SELECT agent_id, agent_uri FROM agents ORDER BY agent_id") == [
        (1, "ipfs://new"),
        (2, "ipfs://2"),
    ]


async def test_it_may_be_done_while_the_chain_is_followed_and_reorganizes(
    database: Database, serve: Serve, open_indexer: Open, redecoder: Redecoder
) -> None:
    chain = make_scripted()
    node = await serve(chain)
    old, new = open_indexer(node, **OLD_RELEASE), open_indexer(node)
    await drain(old)
    await redecoder.run()
    dropped = chain.fork(10)
    chain.mine(*dropped, count=11)

    await drain(new)
    await redecoder.run()

    assert await contents(database) == truth(chain)
    assert await rows(database, "SELECT count(*) FROM events WHERE retracted_at IS NOT NULL OR epoch > 0") == [(0,)]


async def test_a_raw_log_that_a_reorg_took_away_stays_where_it_is(
    database: Database, serve: Serve, open_indexer: Open, redecoder: Redecoder
) -> None:
    chain = make_scripted()
    indexer = open_indexer(await serve(chain), **OLD_RELEASE)
    await drain(indexer)
    chain.fork(10)
    chain.mine(count=11)
    await drain(indexer)

    await redecoder.run()

    assert await contents(database) == truth(chain)


async def test_a_trigger_sees_what_is_newer_than_itself_and_no_history(
    config: Config, database: Database, serve: Serve, open_indexer: Open, redecoder: Redecoder
) -> None:
    chain = make_scripted()
    indexer = open_indexer(await serve(chain), **OLD_RELEASE)
    await drain(indexer)
    assert config.database is not None
    assert config.redis is not None
    async with assemble(config, Stores(database=config.database, redis=config.redis, embedded=None)) as app:
        await evaluated(app)
        await watch(app)
        chain.mine(transaction(renamed(41)))
        await drain(indexer)
        await evaluated(app)

        await redecoder.run()
        await evaluated(app)

    fired = await rows(database, "SELECT block_number FROM events JOIN deliveries ON event_seq = seq")
    assert fired == [(41,)]


async def watch(app: Application) -> None:
    draft = TriggerDraft(
        name="Moved",
        conditions=[{"condition_type": "event_type_equals", "value": "URIUpdated"}],
        actions=[ActionDraft(action_type="webhook", config={"url": "https://hook.example/"})],
    )
    prepared = await app.triggers.prepare(draft)
    async with app.database.transaction() as tx:
        await app.triggers.create(tx, OrganizationId("org-1"), UserId("user-1"), prepared)


async def evaluated(app: Application) -> None:
    while await app.evaluator.step():
        pass
