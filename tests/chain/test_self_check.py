from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from agentauri import metrics
from agentauri.chain import ChainService, Step
from agentauri.chain.start_block import first_block_since
from agentauri.chain.types import Header
from agentauri.database import Database
from chains import logs
from chains.driving import MakeChain, Open, Serve, checkpoint, contents, drain, rows, truth, wake
from chains.logs import IDENTITY, REPUTATION, VALIDATION, account
from chains.scripted import ScriptedChain, ScriptedNode, transaction

Lines = list[dict[str, object]]


def make_scripted(chain_id: int = 84532) -> ScriptedChain:
    chain = ScriptedChain(chain_id)
    chain.mine(transaction(logs.registered(1)), count=5)
    return chain


def refusals(log_lines: Lines) -> list[str]:
    return [str(line["message"]) for line in log_lines if line.get("code") == "CHAIN_SELF_CHECK_FAILED"]


async def test_a_provider_of_another_chain_is_refused_with_what_to_do(
    database: Database, serve: Serve, open_indexer: Open, log_lines: Lines
) -> None:
    node = await serve(make_scripted())
    node.chain_id = 1
    indexer = open_indexer(node)

    assert await indexer.step() is Step.REFUSED

    assert refusals(log_lines) == ["rpc-1 serves chain 1, not 84532; correct its URL in RPC_URLS_84532"]
    now = await checkpoint(database)
    assert (now["status"], now["last_block_number"]) == ("starting", -1)
    assert "RPC_URLS_84532" in now["status_reason"]
    node.chain_id = None
    wake(indexer)
    await drain(indexer)
    assert (await checkpoint(database))["status"] == "live"


async def test_one_wrong_provider_among_several_is_left_out(
    database: Database, serve: Serve, open_indexer: Open, log_lines: Lines
) -> None:
    chain = make_scripted()
    wrong, right = await serve(chain), await serve(chain)
    wrong.chain_id = 1

    await drain(open_indexer(wrong, right))

    assert await contents(database) == truth(chain)
    assert len(refusals(log_lines)) == 1


async def test_a_second_opinion_of_another_chain_is_none(database: Database, serve: Serve, open_indexer: Open) -> None:
    chain = make_scripted()
    right, wrong = await serve(chain), await serve(ScriptedChain(1))
    indexer = open_indexer(right, wrong)
    await drain(indexer)
    chain.fork(3)
    chain.mine(transaction(logs.registered(2)), count=5)

    await drain(indexer)

    assert await contents(database) == truth(chain)


Spoil = Callable[[ScriptedNode], None]


def placeholder(node: ScriptedNode) -> None:
    node.versions[REPUTATION] = "0.0.1"


def foreign(node: ScriptedNode) -> None:
    node.identity = account(77)


def missing(node: ScriptedNode) -> None:
    del node.versions[IDENTITY]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [(placeholder, "placeholder"), (foreign, "belongs to the Identity registry"), (missing, "IDENTITY_ADDRESS_84532")],
)
async def test_registries_that_are_not_the_right_ones_refuse_the_chain_until_they_are(
    spoil: Spoil, told: str, database: Database, serve: Serve, open_indexer: Open, log_lines: Lines
) -> None:
    chain = make_scripted()
    node = await serve(chain)
    spoil(node)
    indexer = open_indexer(node)

    assert await indexer.step() is Step.REFUSED

    assert told in refusals(log_lines)[0]
    assert await contents(database) == []
    node.versions, node.identity = dict.fromkeys((IDENTITY, REPUTATION, VALIDATION), "2.0.0"), IDENTITY
    wake(indexer)
    await drain(indexer)
    assert await contents(database) == truth(chain)


