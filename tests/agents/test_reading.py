"""What is told of agents: lists by every filter and order, details, and sums."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from agentauri.agents import (
    AgentFilter,
    AgentNotFound,
    AgentReader,
    FeedbackFilter,
    Summary,
    ValidationFilter,
    listing,
)
from agentauri.database import Transaction
from agentauri.errors import Invalid
from agentauri.types import ChainId, Page

BASE, MAIN = ChainId(8453), ChainId(1)
ALICE, BOB = "0x" + "a" * 40, "0x" + "b" * 40
reader = AgentReader()


async def insert(tx: Transaction, table: str, **columns: object) -> None:
    names = ", ".join(columns)
    places = ", ".join(f"${place}" for place in range(1, len(columns) + 1))
    await tx.run(f"INSERT INTO {table} ({names}) VALUES ({places})", *columns.values())


async def add_agent(tx: Transaction, agent_id: int, chain: ChainId = BASE, **columns: Any) -> None:
    values = {"owner": ALICE, "agent_uri": "", "registered_block": 1, "registered_time": 1000 + agent_id}
    values |= {"updated_block": 1, "updated_log": 0, "updated_time": 2000 - agent_id}
    await insert(tx, "agents", chain_id=chain, agent_id=agent_id, **(values | columns))


async def add_feedback(tx: Transaction, agent_id: int, index: int, value: int = 80, **columns: Any) -> None:
    decimals = columns.get("value_decimals") or 0
    values = {
        "chain_id": BASE, "client_address": ALICE, "value_raw": value, "value_decimals": 0, "tag1": "", "tag2": "",
        "score": Decimal(value).scaleb(-decimals), "revoked": False, "block_number": index, "log_index": 0,
        "block_time": 1000 + index, "transaction_hash": f"0x{index}", "event_seq": index, "incomplete": False,
    }  # fmt: skip
    await insert(tx, "feedback", agent_id=agent_id, feedback_index=index, **(values | columns))


async def add_validation(tx: Transaction, request_hash: str, **columns: Any) -> None:
    values = {"chain_id": BASE, "agent_id": 1, "validator_address": BOB, "request_uri": "", "requested_block": 1}
    values |= {"requested_log": 0, "requested_time": 1000, "tag": "", "incomplete": False}
    await insert(tx, "validations", request_hash=request_hash, **(values | columns))


async def ids(tx: Transaction, page: Page | None = None, **wanted: Any) -> list[int]:
    found = await reader.list(tx, AgentFilter(**wanted), page or Page(limit=100))
    return [int(agent.agent_id) for agent in found.data]


async def test_agents_are_listed_by_each_order(tx: Transaction) -> None:
    for agent in (0, 1, 2):
        await add_agent(tx, agent, feedback_count=agent % 2)
    await add_agent(tx, 3, MAIN, feedback_count=1)

    assert await ids(tx) == [3, 2, 1, 0]
    assert await ids(tx, order="asc") == [0, 1, 2, 3]
    assert await ids(tx, sort="updated_at") == [0, 1, 2, 3]
    assert await ids(tx, sort="feedback_count") == [3, 1, 2, 0]
    assert await ids(tx, sort="feedback_count", order="asc") == [0, 2, 1, 3]


async def test_an_agent_whose_registration_was_not_seen_is_the_oldest(tx: Transaction) -> None:
    await add_agent(tx, 1)
    await add_agent(tx, 2, owner=None, agent_uri=None, registered_block=None, registered_time=None)

    assert await ids(tx) == [1, 2]
    assert (await reader.list(tx, AgentFilter(order="asc"), Page(limit=1))).data[0].registered_at is None


async def test_agents_are_filtered(tx: Transaction) -> None:
    await add_agent(tx, 1, agent_wallet=BOB)
    await add_agent(tx, 2, owner=BOB, feedback_count=1)
    await add_agent(tx, 3, MAIN)

    assert await ids(tx, chain_ids=(BASE,)) == [2, 1]
    assert await ids(tx, chain_ids=(BASE, MAIN)) == [3, 2, 1]
    assert await ids(tx, chain_ids=(ChainId(5),)) == []
    assert await ids(tx, owner=ALICE) == [3, 1]
    assert await ids(tx, wallet=BOB) == [1]
    assert await ids(tx, has_feedback=True) == [2]
    assert await ids(tx, has_feedback=False) == [3, 1]
    assert await ids(tx, registered_since=1002) == [3, 2]
    assert await ids(tx, updated_since=1999) == [1]
    assert await ids(tx, owner=ALICE, chain_ids=(MAIN,), has_feedback=False) == [3]


@pytest.mark.parametrize("rare", [0, listing.RARE])
async def test_agents_are_found_by_a_tag_of_unrevoked_feedback(
    tx: Transaction, rare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "RARE", rare)
    for agent in (1, 2, 3):
        await add_agent(tx, agent)
    await add_feedback(tx, 1, 1, tag1="uptime")
    await add_feedback(tx, 2, 2, tag1="uptime", revoked=True)
    await add_feedback(tx, 3, 3, tag1="Uptime")
    await add_feedback(tx, 3, 4, tag1="x" * 300)

    assert await ids(tx, tag="uptime") == [1]
    assert await ids(tx, tag="Uptime") == [3]
    assert await ids(tx, tag="x" * 300) == [3]
    assert await ids(tx, tag="x" * 299) == []


@pytest.mark.parametrize("rare", [0, listing.RARE])
async def test_the_least_score_is_one_of_the_mean_of_a_tag_exactly(
    tx: Transaction, rare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "RARE", rare)
    await add_agent(tx, 1)
    for index, value in enumerate((1, 1, 0), start=1):
        await add_feedback(tx, 1, index, value, tag1="t")
    await add_feedback(tx, 1, 4, 100, tag1="t", revoked=True)
    await add_feedback(tx, 1, 5, 100, tag1="other")

    assert await ids(tx, tag="t", min_score=Decimal("0.6666666666666666666666")) == [1]
    assert await ids(tx, tag="t", min_score=Decimal("0.6666666666666666666667")) == []
    assert await ids(tx, tag="none", min_score=Decimal(-1)) == []


async def test_agents_are_searched_by_id_address_and_beginnings_of_words(tx: Transaction) -> None:
    await add_agent(tx, 1, agent_wallet=BOB)
    await add_agent(tx, 42, owner=BOB)
    await tx.run("INSERT INTO agent_words SELECT $1, 1, text_words('https://Weather.example/agent')", BASE)
    await insert(
        tx, "agent_metadata", chain_id=BASE, agent_id=42, key="name", value=b"x", value_text="Weather bot",
        updated_block=1,
    )  # fmt: skip

    assert await ids(tx, search="42") == [42]
    assert await ids(tx, search=BOB.upper().replace("X", "x")) == [42, 1]
    assert await ids(tx, search="weath") == [42, 1]
    assert await ids(tx, search="weather bot") == [42]
    assert await ids(tx, search="nothing") == []
    for hostile in ("%%", "' & '", "\\", "::", "<->", "日本"):
        assert await ids(tx, search=hostile) == []


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("sort", ["registered_at", "updated_at", "feedback_count"])
async def test_pages_by_cursor_neither_repeat_nor_skip(tx: Transaction, sort: Any, order: Any) -> None:
    for agent in range(20):
        await add_agent(tx, agent, (BASE, MAIN)[agent % 2], registered_time=agent // 6, feedback_count=agent % 3)
    await add_agent(tx, 3, BASE, registered_time=0, feedback_count=0)  # on both chains
    there = {(agent.chain_id, agent.agent_id) for agent in (await reader.list(tx, AgentFilter(), Page(limit=100))).data}
    wanted, seen, cursor = AgentFilter(sort=sort, order=order), [], None
    for number in range(100, 200):
        page = await reader.list(tx, wanted, Page(limit=3, cursor=cursor))
        seen += [(agent.chain_id, agent.agent_id) for agent in page.data]
        if (cursor := page.next_cursor) is None:
            break
        await add_agent(tx, number, registered_time=number % 5, updated_time=number % 7, feedback_count=number % 4)

    assert len(seen) == len(set(seen))
    assert there <= set(seen)


async def test_a_cursor_of_another_list_is_refused(tx: Transaction) -> None:
    for agent in (1, 2):
        await add_agent(tx, agent, owner=ALICE)
    cursor = (await reader.list(tx, AgentFilter(), Page(limit=1))).next_cursor

    for wanted in (AgentFilter(order="asc"), AgentFilter(owner=ALICE)):
        with pytest.raises(Invalid):
            await reader.list(tx, wanted, Page(limit=1, cursor=cursor))


async def test_a_detail_sums_up_each_tag_exactly(tx: Transaction) -> None:
    await add_agent(tx, 1)
    for index, value in enumerate((1, 1, -2, 4), start=1):
        await add_feedback(tx, 1, index, value, tag1="a" if index < 4 else "b", client_address=(ALICE, BOB)[index % 2])
    await add_feedback(tx, 1, 5, 50, tag1="a", revoked=True, value_decimals=1)
    await add_feedback(tx, 1, 6, 1, tag1="", value_decimals=18)
    await add_feedback(tx, 1, 7, tag1=None, value_raw=None, score=None, incomplete=True)

    detail = await reader.detail(tx, BASE, 1)

    assert (detail.feedback.count, detail.feedback.active, detail.feedback.revoked) == (6, 5, 1)
    assert detail.feedback.clients == 2
    by_tag = {one.tag1: (one.count, one.clients, one.mean, one.min, one.max) for one in detail.feedback.by_tag1}
    assert by_tag["a"] == (3, 2, "0", "-2", "1")
    assert by_tag["b"] == (1, 1, "4", "4", "4")
    assert by_tag[""][2] == "0.000000000000000001"
    assert detail.feedback.by_tag1[0].tag1 == "a"


async def test_a_mean_without_an_end_is_rounded_far_behind_the_point(tx: Transaction) -> None:
    await add_agent(tx, 1)
    for index, value in enumerate((10**38, 0, 1), start=1):
        await add_feedback(tx, 1, index, value)

    (tag,) = (await reader.detail(tx, BASE, 1)).feedback.by_tag1

    assert tag.mean == "3" * 38 + "." + "6" * 35 + "7"


async def test_a_cleared_key_is_as_if_it_had_never_been_set(tx: Transaction) -> None:
    await add_agent(tx, 1)
    for key, value in (("b", b""), ("a", b"\xff")):
        await insert(
            tx, "agent_metadata", chain_id=BASE, agent_id=1, key=key, value=value, value_text=None, updated_block=7
        )

    (metadata,) = (await reader.detail(tx, BASE, 1)).metadata

    assert (metadata.key, metadata.value, metadata.text, metadata.updated_block) == ("a", "0xff", None, 7)


async def test_feedback_is_listed_with_the_responses_to_it(tx: Transaction) -> None:
    await add_agent(tx, 1)
    await add_feedback(tx, 1, 1, -9977, value_decimals=2, tag1="a")
    await add_feedback(tx, 1, 2, tag1="b", client_address=BOB)
    await add_feedback(tx, 1, 3, revoked=True)
    await add_feedback(tx, 1, 4, incomplete=True, block_number=None)
    for seq, index in enumerate((1, 1), start=1):
        await insert(
            tx, "feedback_responses", event_seq=seq, chain_id=BASE, agent_id=1, client_address=ALICE,
            feedback_index=index, responder=BOB, response_uri=f"ipfs://{seq}", block_number=5, log_index=seq,
            block_time=1, transaction_hash="0xr",
        )  # fmt: skip

    async def listed(**wanted: Any) -> list[str]:
        found = await reader.feedback(tx, BASE, 1, FeedbackFilter(**wanted), Page())
        return [one.feedback_index for one in found.data]

    assert await listed() == ["2", "1"]
    assert await listed(order="asc") == ["1", "2"]
    assert await listed(include_revoked=True) == ["3", "2", "1"]
    assert await listed(client=BOB) == ["2"]
    assert await listed(tag1="a", tag2="") == ["1"]
    (first,) = (await reader.feedback(tx, BASE, 1, FeedbackFilter(tag1="a"), Page())).data
    assert (first.value_raw, first.score) == ("-9977", "-99.77")
    assert [response.response_uri for response in first.responses] == ["ipfs://1", "ipfs://2"]
    assert first.more_responses is False


async def test_validations_are_listed_with_their_answers(tx: Transaction) -> None:
    await add_agent(tx, 1)
    await add_validation(tx, "0x1", requested_block=5, response=0, responses=2)
    await add_validation(tx, "0x2", requested_block=6, validator_address=ALICE)
    await add_validation(tx, "0x3", requested_block=None, requested_log=None, requested_time=None, response=9)
    for seq, response in enumerate((100, 0), start=1):
        await insert(
            tx, "validation_responses", event_seq=seq, chain_id=BASE, agent_id=1, request_hash="0x1",
            response=response, tag="hard", block_number=7, log_index=seq, block_time=1, transaction_hash="0xr",
        )  # fmt: skip

    async def listed(page: Page | None = None, **wanted: Any) -> list[str]:
        found = await reader.validations(tx, BASE, 1, ValidationFilter(**wanted), page or Page())
        return [one.request_hash for one in found.data]

    assert await listed() == ["0x2", "0x1", "0x3"]
    assert await listed(answered=False) == ["0x2"]
    assert await listed(answered=True) == ["0x1", "0x3"]
    assert await listed(validator=ALICE) == ["0x2"]
    first = await reader.validations(tx, BASE, 1, ValidationFilter(), Page(limit=2))
    assert await listed(Page(limit=2, cursor=first.next_cursor)) == ["0x3"]
    assert [answer.response for answer in first.data[1].responses] == [100, 0]


async def test_a_summary_leaves_out_what_the_contract_does(tx: Transaction) -> None:
    await add_agent(tx, 1, client_count=2)
    await add_feedback(tx, 1, 1, 10, tag1="a")
    await add_feedback(tx, 1, 2, 500, tag1="a", revoked=True)
    await add_feedback(tx, 1, 3, 40, client_address=BOB, tag2="b")
    await add_feedback(tx, 1, 4, incomplete=True, value_raw=None, value_decimals=None)

    async def said(*clients: str, tag1: str = "", tag2: str = "") -> Summary:
        return (await reader.reputation(tx, BASE, 1, clients, tag1, tag2))[0]

    assert await said(ALICE, BOB) == Summary(2, 25, 0)
    assert await said(ALICE, ALICE, BOB) == Summary(3, 20, 0)
    assert await said(ALICE, BOB, tag1="a") == Summary(1, 10, 0)
    assert await said(ALICE, BOB, tag1="A") == Summary(0, 0, 0)
    assert await said(BOB, tag2="b") == Summary(1, 40, 0)
    assert await said("0x" + "c" * 40) == Summary(0, 0, 0)
    assert await reader.reputation(tx, BASE, 1, None, "", "") == (Summary(2, 25, 0), 2)


async def test_a_validation_counts_by_its_last_answer(tx: Transaction) -> None:
    await add_agent(tx, 1)
    for number, (response, tag, validator) in enumerate(
        ((100, "a", ALICE), (67, "", BOB), (0, "a", BOB), (None, None, BOB))
    ):
        await add_validation(tx, f"0x{number}", response=response, tag=tag, validator_address=validator)

    async def said(*validators: str, tag: str = "") -> tuple[int, int]:
        found = await reader.validation_summary(tx, BASE, 1, validators, tag)
        return found.count, found.average

    assert await said() == (3, 55)
    assert await said(BOB, BOB) == (2, 33)
    assert await said(tag="a") == (2, 50)
    assert await said(BOB, tag="A") == (0, 0)
    counts = (await reader.detail(tx, BASE, 1)).validations
    assert (counts.requests, counts.answered, counts.average) == (4, 3, "55." + "6" * 35 + "7")


async def test_of_an_agent_that_is_not_known_nothing_is_told(tx: Transaction) -> None:
    with pytest.raises(AgentNotFound):
        await reader.detail(tx, BASE, 2**256 - 1)
    with pytest.raises(AgentNotFound):
        await reader.feedback(tx, BASE, 1, FeedbackFilter(), Page())
    with pytest.raises(AgentNotFound):
        await reader.reputation(tx, BASE, 1, None, "", "")
