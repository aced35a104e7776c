"""What is a condition and what is refused, with the path of each fault."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from agentauri.chain.registries import CURRENT
from agentauri.errors import Invalid
from agentauri.triggers import EVENT_TYPES
from agentauri.triggers.conditions import parse
from agentauri.triggers.matching import compile_nodes
from triggers.making import agent, field, make_event


def holds(condition: object, **event: Any) -> bool:
    return compile_nodes(parse(condition).nodes)(make_event(**event))


def faults(condition: object, **options: Any) -> dict[str, str]:
    with pytest.raises(Invalid) as refused:
        parse(condition, **options)
    return {error.field: error.message for error in refused.value.errors}


@pytest.mark.parametrize(
    ("leaf", "event", "verdict"),
    [
        (agent(42), {"agent_id": 42}, True),
        (agent(42), {"agent_id": 0}, False),
        (agent(0), {"agent_id": 0}, True),
        (agent(0), {}, False),
        (agent(42) | {"operator": "ne"}, {"agent_id": 42}, False),
        (agent(42) | {"operator": "ne"}, {"agent_id": 0}, True),
        (agent(42) | {"operator": "ne"}, {}, False),
        ({"condition_type": "score_threshold", "operator": ">=", "value": 80}, {"score": Decimal(80)}, True),
        ({"condition_type": "score_threshold", "operator": ">", "value": 60.5}, {"score": Decimal("60.51")}, True),
        ({"condition_type": "score_threshold", "operator": ">", "value": "60.5"}, {"score": Decimal("60.5")}, False),
        ({"condition_type": "score_threshold", "operator": "<", "value": "1"}, {}, False),
        ({"condition_type": "score_threshold", "operator": "ne", "value": "1"}, {"score": Decimal("NaN")}, False),
        ({"condition_type": "tag_equals", "field": "tag1", "value": "trade"}, {"tag1": "Trade"}, False),
        ({"condition_type": "tag_equals", "field": "tag2", "value": ""}, {"tag2": ""}, True),
        ({"condition_type": "event_type_equals", "value": "NewFeedback"}, {}, True),
        (field("value", "eq", "99.77"), {"value_raw": 9977, "value_decimals": 2}, True),
        (field("value", "lt", -3), {"value_raw": -32, "value_decimals": 1}, True),
        (field("value_raw", "eq", 10**38), {"value_raw": 10**38}, True),
        (field("value_raw", "eq", 10**38), {"value_raw": 10**38 + 1}, False),
        (field("score", "eq", str(10**38)), {"value_raw": 10**38}, True),
        (field("client_address", "eq", "0x" + "AB" * 20), {"client_address": "0x" + "ab" * 20}, True),
        (field("client_address", "eq", "0x" + "ab" * 20), {"client_address": "0x" + "AB" * 20}, True),
        (field("file_hash", "starts_with", "0xAB"), {"file_hash": "0xabcd"}, True),
        (field("feedback_hash", "regex", "^0xAB"), {"file_hash": "0xabcd"}, True),
        (field("agent_uri", "ends_with", ".json"), {"token_uri": "ipfs://a.json"}, True),
        (field("feedback_uri", "contains", "IPFS"), {"file_uri": "ipfs://a"}, False),
        (field("tag1", "regex", "a+b"), {"tag1": "xxaab"}, True),
        (field("tag1", "regex", "^a"), {"tag1": "xa"}, False),
        (field("tag1", "in", ["a", "b"]), {"tag1": "b"}, True),
        (field("tag1", "not_in", ["a", "b"]), {"tag1": "c"}, True),
        (field("tag1", "not_in", ["a", "b"]), {}, False),
        (field("agent_id", "in", [1, "2"]), {"agent_id": 2}, True),
        (field("tag1", "exists"), {"tag1": "x"}, True),
        (field("tag1", "exists", True), {"tag1": ""}, False),
        (field("tag1", "exists", False), {"tag1": ""}, True),
        (field("agent_id", "exists", "false"), {}, True),
        (field("agent_id", "exists"), {"agent_id": 0}, True),
        (field("args.approved", "eq", True), {"args": {"approved": True}}, True),
        (field("args.count", "eq", 7), {"args": {"count": "7"}}, True),
        (field("args.to", "eq", "0x" + "Ab" * 20), {"args": {"to": "0x" + "aB" * 20}}, True),
        (field("args.note", "eq", "ABC"), {"args": {"note": "abc"}}, False),
        (field("args.gone", "ne", "x"), {"args": {}}, False),
        (field("args.list", "contains", "2"), {"args": {"list": [1, 2]}}, True),
        ({"not": field("tag2", "eq", "x")}, {}, True),
        ({"any": [agent(1), agent(2)]}, {"agent_id": 2}, True),
        ({"all": [agent(1), field("tag1", "eq", "x")]}, {"agent_id": 1}, False),
        ([agent(1), [field("tag1", "eq", "x")]], {"agent_id": 1, "tag1": "x"}, True),
        ({"not": [agent(1), field("tag1", "eq", "x")]}, {"agent_id": 1}, True),
    ],
)
def test_a_leaf_says_what_its_words_say(leaf: object, event: dict[str, Any], verdict: bool) -> None:
    assert holds(leaf, **event) is verdict


@pytest.mark.parametrize(
    ("condition", "path"),
    [
        ([], "conditions"),
        ([{"any": []}], "conditions[0].any"),
        ([{"all": []}], "conditions[0].all"),
        ([[]], "conditions[0].all"),
        ([agent(1), {"any": [agent(1), agent(-1)]}], "conditions[1].any[1].value"),
        ([{"not": {"any": [agent(1), {"condition_type": "nope"}]}}], "conditions[0].not.any[1].condition_type"),
        ([{"any": agent(1)}], "conditions[0].any"),
        ([{"any": [agent(1)], "all": [agent(1)]}], "conditions[0].any"),
        (["x"], "conditions[0]"),
        ([{}], "conditions[0].condition_type"),
        ([agent(1) | {"colour": "red"}], "conditions[0].colour"),
        ([agent(1) | {"operator": "~"}], "conditions[0].operator"),
        ([agent(1) | {"operator": "gt"}], "conditions[0].operator"),
        ([agent(1) | {"config": {"window_size": 3}}], "conditions[0].config"),
        ([agent(2**256)], "conditions[0].value"),
        ([{"condition_type": "agent_id_equals", "value": "042"}], "conditions[0].value"),
        ([{"condition_type": "agent_id_equals"}], "conditions[0].value"),
        ([{"condition_type": "score_threshold", "operator": "~", "value": 1}], "conditions[0].operator"),
        ([{"condition_type": "score_threshold", "value": 1}], "conditions[0].operator"),
        ([{"condition_type": "score_threshold", "operator": "gt", "value": True}], "conditions[0].value"),
        ([{"condition_type": "score_threshold", "operator": "gt", "value": "1e3"}], "conditions[0].value"),
        ([{"condition_type": "score_threshold", "operator": "gt", "value": "9" * 79}], "conditions[0].value"),
        ([{"condition_type": "tag_equals", "value": "x"}], "conditions[0].field"),
        ([{"condition_type": "tag_equals", "field": "owner", "value": "x"}], "conditions[0].field"),
        ([{"condition_type": "tag_equals", "field": "tag", "value": "x" * 1001}], "conditions[0].value"),
        ([field("colour", "eq", "x")], "conditions[0].field"),
        ([field("args", "eq", "x")], "conditions[0].field"),
        ([field("args.a b", "eq", "x")], "conditions[0].field"),
        ([field("tag1", "lt", "x")], "conditions[0].operator"),
        ([field("score", "contains", "1")], "conditions[0].operator"),
        ([field("args.count", "gt", 1)], "conditions[0].operator"),
        ([field("tag1", "eq", 5)], "conditions[0].value"),
        ([field("tag1", "eq", "a\x00b")], "conditions[0].value"),
        ([field("tag1", "eq", "\ud800")], "conditions[0].value"),
        ([field("tag1", "in", [])], "conditions[0].value"),
        ([field("tag1", "in", "a")], "conditions[0].value"),
        ([field("tag1", "in", ["x"] * 1001)], "conditions[0].value"),
        ([field("tag1", "regex", "(")], "conditions[0].value"),
        ([field("tag1", "regex", r"(a)\1")], "conditions[0].value"),
        ([field("tag1", "regex", "a" * 513)], "conditions[0].value"),
        ([field("tag1", "exists", "maybe")], "conditions[0].value"),
        ([field("owner", "eq", "0x" + "aB" * 20)], "conditions[0].value"),
        ([agent(1) | {"id": 0}], "conditions[0].id"),
    ],
)
def test_a_fault_is_named_by_its_path(condition: object, path: str) -> None:
    assert list(faults(condition)) == [path]


def test_all_faults_are_told_at_once() -> None:
    assert set(faults([agent(-1), {"any": [{"condition_type": "x"}, agent(-2)]}])) == {
        "conditions[0].value",
        "conditions[1].any[0].condition_type",
        "conditions[1].any[1].value",
    }


def test_a_tree_ends_at_eight_levels_and_sixty_four_leaves() -> None:
    deep: object = agent(1)
    for _ in range(7):
        deep = {"not": deep}
    parse([deep])
    assert "deeper" in next(iter(faults([{"not": deep}]).values()))
    parse([agent(number) for number in range(64)])
    assert faults([agent(number) for number in range(65)]) == {"conditions": "must have at most 64 leaves"}


def test_a_condition_of_more_than_64_kib_is_refused() -> None:
    assert faults([field("tag1", "in", ["x" * 1000] * 70)]) == {"conditions": "must be at most 64 KiB"}


def test_operators_are_answered_as_they_were_sent_and_values_as_text() -> None:
    [leaf, group] = parse(
        [
            {"condition_type": "score_threshold", "operator": ">=", "value": 80.5},
            {"any": [field("agent_id", "in", [1, "2"]), field("tag1", "exists", True)]},
        ],
        known={},
    ).document

    assert leaf == {"id": 1, "condition_type": "score_threshold", "field": "score", "operator": ">=", "value": "80.5"}
    assert [item["value"] for item in group["any"]] == [["1", "2"], "true"]
    assert group["id"] == 4


def test_addresses_are_kept_in_lower_case_and_patterns_as_they_are() -> None:
    document = parse([field("owner", "eq", "0x" + "AB" * 20), field("owner", "regex", "0xAB")]).document

    assert [item["value"] for item in document] == ["0x" + "ab" * 20, "0xAB"]


def test_an_item_with_a_known_id_keeps_it_and_others_get_a_fresh_one() -> None:
    document = parse([agent(1) | {"id": 7}, agent(2) | {"id": 3}, agent(3)], known={3: None, 5: None}).document

    assert [item["id"] for item in document] == [6, 3, 7]
    twice = [agent(1) | {"id": 3}, agent(2) | {"id": 3}]
    assert faults(twice, known={3: None}) == {"conditions[1].id": "is used twice"}


def test_what_answers_add_may_be_sent_back() -> None:
    parse([agent(1) | {"id": 1, "trigger_id": "t", "created_at": "2026-01-01T00:00:00Z", "config": None}])


def test_a_stored_condition_reads_as_it_was_written() -> None:
    tree = parse([{"any": [agent(1), {"not": field("tag1", "<>", "x")}]}, field("score", ">", "1.5")], known={})

    assert parse(msgspec.json.decode(msgspec.json.encode(tree.document))) == tree


def test_rows_by_hand_may_leave_ids_out() -> None:
    tree = parse([agent(1), agent(2) | {"id": 1}])

    assert len(tree.shapes()) == 2


def test_only_events_of_the_registry_can_be_named() -> None:
    leaf = {"condition_type": "event_type_equals", "value": "Transfer"}

    parse([leaf], event_types={"Transfer"})
    assert list(faults([leaf], event_types={"NewFeedback"})) == ["conditions[0].value"]


def test_every_event_that_the_decoder_makes_can_be_named() -> None:
    made = {registry: {signature.partition("(")[0] for signature in CURRENT[registry]} for registry in CURRENT}

    assert made == EVENT_TYPES


def test_a_hostile_pattern_runs_in_linear_time() -> None:
    assert not holds(field("tag1", "regex", "^(a|aa)+$"), tag1="a" * 60_000 + "b")  # a backtracking engine never ends


def test_a_pattern_sees_the_first_64_kib_of_a_text() -> None:
    assert holds(field("tag1", "regex", "b$"), tag1="a" * 65_535 + "b")
    assert not holds(field("tag1", "regex", "b$"), tag1="a" * 65_536 + "b")