@pytest.mark.parametrize("spoil", [placeholder, foreign, missing])
async def test_one_provider_that_does_not_show_the_right_registries_is_left_out(
    spoil: Spoil, database: Database, serve: Serve, open_indexer: Open, log_lines: Lines
) -> None:
    chain = make_scripted()
    syncing, good = await serve(chain), await serve(chain)
    spoil(syncing)

    await drain(open_indexer(syncing, good))

    assert await contents(database) == truth(chain)
    assert (await checkpoint(database))["status"] == "live"
    assert [line["provider"] for line in log_lines if line.get("code") == "CHAIN_SELF_CHECK_FAILED"] == ["rpc-1"]
    assert not any("eth_getLogs" in methods for methods in syncing.requests)


async def test_a_chain_that_every_provider_refuses_asks_all_of_them_again(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = make_scripted()
    first, second = await serve(chain), await serve(chain)
    missing(first)
    missing(second)
    indexer = open_indexer(first, second)

    assert [await indexer.step() for _ in range(2)] == [Step.RETRY, Step.REFUSED]
    assert "IDENTITY_ADDRESS_84532" in (await checkpoint(database))["status_reason"]

    for mended in (first, second):  # whichever of the two it is
        mended.versions[IDENTITY] = "2.0.0"
        wake(indexer)
        await drain(indexer)
        assert await contents(database) == truth(chain)
        mended.versions.pop(IDENTITY)
        indexer = open_indexer(first, second)
        assert Step.REFUSED in [await indexer.step() for _ in range(2)]


async def test_a_running_chain_that_one_provider_shows_wrong_is_not_degraded(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = make_scripted()
    first, second = await serve(chain), await serve(chain)
    indexer = open_indexer(first, second)
    await drain(indexer)
    missing(first)
    indexer._inspector._next = 0.0
    chain.mine(transaction(logs.registered(2)))

    await drain(indexer)

    assert await contents(database) == truth(chain)
    assert (await checkpoint(database))["status"] == "live"


async def test_a_missing_validation_registry_and_another_version_only_warn(
    database: Database, serve: Serve, open_indexer: Open, log_lines: Lines
) -> None:
    chain = make_scripted()
    node = await serve(chain)
    del node.versions[VALIDATION]
    node.versions[REPUTATION] = "2.1.0"

    await drain(open_indexer(node))

    warned = sorted(str(line["message"]) for line in log_lines if line["event"] == "chain.self_check")
    assert len(warned) == 2
    assert "has version 2.1.0" in warned[0]
    assert "there is no Validation registry" in warned[1]
    found = await rows(database, "SELECT registry, version, implementation IS NOT NULL FROM registry_contracts")
    assert sorted(found) == [
        ("identity", "2.0.0", True),
        ("reputation", "2.1.0", True),
        ("validation", None, True),
    ]


async def test_a_local_chain_is_read_whatever_stands_at_its_addresses(
    database: Database, serve: Serve, open_indexer: Open, log_lines: Lines
) -> None:
    chain = make_scripted(31337)
    node = await serve(chain)
    node.versions.clear()

    await drain(open_indexer(node, chain_id=31337, start_block=0))

    assert refusals(log_lines) == []
    assert await contents(database) == truth(chain)


async def test_what_is_wrong_later_degrades_a_running_chain_without_stopping_it(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = make_scripted()
    node = await serve(chain)
    indexer = open_indexer(node)
    await drain(indexer)
    node.versions[REPUTATION] = "0.0.1"
    indexer._inspector._next = 0.0
    chain.mine(transaction(logs.registered(2)))

    await drain(indexer)

    assert await contents(database) == truth(chain)
    now = await checkpoint(database)
    assert now["status"] == "degraded"
    assert "placeholder" in now["status_reason"]


async def test_an_upgrade_is_announced_and_looked_into(
    database: Database, serve: Serve, open_indexer: Open, log_lines: Lines
) -> None:
    chain = make_scripted()
    node = await serve(chain)
    indexer = open_indexer(node)
    await drain(indexer)
    chain.mine(transaction(logs.emit(REPUTATION, logs.UPGRADED, implementation=account(9))))
    node.versions[REPUTATION] = "2.1.0"

    await drain(indexer)

    (line,) = [line for line in log_lines if line.get("code") == "CONTRACT_UPGRADED"]
    assert (line["level"], line["registry"], line["implementation"]) == ("CRITICAL", "reputation", account(9))
    found = await rows(
        database, "SELECT version, upgraded_at IS NOT NULL FROM registry_contracts WHERE registry = 'reputation'"
    )
    assert found == [("2.1.0", True)]


async def test_an_upgrade_from_before_the_chain_was_followed_is_no_news(
    database: Database, serve: Serve, open_indexer: Open, log_lines: Lines
) -> None:
    chain = make_scripted()
    chain.mine(transaction(logs.emit(REPUTATION, logs.UPGRADED, implementation=account(8))), count=1_000)
    chain.mine(transaction(logs.emit(REPUTATION, logs.UPGRADED, implementation=account(9))))

    await drain(open_indexer(await serve(chain)))

    assert await contents(database) == truth(chain)
    assert not any(line.get("code") == "CONTRACT_UPGRADED" for line in log_lines)


async def test_an_upgrade_while_nobody_followed_the_chain_is_announced(
    database: Database, serve: Serve, open_indexer: Open, log_lines: Lines
) -> None:
    chain = make_scripted()
    node = await serve(chain)
    await drain(open_indexer(node))
    node.versions[REPUTATION] = "2.1.0"
    upgrade = logs.emit(REPUTATION, logs.UPGRADED, implementation=node.implementation(REPUTATION))
    chain.mine(count=1_000)
    chain.mine(transaction(upgrade), count=1_000)

    await drain(open_indexer(node))

    (line,) = [line for line in log_lines if line.get("code") == "CONTRACT_UPGRADED"]
    assert (line["level"], line["block_number"]) == ("CRITICAL", 1_006)


async def test_an_unknown_start_block_is_found_by_its_time(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = ScriptedChain(start_time=1_770_000_000, block_time=2)
    chain.mine(count=700)
    chain.mine(transaction(logs.registered(1)), count=300)
    node = await serve(chain)

    await drain(open_indexer(node, start_block=None, earliest=1_770_000_000 + 2 * 700))

    assert (await checkpoint(database))["first_block"] == 700
    assert node.ranges[0][0] == 700
    assert await contents(database) == truth(chain)


@pytest.mark.parametrize(("time", "found"), [(0, 0), (100, 0), (101, 1), (145, 5), (190, 9), (500, 9)])
async def test_the_first_block_since_a_time_is_found_by_bisection(time: int, found: int) -> None:
    head = Header(9, "", "", 190, 0)

    async def header_at(number: int) -> Header:
        return replace(head, number=number, time=100 + 10 * number)

    assert await first_block_since(time, head, header_at) == found


async def test_a_provider_that_has_forgotten_old_blocks_names_the_variable_that_does_without_them(
    database: Database, serve: Serve, open_indexer: Open, log_lines: Lines
) -> None:
    chain = ScriptedChain()
    chain.mine(transaction(logs.registered(1)), count=300)
    pruned, whole = await serve(chain), await serve(chain)
    pruned.oldest = 250
    unknown = {"start_block": None, "earliest": chain.blocks[1].time}
    indexer = open_indexer(pruned, **unknown)

    assert await indexer.step() is Step.REFUSED

    reason = (await checkpoint(database))["status_reason"]
    assert "set START_BLOCK_84532, or name a provider that keeps old blocks" in reason
    assert refusals(log_lines) == [reason]
    await drain(open_indexer(pruned, whole, **unknown))
    assert await contents(database) == truth(chain)


async def test_where_the_start_is_found_each_registry_is_said_to_begin_with_its_first_code(
    database: Database, serve: Serve, open_indexer: Open, make_chain: MakeChain
) -> None:
    chain = ScriptedChain()
    chain.mine(count=20)
    chain.mine(transaction(logs.emit(IDENTITY, logs.UPGRADED, implementation=account(1))))
    chain.mine(transaction(logs.emit(REPUTATION, logs.UPGRADED, implementation=account(2))))
    chain.mine(transaction(logs.emit(IDENTITY, logs.UPGRADED, implementation=account(3))))
    node = await serve(chain)
    unknown = {"start_block": None, "earliest": chain.blocks[10].time}

    await drain(open_indexer(node, **unknown))

    facts = make_chain(node, **unknown)
    async with database.transaction() as tx:
        status = await ChainService({facts.id: facts}).get(tx, facts.id)
    found = {registry: one.start_block for registry, one in status.registries.items()}
    assert found == {"identity": 21, "reputation": 22, "validation": 10}


async def test_a_registry_that_is_deployed_later_is_picked_up_and_its_first_code_is_no_alarm(
    database: Database, serve: Serve, open_indexer: Open, log_lines: Lines
) -> None:
    chain = make_scripted()
    node = await serve(chain)
    del node.versions[VALIDATION]
    node.undeployed.add(VALIDATION)
    indexer = open_indexer(node)
    await drain(indexer)
    node.versions[VALIDATION] = "2.0.0"
    node.undeployed.clear()
    chain.mine(transaction(logs.emit(VALIDATION, logs.UPGRADED, implementation=account(9))))

    await drain(indexer)

    assert await contents(database) == truth(chain)
    (line,) = [line for line in log_lines if line.get("code") == "CONTRACT_UPGRADED"]
    assert line["level"] == "INFO"
    assert await rows(database, "SELECT version FROM registry_contracts WHERE registry = 'validation'") == [("2.0.0",)]


async def test_a_later_owner_is_an_alarm_and_the_first_one_is_none(
    database: Database, serve: Serve, open_indexer: Open, log_lines: Lines
) -> None:
    chain = make_scripted()
    indexer = open_indexer(await serve(chain))
    await drain(indexer)
    owned = "OwnershipTransferred(address indexed previousOwner, address indexed newOwner)"
    first = logs.emit(VALIDATION, owned, previousOwner=logs.ZERO, newOwner=account(1))
    chain.mine(transaction(first, logs.emit(IDENTITY, owned, previousOwner=account(1), newOwner=account(2))))

    await drain(indexer)

    (line,) = [line for line in log_lines if line["event"] == "chain.ownership_transferred"]
    assert (line["level"], line["registry"], line["new_owner"]) == ("CRITICAL", "identity", account(2))


async def test_an_upgrade_counts_and_what_it_brings_is_kept_raw_while_indexing_goes_on(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = make_scripted()
    indexer = open_indexer(await serve(chain))
    await drain(indexer)
    before = counted("contract_upgrades_total", chain="84532")
    raw = counted("logs_undecoded_total", chain="84532", reason="unknown_topic")
    upgrade = logs.emit(REPUTATION, logs.UPGRADED, implementation=account(9))
    chain.mine(transaction(upgrade, logs.unknown(5), logs.registered(6)))

    await drain(indexer)

    assert counted("contract_upgrades_total", chain="84532") == before + 1
    assert counted("logs_undecoded_total", chain="84532", reason="unknown_topic") == raw + 1
    assert await contents(database) == truth(chain)
    assert await rows(database, "SELECT count(*) FROM events WHERE event_type = 'Upgraded'") == [(1,)]


async def test_an_old_layout_on_a_mainnet_is_kept_raw_and_told_as_an_error(
    database: Database, serve: Serve, open_indexer: Open, log_lines: Lines
) -> None:
    old = "UriUpdated(uint256 indexed agentId, string newURI, address indexed updatedBy)"
    chain = make_scripted()
    chain.mine(transaction(logs.emit(IDENTITY, old, agentId=1, newURI="ipfs://x", updatedBy=account(1))))

    await drain(open_indexer(await serve(chain), class_="mainnet"))

    (line,) = [line for line in log_lines if line["event"] == "chain.log_undecoded"]
    assert (line["level"], line["reason"]) == ("ERROR", "unknown_topic")
    assert await contents(database) == truth(chain)


def counted(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(f"agentauri_{name}", labels) or 0.0
