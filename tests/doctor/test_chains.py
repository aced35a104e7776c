"""Chains that do not move: found in a running installation, and set going as printed."""

from __future__ import annotations

import time

import pytest

from agentauri.doctor import CheckResult
from chains import logs
from chains.scripted import ScriptedChain, ScriptedNode, transaction
from doctor.house import House
from support.processes import until
from support.receiver import Receiver

CHAIN = "indexer:84532"
QUICK = {"START_BLOCK_84532": "1", "RPC_REQUESTS_PER_SECOND": "1000"}


async def told(house: House, words: str) -> CheckResult:
    """What is said of the chain, once these words are in it."""
    found: dict[str, CheckResult] = {}

    async def there() -> bool:
        found.update(await house.doctor("indexer"))
        return CHAIN in found and words in found[CHAIN].finding

    await until(there, 30, f"'{words}' to be said of the chain")
    return found[CHAIN]


async def test_a_chain_is_asked_for_where_there_is_none(house: House, receiver: Receiver) -> None:
    await house.stand(**QUICK)
    chain = ScriptedChain(start_time=int(time.time()))
    async with ScriptedNode.serve(chain) as node:
        found = await house.mend("indexer", answers=f"{node.url}\n")
        assert found.finding == "no chain is configured"
        await house.make_trigger(receiver)

        chain.mine(transaction(logs.registered(house.agent)))
        await told(house, "Latest indexed block: 1, Current chain block: 1")


@pytest.mark.soak
async def test_a_provider_that_limits_or_does_not_answer_is_given_a_second(house: House) -> None:
    chain = ScriptedChain(start_time=int(time.time()))
    async with ScriptedNode.serve(chain) as node, ScriptedNode.serve(chain) as other:
        node.throttled = True
        await house.stand(RPC_URLS_84532=node.url, **QUICK)
        chain.mine(transaction(logs.registered(1)))
        await told(house, "")

        await house.mend(CHAIN, answers=f"{other.url}\n")

        assert f"RPC_URLS_84532={node.url},{other.url}" in (house.folder / ".env").read_text()


@pytest.mark.soak
async def test_a_chain_whose_past_changed_is_reset_and_read_again(house: House) -> None:
    chain = ScriptedChain(start_time=int(time.time()))
    async with ScriptedNode.serve(chain) as node:
        node.finality_depth = 2
        await house.stand(RPC_URLS_84532=node.url, **QUICK)
        for agent in range(8):
            chain.mine(transaction(logs.registered(agent)))
        await told(house, "Latest indexed block: 8, Current chain block: 8")
        chain.fork(6)
        for agent in range(9):
            chain.mine(transaction(logs.registered(agent)))

        found = await told(house, "halted")
        assert found.fix == "agentauri chain reset --chain 84532"
        await house.mend(CHAIN)

        await told(house, "Latest indexed block: 11, Current chain block: 11")


@pytest.mark.soak
async def test_a_chain_that_falls_behind_is_told_with_its_blocks(house: House) -> None:
    await house.stand(RPC_URLS_84532="http://127.0.0.1:1")
    await house.stop("event-processor")
    await house.sql(
        """INSERT INTO checkpoints (chain_id, last_block_number, last_block_hash, last_block_time, first_block,
                                    head_number, status)
           VALUES (84532, 100, '0x', extract(epoch FROM now())::bigint - 9000, 1, 99999, 'backfill')
           ON CONFLICT (chain_id) DO UPDATE SET (last_block_number, last_block_time, head_number, status) =
               (excluded.last_block_number, excluded.last_block_time, excluded.head_number, excluded.status)"""
    )

    found = (await house.doctor("indexer"))[CHAIN]

    assert found.result == "fail"
    assert found.finding.startswith("Indexer appears stuck or is catching up: 900")
    assert "Latest indexed block: 100, Current chain block: 99999" in found.finding
    assert found.fix == "docker compose restart event-processor"
