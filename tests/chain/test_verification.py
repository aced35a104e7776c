"""`chain verify`: what the self-check finds now, at every provider."""

from __future__ import annotations

import aiohttp
import pytest

from agentauri import console
from agentauri.app import Application, Stores, assemble
from agentauri.chain import Chain, Verdict, verify
from agentauri.config import Config
from chains import logs
from chains.driving import FAST, MakeChain, Serve
from chains.logs import IDENTITY, REPUTATION, VALIDATION, account
from chains.scripted import ScriptedChain, ScriptedNode, transaction


def make_scripted() -> ScriptedChain:
    chain = ScriptedChain()
    chain.mine(transaction(logs.registered(1)), count=100)
    return chain


async def judged(chain: ScriptedChain, *nodes: ScriptedNode, make_chain: MakeChain) -> list[Verdict]:
    async with aiohttp.ClientSession() as session:
        return await verify(make_chain(*nodes), session, FAST)


async def test_every_provider_is_looked_at_and_each_fault_comes_with_its_remedy(
    serve: Serve, make_chain: MakeChain
) -> None:
    chain = make_scripted()
    well, wrong, down, foreign, bare = [await serve(chain) for _ in range(5)]
    wrong.chain_id = 1
    down.down = True
    foreign.identity = account(7)
    del bare.versions[VALIDATION]
    bare.versions[REPUTATION] = "2.1.0"
    bare.tags = False

    found = await judged(chain, well, wrong, down, foreign, bare, make_chain=make_chain)

    assert [one.provider for one in found] == ["rpc-1", "rpc-2", "rpc-3", "rpc-4", "rpc-5"]
    assert [one.refused for one in found] == [False, True, True, True, False]
    assert found[0].findings == []
    assert "correct its URL in RPC_URLS_84532" in found[1].findings[0].message
    assert "does not answer" in found[2].findings[0].message
    assert "REPUTATION_ADDRESS_84532" in found[3].findings[0].message
    assert found[4].skipped == ["validation"]
    told = " ".join(finding.message for finding in found[4].findings)
    for part in ("has version 2.1.0", "there is no Validation registry", "set FINALITY_DEPTH_84532"):
        assert part in told
    assert all(node.url not in str(found) for node in (well, wrong, down, foreign, bare))


@pytest.mark.parametrize(("fault", "code"), [(None, 0), (VALIDATION, 1), (IDENTITY, 2)])
async def test_the_exit_code_tells_warnings_from_what_refuses(
    fault: str | None, code: int, config: Config, serve: Serve, make_chain: MakeChain
) -> None:
    node = await serve(make_scripted())
    if fault is not None:
        del node.versions[fault]
    assert config.database is not None
    assert config.redis is not None
    async with assemble(config, Stores(database=config.database, redis=config.redis, embedded=None)) as app:
        known(app, make_chain(node))
        lines, found = await console.verify_chains(app, None)

    assert found == code
    assert lines[0] == "84532 Base Sepolia"
    expected = {
        0: "  rpc-1: ok (identity 2.0.0, reputation 2.0.0, validation 2.0.0)",
        1: "  rpc-1: ok (identity 2.0.0, reputation 2.0.0); skipped: validation",
        2: "  rpc-1: refused",
    }
    assert lines[1] == expected[code]


async def test_a_chain_without_a_provider_names_the_variable(config: Config) -> None:
    assert config.database is not None
    assert config.redis is not None
    async with assemble(config, Stores(database=config.database, redis=config.redis, embedded=None)) as app:
        lines, code = await console.verify_chains(app, 8453)

    assert (lines, code) == (["8453 Base", "  no provider; RPC_URLS_8453=https://… names one"], 2)


async def test_the_list_names_every_network_and_what_is_known_of_it(
    config: Config, serve: Serve, make_chain: MakeChain
) -> None:
    node = await serve(make_scripted())
    assert config.database is not None
    assert config.redis is not None
    async with assemble(config, Stores(database=config.database, redis=config.redis, embedded=None)) as app:
        everything = await console.list_chains(app, configured_only=False)
        nothing = await console.list_chains(app, configured_only=True)
        known(app, make_chain(node))
        one = await console.list_chains(app, configured_only=True)

    assert len(everything) == 56
    assert nothing == []
    assert one == [("84532", "Base Sepolia", "testnet", "starting", "1", "tags", "")]
    assert ("10", "OP Mainnet", "mainnet", "disabled", "by time", "tags", "") in everything
    assert ("295", "Hedera", "mainnet", "disabled", "by time", "tags", "unconfirmed") in everything
    assert ("31337", "Hardhat local", "local", "disabled", "0", "1000 blocks", "") in everything


def known(app: Application, chain: Chain) -> None:
    """Have the application know this chain alone by its id, as settings would."""
    app.known_chains[chain.id] = chain
