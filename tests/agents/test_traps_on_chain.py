"""The ordering traps that contracts can produce, through real transactions, read by the real indexer.

After each story what is stored is what the contracts say, and what an independent replay of the events says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from agentauri.agents import sample
from agentauri.chain import Step, call_at, indexers, load_chains
from agentauri.config import Config, load
from agentauri.database import Database
from agentauri.demo import Account, LocalChain
from agentauri.demo.artifacts import artifact
from agentauri.demo.chain import Call
from agentauri.events import EventService
from agentauri.types import ChainId
from support.agents_replay import Replay, stored

OWNER, OTHER = (Account.number(number).address for number in (0, 5))
Caught = Callable[[], Awaitable[None]]


@pytest.fixture
async def chain() -> AsyncIterator[LocalChain]:
    async with LocalChain.start() as started:
        yield started


@pytest.fixture
async def catch_up(config: Config, chain: LocalChain, database: Database) -> AsyncIterator[Caught]:
    """Index what is new, and see to it that all who can tell say the same."""
    settings = {"DATABASE_URL": config.database.url.reveal(), "ENVIRONMENT": "development"}  # type: ignore[union-attr]
    ours = load(
        {**settings, **chain.settings, "REDIS_URL": "redis://nowhere", "AGENTAURI_DATA_DIR": str(config.data_dir)}
    )
    facts = load_chains(ours)[ChainId(chain.chain_id)]
    async with aiohttp.ClientSession() as session:
        [indexer] = indexers(database, EventService(), [facts], session, ours.rpc)

        async def caught_up() -> None:
            for _ in range(200):
                if await indexer.step() in (Step.CAUGHT_UP, Step.IDLE):
                    break
            async with database.transaction() as tx:
                now = await stored(tx)
                replay = Replay(chain.chain_id)
                for row in await tx.fetch(
                    "SELECT * FROM events WHERE retracted_at IS NULL ORDER BY block_number, log_index, seq"
                ):
                    replay.see(dict(row))
                expected = replay.rows()
                assert {table: now[table] for table in expected} == expected
            async with database.transaction() as tx:
                sampled = await sample(tx, facts.id, 100)
            assert sampled.block is not None
            calls = [(claim.registry, claim.data) for claim in sampled.claims]
            answers = await call_at(facts, session, ours.rpc, sampled.block, calls)
            pairs = zip(sampled.claims, answers, strict=True)
            assert [line for claim, answer in pairs if (line := claim.difference(answer))] == []

        yield caught_up


async def agents(database: Database) -> dict[int, dict[str, Any]]:
    async with database.transaction() as tx:
        return {int(row["agent_id"]): dict(row) for row in await tx.fetch("SELECT * FROM agents")}


async def minted_amid(chain: LocalChain, mint: Call, *calls: Call) -> str:
    """Have a contract mint, which makes these calls from the mint's callback; its address."""
    puppet = await chain.deploy("Puppet")

    def told(function: str, *what: Call) -> Call:
        return Call(puppet, artifact("Puppet"), function, ([(one.address, one.data) for one in what],), OWNER)

    await chain.send(told("prepare", *(one._replace(args=tuple(
        puppet if argument == "itself" else argument for argument in one.args)) for one in calls)))  # fmt: skip
    await chain.send(told("run", mint))
    return puppet


async def test_trap_1_feedback_and_updates_may_precede_registered(
    chain: LocalChain, catch_up: Caught, database: Database
) -> None:
    rater = await chain.deploy("Puppet")
    rate = chain.reputation_call("giveFeedback", 0, 5, 0, "", "", "", "", bytes(32))
    rated = Call(rater, artifact("Puppet"), "run", ([(rate.address, rate.data)],), OWNER)
    named = chain.identity_call("setMetadata", 0, "first", b"x")
    await minted_amid(chain, chain.identity_call("register", "https://a.example"), rated, named)
    await catch_up()

    agent = (await agents(database))[0]
    assert (agent["agent_uri"], agent["feedback_count"]) == ("https://a.example", 1)


async def test_trap_2_an_agent_may_be_passed_on_before_it_is_registered(
    chain: LocalChain, catch_up: Caught, database: Database
) -> None:
    pass_on = chain.identity_call("transferFrom", "itself", OTHER, 0)
    await minted_amid(chain, chain.identity_call("register", "https://a.example"), pass_on)
    await catch_up()

    agent = (await agents(database))[0]
    assert (agent["owner"], agent["agent_wallet"]) == (OTHER, None), "and trap 4: the wallet logged last is old news"


