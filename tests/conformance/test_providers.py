"""Providers that do everything wrong, and a chain that is read all the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from msgspec.structs import replace

from agentauri.chain import Indexer, Step
from agentauri.database import Database
from chains import logs
from chains.driving import FAST, Open, drain, rows, wake
from chains.scripted import RANGE_DIALECTS
from chains.under_test import ChainUnderTest, Scripted
from conformance.conftest import Provider
from conformance.stories import Story
from conformance.test_forks import grow
from conformance.verdict import assert_replayed
from support.faulty_rpc import THROTTLE_DIALECTS

TAKEN_BACK = "SELECT count(*) FROM events WHERE retracted_at IS NOT NULL"
Logs = list[dict[str, Any]]


@pytest.mark.parametrize("dies_in", [2, 3])
async def test_a_provider_that_dies_in_the_middle_of_a_range_is_replaced(
    dies_in: int, chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    await grow(chain, Story(), 40)
    mortal, other = await provider(chain), await provider(chain)
    indexer = open_indexer(mortal, other)
    assert await indexer.step() is Step.ADVANCED  # where it begins; nothing has been read

    mortal.dies_in = dies_in
    await drain(indexer)

    assert mortal.down
    await assert_replayed(database, chain)
    assert await rows(database, TAKEN_BACK) == [(0,)]


async def test_the_only_provider_dies_and_comes_back(
    chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    story = Story()
    await grow(chain, story, 40)
    only = await provider(chain)
    only.range_limit, only.range_dialect = 9, "names_its_limit"
    indexer = open_indexer(only)
    for _ in range(3):
        await indexer.step()

    only.dies_in = 2
    while await indexer.step() is not Step.DEGRADED:
        pass
    await grow(chain, story, 10)
    only.heal()
    wake(indexer)

    await drain(indexer)
    await assert_replayed(database, chain)


async def test_a_node_that_lags_takes_nothing_back(
    chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    story = Story()
    await grow(chain, story, 40)
    late, other = await provider(chain), await provider(chain)
    indexer = open_indexer(late, other)
    await drain(indexer)

    late.lag = 12
    await grow(chain, story, 3)
    await drain(indexer)

    await assert_replayed(database, chain)
    assert await rows(database, TAKEN_BACK) == [(0,)]


async def test_the_only_node_lags_behind_and_catches_up(
    chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    story = Story()
    await grow(chain, story, 40)
    only = await provider(chain)
    indexer = open_indexer(only)
    await drain(indexer)

    only.lag = 12
    await grow(chain, story, 3)
    assert {await indexer.step() for _ in range(3)} == {Step.RETRY}
    only.lag = 1
    await drain(indexer)
    only.lag = 0
    await drain(indexer)

    await assert_replayed(database, chain)
    assert await rows(database, TAKEN_BACK) == [(0,)]


async def test_a_node_with_other_hashes_is_not_followed(
    chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    story = Story()
    await grow(chain, story, 40)
    astray, honest = await provider(chain), await provider(chain)
    indexer = open_indexer(astray, honest)
    await drain(indexer)

    other = await chain.branch()
    await other.fork(6)
    await grow(other, Story("astray"), 12)
    astray.upstream = other.url
    await grow(chain, story, 3)
    await drain(indexer)

    await assert_replayed(database, chain)
    assert await rows(database, TAKEN_BACK) == [(0,)]


def forged(found: Logs) -> Logs:
    return [{**wire, "topics": logs.registered(666).topics} for wire in found]


def misplaced(found: Logs) -> Logs:
    return [{**wire, "blockHash": "0x" + "ab" * 32} for wire in found]


def invented(found: Logs) -> Logs:
    return [*found, *({**wire, "address": "0x" + "77" * 20, "logIndex": "0x7f"} for wire in found[:1])]


def doubled(found: Logs) -> Logs:
    return [*found, *found[:1]]


@pytest.mark.parametrize("lie", [forged, misplaced, invented, doubled])
async def test_a_node_that_lies_about_logs_is_not_believed(
    lie: Callable[[Logs], Logs], chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    await grow(chain, Story(), 25)
    liar, honest = await provider(chain), await provider(chain)
    liar.tamper_logs = lie

    await drain(open_indexer(liar, honest))

    await assert_replayed(database, chain)
    assert await rows(database, TAKEN_BACK) == [(0,)]


async def test_a_node_that_omits_logs_is_found_out_by_a_quorum_of_two(
    chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    await grow(chain, Story(), 25)
    forgetful, complete = await provider(chain), await provider(chain)
    forgetful.tamper_logs = lambda found: [wire for wire in found if int(wire["blockNumber"], 16) % 7]

    await drain(open_indexer(forgetful, complete, rpc=replace(FAST, quorum=2)))

    await assert_replayed(database, chain)


async def test_a_node_of_another_chain_is_never_read(
    chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    await grow(chain, Story(), 25)
    foreign, right = await provider(chain), await provider(chain)
    foreign.chain_id = 1

    await drain(open_indexer(foreign, right))

    await assert_replayed(database, chain)
    assert foreign.ranges == []


async def keep_to_a_limit(
    limit: int, dialect: str, chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    story = Story()
    await grow(chain, story, 6)
    await chain.mine(count=2 * limit)
    await grow(chain, story, 12)
    await chain.mine(count=20)
    strict = await provider(chain)
    strict.range_limit, strict.range_dialect = limit, dialect

    await drain(open_indexer(strict), most=400)

    await assert_replayed(database, chain)
    assert_contiguous(strict.ranges, chain.head)
    assert len(strict.ranges) <= 3 * (chain.head // limit + 1)  # it is asked for about as much as it gives


LIMITS = (1, 2, 7, 33, 50, 100)
DIALECTS = ("http_413", "says_nothing", "offers_a_range", "rate_limit_code", "names_its_limit", "names_it_last")


@pytest.mark.parametrize(("limit", "dialect"), list(zip(LIMITS, DIALECTS, strict=True)))
async def test_a_range_limit_is_kept(
    limit: int, dialect: str, chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    await keep_to_a_limit(limit, dialect, chain, provider, database, open_indexer)


@pytest.mark.soak
@pytest.mark.parametrize("dialect", sorted(RANGE_DIALECTS))
@pytest.mark.parametrize("limit", [*LIMITS, 500])
async def test_a_range_limit_is_kept_in_any_dialect(
    limit: int, dialect: str, chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    await keep_to_a_limit(limit, dialect, chain, provider, database, open_indexer)


def assert_contiguous(ranges: list[tuple[int, int]], head: int) -> None:
    """Every block was asked for, none before those below it."""
    last = 0
    for first, end in ranges:
        assert first <= last + 1
        last = max(last, end)
    assert last == head


@pytest.mark.parametrize("limit", [1_000, 10_000])
async def test_a_wide_range_limit_is_kept(
    limit: int, provider: Provider, database: Database, open_indexer: Open, long_chain: ChainUnderTest
) -> None:
    strict = await provider(long_chain)
    strict.range_limit, strict.range_dialect = limit, "offers_a_range"

    await drain(open_indexer(strict), most=400)

    await assert_replayed(database, long_chain)
    assert_contiguous(strict.ranges, long_chain.head)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_a_limit_of_ten_thousand_blocks_is_met(
    stack: AsyncExitStack, provider: Provider, database: Database, open_indexer: Open
) -> None:
    chain = await Scripted.start(stack, 84532)
    await grow(chain, Story(), 30)
    await chain.mine(count=210_000)  # until as much is asked for at once
    strict = await provider(chain)
    strict.range_limit, strict.range_dialect = 10_000, "names_its_limit"

    await drain(open_indexer(strict, max_range=20_000), most=400)

    await assert_replayed(database, chain)
    assert_contiguous(strict.ranges, chain.head)
    assert max(last - first + 1 for first, last in strict.ranges) == 10_000


@pytest.mark.parametrize("dialect", sorted(THROTTLE_DIALECTS))
async def test_a_rate_limit_hands_over_and_loses_nothing(
    dialect: str, chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    story = Story()
    await grow(chain, story, 25)
    busy, other = await provider(chain), await provider(chain)
    indexer = open_indexer(busy, other)
    await indexer.step()

    busy.throttled = dialect
    await drain(indexer)
    await assert_replayed(database, chain)

    other.throttled = dialect
    await grow(chain, story, 3)
    assert await until_degraded(indexer)
    busy.heal()
    other.heal()
    wake(indexer)
    await drain(indexer)

    await assert_replayed(database, chain)
    assert await rows(database, TAKEN_BACK) == [(0,)]


async def until_degraded(indexer: Indexer) -> bool:
    return any([await indexer.step() is Step.DEGRADED for _ in range(4)])


async def sleep_through(
    blocks: int, chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    story = Story()
    await grow(chain, story, 30)
    await drain(open_indexer(await provider(chain)))

    await chain.fork(9)
    read = chain.head
    for _ in range(3):
        await grow(chain, story, 5)
        await chain.mine(count=blocks // 3)
    strict = await provider(chain)
    strict.range_limit, strict.range_dialect = 2_000, "rate_limit_code"
    await drain(open_indexer(strict), most=400)

    await assert_replayed(database, chain)
    assert_contiguous([(1, read), *strict.ranges], chain.head)


async def test_a_downtime_with_a_fork_in_it_leaves_no_gap(
    chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open, long: int
) -> None:
    await sleep_through(long // 2, chain, provider, database, open_indexer)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_two_days_of_downtime_with_a_fork_in_them_leave_no_gap(
    chain: ChainUnderTest, provider: Provider, database: Database, open_indexer: Open
) -> None:
    await sleep_through(2 * 86_400 // 12, chain, provider, database, open_indexer)
