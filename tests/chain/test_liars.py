"""Each way to lie is noticed, changes nothing that is stored, and leaves the liar aside."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from agentauri.chain import Indexer, Step
from agentauri.database import Database
from chains import logs
from chains.driving import FAST, Open, Serve, contents, drain, rows, truth
from chains.logs import account
from chains.scripted import ScriptedChain, ScriptedNode, transaction

Lie = Callable[[ScriptedNode], None]


def make_scripted() -> ScriptedChain:
    chain = ScriptedChain()
    for number in range(1, 31):
        chain.mine(transaction(logs.registered(number)))
    return chain


def forged_log(node: ScriptedNode) -> None:
    forged = logs.registered(666).topics
    node.tamper_logs = lambda found: [{**wire, "topics": forged} for wire in found]


def log_of_another_address(node: ScriptedNode) -> None:
    node.tamper_logs = lambda found: [{**wire, "address": account(6)} for wire in found]


def log_of_another_block(node: ScriptedNode) -> None:
    node.tamper_logs = lambda found: [{**wire, "blockNumber": hex(4_000)} for wire in found]


def header_of_another_block(node: ScriptedNode) -> None:
    node.tamper_header = lambda header: {**header, "number": hex(int(header["number"], 16) + 1)}


def another_chain(node: ScriptedNode) -> None:
    node.chain_id = 1


def other_hashes(node: ScriptedNode) -> None:
    node.tamper_header = lambda header: {**header, "hash": "0x" + "77" * 32}


def logs_under_other_hashes(node: ScriptedNode) -> None:
    node.tamper_logs = lambda found: [{**wire, "blockHash": "0x" + "77" * 32} for wire in found]


def resting(indexer: Indexer) -> list[bool]:
    return [provider.health.rests(time.monotonic()) for provider in indexer._providers]


@pytest.mark.parametrize(
    "lie", [forged_log, log_of_another_address, log_of_another_block, header_of_another_block, another_chain]
)
async def test_what_no_race_can_explain_rests_the_provider_at_once(
    lie: Lie, database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = make_scripted()
    liar, honest = await serve(chain), await serve(chain)
    lie(liar)
    indexer = open_indexer(liar, honest)

    await indexer.step()
    await indexer.step()

    assert resting(indexer) == [True, False]
    await drain(indexer)
    assert await contents(database) == truth(chain)


@pytest.mark.parametrize("lie", [other_hashes, logs_under_other_hashes])
async def test_hashes_that_nobody_else_has_retract_nothing_and_are_held_against_who_tells_them(
    lie: Lie, database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = make_scripted()
    liar, honest = await serve(chain), await serve(chain)
    indexer = open_indexer(liar, honest)
    await drain(indexer)
    lie(liar)
    chain.mine(transaction(logs.registered(99)))

    assert await indexer.step() is Step.RETRY

    (accused, other) = [provider.health.failures for provider in indexer._providers]
    assert (accused, other) == (1, 0)
    await drain(indexer)
    assert await contents(database) == truth(chain)
    assert await rows(database, "SELECT count(*) FROM events WHERE retracted_at IS NOT NULL") == [(0,)]


async def test_a_provider_that_lies_whenever_it_is_asked_rests_in_the_end(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = make_scripted()
    liar = await serve(chain)
    indexer = open_indexer(liar)
    await drain(indexer)
    logs_under_other_hashes(liar)
    chain.mine(transaction(logs.registered(99)))

    steps = [await indexer.step() for _ in range(6)]

    assert steps[-1] is Step.DEGRADED
    assert resting(indexer) == [True]


async def test_with_a_quorum_of_two_what_one_leaves_out_is_held_against_it_and_told_by_the_other(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = make_scripted()
    forgetful, complete = await serve(chain), await serve(chain)
    forgetful.tamper_logs = lambda found: [wire for wire in found if wire["blockNumber"] != hex(28)]
    indexer = open_indexer(forgetful, complete, rpc=replace(FAST, quorum=2))

    while await indexer.step() is not Step.RETRY:
        pass

    assert [provider.health.failures for provider in indexer._providers] == [1, 0]
    await drain(indexer)
    assert await contents(database) == truth(chain)


async def test_with_a_quorum_of_one_what_is_left_out_is_not_noticed(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    """A bloom that admits an address proves nothing; that is what the quorum is for."""
    chain = make_scripted()
    forgetful, complete = await serve(chain), await serve(chain)
    forgetful.tamper_logs = lambda found: [wire for wire in found if wire["blockNumber"] != hex(28)]

    await drain(open_indexer(forgetful, complete))

    assert len(await contents(database)) == len(truth(chain)) - 1
