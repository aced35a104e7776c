"""Why a trigger says what it says: its condition as a tree, every node with its answer. Pure.

A leaf is answered by the very function that the evaluator compiles of it. What a leaf with state remembers is the
affair of `state`; here it is known by the ids of the leaves that hold, and by what it shows of itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from agentauri.events import Event
from agentauri.triggers.conditions import Group, Leaf, Node, Stateful
from agentauri.triggers.fields import getter
from agentauri.triggers.matching import compile_nodes
from agentauri.triggers.state.config import PAIRS
from agentauri.triggers.state.folding import Tally, ema_holds, tally_holds
from agentauri.triggers.types import Condition

Shown = Mapping[str, Any]
Gate = Literal["enabled", "draft", "chain", "registry", "environment", "created_after", "retracted", "cooldown"]

NOT_FED = "the event does not feed this condition: what stands beside it, or its own fields, leave it out"
UNKNOWN = "what this condition remembered then is not known: more events came before than may be read again"


class Passed(Struct, frozen=True):
    """`passed` is None where nobody can tell any more."""

    gate: Gate
    passed: bool | None


class Traced(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A node and its answer; None where nobody can tell."""

    node: Literal["all", "any", "not", "leaf"]
    result: bool | None
    condition_id: int | UnsetType = UNSET
    condition_type: str | UnsetType = UNSET
    field: str | UnsetType = UNSET
    operator: str | UnsetType = UNSET
    expected: Any = UNSET
    actual: Any = UNSET
    reason: str | UnsetType = UNSET
    state_before: Any = UNSET
    state_after: Any = UNSET
    children: list[Traced] | UnsetType = UNSET


class Memory(Struct, frozen=True):
    """What the leaves with state say: those that hold, and what each that was fed shows of itself."""

    holding: Collection[int] = ()
    shown: Mapping[int, Shown] = {}


def trace(nodes: Sequence[Node], documents: Sequence[Condition], event: Event, memory: Memory | None) -> Traced:
    """The answer of a condition with that of every part of it. `documents` are the nodes as people wrote them;
    without a memory nobody knows what the leaves with state said."""
    if not nodes:
        return Traced(node="all", result=False, reason="the trigger has no condition", children=[])
    children = [_node(node, document, event, memory) for node, document in zip(nodes, documents, strict=True)]
    return Traced(node="all", result=_all([child.result for child in children]), children=children)


def _node(node: Node, document: Condition, event: Event, memory: Memory | None) -> Traced:
    match node:
        case Leaf():
            return _leaf(node, document, event)
        case Stateful():
            return _stateful(node, document, memory)
        case Group(kind="not"):
            inner = _node(node.children[0], document["not"], event, memory)
            turned = None if inner.result is None else not inner.result
            return Traced(node="not", result=turned, condition_id=node.id, children=[inner])
        case Group():
            kind: Literal["all", "any"] = "all" if node.kind == "all" else "any"
            pairs = zip(node.children, document[kind], strict=True)
            children = [_node(child, written, event, memory) for child, written in pairs]
            results = [child.result for child in children]
            result = _all(results) if kind == "all" else _any(results)
            return Traced(node=kind, result=result, condition_id=node.id, children=children)


def _all(results: Sequence[bool | None]) -> bool | None:
    return False if False in results else None if None in results else True


def _any(results: Sequence[bool | None]) -> bool | None:
    return True if True in results else None if None in results else False


def _leaf(leaf: Leaf, document: Condition, event: Event) -> Traced:
    actual = getter(leaf.column, folded=False)(event)
    result = compile_nodes((leaf,))(event)
    absent = actual is None and leaf.operator != "exists"
    return Traced(
        **_written(leaf, document),
        result=result,
        actual=format(actual, "f") if isinstance(actual, Decimal) else _told(actual),
        reason="the event does not have this field" if absent else UNSET,
    )


def _told(actual: object) -> object:
    """Numbers that a reader's double could not hold go out as text."""
    return str(actual) if isinstance(actual, int) and abs(actual) > 2**53 else actual


def _stateful(leaf: Stateful, document: Condition, memory: Memory | None) -> Traced:
    written = _written(leaf, document)
    if memory is None:
        return Traced(**written, result=None, reason=UNKNOWN)
    shown = memory.shown.get(leaf.id)
    if shown is None and leaf.kind not in PAIRS:
        return Traced(**written, result=leaf.id in memory.holding, reason=NOT_FED)
    after = {name: value for name, value in (shown or {}).items() if name != "before"}
    return Traced(
        **written,
        result=leaf.id in memory.holding,
        actual=after.get(leaf.kind, UNSET),
        reason=_pair_reason(leaf, after, memory) if leaf.kind in PAIRS else UNSET,
        state_before=None if shown is None else shown.get("before"),
        state_after=after or None,
    )


def _pair_reason(leaf: Stateful, after: Shown, memory: Memory) -> str:
    if leaf.kind == "sequence":
        return "it follows the event that began it" if leaf.id in memory.holding else "nothing that it follows waits"
    if leaf.id in memory.holding:
        return "nothing followed in time"
    return "whether something follows is not known yet, or it did follow" if after else NOT_FED


def _written(node: Leaf | Stateful, document: Condition) -> dict[str, Any]:
    return {
        "node": "leaf",
        "condition_id": node.id,
        "condition_type": document["condition_type"],
        "field": document.get("field", UNSET),
        "operator": document.get("operator", UNSET),
        "expected": document.get("value", UNSET),
    }


def recalled(nodes: Sequence[Stateful], leaves: Mapping[str, Shown], *, absent: bool) -> Memory:
    """The memory that a match left behind in its context. A match that is an absence had that leaf hold."""
    shown = {int(number): values for number, values in leaves.items()}
    holding = {node.id for node in nodes if node.id in shown and _held(node, shown[node.id])}
    if absent:
        holding |= {node.id for node in nodes if node.kind == "absence"}
    return Memory(holding, shown)


def _held(leaf: Stateful, shown: Shown) -> bool:
    if leaf.kind in PAIRS:
        return leaf.kind == "sequence" and "first_seq" in shown
    if leaf.kind == "ema":
        return ema_holds(float(shown["ema"]), leaf.operator, leaf.operand)
    extreme = shown.get(leaf.kind) if leaf.kind in ("min", "max") else None
    tally = Tally(shown["count"], Decimal(str(shown.get("sum", 0))), None if extreme is None else Decimal(str(extreme)))
    return tally_holds(tally, leaf.kind, leaf.operator, leaf.operand)
