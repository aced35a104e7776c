"""The condition tree: read, checked, and put into the one form that is stored, answered and compiled.

    condition := leaf | [condition, …] | {"all": […]} | {"any": […]} | {"not": condition}

A bare list means all. `parse` is the only reader: what it accepts can run, and it names every part it refuses by its
path. Its result has two faces: `document` for people and for the database, with operators spelled as they were sent,
and `nodes`, resolved, small and packable, for `matching` and the index.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from decimal import Decimal
from itertools import count
from typing import Any, NoReturn, TypeAlias

import msgspec
import re2
from eth_hash.auto import keccak
from msgspec import Struct

from agentauri.errors import FieldError, Invalid
from agentauri.triggers.fields import ADDRESSES, FIELDS, Field, Kind, find_field

MAX_DEPTH, MAX_LEAVES, MAX_LIST, MAX_BYTES = 8, 64, 1000, 64 * 1024
MAX_TEXT, MAX_PATTERN, MAX_DIGITS = 1000, 512, 78
MAX_AGENT_ID = 2**256 - 1
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


class Group(Struct, frozen=True, array_like=True, tag="g"):
    """`kind` is all, any or not; a not has one child."""

    id: int
    kind: str
    children: tuple[Leaf | Group, ...]


Node: TypeAlias = Leaf | Group


class Tree(Struct, frozen=True):
    """A checked condition; all of `nodes` must hold. `document` is its canonical JSON, every node with its id."""

    nodes: tuple[Node, ...]
    document: list[dict[str, Any]]

    def ids(self) -> frozenset[int]:
        return frozenset(node.id for node in walk(self.nodes))


OPERATORS = {
    spelling: operator
    for operator, spellings in {
        "eq": ("=", "==", "equals"), "ne": ("!=", "<>", "not_equals"),
        "lt": ("<",), "lte": ("<=",), "gt": (">",), "gte": (">=",),
        "in": (), "not_in": (), "contains": (), "starts_with": (), "ends_with": (), "regex": (), "exists": (),
    }.items()
    for spelling in (operator, *spellings)
}  # fmt: skip
EQUALITY = frozenset({"eq", "ne"})
ORDER = frozenset({"lt", "lte", "gt", "gte"})
SETS = frozenset({"in", "not_in"})
TEXT = frozenset({"contains", "starts_with", "ends_with", "regex"})

STATEFUL = frozenset({"ema_threshold", "rate_limit", "count", "sum", "avg", "min", "max", "sequence", "absence"})
GROUPS = ("all", "any", "not")
READ_ONLY = frozenset({"id", "trigger_id", "created_at"})
"""What answers add to a node. It may be sent back; only `id` means something."""
LEAF_KEYS = READ_ONLY | {"condition_type", "field", "operator", "value", "config"}
GROUP_KEYS = {kind: READ_ONLY | {kind} for kind in GROUPS}

_DECIMAL = re.compile(r"-?[0-9]{1,78}(\.[0-9]{1,78})?\Z")
_INTEGER = re.compile(r"(0|[1-9][0-9]{0,77})\Z")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}\Z")
_HASH_OR_ADDRESS = re.compile(r"0x([0-9a-fA-F]{40}|[0-9a-fA-F]{64})\Z")
_NAME = re.compile(r"[A-Za-z0-9_]{1,64}\Z")


def parse(
    source: object,
    *,
    path: str = "conditions",
    known: Collection[int] | None = None,
    event_types: Collection[str] | None = None,
) -> Tree:
    """Read a condition as callers send it or as it is stored.

    With `known` (for writing) a node keeps its id when it is one of these and gets a fresh one otherwise; without
    (for reading) ids stay as they are. `event_types` are the names that `event_type_equals` may use; None is any.

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
    document = [entry for _, entry in found]
    if len(msgspec.json.encode(document)) > MAX_BYTES:
        raise Invalid.fields(FieldError(path, f"must be at most {MAX_BYTES // 1024} KiB"))
    return Tree(tuple(node for node, _ in found), document)


