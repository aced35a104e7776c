"""Compiled programs and the index against a plain reading of the same words, over random trees and events."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentauri.actions import MatchAction
from agentauri.events import Event
from agentauri.triggers.conditions import parse
from agentauri.triggers.index import Index, Program
from agentauri.triggers.matching import UNKNOWN_CHAIN_MARGIN, Definition, compile_nodes, eligible, necessary
from agentauri.types import ActionId
from triggers.making import ANY_EVENT, CHAIN, agent, field, make_event

ADDRESS = "0x" + "ab" * 20
NUMBERS: dict[str, list[Any]] = {
    "agent_id": [0, 1, 2],
    "score": [Decimal("-3.2"), Decimal(80), Decimal("80.5")],
    "response": [0, 100],
}
TEXTS: dict[str, list[str]] = {
    "tag1": ["", "a", "ab", "A"],
    "tag2": ["", "a"],
    "event_type": ["NewFeedback", "Transfer"],
    "client_address": [ADDRESS, ADDRESS.upper().replace("X", "x"), "0xother"],
    "args.note": ["", "a", "b"],
}
HEX = {"client_address"}


def make_definition(condition: object = (ANY_EVENT,), trigger_id: str = "t", **values: Any) -> Definition:
    known: dict[str, Any] = {
        "trigger_id": trigger_id,
        "organization_id": "org-1",
        "version": 1,
        "environment": "live",
        "chain_id": None,
        "registry": None,
        "start_seq": 0,
        "start_blocks": {CHAIN: 50},
        "created": 1_000_000,
        "nodes": parse(list(condition) if isinstance(condition, tuple) else condition).nodes,
        "actions": (MatchAction(id=ActionId(1), action_type="webhook", destination="hook.test", priority=0),),
    }
    return Definition(**(known | values))


def numeric_leaves() -> st.SearchStrategy[dict[str, Any]]:
    def leaf(name: str) -> st.SearchStrategy[dict[str, Any]]:
        value = st.sampled_from([*map(str, NUMBERS[name]), "80.50", "1.0"])
        singles = st.builds(field, st.just(name), st.sampled_from(["eq", "ne", "lt", "lte", "gt", "gte"]), value)
        sets = st.builds(
            field, st.just(name), st.sampled_from(["in", "not_in"]), st.lists(value, min_size=1, max_size=3)
        )
        return singles | sets

    return st.sampled_from(sorted(NUMBERS)).flatmap(leaf)


def text_leaves() -> st.SearchStrategy[dict[str, Any]]:
    def leaf(name: str) -> st.SearchStrategy[dict[str, Any]]:
        # A mixed-case address must carry its checksum, so only plain ones are asked for.
        value = st.sampled_from([text for text in TEXTS[name] if text != "0xother"])
        operators = ["eq", "ne", "contains", "starts_with", "ends_with"]
        singles = st.builds(field, st.just(name), st.sampled_from(operators), value)
        sets = st.builds(
            field, st.just(name), st.sampled_from(["in", "not_in"]), st.lists(value, min_size=1, max_size=3)
        )
        pattern = st.builds(field, st.just(name), st.just("regex"), st.sampled_from(["^a", "b$", "^0xA", "e+"]))
        return singles | sets | pattern

    return st.sampled_from(sorted(TEXTS)).flatmap(leaf)


leaves = (
    numeric_leaves()
    | text_leaves()
    | st.builds(field, st.sampled_from([*NUMBERS, *TEXTS]), st.just("exists"), st.booleans())
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.builds(lambda items: {"all": items}, st.lists(inner, min_size=1, max_size=3))
        | st.builds(lambda items: {"any": items}, st.lists(inner, min_size=1, max_size=3))
        | st.builds(lambda item: {"not": item}, inner)
    ),
    max_leaves=8,
)


@st.composite
def events(draw: st.DrawFn) -> Event:
    values: dict[str, Any] = {}
    for name, choices in {**NUMBERS, **TEXTS}.items():
        value = draw(st.sampled_from([None, *choices]))
        if name.startswith("args."):
            values["args"] = {} if value is None else {name.removeprefix("args."): value}
        else:
            values[name] = value
    values["event_type"] = values["event_type"] or "Registered"
    values["chain_id"] = draw(st.sampled_from([CHAIN, 1]))
    return make_event(**values)


def reading(condition: dict[str, Any], event: Event) -> bool:
    """The meaning of a condition, word by word."""
    if "all" in condition:
        return all(reading(item, event) for item in condition["all"])
    if "any" in condition:
        return any(reading(item, event) for item in condition["any"])
    if "not" in condition:
        return not reading(condition["not"], event)
    name, operator, wanted = condition["field"], condition["operator"], condition["value"]
    actual: Any = event.args.get("note") if name == "args.note" else getattr(event, name)
    if operator == "exists":
        return (actual is not None and actual != "") is wanted
    if actual is None:
        return False
    if name in NUMBERS:
        actual = Decimal(actual)
        wanted = [Decimal(one) for one in wanted] if isinstance(wanted, list) else Decimal(wanted)
    if name in HEX:
        actual = actual.lower()
        if operator == "regex":
            return re.search(wanted, actual, re.IGNORECASE) is not None
        wanted = [one.lower() for one in wanted] if isinstance(wanted, list) else wanted.lower()
    verdicts: dict[str, Callable[[], bool]] = {
        "eq": lambda: actual == wanted,
        "ne": lambda: actual != wanted,
        "lt": lambda: actual < wanted,
        "lte": lambda: actual <= wanted,
        "gt": lambda: actual > wanted,
        "gte": lambda: actual >= wanted,
        "in": lambda: actual in wanted,
        "not_in": lambda: actual not in wanted,
        "contains": lambda: wanted in actual,
        "starts_with": lambda: actual.startswith(wanted),
        "ends_with": lambda: actual.endswith(wanted),
        "regex": lambda: re.search(wanted, actual) is not None,
    }
    return verdicts[operator]()


Placed = tuple[dict[str, Any], int | None, str | None]
ITEMS = st.lists(trees, min_size=1, max_size=3)
PLACED = st.lists(
    st.tuples(trees, st.sampled_from([None, CHAIN, 1]), st.sampled_from([None, "reputation", "identity"])), max_size=8
)
SEEN = st.lists(events(), min_size=1, max_size=4)
CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]
SLICE = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=CHECKS)
LENGTH = settings(max_examples=100_000, deadline=None, suppress_health_check=CHECKS)


def check_program(items: list[dict[str, Any]], event: Event) -> None:
    assert compile_nodes(parse(items).nodes)(event) is all(reading(item, event) for item in items)


def check_index(triggers: list[Placed], seen: list[Event]) -> None:
    index = Index()
    definitions = [
        make_definition([tree], f"t{number}", chain_id=chain_id, registry=registry)
        for number, (tree, chain_id, registry) in enumerate(triggers)
    ]
    for definition in definitions:
        index.put(definition)

    for event in seen:
        programs = [index.program(number) for number in index.candidates(event)]
        found = [program.definition.trigger_id for program in programs if program and program.matches(event)]
        wanted = [
            definition.trigger_id
            for definition in definitions
            if Program(definition, compile_nodes(definition.nodes)).matches(event)
        ]
        assert sorted(found) == sorted(wanted)


@SLICE
@given(items=ITEMS, event=events())
def test_a_program_does_what_its_words_say(items: list[dict[str, Any]], event: Event) -> None:
    check_program(items, event)


@SLICE
@given(triggers=PLACED, seen=SEEN)
def test_the_index_never_misses_a_trigger(triggers: list[Placed], seen: list[Event]) -> None:
    check_index(triggers, seen)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@LENGTH
@given(items=ITEMS, event=events())
def test_a_program_does_what_its_words_say_at_length(items: list[dict[str, Any]], event: Event) -> None:
    check_program(items, event)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@LENGTH
@given(triggers=PLACED, seen=SEEN)
def test_the_index_never_misses_a_trigger_at_length(triggers: list[Placed], seen: list[Event]) -> None:
    check_index(triggers, seen)


@pytest.mark.parametrize(
    ("condition", "keys"),
    [
        ([agent(1)], {("agent_id", 1)}),
        ([field("score", "gt", 1)], None),
        ([field("tag1", "eq", "x"), agent(1)], {("agent_id", 1)}),
        ([field("event_type", "eq", "Transfer"), field("tag1", "eq", "x")], {("tag1", "x")}),
        ([{"any": [agent(1), field("tag1", "eq", "x")]}], {("agent_id", 1), ("tag1", "x")}),
        ([{"any": [agent(1), field("score", "gt", 1)]}], None),
        ([{"any": [agent(1), {"all": [field("score", "gt", 1), agent(2)]}]}], {("agent_id", 1), ("agent_id", 2)}),
        ([{"not": agent(1)}], None),
        ([agent(1) | {"operator": "ne"}], None),
        ([field("agent_id", "in", [1, 2])], {("agent_id", 1), ("agent_id", 2)}),
        ([field("agent_id", "in", list(range(65)))], None),
        ([field("agent_id", "eq", "1.50"), agent(7)], set()),
        ([field("agent_id", "eq", "1.0")], {("agent_id", 1)}),
        ([field("owner", "eq", "0x" + "AB" * 20)], {("owner", ADDRESS)}),
    ],
)
def test_a_trigger_is_filed_under_the_most_selective_equality_it_needs(
    condition: list[dict[str, Any]], keys: set[tuple[str, object]] | None
) -> None:
    assert necessary(parse(condition).nodes) == keys


@pytest.mark.parametrize(
    ("trigger", "event", "verdict"),
    [
        ({}, {}, True),
        ({"chain_id": 1}, {}, False),
        ({"registry": "identity"}, {}, False),
        ({"start_seq": 10}, {}, False),
        ({"start_seq": 9}, {}, True),
        ({}, {"retracted_at": make_event().created_at}, False),
        ({}, {"origin": "chain", "block_number": 50}, False),
        ({}, {"origin": "chain", "block_number": 51}, True),
        ({}, {"origin": "external", "block_number": 1}, True),
        (
            {"start_blocks": {}},
            {"origin": "chain", "timestamp": 1_000_000 - UNKNOWN_CHAIN_MARGIN},
            True,
        ),
        (
            {"start_blocks": {}},
            {"origin": "chain", "timestamp": 1_000_000 - UNKNOWN_CHAIN_MARGIN - 1},
            False,
        ),
    ],
)
def test_a_trigger_sees_its_chain_and_registry_from_its_start_on(
    trigger: dict[str, Any], event: dict[str, Any], verdict: bool
) -> None:
    assert eligible(make_definition(**trigger), make_event(**event)) is verdict


def test_a_replaced_trigger_answers_as_it_is_now() -> None:
    index = Index()
    index.put(make_definition([agent(1)]))
    index.put(make_definition([agent(2)]))

    def served(agent_id: int) -> list[str]:
        programs = [index.program(number) for number in index.candidates(make_event(agent_id=agent_id))]
        return [program.definition.trigger_id for program in programs if program]

    assert (served(1), served(2), len(index)) == ([], ["t"], 1)
    index.drop("t")
    assert (served(2), len(index)) == ([], 0)


def test_an_index_of_more_dead_than_living_is_worn() -> None:
    index = Index()
    for _ in range(10_001):
        index.put(make_definition([agent(1)]))
    assert not index.worn
    index.put(make_definition([agent(1)]))
    assert index.worn
