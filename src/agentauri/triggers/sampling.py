"""An event that nobody emitted, made up to try a trigger on."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import replace

from agentauri.errors import FieldError, Invalid
from agentauri.events import DATA_COLUMNS, Event, EventService
from agentauri.triggers.fields import EVENT_TYPES

_WHOLE_COLUMNS = frozenset({"feedback_index", "response", "value_raw", "value_decimals"})
_UINT256 = re.compile(r"0|[1-9][0-9]{0,77}")


class SampleEvent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`data` has its fields by name; what is not given is that of a built-in sample."""

    event_type: str
    chain_id: Annotated[int, Meta(ge=1, le=2**53 - 1)] | None = None
    agent_id: str | int | None = None
    data: dict[str, Any] = {}


def sampled(events: EventService, wanted: SampleEvent) -> Event:
    """
    Raises:
        Invalid: naming every refused field.
    """
    registry = next((name for name, types in EVENT_TYPES.items() if wanted.event_type in types), None)
    if registry is None:
        raise Invalid.fields(FieldError("event_type", "is not an event of any registry"))
    changes: dict[str, Any] = {"event_type": wanted.event_type}
    if wanted.chain_id is not None:
        changes["chain_id"] = wanted.chain_id
    faults = []
    if wanted.agent_id is not None:
        agent = str(wanted.agent_id)
        if _UINT256.fullmatch(agent) and int(agent) < 2**256:
            changes["agent_id"] = int(agent)
        else:
            faults.append(FieldError("agent_id", "must be a whole number from 0 to 2^256-1"))
    for name, value in wanted.data.items():
        try:
            changes[name] = _value(name, value)
        except (ValueError, ArithmeticError):
            faults.append(FieldError("data", "has a name or a value that no event has"))
    if faults:
        raise Invalid.fields(*faults)
    return replace(events.sample(registry), **changes)


def _value(name: str, value: object) -> object:
    if name not in DATA_COLUMNS or isinstance(value, bool | list | dict):
        raise ValueError(name)
    if value is None:
        return None
    if name in _WHOLE_COLUMNS:
        return int(str(value))
    if name == "score":
        score = Decimal(str(value))
        if not score.is_finite():
            raise ValueError(name)
        return score
    if not isinstance(value, str):
        raise ValueError(name)
    return value
