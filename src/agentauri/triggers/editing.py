"""One node of a condition at a time. Pure.

A node is named by its id, wherever in the tree it stands; what becomes of the tree is checked as a whole afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

from agentauri.errors import FieldError, Invalid
from agentauri.triggers.errors import ConditionNotFound
from agentauri.triggers.state.config import PAIRS
from agentauri.triggers.types import Condition

Path = tuple[str | int, ...]


def merged(node: Condition, patch: Condition) -> Condition:
    """The node with other values, without those that are None. A group may become a leaf and the other way round."""
    kept = {} if _kinds(patch) - _kinds(node) else node
    return {name: value for name, value in ({"id": node["id"]} | kept | patch).items() if value is not None}


def _kinds(node: Condition) -> set[str]:
    return {
        "leaf" if name == "condition_type" else name for name in ("condition_type", "all", "any", "not") if name in node
    }


def edited(
    items: Sequence[Condition], condition_id: int, change: Callable[[Condition], Condition | None]
) -> tuple[list[Condition], Path]:
    """The items with one node changed, or without it where the change is None; and the path of that node.

    Raises:
        ConditionNotFound
        Invalid: its group would be empty.
    """
    changed: list[Any] = deepcopy(list(items))
    for holder, key, path in _nodes(changed, ()):
        if holder[key].get("id") != condition_id:
            continue
        node = change(holder[key])
        if node is not None:
            holder[key] = node
        elif isinstance(holder, list) and (len(holder) > 1 or holder is changed):
            del holder[key]
        else:
            raise Invalid.fields(FieldError("", "is the only one of its group: delete the group"))
        return changed, path
    raise ConditionNotFound


def spelled(path: Path) -> str:
    """The path as refusals name it."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "conditions" + "".join(steps)


def at(items: Sequence[Condition], path: Path) -> Condition:
    """The node at a path."""
    node: Any = items
    for step in path:
        node = node[step]
    found: Condition = node
    return found


def _nodes(holder: Any, path: Path) -> Iterator[tuple[Any, Any, Path]]:
    """Every node of a list of nodes: what holds it, under which key, and its path."""
    for position, node in enumerate(holder):
        yield holder, position, (*path, position)
        yield from _children(node, (*path, position))


def _children(node: Any, path: Path) -> Iterator[tuple[Any, Any, Path]]:
    for kind in ("all", "any"):
        yield from _nodes(node.get(kind, ()), (*path, kind))
    config = node.get("config")
    inside = [(config, option, (*path, "config")) for option in ("where", *chain.from_iterable(PAIRS.values()))]
    for holder, key, inner in ((node, "not", path), *inside):
        if isinstance(holder, dict) and isinstance(holder.get(key), dict):
            yield holder, key, (*inner, key)
            yield from _children(holder[key], (*inner, key))
