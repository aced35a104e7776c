"""Reading a chain that stands, grows and changes its mind."""

from __future__ import annotations

import pytest

from agentauri.chain import Step
from agentauri.database import Database
from chains.driving import Open, drain, rows
from chains.scripted import transaction
from chains.under_test import ChainUnderTest
from conformance.conftest import Provider
from conformance.stories import Story
from conformance.verdict import assert_replayed

HISTORY = "SELECT id, seq, created_at, epoch, retracted_at IS NOT NULL FROM events ORDER BY seq"
RETRACTED = "SELECT transaction_hash FROM events WHERE retracted_at IS NOT NULL"


async def grow(chain: ChainUnderTest, story: Story, blocks: int) -> None:
    """Two transactions in one block, one in the next, none in the third, and so on."""
    for number in range(blocks):
        await chain.mine(*story.several(2 - number % 3))


async def test_a_backfill_stores_the_chain_in_its_order(
    chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    await grow(chain, Story(), 60)
    await chain.mine(count=100)

    await drain(open_indexer(await provider(chain)))

    await assert_replayed(database, chain)
    order = await rows(database, "SELECT (block_number, log_index) FROM events ORDER BY seq")
    assert order == sorted(order)


async def test_a_growing_chain_is_followed(
    chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    story, indexer = Story(), open_indexer(await provider(chain))
    for blocks in (1, 2, 1, 40, 3):
        await grow(chain, story, blocks)
        await drain(indexer)

        await assert_replayed(database, chain)


async def follow_a_fork(
    depth: int, chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    """Of the transactions in the newest blocks one in three is dropped, the others move; new ones come first."""
    story, indexer = Story(f"{depth}"), open_indexer(await provider(chain))
    await grow(chain, story, depth + 3)
    await drain(indexer)
    dropped = await chain.fork(depth)
    moved = [one for number, one in enumerate(dropped) if number % 3]
    gone = {chain.hash_of(one) for number, one in enumerate(dropped) if number % 3 == 0}

    await chain.mine(story.next(), *reversed(moved[::2]))
    await chain.mine(*moved[1::2], count=depth)

    await drain(indexer)
    await assert_replayed(database, chain)
    assert {name for (name,) in await rows(database, RETRACTED)} == gone


@pytest.mark.parametrize("depth", [1, 2, 7, 64])
async def test_a_fork_with_other_contents_is_followed(
    depth: int, chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    await follow_a_fork(depth, chain, provider, database, open_indexer)


@pytest.mark.soak
@pytest.mark.parametrize("depth", range(1, 65))
async def test_a_fork_of_any_depth_is_followed(
    depth: int, chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    await follow_a_fork(depth, chain, provider, database, open_indexer)


async def test_a_moved_transaction_is_the_same_events_in_another_place(
    chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    story, indexer = Story(), open_indexer(await provider(chain))
    moved = story.next()
    await grow(chain, story, 5)
    await chain.mine(moved)
    await drain(indexer)
    before = await rows(database, HISTORY)

    await chain.fork(1)
    await chain.mine()
    await chain.mine(story.next(), moved)
    await drain(indexer)

    await assert_replayed(database, chain)
    after = await rows(database, HISTORY)
    assert after[: len(before)] == before
    place = await rows(
        database,
        "SELECT block_number - $2, log_index > 0 FROM events WHERE transaction_hash = $1",
        chain.hash_of(moved),
        chain.head,
    )
    assert set(place) == {(0, True)}


async def test_a_dropped_transaction_leaves_its_events_marked_and_otherwise_as_they_were(
    chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    story, indexer = Story(), open_indexer(await provider(chain))
    await grow(chain, story, 5)
    dropped = story.next()
    await chain.mine(dropped)
    await drain(indexer)
    facts = "SELECT id, seq, block_number, block_hash, log_index, args FROM events WHERE transaction_hash = $1"
    before = await rows(database, facts, chain.hash_of(dropped))

    await chain.fork(1)
    await chain.mine(count=2)
    await drain(indexer)

    await assert_replayed(database, chain)
    assert before
    assert await rows(database, facts, chain.hash_of(dropped)) == before
    assert {name for (name,) in await rows(database, RETRACTED)} == {chain.hash_of(dropped)}


@pytest.mark.parametrize("depth", [1, 20])
async def test_a_fork_that_comes_back_is_as_if_it_had_never_been(
    depth: int, chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    story = Story()
    await grow(chain, story, 30)
    other = await chain.branch()
    await other.fork(depth)
    await grow(other, Story("other"), depth + 1)
    fickle = await provider(chain)
    indexer = open_indexer(fickle)
    await drain(indexer)
    before = await rows(database, HISTORY)

    fickle.upstream = other.url
    await drain(indexer)
    await assert_replayed(database, other)
    await chain.mine(count=2)
    fickle.upstream = chain.url
    await drain(indexer)

    await assert_replayed(database, chain)
    after = await rows(database, HISTORY)
    assert after[: len(before)] == before
    assert {taken_back for *_, taken_back in after[len(before) :]} == {True}


async def test_a_fork_below_the_finalized_block_is_not_followed(
    chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    story, indexer = Story(), open_indexer(await provider(chain))
    await chain.mine(count=20)
    await grow(chain, story, 90)
    await drain(indexer)
    before = await rows(database, HISTORY)

    await chain.fork(85)
    await chain.mine(transaction(*story.next().logs), count=90)

    assert [await indexer.step() for _ in range(3)] == [Step.DOUBTFUL, Step.HALTED, Step.HALTED]
    assert await rows(database, HISTORY) == before
