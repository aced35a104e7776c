"""The local chain that tests, benches and the demo share: blocks, forks and logs that no contract would emit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentauri.demo import Account, AnvilMissing, LocalChain, Receipt, Reverted, find_anvil


@pytest.fixture
async def chain() -> AsyncIterator[LocalChain]:
    async with LocalChain.start() as started:
        yield started


async def block(chain: LocalChain, number: int) -> dict[str, object]:
    found: dict[str, object] = await chain.rpc("eth_getBlockByNumber", hex(number), False)
    return found


async def logs_of(chain: LocalChain, receipt: Receipt) -> list[int]:
    """The heights of the logs of this transaction, as the chain now has them."""
    logs = await chain.rpc("eth_getLogs", {"fromBlock": "0x0"})
    return [int(log["blockNumber"], 16) for log in logs if log["transactionHash"] == receipt.transaction_hash]


async def test_a_transaction_makes_a_block_of_its_own(chain: LocalChain) -> None:
    before = await chain.head()

    agent_id, minted = await chain.register()
    receipt = await chain.give_feedback(agent_id, 1)

    assert [minted.block_number, receipt.block_number] == [before + 1, before + 2]


async def test_calls_sent_together_share_a_block_in_their_order(chain: LocalChain) -> None:
    agent_id, _ = await chain.register()
    args = (agent_id, 5, 0, "", "", "", "", bytes(32))
    calls = [chain.reputation_call("giveFeedback", *args, sender=Account.number(n).address) for n in range(5, 15)]

    receipts = await chain.send_together(calls)

    assert {receipt.block_number for receipt in receipts} == {await chain.head()}
    assert [receipt.logs[0].log_index for receipt in receipts] == list(range(10))
    assert (await chain.give_feedback(agent_id, 1)).block_number == await chain.head()


async def test_a_reorg_drops_what_was_in_the_blocks_it_replaces(chain: LocalChain) -> None:
    agent_id, _ = await chain.register()
    receipt = await chain.give_feedback(agent_id, 1)
    parent, replaced = await block(chain, receipt.block_number - 1), await block(chain, receipt.block_number)

    await chain.reorg(1)

    now = await block(chain, receipt.block_number)
    assert await chain.head() == receipt.block_number
    assert now["parentHash"] == parent["hash"]
    assert now["hash"] != replaced["hash"]
    assert await logs_of(chain, receipt) == []


async def test_a_kept_transaction_moves_to_another_block_under_its_own_hash(chain: LocalChain) -> None:
    agent_id, _ = await chain.register()
    receipt = await chain.give_feedback(agent_id, 1)
    await chain.mine(2)

    await chain.reorg(3, {receipt.transaction_hash: 2})

    assert await logs_of(chain, receipt) == [receipt.block_number + 2]


async def test_a_reorg_makes_new_blocks_even_of_the_same_content(chain: LocalChain) -> None:
    agent_id, _ = await chain.register()
    receipt = await chain.give_feedback(agent_id, 1)

    hashes = {receipt.block_hash}
    for _ in range(3):
        await chain.reorg(1, {receipt.transaction_hash: 0})
        hashes.add(str((await block(chain, receipt.block_number))["hash"]))

    assert len(hashes) == 4
    assert await logs_of(chain, receipt) == [receipt.block_number]


async def test_time_goes_back_by_rollback_and_by_snapshot(chain: LocalChain) -> None:
    snapshot, head = await chain.snapshot(), await chain.head()
    await chain.register()
    await chain.mine(3)

    await chain.rollback(2)
    assert await chain.head() == head + 2
    await chain.revert(snapshot)
    assert await chain.head() == head


async def test_any_log_can_be_emitted_from_a_registry_and_leaves_it_as_it_was(chain: LocalChain) -> None:
    topics = [bytes([n]) * 32 for n in range(4)]

    receipt = await chain.emit(chain.identity, ([], b""), (topics[:1], b"x"), (topics, b"y" * 100))

    assert [(log.topics, log.data) for log in receipt.logs] == [
        ((), b""),
        ((topics[0],), b"x"),
        (tuple(topics), b"y" * 100),
    ]
    assert {log.address for log in receipt.logs} == {chain.identity}
    assert (await chain.register()).agent_id == 0


async def test_a_refusal_by_a_contract_tells_its_reason(chain: LocalChain) -> None:
    with pytest.raises(Reverted, match=r"^unknown$"):
        await chain.respond_validation(bytes(32), 1)


def test_the_node_is_taken_from_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "my anvil"
    program.touch(mode=0o755)
    monkeypatch.setenv("AGENTAURI_ANVIL", str(program))
    assert find_anvil() == program

    program.chmod(0o644)
    with pytest.raises(AnvilMissing, match="AGENTAURI_ANVIL"):
        find_anvil()


def test_without_a_node_the_error_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTAURI_ANVIL", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("agentauri.demo.anvil.CHECKOUT", tmp_path)

    with pytest.raises(AnvilMissing, match=r"npm ci.*AGENTAURI_ANVIL"):
        find_anvil()
