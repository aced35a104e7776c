"""From what callers send to what is stored, and back. Pure.

A stored condition is the canonical tree of `conditions`, or JSON null for a draft. `match_all` is no column: it is the
condition that every event meets.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from agentauri.actions import TemplateError, compile_event_text
from agentauri.breaker import BreakerConfig
from agentauri.errors import FieldError, Invalid
from agentauri.triggers.conditions import Shape, parse
from agentauri.triggers.fields import EVENT_TYPES
from agentauri.triggers.matching import Depth
from agentauri.triggers.trigger_store import StoredTrigger
from agentauri.triggers.types import BreakerPatch, Condition, TriggerDraft, TriggerPatch
from agentauri.triggers.values import storable

MAX_NAME, MAX_DESCRIPTION = 255, 1000
MAX_COOLDOWN = 30 * 86_400
MATCH_ALL: Condition = {"condition_type": "field", "field": "event_type", "operator": "exists", "value": "true"}
MAX_CONFIRMATIONS = 10_000
NOTHING = "null"
BORN = "created_at"
BREAKER_RANGES = {
    "failure_threshold": (1, 1000),
    "recovery_timeout_seconds": (1, 604_800),
    "half_open_max_calls": (1, 10),
}

_COLUMNS = (
    "name", "description", "chain_id", "registry", "enabled", "fire_at", "on_reorg", "on_open", "cooldown_seconds",
    "dedupe_key",
)  # fmt: skip


def faults_of(wanted: TriggerDraft | TriggerPatch, chains: Collection[int] | None) -> list[FieldError]:
    """What is wrong with the plain fields, whatever is stored."""
    faults = []
    if isinstance(wanted.name, str) and not (1 <= len(wanted.name.strip()) <= MAX_NAME and storable(wanted.name)):
        faults.append(FieldError("name", f"must be text of 1 to {MAX_NAME} characters"))
    about = wanted.description
    if isinstance(about, str) and not (len(about) <= MAX_DESCRIPTION and storable(about)):
        faults.append(FieldError("description", f"must be text of at most {MAX_DESCRIPTION} characters"))
    if isinstance(wanted.chain_id, int) and not (
        wanted.chain_id in chains if chains is not None else 0 < wanted.chain_id < 2**53
    ):
        faults.append(FieldError("chain_id", "is not a chain of this installation"))
    if wanted.fire_at is not UNSET:
        try:
            depth_of(wanted.fire_at)
        except Invalid as error:
            faults += error.errors
    seconds = 0 if wanted.cooldown_seconds is UNSET else wanted.cooldown_seconds
    return faults + cooldown_faults(seconds, None if wanted.dedupe_key is UNSET else wanted.dedupe_key)


def depth_of(fire_at: object) -> Depth | None:
    """How deep an event must be for a trigger with this `fire_at`; None where it need not be.

    Raises:
        Invalid: it is none of the four forms.
    """
    match fire_at:
        case "seen":
            return None
        case "safe" | "finalized":
            return Depth(fire_at)
        case {"confirmations": int(blocks), **more} if (
            not more and not isinstance(blocks, bool) and 1 <= blocks <= MAX_CONFIRMATIONS
        ):
            return Depth("head", blocks)
    form = f'must be seen, safe, finalized or {{"confirmations": n}} with n from 1 to {MAX_CONFIRMATIONS}'
    raise Invalid.fields(FieldError("fire_at", form))


def cooldown_faults(seconds: int, dedupe_key: str | None) -> list[FieldError]:
    """What is wrong with how often a trigger may fire, sent or stored."""
    faults = []
    if not 0 <= seconds <= MAX_COOLDOWN:
        faults.append(FieldError("cooldown_seconds", f"must be a number from 0 to {MAX_COOLDOWN}"))
    if dedupe_key is not None:
        try:
            compile_event_text(dedupe_key)
        except TemplateError as error:
            faults.append(FieldError("dedupe_key", str(error)))
        if not dedupe_key or not storable(dedupe_key):
            faults.append(FieldError("dedupe_key", "must be a template, or null"))
    return faults


def columns_of(wanted: TriggerDraft | TriggerPatch, stored: StoredTrigger | None) -> dict[str, object]:
    """The columns to write: those that are given, and differ from what is stored."""
    columns: dict[str, object] = {}
    for name in _COLUMNS:
        value = getattr(wanted, name)
        if value is UNSET:
            continue
        if name == "name":
            value = value.strip()
        if name == "fire_at":
            if stored is not None and value == msgspec.json.decode(stored.fire_at):
                continue
            value = msgspec.json.encode(value).decode()
        if stored is None or value != getattr(stored, name):
            columns[name] = value
    return columns


def only_switches(wanted: TriggerPatch) -> bool:
    """Whether nothing but `enabled` is to change."""
    meaningless = ("enabled", "is_stateful", "organization_id")
    return all(getattr(wanted, name) is UNSET for name in TriggerPatch.__struct_fields__ if name not in meaningless)


def from_within(error: Invalid, path: str) -> Invalid:
    """The same refusals as somebody sees them who sent only what stands at this path."""
    return Invalid.fields(
        *(FieldError(fault.field.removeprefix(path).lstrip("."), fault.message) for fault in error.errors)
    )


def condition_of(wanted: TriggerDraft | TriggerPatch, stored: StoredTrigger | None, now: datetime) -> str | None:
    """The condition to write, as JSON; None when it stays as it is.

    Raises:
        Invalid: it cannot run, or contradicts `match_all`.
    """
    before = _items(stored)
    items: list[Condition] | UnsetType = wanted.conditions
    if wanted.match_all is True:
        if items or (items is UNSET and before and not _is_match_all(before)):
            raise Invalid.fields(FieldError("match_all", "may be true only without conditions"))
        if _is_match_all(before):
            return None
        items = [MATCH_ALL]
    elif _is_match_all(before) and not items:
        # Such a trigger is answered with no conditions, so an empty list alone changes nothing.
        return NOTHING if wanted.match_all is False else None
    elif items is UNSET:
        if wanted.registry is UNSET or not before:
            return None
        items = before  # which events can be named depends on the registry
    return _checked(items, before, _registry(wanted, stored), now)


def _checked(items: list[Condition], before: list[Condition], registry: str | None, now: datetime) -> str | None:
    if not items:
        return NOTHING if before else None
    event_types = EVENT_TYPES.get(registry) if registry else frozenset().union(*EVENT_TYPES.values())
    tree = parse(items, known=_shapes(before), event_types=event_types)
    if tree.document == [{key: value for key, value in item.items() if key != BORN} for item in before]:
        return None
    born = {item.get("id"): item.get(BORN) for item in before}
    document = [item | {BORN: born.get(item["id"]) or now} for item in tree.document]
    return msgspec.json.encode(document).decode()


def leaves_with_state(condition: str) -> frozenset[int]:
    """Ids of the leaves of a stored condition that remember something."""
    items = _listed(msgspec.json.decode(condition))
    return frozenset(number for number, shape in _shapes(items).items() if shape is not None)


def count_leaves(items: Collection[Condition]) -> int:
    """How many comparisons a condition is made of, as callers see it."""
    groups = [[*_listed(item.get("all")), *_listed(item.get("any")), *_listed(item.get("not"))] for item in items]
    return sum(count_leaves(group) if group else 1 for group in groups)


def types_of_leaves(condition: str) -> dict[int, str]:
    """The `condition_type` of each leaf of a stored condition, by its id."""
    found: dict[int, str] = {}
    left = _listed(msgspec.json.decode(condition))
    while left:
        item = left.pop()
        for inner in (item.get("all"), item.get("any"), item.get("not")):
            left += [one for one in _listed(inner) if isinstance(one, dict)]
        if isinstance(number := item.get("id"), int) and "condition_type" in item:
            found[number] = str(item["condition_type"])
    return found


def shown(stored: StoredTrigger) -> dict[str, Any]:
    """The fields of the `Trigger` that callers see."""
    row = stored._asdict()
    del row["circuit_breaker_config"], row["condition"]
    return row | {"fire_at": msgspec.json.decode(stored.fire_at), "match_all": _is_match_all(_items(stored))}


def shown_conditions(stored: StoredTrigger) -> list[Condition]:
    """The condition in its canonical form, as far as it has one, each item with what the wire adds to it."""
    items = _items(stored)
    if not items or _is_match_all(items):
        return []
    born = {item.get("id"): item.get(BORN) for item in items}
    with suppress(Invalid):  # written by hand: its owner should see what is wrong
        items = parse(items).document
    return [item | {"trigger_id": stored.id, BORN: born.get(item.get("id")) or stored.created_at} for item in items]


@lru_cache(maxsize=1024)
def breaker_config(stored: str) -> BreakerConfig:
    """A stored configuration; what is missing or out of range takes its default."""
    try:
        given = msgspec.json.decode(stored, type=dict[str, Any])
    except msgspec.MsgspecError:
        given = {}
    return BreakerConfig(
        **{
            name: given[name]
            for name, (low, high) in BREAKER_RANGES.items()
            if isinstance(given.get(name), int) and low <= given[name] <= high
        }
    )


def patched_config(config: BreakerConfig, patch: BreakerPatch) -> BreakerConfig:
    """
    Raises:
        Invalid: nothing is given, or something out of its range.
    """
    given = {name: value for name, value in msgspec.structs.asdict(patch).items() if value is not UNSET}
    if not given:
        raise Invalid.fields(FieldError("", f"must have at least one of {', '.join(BREAKER_RANGES)}"))
    faults = []
    for name, value in given.items():
        low, high = BREAKER_RANGES[name]
        if not low <= value <= high:
            faults.append(FieldError(name, f"must be a number from {low} to {high}"))
    if faults:
        raise Invalid.fields(*faults)
    return msgspec.structs.replace(config, **given)


def _registry(wanted: TriggerDraft | TriggerPatch, stored: StoredTrigger | None) -> str | None:
    if wanted.registry is not UNSET:
        return wanted.registry
    return None if stored is None else stored.registry


def _items(stored: StoredTrigger | None) -> list[Condition]:
    """The items of a stored condition. A hand-written one may be a single item, or no condition at all."""
    return _listed(None if stored is None else msgspec.json.decode(stored.condition))


def _listed(document: Any) -> list[Condition]:
    items = document if isinstance(document, list) else [document]
    return [item if isinstance(item, dict) else {"all": item} for item in items if item is not None]


def _is_match_all(items: list[Condition]) -> bool:
    return len(items) == 1 and MATCH_ALL.items() <= items[0].items()


def _shapes(items: list[Condition]) -> dict[int, Shape | None]:
    try:
        return parse(items).shapes() if items else {}
    except Invalid:
        return {}