def walk(nodes: Collection[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        if isinstance(node, Group):
            yield from walk(node.children)


class _Reader:
    """Walks one source, collecting every fault instead of stopping at the first."""

    def __init__(self, known: Collection[int] | None, event_types: Collection[str] | None) -> None:
        self.faults: list[FieldError] = []
        self.leaves = 0
        self._known = known
        self._event_types = event_types
        self._used: set[int] = set()
        self._fresh = count(FIRST_UNNUMBERED if known is None else max(known, default=0) + 1)

    def node(self, source: object, path: str, depth: int) -> tuple[Node, dict[str, Any]] | None:
        try:
            if depth > MAX_DEPTH:
                _refuse("", f"must not nest deeper than {MAX_DEPTH} levels")
            if isinstance(source, list):
                source = {"all": source}
            if not isinstance(source, dict):
                _refuse("", "must be a condition: an object")
            kind = next((key for key in GROUPS if key in source), None)
            if kind is None:
                self.leaves += 1
                return self._leaf(source)
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
                _refuse(kind, "must be a list of conditions")
            if not inner:
                _refuse(kind, "must not be an empty list")
            if len(inner) > MAX_LIST:
                _refuse(kind, f"must have at most {MAX_LIST} items")
            pairs = [self.node(item, f"{path}.{kind}[{at}]", depth + 1) for at, item in enumerate(inner)]
        found = [pair for pair in pairs if pair is not None]
        if len(found) < len(pairs):
            return None
        number = self._id(source)
        entries = [entry for _, entry in found]
        document = {"id": number, kind: entries[0] if kind == "not" else entries}
        return Group(number, kind, tuple(node for node, _ in found)), document

    def _leaf(self, source: dict[str, Any]) -> tuple[Node, dict[str, Any]]:
        _only(source, LEAF_KEYS, "is not a part of a condition")
        name = source.get("condition_type")
        if isinstance(name, str) and name in STATEFUL:
            _refuse("condition_type", f"{name} is not available in this version")
        if not isinstance(name, str) or name not in _TYPES:
            _refuse("condition_type", f"must be one of {', '.join(_TYPES)}, or the item a group: all, any or not")
        if (config := source.get("config")) is not None and config != {}:
            _refuse("config", f"{name} takes no config")
        rule = _TYPES[name]
        field = rule.field(source.get("field"))
        operator, spelled = _operator(source.get("operator"), rule, field)
        operand, folded = rule.operand(source.get("value"), operator, field)
        if name == "event_type_equals" and self._event_types is not None and operand not in self._event_types:
            _refuse("value", "must be an event of the trigger's registry, in its exact case")
        number = self._id(source)
        document = {"id": number, "condition_type": name, "field": source.get("field") or field.column}
        document |= {"operator": spelled, "value": operand}
        return Leaf(number, field.column, operator, operand, folded), document

    def _id(self, source: dict[str, Any]) -> int:
        """Its own id where that is to be kept, else the next free one."""
        given = source.get("id")
        if given is not None and (
            not isinstance(given, int) or isinstance(given, bool) or not 0 < given < FIRST_UNNUMBERED
        ):
            _refuse("id", f"must be an integer from 1 to {FIRST_UNNUMBERED - 1}")
        kept = given is not None and (self._known is None or given in self._known)
        if kept and given in self._used:
            _refuse("id", "is used twice")
        number = given if kept else next(value for value in self._fresh if value not in self._used)
        assert number is not None
        self._used.add(number)
        return number


class _Type(Struct, frozen=True):
    """What one condition type takes. `implied` is its field where callers need not name one."""

    operators: frozenset[str]
    default: str | None = None
    implied: str | None = None
    fields: frozenset[str] | None = None
    integer: bool = False

    def field(self, name: object) -> Field:
        if name is not None and (not isinstance(name, str) or not 1 <= len(name) <= 255):
            _refuse("field", "must be text of 1 to 255 characters")
        if self.implied is not None:
            return FIELDS[self.implied]
        if name is None:
            _refuse("field", "is required")
        assert isinstance(name, str)
        if self.fields is not None and name not in self.fields:
            _refuse("field", f"must be one of {', '.join(sorted(self.fields))}")
        found = find_field(name)
        if found is None:
            _refuse("field", "is not a field of an event")
        return found

    def operand(self, value: object, operator: str, field: Field) -> tuple[Operand, bool]:
        """The value in its resolved form, and whether it compares without regard to case."""
        if operator == "exists":
            return _boolean(value), False
        if value is None:
            _refuse("value", "is required")
        read = _reader(field, operator, integer=self.integer)
        if operator not in SETS:
            texts = [read(value)]
        elif isinstance(value, list) and 1 <= len(value) <= MAX_LIST:
            texts = [read(item) for item in value]
        else:
            _refuse("value", f"must be a list of 1 to {MAX_LIST} values")
        folded = field.kind is Kind.HEX or _open_hex(field, operator, texts)
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


def _operator(spelled: object, rule: _Type, field: Field) -> tuple[str, str]:
    """The operator, and the spelling in which it is answered."""
    if spelled is None and rule.default is not None:
        return rule.default, rule.default
    if spelled is None:
        _refuse("operator", "is required")
    operator = OPERATORS.get(spelled) if isinstance(spelled, str) else None
    if operator not in rule.operators:
        _refuse("operator", f"must be one of {', '.join(sorted(rule.operators))}")
    assert operator is not None
    assert isinstance(spelled, str)
    if operator in ORDER and field.kind is not Kind.NUMBER:
        _refuse("operator", f"{operator} needs a numeric field")
    if operator in TEXT and field.kind is Kind.NUMBER:
        _refuse("operator", f"{operator} needs a text field")
    return operator, spelled


def _reader(field: Field, operator: str, *, integer: bool) -> Callable[[object], str]:
    """Checks one value for this field and gives its text."""
    if operator == "regex":
        return _pattern
    if field.kind is Kind.NUMBER:
        return _integer if integer else _decimal
    if field.open:
        return _scalar
    if field.column in ADDRESSES and (operator in EQUALITY or operator in SETS):
        return _address
    return _text


def _decimal(value: object) -> str:
    text = _plain(value)
    if text is None or not _DECIMAL.match(text) or sum(map(str.isdigit, text)) > MAX_DIGITS:
        _refuse("value", f"must be a decimal number of at most {MAX_DIGITS} digits")
    return text


def _integer(value: object) -> str:
    text = _plain(value)
    if text is None or not _INTEGER.match(text) or int(text) > MAX_AGENT_ID:
        _refuse("value", "must be a whole number from 0 to 2^256-1")
    return text


def _plain(value: object) -> str | None:
    """The text of a JSON number, or of a string that may hold one."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        value = Decimal(repr(value))
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) <= MAX_DIGITS:
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    return str(value) if isinstance(value, int) and abs(value) <= 10**MAX_DIGITS else None


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not storable(value):
        _refuse("value", f"must be text of at most {MAX_TEXT} characters")
    return value


def _scalar(value: object) -> str:
    """A value for a field whose type nobody knows beforehand."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return _text(_plain(value) if isinstance(value, int | float | Decimal) else value)


def _address(value: object) -> str:
    text = _text(value)
    digits = text[2:]
    if _ADDRESS.match(text) and digits not in (digits.lower(), digits.upper()):
        mask = keccak(digits.lower().encode()).hex()
        if digits != "".join(c.upper() if m >= "8" else c for c, m in zip(digits.lower(), mask, strict=False)):
            _refuse("value", "has the wrong checksum for its mixed case; send it in lower case or correct it")
    return text


def _pattern(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_PATTERN or not storable(value):
        _refuse("value", f"must be a pattern of 1 to {MAX_PATTERN} characters")
    try:
        compile_pattern(value, folded=False)
    except re2.error:
        _refuse("value", "must be a regular expression in RE2 syntax (no look-around, no back-references)")
    return value


def compile_pattern(pattern: str, *, folded: bool) -> Any:
    """A search of linear time, whatever the pattern."""
    options = re2.Options()
    options.log_errors = False
    options.case_sensitive = not folded
    return re2.compile(pattern, options=options)


def _boolean(value: object) -> str:
    if value is None or value is True or value == "true":
        text = "true"
    elif value is False or value == "false":
        text = "false"
    else:
        _refuse("value", "must be true or false")
    return text


def _open_hex(field: Field, operator: str, values: list[str]) -> bool:
    """Arguments have no declared type; one that is compared with an address or a hash is taken for one."""
    exact = operator in EQUALITY or operator in SETS
    return field.open and exact and all(_HASH_OR_ADDRESS.match(value) for value in values)


def storable(text: str) -> bool:
    """PostgreSQL stores neither NUL nor half of a surrogate pair."""
    if text.isascii():
        return "\x00" not in text
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _only(source: dict[str, Any], allowed: frozenset[str], message: str) -> None:
    for key in source.keys() - allowed:
        _refuse(key if _NAME.match(key) else "", message)


def _refuse(field: str, message: str) -> NoReturn:
    raise FieldError(field, message)
