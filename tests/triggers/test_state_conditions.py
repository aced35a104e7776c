"""Conditions that remember: what is accepted, how it is answered, and when a leaf begins anew."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agentauri.errors import Invalid
from agentauri.triggers.conditions import Stateful, parse
from agentauri.triggers.matching import necessary
from triggers.making import agent, average, field, limit, window


def faults(condition: object) -> dict[str, str]:
    with pytest.raises(Invalid) as refused:
        parse(condition)
    return {error.field: error.message for error in refused.value.errors}


def leaf_of(condition: object) -> Stateful:
    [leaf] = parse(condition).nodes
    assert isinstance(leaf, Stateful)
    return leaf


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("5m", 300), ("1h", 3600), ("7d", 604_800), ("90d", 7_776_000)]
)
def test_a_window_is_a_number_with_its_unit(text: str, seconds: int) -> None:
    assert leaf_of(limit(10, time_window=text)).span == seconds


@pytest.mark.parametrize("text", ["", "10x", "abc", "0s", "-5m", "1é", "91d", "٣h", 60, None, "12345678s", "1h "])
def test_anything_else_is_no_window(text: object) -> None:
    assert list(faults([limit(10, time_window=text)])) == ["conditions[0].config.time_window"]


@pytest.mark.parametrize(
    ("leaf", "path"),
    [
        (average(80, window_size=0), "config.window_size"),
        (average(80, window_size=100_001), "config.window_size"),
        (average(80, window_size="10"), "config.window_size"),
        (average(80, window_size=True), "config.window_size"),
        ({**average(80), "config": None}, "config.window_size"),
        ({**average(80), "config": [1]}, "config"),
        (average(80, window="1h"), "config"),
        (average(80, field="tag1"), "field"),
        (average(80, field="args.count"), "field"),
        (average(80, field="colour"), "field"),
        ({**average(80), "operator": "contains"}, "operator"),
        ({**average(80), "operator": None}, "operator"),
        (average(None), "value"),
        (average("1e3"), "value"),
        (average(80, scope="planet"), "config.scope"),
        (average(80, scope=[]), "config.scope"),
        (average(80, scope=["colour"]), "config.scope"),
        (average(80, scope=["value", "score"]), "config.scope"),
        (average(80, scope=["tag1", 5]), "config.scope"),
        (limit(-1), "value"),
        (limit("1.5"), "value"),
        (limit(10, reset_on_trigger="yes"), "config.reset_on_trigger"),
        (limit(10, where=agent(1)), "config"),
        (window("sum", 1, field=None), "field"),
        (window("max", 1, field="owner"), "field"),
        (window("count", 1, window="1w"), "config.window"),
        (window("count", 1, where=[]), "config.where.all"),
        (window("count", 1, where=agent(-1)), "config.where.value"),
        (window("count", 1, where=average(5)), "config.where"),
    ],
)
def test_a_fault_is_named_by_its_path(leaf: object, path: str) -> None:
    assert list(faults([leaf])) == [f"conditions[0].{path}"]


@pytest.mark.parametrize(
    ("scope", "columns"),
    [
        (None, ("chain_id", "agent_id")),
        ("agent", ("chain_id", "agent_id")),
        ("client", ("chain_id", "client_address")),
        ("trigger", ()),
        (["tag1", "args.x", "value"], ("tag1", "args.x", "score")),
    ],
)
def test_a_scope_is_a_list_of_fields_or_a_short_form(scope: object, columns: tuple[str, ...]) -> None:
    assert leaf_of(average(80, scope=scope)).scope == columns


def test_a_rate_is_limited_for_all_events_of_the_trigger() -> None:
    assert leaf_of(limit(10)).scope == ()


def test_a_leaf_is_answered_in_full() -> None:
    tree = parse([average("80"), limit(3, scope=None), window("avg", 5, where=agent(1))], known={})

    assert [msgspec.json.decode(msgspec.json.encode(item)) for item in tree.document] == [
        {"id": 1, "condition_type": "ema_threshold", "field": "score", "operator": ">", "value": "80",
         "config": {"window_size": 10, "scope": "agent"}},
        {"id": 2, "condition_type": "rate_limit", "operator": ">", "value": "3",
         "config": {"time_window": "1h", "reset_on_trigger": False, "scope": "trigger"}},
        {"id": 4, "condition_type": "avg", "field": "score", "operator": ">", "value": "5",
         "config": {"window": "1h", "scope": "agent", "where": {
             "id": 3, "condition_type": "agent_id_equals", "field": "agent_id", "operator": "eq", "value": "1"}}},
    ]  # fmt: skip
    assert parse(msgspec.json.decode(msgspec.json.encode(tree.document))) == tree


@pytest.mark.parametrize(
    ("change", "stays"),
    [
        ({}, True),
        ({"operator": "lt", "value": "7"}, True),
        ({"field": "response"}, False),
        ({"condition_type": "sum"}, False),
        ({"config": {"window": "2h"}}, False),
        ({"config": {"window": "60m"}}, True),
        ({"config": {"window": "1h", "scope": ["chain_id", "agent_id"]}}, True),
        ({"config": {"window": "1h", "scope": "client"}}, False),
        ({"config": {"window": "1h", "where": agent(1)}}, False),
    ],
)
def test_a_leaf_keeps_its_id_as_long_as_its_state_means_the_same(change: dict[str, Any], stays: bool) -> None:
    before = parse([window("avg", 5), agent(1)], known={})
    sent = before.document[0] | change

    after = parse([before.document[1], sent], known=before.shapes())

    assert (after.document[1]["id"] == before.document[0]["id"]) is stays
    assert after.document[0]["id"] == before.document[1]["id"]


@pytest.mark.parametrize(
    ("condition", "keys"),
    [
        ([average(5)], None),
        ([average(5), agent(1)], {("agent_id", 1)}),
        ([[average(5), agent(1)]], {("agent_id", 1)}),
        ([window("count", 5, where=agent(1))], {("agent_id", 1)}),
        ([{"not": average(5)}], None),
        ([{"any": [[average(5), agent(1)], [limit(5), agent(2)]]}], {("agent_id", 1), ("agent_id", 2)}),
        # An event may feed the one leaf without meeting what the other one needs.
        (
            [
                {"any": [agent(1), [average(5), field("tag1", "eq", "x")]]},
                {"any": [agent(2), [limit(5), agent(3)]]},
            ],
            {("agent_id", 1), ("tag1", "x"), ("agent_id", 2), ("agent_id", 3)},
        ),
    ],
)
def test_a_trigger_is_found_for_whatever_feeds_it(condition: object, keys: set[tuple[str, object]] | None) -> None:
    assert necessary(parse(condition).nodes) == keys
