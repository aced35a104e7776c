"""The `config` of conditions that remember: spans of time, sizes, and whose past counts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from agentauri.triggers.fields import Kind, find_field
from agentauri.triggers.values import refuse

MAX_SECONDS = 90 * 86_400
MAX_WINDOW_SIZE = 100_000
MAX_SCOPE = 8
SCOPES = {"agent": ("chain_id", "agent_id"), "client": ("chain_id", "client_address"), "trigger": ()}
"""Short forms of the fields that tell one past from another."""

_DURATION = re.compile(r"[1-9][0-9]{0,6}[smhd]\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class StateType(Struct, frozen=True):
    """What one condition type takes. `kind` is what it keeps; `span` names the option that says how much of it."""

    kind: str
    span: str
    scope: str = "agent"
    field: str | None = None
    counts: bool = False
    options: frozenset[str] = frozenset()

    @property
    def keys(self) -> frozenset[str]:
        return self.options | {self.span, "scope"}


_WHERE = frozenset({"where"})
STATE_TYPES = {
    "ema_threshold": StateType("ema", "window_size", field="score"),
    "rate_limit": StateType(
        "count", "time_window", scope="trigger", counts=True, options=frozenset({"reset_on_trigger"})
    ),
    "count": StateType("count", "window", counts=True, options=_WHERE),
    "sum": StateType("sum", "window", options=_WHERE),
    "avg": StateType("avg", "window", options=_WHERE),
    "min": StateType("min", "window", options=_WHERE),
    "max": StateType("max", "window", options=_WHERE),
    "sequence": StateType("sequence", "within", options=frozenset({"first", "then"})),
    "absence": StateType("absence", "within", options=frozenset({"after", "expect"})),
}
PAIRS = {"sequence": ("first", "then"), "absence": ("after", "expect")}
"""Kinds that look at two sorts of events: the options that say which begin and which end."""


class Config(Struct, frozen=True):
    """A checked configuration, its `where` aside; `document` is how it is answered."""

    span: int
    scope: tuple[str, ...]
    resets: bool
    document: dict[str, Any]


def read_config(rule: StateType, source: object) -> Config:
    """
    Raises:
        FieldError: names the option that is refused.
    """
    options = {} if source is None else source
    if not isinstance(options, Mapping):
        refuse("config", "must be an object")
    if unknown := options.keys() - rule.keys:
        refuse("config", f"takes {', '.join(sorted(rule.keys))}, not {', '.join(sorted(map(repr, unknown)))[:100]}")
    given = options.get(rule.span)
    span = _size(given) if rule.span == "window_size" else _duration(given, rule.span)
    named = options.get("scope")
    scope, shown = _scope(rule.scope if named is None else named)
    resets = options.get("reset_on_trigger", False)
    if not isinstance(resets, bool):
        refuse("config.reset_on_trigger", "must be true or false")
    document: dict[str, Any] = {rule.span: given}
    if "reset_on_trigger" in rule.options:
        document["reset_on_trigger"] = resets
    return Config(span, scope, resets, document | {"scope": shown})


def _size(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_WINDOW_SIZE:
        refuse("config.window_size", f"must be a number from 1 to {MAX_WINDOW_SIZE}")
    return value


def _duration(value: object, name: str) -> int:
    seconds = int(value[:-1]) * _SECONDS[value[-1]] if isinstance(value, str) and _DURATION.match(value) else 0
    if not 0 < seconds <= MAX_SECONDS:
        refuse(f"config.{name}", "must be a number with s, m, h or d, like 30s or 7d, and at most 90d")
    return seconds


def _scope(value: object) -> tuple[tuple[str, ...], object]:
    """The columns, and the spelling in which they are answered."""
    if isinstance(value, str):
        if value not in SCOPES:
            refuse("config.scope", f"must be a list of fields, or one of {', '.join(SCOPES)}")
        return SCOPES[value], value
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_SCOPE:
        refuse("config.scope", f"must be a list of 1 to {MAX_SCOPE} fields, or one of {', '.join(SCOPES)}")
    columns = []
    for name in value:
        found = find_field(name) if isinstance(name, str) else None
        if found is None:
            refuse("config.scope", "must name fields of an event")
        columns.append(found.column)
    if len(set(columns)) < len(columns):
        refuse("config.scope", "names a field twice")
    return tuple(columns), list(value)


def value_column(rule: StateType, name: object) -> str:
    """The numeric field whose values are folded, "" where events are only counted.

    Raises:
        FieldError: it has none.
    """
    if name is not None and (not isinstance(name, str) or not 1 <= len(name) <= 255):
        refuse("field", "must be text of 1 to 255 characters")
    if rule.counts:
        return ""
    if name is None and rule.field is None:
        refuse("field", "is required")
    found = find_field(str(name or rule.field))
    if found is None:
        refuse("field", "is not a field of an event")
    if found.kind is not Kind.NUMBER:
        refuse("field", "must be a numeric field")
    return found.column