async def test_trap_3_a_uri_set_while_registering_without_one_stays(
    chain: LocalChain, catch_up: Caught, database: Database
) -> None:
    set_uri = chain.identity_call("setAgentURI", 0, "ipfs://set")
    await minted_amid(chain, chain.identity_call("register"), set_uri)
    set_other = chain.identity_call("setAgentURI", 1, "ipfs://set")
    await minted_amid(chain, chain.identity_call("register", ""), set_other)
    await catch_up()

    assert [one["agent_uri"] for one in (await agents(database)).values()] == ["ipfs://set", ""]


async def test_trap_4_a_wallet_unset_while_registering_stays_unset(
    chain: LocalChain, catch_up: Caught, database: Database
) -> None:
    await minted_amid(chain, chain.identity_call("register"), chain.identity_call("unsetAgentWallet", 0))
    await catch_up()

    assert (await agents(database))[0]["agent_wallet"] is None


async def test_traps_5_and_6_a_transfer_ends_wallet_and_approval(
    chain: LocalChain, catch_up: Caught, database: Database
) -> None:
    agent, _ = await chain.register("https://a.example")
    await chain.send(chain.identity_call("approve", OTHER, agent))
    await chain.send(chain.identity_call("setApprovalForAll", OTHER, True))
    await catch_up()
    assert (await agents(database))[agent]["approved"] == OTHER

    await chain.send(chain.identity_call("transferFrom", OWNER, OWNER, agent))
    await catch_up()
    row = (await agents(database))[agent]
    assert (row["owner"], row["agent_wallet"], row["approved"]) == (OWNER, None, None)
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT approved_block FROM agent_operators") is not None


async def test_trap_7_a_registration_within_a_registration(
    chain: LocalChain, catch_up: Caught, database: Database
) -> None:
    await minted_amid(
        chain, chain.identity_call("register", "ipfs://outer"), chain.identity_call("register", "ipfs://inner")
    )
    await catch_up()

    assert [one["agent_uri"] for one in (await agents(database)).values()] == ["ipfs://outer", "ipfs://inner"]


async def test_traps_8_and_16_agents_share_a_wallet_and_a_uri_until_one_is_told_another(
    chain: LocalChain, catch_up: Caught, database: Database
) -> None:
    first, _ = await chain.register("https://a.example")
    second, _ = await chain.register("https://a.example")
    await catch_up()
    assert {(one["agent_uri"], one["agent_wallet"]) for one in (await agents(database)).values()} == {
        ("https://a.example", OWNER)
    }

    told = await chain.send(chain.identity_call("setAgentURI", first, "https://b.example"))
    await catch_up()

    assert len(told.logs) == 2  # a hint that the document changed, then where it is
    uris = {agent: one["agent_uri"] for agent, one in (await agents(database)).items()}
    assert uris == {first: "https://b.example", second: "https://a.example"}


async def test_traps_10_to_13_feedback_and_validations_of_agent_zero(
    chain: LocalChain, catch_up: Caught, database: Database
) -> None:
    agent, _ = await chain.register()
    for value in (0, -5, 12):
        await chain.give_feedback(agent, value, 1, tag1="starred")
    await chain.revoke_feedback(agent, 2)
    await chain.append_response(agent, 2, "ipfs://late")
    await chain.append_response(agent, 2, "ipfs://later")
    await chain.request_validation(agent, "", bytes(32))
    await chain.respond_validation(bytes(32), 0)
    await chain.respond_validation(bytes(32), 100)
    await catch_up()

    row = (await agents(database))[agent]
    assert (agent, row["feedback_count"], row["client_count"], row["validation_count"]) == (0, 3, 1, 1)


async def test_trap_15_a_reorg_undoes_and_moves(chain: LocalChain, catch_up: Caught, database: Database) -> None:
    agent, _ = await chain.register("https://a.example")
    await catch_up()
    kept = await chain.give_feedback(agent, 5)
    await chain.give_feedback(agent, 6)
    await chain.send(chain.identity_call("transferFrom", OWNER, OTHER, agent))
    await catch_up()
    await chain.reorg(3, {kept.transaction_hash: 2})
    await chain.mine()
    await catch_up()

    row = (await agents(database))[agent]
    assert (row["owner"], row["feedback_count"]) == (OWNER, 1)
