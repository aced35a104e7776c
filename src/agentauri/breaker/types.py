"""What a breaker is, what it is asked and what it is told."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple

from msgspec import Struct

from agentauri.types import TriggerId

State = Literal["closed", "open", "half_open"]


class BreakerConfig(Struct, frozen=True, kw_only=True):
    """`half_open_max_calls` sends may go while half open, and as many successes close it."""

    failure_threshold: int = 10
    recovery_timeout_seconds: int = 60
    half_open_max_calls: int = 1


class Breaker(Struct, frozen=True, kw_only=True):
    """One breaker's row. `half_open_at` is when a half-open slot was last given out."""

    trigger_id: TriggerId
    state: State = "closed"
    failure_count: int = 0
    success_count: int = 0
    last_failure_at: datetime | None = None
    opened_at: datetime | None = None
    next_probe_at: datetime | None = None
    half_open_admitted: int = 0
    half_open_at: datetime | None = None
    last_error: str | None = None


class Admission(Struct, frozen=True):
    """How many of the wanted sends may go, and why the rest may not. `busy`: somebody is changing the breaker just now,
    ask again."""

    go: int
    state: State | None
    last_error: str | None = None

    @property
    def busy(self) -> bool:
        return self.state is None


class Outcome(Struct, frozen=True, kw_only=True):
    """How a send ended. `ok` is None where it says nothing about the receiver's health, such as a 429."""

    trigger_id: TriggerId
    ok: bool | None
    config: BreakerConfig
    error: str | None = None


class Transition(Struct, frozen=True):
    trigger_id: TriggerId
    state: State
    last_error: str | None = None


class Failing(NamedTuple):
    """An endpoint that keeps failing, as its owner should hear of it."""

    trigger_id: TriggerId
    organization_id: str
    failure_count: int
    last_error: str | None
    destinations: list[str]


class BreakerBusy(Exception):
    """Somebody else has locked these breakers just now; the caller's transaction is to be repeated without them."""

    def __init__(self, trigger_ids: frozenset[TriggerId]) -> None:
        super().__init__(f"{len(trigger_ids)} breakers are locked")
        self.trigger_ids = trigger_ids
