"""What a trigger says about one event. Pure: no clock, no database, no state.

`compile_nodes` turns a checked condition into one function of an event, `necessary` says by which equalities the index
may file it, and `eligible` says whether a trigger sees an event at all. Where a condition keeps state, these tell of
the parts that do not; the rest is for `state.programs`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from decimal import Decimal
from typing import Any, Literal, TypeAlias, assert_never

from msgspec import Struct

from agentauri.actions import MatchAction, ReleaseTag
from agentauri.events import Event
from agentauri.triggers.conditions import Group, Leaf, Node, Stateful, walk
from agentauri.triggers.fields import FIELDS, Getter, Kind, getter
from agentauri.triggers.values import compile_pattern

Check: TypeAlias = Callable[[Event], bool]
Key: TypeAlias = tuple[str, int | str]
"""A column and the value it must have; hex in lower case."""

KEYED = (
    "agent_id", "client_address", "validator_address", "owner", "responder", "tag1", "tag2", "tag", "metadata_key",
    "event_type",
)  # fmt: skip
"""The columns that the index files triggers under, the most selective first."""
MAX_KEYED_SET = 64
REGEX_INPUT = 64 * 1024
UNKNOWN_CHAIN_MARGIN = 120
"""Seconds by which a block's time may precede the making of a trigger that knows nothing of its chain."""

_RANK = {column: rank for rank, column in enumerate(KEYED)}


class Depth(Struct, frozen=True, array_like=True):
    """How deep an event must be before a match of it is told: below its chain's `tag`, and that by so many `blocks`."""

    tag: ReleaseTag
    blocks: int = 0


class Definition(Struct, frozen=True, array_like=True):
    """All that matching needs to know about one trigger, small enough to keep a million of them packed.

    `start_seq` and `start_blocks` say where its past ends; `created` (Unix seconds) does for chains not among them.
    """

    trigger_id: str
    organization_id: str
    version: int
    environment: Literal["live", "test"]
    chain_id: int | None
    registry: str | None
    start_seq: int
    start_blocks: dict[int, int]
    created: int
    nodes: tuple[Node, ...]
    actions: tuple[MatchAction, ...]
    cooldown_seconds: int = 0
    dedupe_key: str | None = None
    fire_at: Depth | None = None


def eligible(definition: Definition, event: Event) -> bool:
    """Whether the trigger sees this event: its chain and registry fit, and it is not the trigger's past."""
    if definition.chain_id is not None and definition.chain_id != event.chain_id:
        return False
    if definition.registry is not None and definition.registry != event.registry:
        return False
    if event.retracted_at is not None or event.seq <= definition.start_seq:
        return False
    if event.origin != "chain":
        return True
    start = definition.start_blocks.get(event.chain_id)
    if start is None or start < 0:
        return event.timestamp >= definition.created - UNKNOWN_CHAIN_MARGIN
    return event.block_number > start


def keeps_state(node: Node) -> bool:
    return not isinstance(node, Leaf) and any(isinstance(inner, Stateful) for inner in walk((node,)))


def compile_nodes(nodes: Sequence[Node]) -> Check:
    """One function that says whether all of `nodes` hold for an event. One that keeps state is left out."""
    return _all([_compile(node) for node in nodes if not keeps_state(node)])


def _compile(node: Node) -> Check:
    match node:
        case Leaf():
            return _leaf(node)
        case Group(kind="all"):
            return compile_nodes(node.children)
        case Group(kind="any"):
            return _any([_compile(child) for child in node.children])
        case Group():
            inner = _compile(node.children[0])
            return lambda event: not inner(event)
        case Stateful():
            raise TypeError("a leaf that keeps state is no function of the event alone")
        case _:
            assert_never(node)


def _all(checks: list[Check]) -> Check:
    if len(checks) == 1:
        return checks[0]

    def every(event: Event) -> bool:
        for check in checks:  # noqa: SIM110  (a generator costs three times as much)
            if not check(event):
                return False
        return True

    return every


def _any(checks: list[Check]) -> Check:
    if len(checks) == 1:
        return checks[0]

    def some(event: Event) -> bool:
        for check in checks:  # noqa: SIM110  (a generator costs three times as much)
            if check(event):
                return True
        return False

    return some


def _leaf(leaf: Leaf) -> Check:
    get = getter(leaf.column, folded=leaf.folded)
    if isinstance(leaf.operand, list):
        return _SETS[leaf.operator](get, frozenset(_value(leaf, text) for text in leaf.operand))
    if leaf.operator == "regex":
        return _regex(get, leaf.operand, leaf.folded)
    if leaf.operator == "exists":
        return _exists(get, leaf.operand == "true")
    return _SINGLES[leaf.operator](get, _value(leaf, leaf.operand))


