"""One event after another within a span: what is accepted, which pairs match, and that none matches twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentauri.database import Database
from agentauri.errors import Invalid
from agentauri.triggers import Evaluator
from agentauri.triggers.conditions import parse
from agentauri.triggers.editing import at, edited, merged, spelled
from agentauri.triggers.matching import necessary
from agentauri.types import EventSeq
from triggers.conftest import MakeEvaluator
from triggers.making import (
    ANY_EVENT,
    absence,
    agent,
    average,
    field,
    finish,
    insert_events,
    limit,
    make_trigger,
    sequence,
)
from triggers.making import matches as matches_of

NOON = 1_700_000_000
A, B = field("tag1", "eq", "a"), field("tag1", "eq", "b")


def faults(condition: object) -> dict[str, str]:
    with pytest.raises(Invalid) as refused:
        parse(condition)
    return {error.field: error.message for error in refused.value.errors}


async def happen(database: Database, evaluator: Evaluator, *story: tuple[str, int], **columns: Any) -> list[EventSeq]:
    """Events of agent 1, each with its tag and the seconds after noon, evaluated together."""
    seqs = []
    async with database.transaction() as tx:
        for tag, seconds in story:
            values: dict[str, Any] = {"tag1": tag, "timestamp": NOON + seconds} | columns
            seqs += await insert_events(tx, 1, **values)
    await finish(evaluator)
    return seqs


async def matched(database: Database, seqs: list[EventSeq]) -> list[int]:
    """The places of those that matched."""
    async with database.transaction() as tx:
        found = {seq for seq, _ in await matches_of(tx, seqs)}
    return [place for place, seq in enumerate(seqs) if seq in found]


@pytest.mark.parametrize(
    ("leaf", "path"),
    [
        ({"condition_type": "sequence"}, "config.within"),
        (sequence(A, B, "1w"), "config.within"),
        (sequence(None, B), "config.first"),
        (sequence(A, []), "config.then.all"),
        (sequence(A, field("colour", "eq", "b")), "config.then.field"),
        (sequence(A, average(1)), "config.then"),
        (sequence(A, {"any": [B, sequence(A, B)]}), "config.then"),
        (sequence(A, B, where=A), "config"),
        (sequence(A, B, scope="planet"), "config.scope"),
        (sequence(A, B) | {"operator": ">"}, "operator"),
        (sequence(A, B) | {"value": 3}, "value"),
        (sequence(A, B) | {"field": "score"}, "field"),
        (absence(A, None), "config.expect"),
        ({"condition_type": "absence", "config": {"first": A, "then": B, "within": "1h"}}, "config"),
    ],
)
def test_each_refusal_names_the_path_of_its_fault(leaf: object, path: str) -> None:
    assert list(faults([agent(1), leaf])) == [f"conditions[1].{path}"]


@pytest.mark.parametrize(
    ("condition", "path"),
    [
        ([{"any": [agent(1), absence(A, B)]}], "conditions[0].any[1]"),
        ([{"not": absence(A, B)}], "conditions[0].not"),
        ([agent(1), {"all": [absence(A, B)]}], "conditions[1].all[0]"),
        ([absence(A, B), absence(B, A)], "conditions[1]"),
        ([limit(1, reset_on_trigger=True), absence(A, B)], "conditions[1]"),
    ],
)
def test_an_absence_stands_alone_at_the_root(condition: object, path: str) -> None:
    assert list(faults(condition)) == [path]
    parse([agent(1), average(3), absence(A, B)])
    parse({"all": [absence(A, B)]})
    parse(absence(A, B))


def test_what_is_stored_is_read_back_as_it_was() -> None:
    made = parse([sequence(A, [B, agent(1)], scope=["chain_id"]), absence(A, {"not": B})], known={})

    again = parse(made.document)
    assert (again.nodes, again.document) == (made.nodes, made.document)
    assert len(made.shapes()) == 9


def test_another_span_or_condition_is_another_memory_and_the_same_is_the_same() -> None:
    made = parse([sequence(A, B) | {"id": 7}], known={7: parse([sequence(A, B)]).nodes[0].shape})  # type: ignore[union-attr]
    assert made.nodes[0].id == 7
    for other in (sequence(B, B), sequence(A, A), sequence(A, B, "2h"), sequence(A, B, scope="client")):
        assert parse([other | {"id": 7}], known=made.shapes()).nodes[0].id != 7


def test_events_of_both_sorts_are_found_by_the_index() -> None:
    assert necessary(parse([sequence(A, B)]).nodes) == frozenset({("tag1", "a"), ("tag1", "b")})
    assert necessary(parse([sequence(A, ANY_EVENT)]).nodes) is None


async def test_an_event_matches_when_one_came_before_it_within_the_span(
    database: Database, evaluator: Evaluator
) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [sequence(A, B, "60s") | {"id": 1}])

    seqs = await happen(database, evaluator, ("b", 0), ("a", 10), ("b", 70), ("a", 80), ("b", 141))
    assert await matched(database, seqs) == [2]
    async with database.transaction() as tx:
        context = await tx.fetchval("SELECT context::text FROM deliveries")
    assert context == f'{{"leaves": {{"1": {{"first_at": {NOON + 10}, "first_seq": {seqs[1]}}}}}}}'


async def test_each_first_event_serves_one_match_and_the_oldest_serves_first(
    database: Database, evaluator: Evaluator
) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [sequence(A, B, "60s")])

    first = await happen(database, evaluator, ("a", 0), ("a", 50))
    then = await happen(database, evaluator, ("b", 55), ("b", 100), ("b", 101))
    assert await matched(database, then) == [0, 1]
    async with database.transaction() as tx:
        served = await tx.fetch("SELECT event_seq, consumed_by FROM window_samples ORDER BY event_time")
    assert [tuple(row) for row in served] == [(first[0], then[0]), (first[1], then[1])]


async def test_within_a_second_block_and_log_say_what_came_first(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [sequence(A, B)])

    same = await happen(database, evaluator, ("b", 0), ("a", 0), ("b", 0), block_number=7)
    assert await matched(database, same) == []
    async with database.transaction() as tx:
        later = await insert_events(tx, 1, tag1="b", timestamp=NOON, block_number=7, log_index=1)
    await finish(evaluator)
    assert await matched(database, later) == [0]


async def test_an_event_of_both_sorts_ends_the_one_before_and_begins_the_next(
    database: Database, evaluator: Evaluator
) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [sequence(A, A, "60s")])

    seqs = await happen(database, evaluator, ("a", 0), ("a", 30), ("a", 60), ("a", 121), ("a", 122))
    assert await matched(database, seqs) == [1, 2, 4]


async def test_pasts_are_kept_apart_by_scope_and_across_chains_where_that_is_asked(
    database: Database, evaluator: Evaluator
) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [sequence(A, B, scope=["agent_id"])], chain_id=None, trigger_id="everywhere")
        await make_trigger(tx, [sequence(A, B)], chain_id=None, trigger_id="each")

    async with database.transaction() as tx:
        await insert_events(tx, 1, 2, tag1="a", timestamp=NOON, chain_id=1)
    await finish(evaluator)
    async with database.transaction() as tx:
        seqs = await insert_events(tx, 1, tag1="b", timestamp=NOON + 5, chain_id=2)
        seqs += await insert_events(tx, 3, tag1="b", timestamp=NOON + 5, chain_id=2)
    await finish(evaluator)
    async with database.transaction() as tx:
        assert await matches_of(tx, seqs) == [(seqs[0], "everywhere")]


async def test_an_event_that_is_evaluated_again_serves_no_second_time(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [sequence(A, B)])
    seqs = await happen(database, evaluator, ("a", 0), ("a", 1), ("b", 2))

    async with database.transaction() as tx:
        await tx.run("INSERT INTO event_queue (event_seq, chain_id, kind) VALUES ($1, 84532, 'assert')", seqs[2])
    await finish(evaluator)
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT count(*) FROM window_samples WHERE consumed_by IS NOT NULL") == 1
        assert await tx.fetchval("SELECT count(*) FROM deliveries") == 1


async def test_what_a_retracted_event_had_used_up_is_there_again(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [sequence(A, B)])
    gone = (await happen(database, evaluator, ("a", 0), ("b", 2)))[1]

    async with database.transaction() as tx:
        await tx.run("UPDATE events SET retracted_at = now() WHERE seq = $1", gone)
    await finish(evaluator)
    assert await matched(database, await happen(database, evaluator, ("b", 3), ("b", 4))) == [0]


async def test_two_evaluators_pair_the_events_of_two_chains_once(
    database: Database, make_evaluator: MakeEvaluator
) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [sequence(A, B, scope=["agent_id"])], chain_id=None)
        await insert_events(tx, *[1] * 10, tag1="a", timestamp=NOON, chain_id=1)
    one, other = make_evaluator(max_concurrent_events=3), make_evaluator(max_concurrent_events=4)
    await finish(one)
    async with database.transaction() as tx:
        seqs = []
        for chain in (1, 2):
            seqs += await insert_events(tx, *[1] * 8, tag1="b", timestamp=NOON + 1, chain_id=chain)

    await asyncio.gather(finish(one), finish(other))
    await finish(one)
    assert len(await matched(database, seqs)) == 10


def test_a_condition_within_one_is_changed_by_its_id() -> None:
    made = parse([sequence(A, B), absence(A, [B, agent(1)])], known={})
    [first, then] = (made.document[0]["config"][option]["id"] for option in ("first", "then"))
    [_, one] = made.document[1]["config"]["expect"]["all"]
    for number, path in (
        (first, "conditions[0].config.first"),
        (then, "conditions[0].config.then"),
        (one["id"], "conditions[1].config.expect.all[1]"),
    ):
        changed, found = edited(made.document, number, lambda node: merged(node, {"value": "9"}))
        assert (spelled(found), at(changed, found)["value"]) == (path, "9")
