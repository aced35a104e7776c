"""A chain's own word for what is final counts while it can be believed."""

from __future__ import annotations

import pytest

from agentauri.chain.finality import ASK_TAGS_AGAIN, STANDS_STILL, Finality
from agentauri.chain.node import Look
from agentauri.chain.types import Header
from agentauri.database import Database
from chains import logs
from chains.driving import Open, Serve, checkpoint, drain, network
from chains.scripted import ScriptedChain, transaction

HEAD = 100_000


def header(number: int) -> Header:
    return Header(number, f"0x{number:064x}", "0x", 2 * number, 0)


@pytest.fixture
def finality(monkeypatch: pytest.MonkeyPatch) -> Finality:
    clock = iter(range(0, 10**9, int(ASK_TAGS_AGAIN) + 1))
    monkeypatch.setattr("agentauri.chain.finality.time.monotonic", lambda: next(clock))
    return Finality(network(block_time=2.0))


def look(**final: int | None) -> Look:
    answers = {int(name[1:]) if name[0] == "b" else name: at for name, at in final.items()}
    return Look(header(HEAD), None, {name: None if at is None else header(at) for name, at in answers.items()})


def test_tags_are_asked_for_and_believed(finality: Finality) -> None:
    assert finality.questions(HEAD) == ("finalized", "safe")

    heads = finality.heads(look(finalized=HEAD - 500, safe=HEAD - 40))

    assert (heads.finalized, heads.safe, heads.head) == (HEAD - 500, HEAD - 40, HEAD)
    assert heads.finalized_hash == header(HEAD - 500).hash


@pytest.mark.parametrize("answer", [None, 0, HEAD - STANDS_STILL // 2 - 1])
def test_a_tag_that_does_not_answer_or_does_not_move_gives_way_to_the_depth_until_it_does(
    finality: Finality, answer: int | None
) -> None:
    finality.questions(HEAD)
    assert finality.heads(look(finalized=answer, safe=HEAD)).finalized is None

    assert finality.questions(HEAD) == ("finalized", "safe", HEAD - 64)
    heads = finality.heads(look(finalized=answer, safe=HEAD - 1, **{f"b{HEAD - 64}": HEAD - 64}))
    assert (heads.finalized, heads.safe) == (HEAD - 64, None)

    finality.questions(HEAD)
    heads = finality.heads(look(finalized=HEAD - 500, safe=HEAD - 40, **{f"b{HEAD - 64}": HEAD - 64}))
    assert (heads.finalized, heads.safe) == (HEAD - 500, HEAD - 40)
    assert finality.questions(HEAD) == ("finalized", "safe")


def test_a_final_block_above_the_head_is_none(finality: Finality) -> None:
    finality.questions(HEAD)

    heads = finality.heads(look(finalized=HEAD + 1, safe=HEAD + 1))

    assert (heads.finalized, heads.safe) == (None, None)


def test_a_chain_whose_settings_give_a_depth_is_never_asked(finality: Finality) -> None:
    by_depth = Finality(network(block_time=2.0, finality="depth"))

    assert by_depth.questions(HEAD) == (HEAD - 64,)
    assert by_depth.questions(10) == ()


async def test_a_node_that_begins_to_answer_tags_is_believed_again(
    database: Database, serve: Serve, open_indexer: Open, log_lines: list[dict[str, object]]
) -> None:
    chain = ScriptedChain()
    chain.mine(transaction(logs.registered(1)), count=300)
    node = await serve(chain)
    node.tags, node.finality_depth = False, 100
    indexer = open_indexer(node, finality_depth=64)
    await drain(indexer)
    await indexer.step()
    assert (await checkpoint(database))["finalized_number"] == 300 - 64

    node.tags = True
    chain.mine(count=200)
    indexer._finality._asked = indexer._finality._tags_asked = float("-inf")
    await drain(indexer)

    now = await checkpoint(database)
    assert (now["finalized_number"], now["safe_number"]) == (400, 450)
    told = [line["event"] for line in log_lines if str(line["event"]).startswith("chain.finality")]
    assert told == ["chain.finality_by_depth", "chain.finality_by_tags"]