def _value(leaf: Leaf, text: str) -> Any:
    """The operand as the event carries it: int where that is exact, since most numbers are."""
    field = FIELDS.get(leaf.column)
    if field is None or field.kind is not Kind.NUMBER:
        return text
    return Decimal(text) if "." in text else int(text)


# In all of these an absent field is None, and None makes the leaf false.


def _eq(get: Getter, operand: Any) -> Check:
    return lambda event: get(event) == operand


def _ne(get: Getter, operand: Any) -> Check:
    return lambda event: (value := get(event)) is not None and value != operand


def _lt(get: Getter, operand: Any) -> Check:
    return lambda event: (value := get(event)) is not None and bool(value < operand)


def _lte(get: Getter, operand: Any) -> Check:
    return lambda event: (value := get(event)) is not None and bool(value <= operand)


def _gt(get: Getter, operand: Any) -> Check:
    return lambda event: (value := get(event)) is not None and bool(value > operand)


def _gte(get: Getter, operand: Any) -> Check:
    return lambda event: (value := get(event)) is not None and bool(value >= operand)


def _contains(get: Getter, operand: Any) -> Check:
    return lambda event: (value := get(event)) is not None and operand in value  # type: ignore[operator]


def _starts_with(get: Getter, operand: Any) -> Check:
    return lambda event: (value := get(event)) is not None and value.startswith(operand)  # type: ignore[attr-defined]


def _ends_with(get: Getter, operand: Any) -> Check:
    return lambda event: (value := get(event)) is not None and value.endswith(operand)  # type: ignore[attr-defined]


def _in(get: Getter, operand: frozenset[Any]) -> Check:
    return lambda event: get(event) in operand


def _not_in(get: Getter, operand: frozenset[Any]) -> Check:
    return lambda event: (value := get(event)) is not None and value not in operand


def _exists(get: Getter, wanted: bool) -> Check:
    return lambda event: (get(event) not in (None, "")) is wanted


def _regex(get: Getter, pattern: str, folded: bool) -> Check:
    search = compile_pattern(pattern, folded=folded).search

    def found(event: Event) -> bool:
        value = get(event)
        return value is not None and search(value[:REGEX_INPUT]) is not None  # type: ignore[index]

    return found


_SINGLES: dict[str, Callable[[Getter, Any], Check]] = {
    "eq": _eq, "ne": _ne, "lt": _lt, "lte": _lte, "gt": _gt, "gte": _gte,
    "contains": _contains, "starts_with": _starts_with, "ends_with": _ends_with,
}  # fmt: skip
_SETS: dict[str, Callable[[Getter, frozenset[Any]], Check]] = {"in": _in, "not_in": _not_in}


def necessary(nodes: Sequence[Node]) -> frozenset[Key] | None:
    """Equalities of which one holds whenever all of `nodes` do, and for every event that feeds a leaf among them; None
    when there are none to rely on.

    The empty set says that the condition holds for no event.
    """
    found = [_keys(node) for node in nodes if not keeps_state(node)]
    # An event may feed one leaf and not the others, so of the parts with state none is necessary alone.
    if len(found) < len(nodes):
        found.append(_union([_keys(node) for node in nodes if keeps_state(node)]))
    return _best(found)


def _keys(node: Node) -> frozenset[Key] | None:
    match node:
        case Leaf():
            return _leaf_keys(node)
        case Stateful(kind="sequence" | "absence"):
            return _union([necessary(node.begins), necessary(node.ends)])
        case Stateful():
            return necessary(node.where)
        case Group(kind="all"):
            return necessary(node.children)
        case Group(kind="any"):
            return _union([_keys(child) for child in node.children])
        case Group():
            return None
        case _:
            assert_never(node)


def _union(found: Sequence[frozenset[Key] | None]) -> frozenset[Key] | None:
    known = [keys for keys in found if keys is not None]
    return frozenset().union(*known) if len(known) == len(found) else None


def _leaf_keys(leaf: Leaf) -> frozenset[Key] | None:
    if leaf.column not in _RANK or leaf.operator not in ("eq", "in"):
        return None
    operands = leaf.operand if isinstance(leaf.operand, list) else [leaf.operand]
    if len(operands) > MAX_KEYED_SET:
        return None
    keys = []
    for text in operands:
        value = _value(leaf, text)
        if isinstance(value, Decimal):
            if value != int(value):
                continue  # no agent has a number with a fraction
            value = int(value)
        keys.append((leaf.column, value))
    return frozenset(keys)


def _best(found: Collection[frozenset[Key] | None]) -> frozenset[Key] | None:
    """The keys that promise the fewest candidates: judged by their least selective column, then by their number."""
    known = [keys for keys in found if keys is not None]
    if len(known) < 2:
        return known[0] if known else None
    return min(known, key=lambda keys: (max((_RANK[column] for column, _ in keys), default=-1), len(keys)))
