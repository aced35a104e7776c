"""Reputation registry: rules of feedback, and the summary as a figure to be equalled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from agentauri.demo import Account, LocalChain, Reverted

OWNER, CLIENT, A, B = (Account.number(n).address for n in (0, 1, 31, 32))
NONEXISTENT = bytes.fromhex("7e273289")
LARGEST = 10**38


async def summary(
    chain: LocalChain, agent_id: int, clients: Sequence[str] = (CLIENT,), tag1: str = "", tag2: str = ""
) -> tuple[Any, ...]:
    return await chain.read(chain.reputation_call("getSummary", agent_id, list(clients), tag1, tag2))


async def rated(chain: LocalChain, *entries: tuple[int, int], client: str = CLIENT, tag1: str = "") -> int:
    """A new agent with this feedback."""
    agent_id, _ = await chain.register()
    for value, decimals in entries:
        await chain.give_feedback(agent_id, value, decimals, tag1=tag1, client=client)
    return agent_id


async def test_indexes_count_from_one_for_each_agent_and_client(chain: LocalChain) -> None:
    first, _ = await chain.register()
    second, _ = await chain.register()

    receipts = [await chain.give_feedback(agent, 1, client=client) for agent, client in (
        (first, A), (first, A), (first, B), (second, A),
    )]  # fmt: skip

    assert [int.from_bytes(receipt.logs[0].data[:32], "big") for receipt in receipts] == [1, 2, 1, 1]
    assert await chain.read(chain.reputation_call("getLastIndex", first, A)) == (2,)
    assert await chain.read(chain.reputation_call("getLastIndex", first, OWNER)) == (0,)
    assert await chain.read(chain.reputation_call("getClients", first)) == ((A, B),)


@pytest.mark.parametrize(
    ("value", "decimals", "why"),
    [(1, 19, "too many decimals"), (LARGEST + 1, 0, "value too large"), (-LARGEST - 1, 18, "value too large")],
)
async def test_a_value_beyond_the_limits_is_refused(chain: LocalChain, value: int, decimals: int, why: str) -> None:
    agent_id, _ = await chain.register()

    with pytest.raises(Reverted, match=why):
        await chain.give_feedback(agent_id, value, decimals)


async def test_nobody_who_acts_for_an_agent_may_rate_it_at_that_moment(chain: LocalChain) -> None:
    agent_id, _ = await chain.register()
    await chain.send(chain.identity_call("approve", A, agent_id))
    await chain.send(chain.identity_call("setApprovalForAll", B, True))

    for client in (OWNER, A, B):
        with pytest.raises(Reverted, match="Self-feedback not allowed"):
            await chain.give_feedback(agent_id, 1, client=client)
    await chain.send(chain.identity_call("transferFrom", OWNER, CLIENT, agent_id))

    for former in (OWNER, A, B):
        await chain.give_feedback(agent_id, 1, client=former)


async def test_an_unknown_agent_cannot_be_rated(chain: LocalChain) -> None:
    with pytest.raises(Reverted) as refused:
        await chain.give_feedback(5, 1)

    assert refused.value.data[:4] == NONEXISTENT


async def test_tags_that_are_no_utf8_are_accepted(chain: LocalChain) -> None:
    agent_id, _ = await chain.register()

    receipt = await chain.give_feedback(agent_id, 1, tag1=b"\xff\xfe\x00x")

    assert b"\xff\xfe\x00x" in receipt.logs[0].data


async def test_only_the_client_revokes_and_only_once(chain: LocalChain) -> None:
    agent_id = await rated(chain, (1, 0))

    for index, client, why in (
        (0, CLIENT, "index must be > 0"),
        (2, CLIENT, "index out of bounds"),
        (1, A, "index out of bounds"),
    ):
        with pytest.raises(Reverted, match=why):
            await chain.revoke_feedback(agent_id, index, client=client)
    receipt = await chain.revoke_feedback(agent_id, 1)

    assert receipt.logs[0].topics[3] == (1).to_bytes(32, "big")
    with pytest.raises(Reverted, match="Already revoked"):
        await chain.revoke_feedback(agent_id, 1)
    entry = await chain.read(chain.reputation_call("readFeedback", agent_id, CLIENT, 1))
    assert entry == (1, 0, "", "", True)


async def test_anybody_responds_any_number_of_times_also_to_revoked_feedback(chain: LocalChain) -> None:
    agent_id = await rated(chain, (1, 0), (2, 0))
    await chain.revoke_feedback(agent_id, 1)

    for responder in (A, A, B):
        await chain.append_response(agent_id, 1, "ipfs://r", responder=responder)
    await chain.append_response(agent_id, 2, "ipfs://r", responder=A)

    async def count(client: str, index: int, *responders: str) -> int:
        call = chain.reputation_call("getResponseCount", agent_id, client, index, list(responders))
        return int((await chain.read(call))[0])

    nobody = "0x" + "00" * 20
    assert [await count(CLIENT, 1), await count(CLIENT, 1, A), await count(CLIENT, 1, A, A)] == [3, 2, 4]
    assert [await count(CLIENT, 0), await count(nobody, 2), await count(CLIENT, 9)] == [4, 4, 0]
    with pytest.raises(Reverted, match="Empty URI"):
        await chain.append_response(agent_id, 1, "")
    with pytest.raises(Reverted, match="index out of bounds"):
        await chain.append_response(agent_id, 3, "ipfs://r")


async def test_all_feedback_is_read_in_order_with_filters(chain: LocalChain) -> None:
    agent_id = await rated(chain, (1, 0), (2, 0), tag1="x")
    await chain.give_feedback(agent_id, 3, 1, tag1="y", client=A)
    await chain.revoke_feedback(agent_id, 1)

    async def values(clients: list[str], tag1: str, revoked: bool) -> list[tuple[str, int, int]]:
        call = chain.reputation_call("readAllFeedback", agent_id, clients, tag1, "", revoked)
        rows = await chain.read(call)
        assert len({len(column) for column in rows}) == 1
        return list(zip(*rows[:3], strict=True))

    assert await values([], "", True) == [(CLIENT, 1, 1), (CLIENT, 2, 2), (A, 1, 3)]
    assert await values([], "", False) == [(CLIENT, 2, 2), (A, 1, 3)]
    assert await values([A, A], "", False) == [(A, 1, 3), (A, 1, 3)]
    assert await values([], "x", False) == [(CLIENT, 2, 2)]


async def test_a_summary_needs_clients(chain: LocalChain) -> None:
    with pytest.raises(Reverted, match="clientAddresses required"):
        await summary(chain, 0, [])


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], (0, 0, 0)),
        ([(87, 0), (9977, 2), (8951, 2)], (3, 9209, 2)),
        ([(-1, 0), (-75, 2)], (2, 0, 0)),
        ([(LARGEST, 0), (0, 18), (0, 18)], (3, -886533759346574857640019685980940971, 18)),
        ([(85, 0), (90, 0), (40, 0)], (3, 71, 0)),
        ([(9977, 2), (85, 0)], (2, 92, 0)),
        ([(-32, 1), (-33, 1), (-33, 1)], (3, -32, 1)),
        ([(1, 0), (2, 0), (-5, 0)], (3, 0, 0)),
        ([(85, 0), (85, 0), (9977, 2)], (3, 89, 0)),
        ([(LARGEST, 0), (1, 18), (1, 18)], (3, -886533759346574857640019685980940970, 18)),
    ],
    ids=["none", "mixed", "tie", "wraps", "plain", "tie-2", "negative", "toward-zero", "commonest", "wraps-2"],
)
async def test_a_summary_is_the_mean_in_the_commonest_decimals_truncated_and_wrapped(
    chain: LocalChain, entries: list[tuple[int, int]], expected: tuple[int, int, int]
) -> None:
    agent_id = await rated(chain, *entries)

    assert await summary(chain, agent_id) == expected


async def test_a_summary_leaves_out_revoked_feedback_and_filters_tags_exactly(chain: LocalChain) -> None:
    agent_id = await rated(chain, (-32, 1), (-15, 1), (4, 0), (500, 1), tag1="tradingYield")
    await chain.revoke_feedback(agent_id, 4)

    assert await summary(chain, agent_id) == (3, -2, 1)
    await chain.give_feedback(agent_id, 99, tag1="starred")

    assert await summary(chain, agent_id) == (4, 24, 0)
    assert await summary(chain, agent_id, tag1="tradingYield") == (3, -2, 1)
    assert await summary(chain, agent_id, tag1="Starred") == (0, 0, 0)


async def test_a_client_named_twice_counts_twice_in_a_summary(chain: LocalChain) -> None:
    agent_id = await rated(chain, (10, 0), client=A)
    await chain.give_feedback(agent_id, 40, client=B)

    assert await summary(chain, agent_id, [A, A, B]) == (3, 20, 0)
    assert await summary(chain, agent_id, [A, B]) == (2, 25, 0)
