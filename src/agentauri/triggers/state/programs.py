"""The part of a trigger that remembers, ready to run: which leaves an event feeds, and what the trigger says once those
have answered. Pure.

An event feeds a leaf when everything beside it that looks at the event alone, in each `all` above it, is true. What
other leaves remember, the order of siblings and where evaluation could stop early have no say in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from decimal import Decimal
from hashlib import sha256
from math import isfinite
from typing import NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from agentauri.actions import compile_event_text
from agentauri.events import Event
from agentauri.triggers.conditions import Group, Node, Stateful
from agentauri.triggers.fields import FIELDS, Getter, Kind, getter
from agentauri.triggers.matching import Check, Definition, compile_nodes, keeps_state
from agentauri.triggers.state.config import PAIRS

Judge: TypeAlias = Callable[[Event, Collection[int]], bool]
Scope: TypeAlias = Callable[[Event], str | None]

COOLDOWN_LEAF = 0
"""The id under which a trigger remembers when it last fired."""

LONGEST_KEY = 200
"""Characters of a scope key; a longer one is replaced by its hash, lest it did not fit into an index."""

_encode = msgspec.json.Encoder().encode


class Input(NamedTuple):
    """What an event brings to a leaf; no value where events are only counted. To a leaf that looks at two sorts of
    events it is one that `begins`, one that `ends`, or both."""

    leaf: Stateful
    scope_key: str
    value: Decimal | None
    begins: bool = False
    ends: bool = False


class Feeder(Struct, frozen=True):
    leaf: Stateful
    feeds: Check
    scope: Scope
    value: Getter | None
    roles: tuple[Check, Check] | None = None

    def input(self, event: Event) -> Input | None:
        """None where the event does not feed the leaf."""
        if not self.feeds(event) or (key := self.scope(event)) is None:
            return None
        if self.roles is not None:
            begins, ends = (check(event) for check in self.roles)
            return Input(self.leaf, key, None, begins, ends) if begins or ends else None
        if self.value is None:
            return Input(self.leaf, key, None)
        value = self.value(event)
        if not isinstance(value, int | Decimal) or not isfinite(float(value)):
            return None
        return Input(self.leaf, key, Decimal(value))


class StateProgram(Struct, frozen=True):
    """`judge` takes the ids of the leaves that hold; `dedupe` gives the key of which one match silences the next."""

    feeders: tuple[Feeder, ...]
    judge: Judge
    cooldown_seconds: int
    dedupe: Scope
    is_shared: bool
    """Whether several chains write this trigger's state."""

    def inputs(self, event: Event) -> list[Input]:
        found = [feeder.input(event) for feeder in self.feeders]
        return [given for given in found if given is not None]

    def is_shared_by(self, leaf: Stateful | None) -> bool:
        """Whether events of several chains meet in one key of this leaf, or of the cooldown."""
        return self.is_shared and (leaf is None or "chain_id" not in leaf.scope)


def compile_state(definition: Definition) -> StateProgram | None:
    """None for a trigger that remembers nothing.

    Raises:
        TemplateError: its dedupe key is none.
    """
    feeders = tuple(_feeder(leaf, needed) for leaf, needed in _fed(definition.nodes, ()))
    if not feeders and not definition.cooldown_seconds:
        return None
    return StateProgram(
        feeders,
        _judge_all(definition.nodes),
        definition.cooldown_seconds,
        _dedupe(definition.dedupe_key),
        definition.chain_id is None,
    )


def _fed(nodes: Sequence[Node], needed: tuple[Node, ...]) -> Iterator[tuple[Stateful, tuple[Node, ...]]]:
    """Each leaf below an `all` of these nodes, with the conditions under which an event feeds it."""
    needed += tuple(node for node in nodes if not keeps_state(node))
    for node in nodes:
        match node:
            case Stateful():
                yield node, needed + node.where
            case Group(kind="all"):
                yield from _fed(node.children, needed)
            case Group():
                for child in node.children:
                    if keeps_state(child):
                        yield from _fed((child,), needed)


def _feeder(leaf: Stateful, needed: tuple[Node, ...]) -> Feeder:
    value = getter(leaf.column, folded=False) if leaf.column else None
    roles = (compile_nodes(leaf.begins), compile_nodes(leaf.ends)) if leaf.kind in PAIRS else None
    return Feeder(leaf, compile_nodes(needed), _scope(leaf.scope), value, roles)


def _judge_all(nodes: Sequence[Node]) -> Judge:
    plain = compile_nodes(nodes)
    judges = [_judge(node) for node in nodes if keeps_state(node)]
    return lambda event, holding: plain(event) and all(judge(event, holding) for judge in judges)


def _judge(node: Node) -> Judge:
    match node:
        case Stateful():
            return lambda _, holding: node.id in holding
        case Group(kind="all"):
            return _judge_all(node.children)
        case Group(kind="any"):
            judges = [_judge(child) for child in node.children]
            return lambda event, holding: any(judge(event, holding) for judge in judges)
        case Group():
            inner = _judge(node.children[0])
            return lambda event, holding: not inner(event, holding)
        case _:
            check = compile_nodes((node,))
            return lambda event, _: check(event)


def _scope(columns: Sequence[str]) -> Scope:
    """The values of these columns as one text; None where one is absent."""
    reads = [
        getter(column, folded=(field := FIELDS.get(column)) is not None and field.kind is Kind.HEX)
        for column in columns
    ]

    def key(event: Event) -> str | None:
        texts = []
        for read in reads:
            value = read(event)
            if value is None:
                return None
            texts.append(plain(value) if isinstance(value, Decimal) else str(value))
        return _short(_encode(texts).decode())

    return key


def _dedupe(source: str | None) -> Scope:
    if source is None:
        return lambda _: ""
    render = compile_event_text(source)
    return lambda event: _short(render(event.fields()))


def _short(key: str) -> str:
    return key if len(key) <= LONGEST_KEY else "sha256:" + sha256(key.encode()).hexdigest()


def plain(value: Decimal) -> str:
    """The one way to write this number: no exponent, no zeros at the end."""
    written = format(value, "f")
    written = written.rstrip("0").rstrip(".") if "." in written else written
    return "0" if written == "-0" else written
