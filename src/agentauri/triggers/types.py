"""What a trigger is, and how callers ask for one."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from agentauri.actions import Action, ActionDraft, CheckedAction
from agentauri.breaker import Breaker, BreakerConfig, State
from agentauri.types import ChainId, OrganizationId, TriggerId, UserId

Registry = Literal["identity", "reputation", "validation"]
Status = Literal["disabled", "invalid", "draft", "active"]
Environment = Literal["live", "test"]
OnReorg = Literal["ignore", "notify"]
OnOpen = Literal["hold", "skip"]
FireAt = str | dict[str, int]
"""`seen`, `safe`, `finalized` or `{"confirmations": n}`."""
Condition = dict[str, Any]
"""One item of a condition: a leaf or a group, see `conditions`."""


class Trigger(Struct, frozen=True, kw_only=True):
    """`status` sums up whether it can fire: draft is one without condition or without an enabled action."""

    id: TriggerId
    organization_id: OrganizationId
    user_id: UserId
    name: str
    description: str | None
    chain_id: ChainId | None
    registry: Registry | None
    enabled: bool
    match_all: bool
    is_stateful: bool
    environment: Environment
    fire_at: FireAt
    on_reorg: OnReorg
    on_open: OnOpen
    cooldown_seconds: int
    dedupe_key: str | None
    status: Status
    version: int
    managed_by: str | None
    invalid_reason: str | None
    last_matched_at: datetime | None
    created_at: datetime
    updated_at: datetime


class BreakerSummary(Struct, frozen=True):
    state: State
    failure_count: int


class TriggerDetail(Trigger, frozen=True, kw_only=True):
    """A trigger with its parts. An action that was just made shows its `signing_secret`, this once."""

    conditions: list[Condition]
    actions: list[Action]
    circuit_breaker: BreakerSummary


class TriggerBreaker(Struct, frozen=True):
    """A trigger's breaker and how it is set."""

    trigger: Trigger
    breaker: Breaker
    config: BreakerConfig


class StateEntry(Struct, frozen=True):
    """What a condition remembers of one scope. `condition_id` is None for the cooldown."""

    condition_id: int | None
    scope_key: str
    kind: str
    state: Any
    updated_at: datetime


class TriggerDraft(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A trigger as somebody wants it. `is_stateful` is computed and `organization_id` resolved by the edge, whatever is
    sent."""

    name: str
    description: str | None = None
    chain_id: int | None = None
    registry: Registry | None = None
    enabled: bool = True
    match_all: bool = False
    is_stateful: bool | None = None
    organization_id: str | None = None
    environment: Environment = "live"
    fire_at: FireAt = "seen"
    on_reorg: OnReorg = "ignore"
    on_open: OnOpen = "hold"
    cooldown_seconds: int = 0
    dedupe_key: str | None = None
    conditions: list[Condition] = []
    actions: list[ActionDraft] = []


class TriggerPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to change; what is unset stays. `conditions` and `actions` replace the whole set."""

    name: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    chain_id: int | UnsetType | None = UNSET
    registry: Registry | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    match_all: bool | UnsetType = UNSET
    is_stateful: bool | UnsetType = UNSET
    organization_id: str | UnsetType = UNSET
    fire_at: FireAt | UnsetType = UNSET
    on_reorg: OnReorg | UnsetType = UNSET
    on_open: OnOpen | UnsetType = UNSET
    cooldown_seconds: int | UnsetType = UNSET
    dedupe_key: str | UnsetType | None = UNSET
    conditions: list[Condition] | UnsetType = UNSET
    actions: list[ActionDraft] | UnsetType = UNSET


class Prepared(Struct, frozen=True, kw_only=True):
    """A draft or patch that was checked as far as that goes without the database. `actions` is None where unset."""

    wanted: TriggerDraft | TriggerPatch
    actions: list[CheckedAction] | None


class BreakerPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    failure_threshold: int | UnsetType = UNSET
    recovery_timeout_seconds: int | UnsetType = UNSET
    half_open_max_calls: int | UnsetType = UNSET


class TriggerFilter(Struct, frozen=True, kw_only=True):
    """None means any; `search` is a part of the name."""

    enabled: bool | None = None
    status: Status | None = None
    registry: Registry | None = None
    chain_id: int | None = None
    breaker_state: State | None = None
    environment: Environment | None = None
    managed: bool | None = None
    search: str | None = None
    order: Literal["asc", "desc"] = "desc"
