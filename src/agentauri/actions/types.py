"""What a delivery and an action are, and what the rest of the house hands over about events and triggers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import datetime
from typing import Literal, NamedTuple

from msgspec import UNSET, Struct, UnsetType

from agentauri.breaker import BreakerConfig
from agentauri.database import Transaction
from agentauri.types import ActionId, ChainId, DeliveryId, EventSeq, OrganizationId, TriggerId

Kind = Literal["match", "retraction", "absence", "digest", "replay", "test"]
Status = Literal["pending", "delivered", "dead", "skipped"]
Hold = Literal["depth", "breaker", "retraction", "paused"]
ReleaseTag = Literal["head", "safe", "finalized"]
Verdict = Literal["delivered", "retryable", "permanent", "abandoned"]
Environment = Literal["live", "test"]

Json = dict[str, object]
Pair = tuple[TriggerId, ActionId]


class TriggerFacts(Struct, frozen=True, kw_only=True):
    """What sending needs to know of a trigger as it is now."""

    id: TriggerId
    name: str
    version: int
    organization_id: OrganizationId
    enabled: bool = True
    on_open: Literal["hold", "skip"] = "hold"
    breaker: BreakerConfig = BreakerConfig()


class Subjects(NamedTuple):
    """Events by their sequence number, each with its columns by name, and triggers. What is missing does not exist."""

    events: Mapping[EventSeq, Mapping[str, object]]
    triggers: Mapping[TriggerId, TriggerFacts]


LoadSubjects = Callable[[Transaction, Collection[EventSeq], Collection[TriggerId]], Awaitable[Subjects]]


class ChainLabel(Struct, frozen=True):
    name: str
    explorer_url: str | None = None


class ActionDraft(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An action as somebody wants it. A known `id` keeps that action and its secrets.

    What answers show beyond that may be sent back with it, and means nothing.
    """

    action_type: str
    config: Json
    id: ActionId | None = None
    priority: int = 0
    enabled: bool = True
    trigger_id: object = None
    destination: object = None
    created_at: object = None
    updated_at: object = None
    signing_secret: object = None


class ActionPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to change of an action; see `ActionDraft`."""

    action_type: str | UnsetType = UNSET
    config: Json | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    id: object = None
    trigger_id: object = None
    destination: object = None
    created_at: object = None
    updated_at: object = None
    signing_secret: object = None


class CheckedAction(Struct, frozen=True, kw_only=True):
    """A draft that its channel accepts: secrets taken out of `config`, which shows `***` in their place.

    `secrets` maps a secret's name to its value, None meaning the one that is stored already.
    """

    draft: ActionDraft
    position: int
    config: Json
    secrets: dict[str, str | None]
    destination: str


class Action(Struct, frozen=True, kw_only=True):
    """An action as its owner may see it. `signing_secret` is set once, in the answer that makes the action."""

    id: ActionId
    trigger_id: TriggerId
    action_type: str
    priority: int
    enabled: bool
    config: Json
    destination: str
    created_at: datetime
    updated_at: datetime
    signing_secret: str | UnsetType = UNSET


class MatchAction(Struct, frozen=True, kw_only=True, array_like=True):
    """What the evaluator needs of an enabled action to draft a delivery."""

    id: ActionId
    action_type: str
    destination: str
    priority: int


class Release(Struct, frozen=True):
    """A delivery waits until its chain's `tag` has reached `block`, which is `depth` above its event's."""

    tag: ReleaseTag
    block: int
    depth: int = 0


class DeliveryDraft(Struct, frozen=True, kw_only=True):
    """One action for one match. The delivery's id follows from it, so the same draft twice is one delivery.

    What a caller asked for, a replay or a test, has a `request_id` of its own, and its time for `event_created_at`.
    """

    organization_id: OrganizationId
    trigger_id: TriggerId
    trigger_version: int
    environment: Environment
    action_id: ActionId
    action_type: str
    destination: str
    priority: int
    event_seq: EventSeq
    event_id: str
    event_epoch: int
    event_created_at: datetime
    chain_id: ChainId
    kind: Kind = "match"
    context: bytes | None = None
    parent_id: DeliveryId | None = None
    request_id: str | None = None
    release: Release | None = None


class SettledEvent(Struct, frozen=True, kw_only=True):
    """The facts of an event that its deliveries' ids are made of."""

    seq: EventSeq
    event_id: str
    epoch: int
    created_at: datetime
    chain_id: ChainId


class Delivery(Struct, frozen=True, kw_only=True):
    """With `hold` depth it waits until the chain's `release_tag` has reached `release_block`."""

    id: DeliveryId
    correlation_id: str
    kind: Kind
    parent_id: DeliveryId | None
    trigger_id: TriggerId
    trigger_version: int
    action_id: ActionId
    action_type: str
    event_id: str
    chain_id: ChainId
    agent_id: str | None
    environment: Environment
    status: Status
    reason: str | None
    hold: Hold | None
    release_tag: ReleaseTag | None
    release_block: int | None
    attempts: int
    due_at: datetime
    destination: str
    created_at: datetime
    finished_at: datetime | None


class Attempt(Struct, frozen=True, kw_only=True):
    number: int
    started_at: datetime
    duration_ms: int | None
    outcome: Verdict | None
    status_code: int | None
    error_kind: str | None
    error: str | None
    response_excerpt: str | None
    retry_at: datetime | None


class DeliveryDetail(Delivery, frozen=True, kw_only=True):
    """`rendered` is what would be sent now, secrets masked; None where the action or its trigger is gone."""

    context: Json | None
    rendered: Json | None
    attempt_log: list[Attempt]


class DeliveryFilter(Struct, frozen=True, kw_only=True):
    """None and empty mean any."""

    status: tuple[Status, ...] = ()
    trigger_id: TriggerId | None = None
    action_id: ActionId | None = None
    action_type: str | None = None
    event_id: str | None = None
    chain_id: ChainId | None = None
    agent_id: int | None = None
    environment: Environment | None = None
    kind: Kind | None = None
    hold: Hold | None = None
    correlation_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    order: Literal["asc", "desc"] = "desc"


class Replay(Struct, frozen=True, kw_only=True):
    """Which finished deliveries are to be sent again, oldest first: those that `wanted` and the rest describe together.

    `same` revives them under their ids; `new` makes deliveries of kind `replay` that tell of the same matches.
    """

    wanted: DeliveryFilter
    delivery_ids: tuple[DeliveryId, ...] | None = None
    from_block: int | None = None
    to_block: int | None = None
    mode: Literal["same", "new"] = "same"
    limit: int = 100
    after: DeliveryId | None = None
    dry_run: bool = False


class Replayed(Struct, frozen=True, kw_only=True):
    """What a replay did, or would do. `refused` counts by reason what was passed over on the way; there are more
    deliveries after `last`, if that is set."""

    request_id: str
    queued: int
    refused: dict[str, int]
    last: DeliveryId | None
