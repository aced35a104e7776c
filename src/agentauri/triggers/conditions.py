"""The condition tree: read, checked, and put into the one form that is stored, answered and compiled.

    condition := leaf | [condition, …] | {"all": […]} | {"any": […]} | {"not": condition}

A bare list means all. `parse` is the only reader: what it accepts can run, and it names every part it refuses by its
path. Its result has two faces: `document` for people and for the database, with operators spelled as they were sent,
and `nodes`, resolved, small and packable, for `matching` and the index.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from agentauri.errors import FieldError, Invalid
from agentauri.triggers.fields import FIELDS, Field, Kind, find_field
from agentauri.triggers.state.config import PAIRS, STATE_TYPES, read_config, value_column
from agentauri.triggers.values import (
    EQUALITY,
    ORDER,
    SETS,
    TEXT,
    boolean,
    decimal_text,
    open_hex,
    refuse,
    value_reader,
    whole_number,
)

MAX_DEPTH, MAX_LEAVES, MAX_LIST, MAX_BYTES = 8, 64, 1000, 64 * 1024
FIRST_UNNUMBERED = 2**30
"""Where the ids of nodes begin that a row written by hand left without one; none can be given."""

Operand: TypeAlias = str | list[str]


class Leaf(Struct, frozen=True, array_like=True, tag="l"):
    """One test. Numbers stay decimal text, `exists` carries "true" or "false"; `folded` text ignores case."""

    id: int
    column: str
    operator: str
    operand: Operand
    folded: bool = False


class Stateful(Struct, frozen=True, array_like=True, tag="s"):
    """One test over what came before, an event's own part included.

    `kind` is ema, count, sum, avg, min or max, over the values of `column`; `span` is how many of them an EMA weighs,
    or the seconds of a window. Events with other values in the columns of `scope` have a past of their own.

    Of kind sequence or absence it has no value, and compares nothing: an event `begins` something, or `ends` it.
    """

    id: int
    kind: str
    column: str
    operator: str
    operand: str
    span: int
    scope: tuple[str, ...]
    where: tuple[Leaf | Group, ...] = ()
    resets: bool = False
    begins: tuple[Leaf | Group, ...] = ()
    ends: tuple[Leaf | Group, ...] = ()

    @property
    def shape(self) -> Shape:
        """What its state depends on: with another shape it starts afresh, whatever it is compared with."""
        inner = tuple(_unnumbered(nodes) for nodes in (self.where, self.begins, self.ends))
        return (self.kind, self.column, self.span, self.scope, inner, self.resets)

    @property
    def inner(self) -> tuple[Leaf | Group, ...]:
        """All conditions within it."""
        return self.where + self.begins + self.ends


class Group(Struct, frozen=True, array_like=True, tag="g"):
    """`kind` is all, any or not; a not has one child."""

    id: int
    kind: str
    children: tuple[Leaf | Group | Stateful, ...]


Node: TypeAlias = Leaf | Group | Stateful
Shape: TypeAlias = tuple[object, ...]


class Tree(Struct, frozen=True):
    """A checked condition; all of `nodes` must hold. `document` is its canonical JSON, every node with its id."""

    nodes: tuple[Node, ...]
    document: list[dict[str, Any]]

    def shapes(self) -> dict[int, Shape | None]:
        """Every id, with the shape of its leaf where that keeps state."""
        return {node.id: node.shape if isinstance(node, Stateful) else None for node in walk(self.nodes)}

    @property
    def is_stateful(self) -> bool:
        return any(isinstance(node, Stateful) for node in walk(self.nodes))


OPERATORS = {
    spelling: operator
    for operator, spellings in {
        "eq": ("=", "==", "equals"), "ne": ("!=", "<>", "not_equals"),
        "lt": ("<",), "lte": ("<=",), "gt": (">",), "gte": (">=",),
        "in": (), "not_in": (), "contains": (), "starts_with": (), "ends_with": (), "regex": (), "exists": (),
    }.items()
    for spelling in (operator, *spellings)
}  # fmt: skip

GROUPS = ("all", "any", "not")
READ_ONLY = frozenset({"id", "trigger_id", "created_at"})
"""What answers add to a node. It may be sent back; only `id` means something."""
LEAF_KEYS = READ_ONLY | {"condition_type", "field", "operator", "value", "config"}
GROUP_KEYS = {kind: READ_ONLY | {kind} for kind in GROUPS}

_NAME = re.compile(r"[A-Za-z0-9_]{1,64}\Z")


def parse(
    source: object,
    *,
    path: str = "conditions",
    known: Mapping[int, Shape | None] | None = None,
    event_types: Collection[str] | None = None,
) -> Tree:
    """Read a condition as callers send it or as it is stored.

    With `known` (for writing) a node keeps its id when it is one of these, and with the same shape where it keeps
    state; any other gets a fresh one. Without (for reading) ids stay as they are. `event_types` are the names that
    `event_type_equals` may use; None is any.

    Raises:
        Invalid: naming the path and the fault of every refused part.
    """
    reader = _Reader(known, event_types)
    items = source if isinstance(source, list) else [source]
    indexed = isinstance(source, list)
    if not items:
        raise Invalid.fields(FieldError(path, "must not be an empty list"))
    pairs = [reader.node(item, f"{path}[{at}]" if indexed else path, 1) for at, item in enumerate(items)]
    if not reader.faults and reader.leaves > MAX_LEAVES:
        reader.faults.append(FieldError(path, f"must have at most {MAX_LEAVES} leaves"))
    if reader.faults:
        raise Invalid.fields(*reader.faults)
    found = [pair for pair in pairs if pair is not None]
    _check_absence([node for node, _ in found], reader.places)
    document = [entry for _, entry in found]
    if len(msgspec.json.encode(document)) > MAX_BYTES:
        raise Invalid.fields(FieldError(path, f"must be at most {MAX_BYTES // 1024} KiB"))
    return Tree(tuple(node for node, _ in found), document)


def walk(nodes: Collection[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        if isinstance(node, Group):
            yield from walk(node.children)
        elif isinstance(node, Stateful):
            yield from walk(node.inner)


class _Reader:
    """Walks one source, collecting every fault instead of stopping at the first."""

    def __init__(self, known: Mapping[int, Shape | None] | None, event_types: Collection[str] | None) -> None:
        self.faults: list[FieldError] = []
        self.leaves = 0
        self.places: dict[int, str] = {}
        """Where the leaves stand that not every place has room for."""
        self._known = known
        self._event_types = event_types
        self._used: set[int] = set()
        self._fresh = count(FIRST_UNNUMBERED if known is None else max(known, default=0) + 1)

    def node(self, source: object, path: str, depth: int) -> tuple[Node, dict[str, Any]] | None:
        try:
            if depth > MAX_DEPTH:
                refuse("", f"must not nest deeper than {MAX_DEPTH} levels")
            if isinstance(source, list):
                source = {"all": source}
            if not isinstance(source, dict):
                refuse("", "must be a condition: an object")
            kind = next((key for key in GROUPS if key in source), None)
            if kind is None:
                self.leaves += 1
                return self._leaf(source, path, depth)
            return self._group(source, kind, path, depth)
        except FieldError as fault:
            self.faults.append(fault.under(path))
            return None

    def _group(self, source: dict[str, Any], kind: str, path: str, depth: int) -> tuple[Node, dict[str, Any]] | None:
        _only(source, GROUP_KEYS[kind], "a group has one key: all, any or not")
        inner = source[kind]
        if kind == "not":
            pairs = [self.node(inner, f"{path}.not", depth + 1)]
        else:
            if not isinstance(inner, list):
                refuse(kind, "must be a list of conditions")
            if not inner:
                refuse(kind, "must not be an empty list")
            if len(inner) > MAX_LIST:
                refuse(kind, f"must have at most {MAX_LIST} items")
            pairs = [self.node(item, f"{path}.{kind}[{at}]", depth + 1) for at, item in enumerate(inner)]
        found = [pair for pair in pairs if pair is not None]
        if len(found) < len(pairs):
            return None
        number = self._id(source)
        entries = [entry for _, entry in found]
        document = {"id": number, kind: entries[0] if kind == "not" else entries}
        return Group(number, kind, tuple(node for node, _ in found)), document

    def _leaf(self, source: dict[str, Any], path: str, depth: int) -> tuple[Node, dict[str, Any]] | None:
        _only(source, LEAF_KEYS, "is not a part of a condition")
        name = source.get("condition_type")
        if isinstance(name, str) and name in PAIRS:
            return self._pair(source, name, path, depth)
        if isinstance(name, str) and name in STATE_TYPES:
            return self._stateful(source, name, path, depth)
        if not isinstance(name, str) or name not in _TYPES:
            known = ", ".join((*_TYPES, *STATE_TYPES))
            refuse("condition_type", f"must be one of {known}, or the item a group: all, any or not")
        if (config := source.get("config")) is not None and config != {}:
            refuse("config", f"{name} takes no config")
        rule = _TYPES[name]
        field = rule.field(source.get("field"))
        operator, spelled = _operator(source.get("operator"), rule, field)
        operand, folded = rule.operand(source.get("value"), operator, field)
        if name == "event_type_equals" and self._event_types is not None and operand not in self._event_types:
            refuse("value", "must be an event of the trigger's registry, in its exact case")
        number = self._id(source)
        document = {"id": number, "condition_type": name, "field": source.get("field") or field.column}
        document |= {"operator": spelled, "value": operand}
        return Leaf(number, field.column, operator, operand, folded), document

    def _stateful(self, source: dict[str, Any], name: str, path: str, depth: int) -> tuple[Node, dict[str, Any]] | None:
        rule = STATE_TYPES[name]
        column = value_column(rule, source.get("field"))
        operator, spelled = _operator(source.get("operator"), _COMPARED, FIELDS["score"])
        operand = _operand(name, source.get("value"))
        config = read_config(rule, source.get("config"))
        where: tuple[Leaf | Group, ...] = ()
        shown = config.document
        if (source.get("config") or {}).get("where") is not None:
            pair = self._inner(source, "where", path, depth)
            if pair is None:
                return None
            where, shown = (pair[0],), shown | {"where": pair[1]}
        leaf = Stateful(0, rule.kind, column, operator, operand, config.span, config.scope, where, config.resets)
        number = self._id(source, leaf.shape)
        document: dict[str, Any] = {"id": number, "condition_type": name}
        if field := source.get("field") or column:
            document["field"] = field
        document |= {"operator": spelled, "value": operand, "config": shown}
        return replace(leaf, id=number), document

    def _pair(self, source: dict[str, Any], name: str, path: str, depth: int) -> tuple[Node, dict[str, Any]] | None:
        """A leaf that looks at two sorts of events."""
        for key in ("field", "operator", "value"):
            if source.get(key) is not None:
                refuse(key, f"{name} takes none")
        config = read_config(STATE_TYPES[name], source.get("config"))
        pairs = [self._inner(source, option, path, depth) for option in PAIRS[name]]
        found = [pair for pair in pairs if pair is not None]
        if len(found) < len(pairs):
            return None
        (begins, _), (ends, _) = found
        leaf = Stateful(0, name, "", "", "", config.span, config.scope, begins=(begins,), ends=(ends,))
        number = self._id(source, leaf.shape)
        self.places[number] = path
        shown = config.document | {option: entry for option, (_, entry) in zip(PAIRS[name], found, strict=True)}
        return replace(leaf, id=number), {"id": number, "condition_type": name, "config": shown}

    def _inner(
        self, source: dict[str, Any], option: str, path: str, depth: int
    ) -> tuple[Leaf | Group, dict[str, Any]] | None:
        """A condition within the configuration of a leaf: on the event alone."""
        inner = source["config"].get(option)
        if inner is None:
            refuse(f"config.{option}", "is required")
        faults = len(self.faults)
        pair = self.node(inner, f"{path}.config.{option}", depth + 1)
        if pair is None or len(self.faults) > faults:
            return None
        node, entry = pair
        if isinstance(node, Stateful) or any(isinstance(one, Stateful) for one in walk((node,))):
            refuse(f"config.{option}", "must be a condition on the event alone")
        return node, entry

    def _id(self, source: dict[str, Any], shape: Shape | None = None) -> int:
        """Its own id where that is to be kept, else the next free one."""
        given = source.get("id")
        if given is not None and (
            not isinstance(given, int) or isinstance(given, bool) or not 0 < given < FIRST_UNNUMBERED
        ):
            refuse("id", f"must be an integer from 1 to {FIRST_UNNUMBERED - 1}")
        kept = given is not None and (self._known is None or self._is_same(given, shape))
        if kept and given in self._used:
            refuse("id", "is used twice")
        number = given if kept else next(value for value in self._fresh if value not in self._used)
        assert number is not None
        self._used.add(number)
        return number

    def _is_same(self, number: int, shape: Shape | None) -> bool:
        """Whether a node of that id was there before, and no state of it would mean something else now."""
        assert self._known is not None
        return number in self._known and (shape is None or self._known[number] == shape)


class _Type(Struct, frozen=True):
    """What one condition type takes. `implied` is its field where callers need not name one."""

    operators: frozenset[str]
    default: str | None = None
    implied: str | None = None
    fields: frozenset[str] | None = None
    integer: bool = False

    def field(self, name: object) -> Field:
        if name is not None and (not isinstance(name, str) or not 1 <= len(name) <= 255):
            refuse("field", "must be text of 1 to 255 characters")
        if self.implied is not None:
            return FIELDS[self.implied]
        if name is None:
            refuse("field", "is required")
        assert isinstance(name, str)
        if self.fields is not None and name not in self.fields:
            refuse("field", f"must be one of {', '.join(sorted(self.fields))}")
        found = find_field(name)
        if found is None:
            refuse("field", "is not a field of an event")
        return found

    def operand(self, value: object, operator: str, field: Field) -> tuple[Operand, bool]:
        """The value in its resolved form, and whether it compares without regard to case."""
        if operator == "exists":
            return boolean(value), False
        if value is None:
            refuse("value", "is required")
        read = value_reader(field, operator, whole=self.integer)
        if operator not in SETS:
            texts = [read(value)]
        elif isinstance(value, list) and 1 <= len(value) <= MAX_LIST:
            texts = [read(item) for item in value]
        else:
            refuse("value", f"must be a list of 1 to {MAX_LIST} values")
        folded = field.kind is Kind.HEX or open_hex(field, operator, texts)
        if folded and operator != "regex":
            texts = [text.lower() for text in texts]
        return texts if operator in SETS else texts[0], folded


_TYPES = {
    "field": _Type(frozenset(OPERATORS.values())),
    "field_match": _Type(frozenset(OPERATORS.values())),
    "agent_id_equals": _Type(EQUALITY, default="eq", implied="agent_id", integer=True),
    "score_threshold": _Type(EQUALITY | ORDER, implied="score"),
    "tag_equals": _Type(EQUALITY, default="eq", fields=frozenset({"tag1", "tag2", "tag"})),
    "event_type_equals": _Type(EQUALITY, default="eq", implied="event_type"),
}


_COMPARED = _Type(EQUALITY | ORDER)
"""The operators of everything that keeps state."""


def _operand(name: str, value: object) -> str:
    if value is None:
        refuse("value", "is required")
    return whole_number(value) if name == "rate_limit" else decimal_text(value)


def _operator(spelled: object, rule: _Type, field: Field) -> tuple[str, str]:
    """The operator, and the spelling in which it is answered."""
    if spelled is None and rule.default is not None:
        return rule.default, rule.default
    if spelled is None:
        refuse("operator", "is required")
    operator = OPERATORS.get(spelled) if isinstance(spelled, str) else None
    if operator not in rule.operators:
        refuse("operator", f"must be one of {', '.join(sorted(rule.operators))}")
    assert operator is not None
    assert isinstance(spelled, str)
    if operator in ORDER and field.kind is not Kind.NUMBER:
        refuse("operator", f"{operator} needs a numeric field")
    if operator in TEXT and field.kind is Kind.NUMBER:
        refuse("operator", f"{operator} needs a text field")
    return operator, spelled


def _check_absence(nodes: Sequence[Node], places: Mapping[int, str]) -> None:
    """Absence is no answer about the event at hand, so nothing can be made of it but a match.

    Raises:
        Invalid: it stands where something else would depend on it, or beside what a match would reset.
    """
    inside = nodes
    if len(inside) == 1 and isinstance(inside[0], Group) and inside[0].kind == "all":
        inside = inside[0].children
    stateful = [node for node in walk(nodes) if isinstance(node, Stateful)]
    absences = [node for node in stateful if node.kind == "absence"]
    faults = [
        FieldError(places[node.id], "may only stand at the root, or directly in the all at the root")
        for node in absences
        if node not in inside
    ]
    faults += [FieldError(places[node.id], "is a second absence; one is allowed") for node in absences[1:]]
    if absences and any(node.resets for node in stateful):
        faults.append(FieldError(places[absences[0].id], "does not go together with reset_on_trigger"))
    if faults:
        raise Invalid.fields(*faults)


def _unnumbered(nodes: Collection[Node]) -> object:
    """The nodes without their ids, to compare them."""
    return tuple(
        replace(node, id=0, children=_unnumbered(node.children)) if isinstance(node, Group) else replace(node, id=0)
        for node in nodes
    )


def _only(source: dict[str, Any], allowed: frozenset[str], message: str) -> None:
    for key in source.keys() - allowed:
        refuse(key if _NAME.match(key) else "", message)
