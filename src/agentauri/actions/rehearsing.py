"""What the actions of a trigger would send, of an event that nobody will be told of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from msgspec import Struct

from agentauri.actions.channels import Prepared
from agentauri.actions.configuration import ActionService
from agentauri.actions.errors import DeliveryFailed
from agentauri.actions.identity import correlation_id
from agentauri.actions.message import Message
from agentauri.actions.types import ChainLabel, CheckedAction, Json, TriggerFacts
from agentauri.database import Transaction
from agentauri.types import ActionId, ChainId, DeliveryId, TriggerId, utc_now

NO_DELIVERY = DeliveryId(UUID(int=0))
"""Stands where a message has the id of its delivery."""


class Part(Struct, frozen=True):
    """One action, compiled; the id is None where it is not stored."""

    action_id: ActionId | None
    action_type: str
    enabled: bool
    prepared: Prepared | DeliveryFailed


class Rendered(Struct, frozen=True):
    """What would be sent, secrets masked, or why nothing could be."""

    content: Json | None
    errors: tuple[str, ...] = ()


class Rehearsing:
    """The code that renders what is sent, without the sending."""

    def __init__(self, actions: ActionService, chains: Mapping[ChainId, ChainLabel]) -> None:
        self._actions = actions
        self._chains = chains

    async def stored(self, tx: Transaction, trigger_id: TriggerId) -> list[Part]:
        actions = (await self._actions.of(tx, [trigger_id])).get(trigger_id, [])
        ready = await self._actions.to_send(tx, [action.id for action in actions])
        return [
            Part(action.id, action.action_type, action.enabled, ready[action.id].prepared)
            for action in actions
            if action.id in ready
        ]

    def drafted(self, checked: Sequence[CheckedAction]) -> list[Part]:
        return [
            Part(one.draft.id, one.draft.action_type, one.draft.enabled, self._actions.try_out(one)) for one in checked
        ]

    def render(self, part: Part, trigger: TriggerFacts, event: Mapping[str, object], context: str | None) -> Rendered:
        """The message about a match of this event, `context` being what the match would leave behind."""
        if isinstance(part.prepared, DeliveryFailed):
            return Rendered(None, (str(part.prepared),))
        event_id, chain_id = str(event["id"]), event["chain_id"]
        assert isinstance(chain_id, int)
        message = Message(
            delivery_id=NO_DELIVERY,
            organization_id=trigger.organization_id,
            action_id=part.action_id or ActionId(0),
            kind="match",
            attempt=1,
            trigger=trigger,
            trigger_version=trigger.version,
            chain_id=ChainId(chain_id),
            chain=self._chains.get(ChainId(chain_id)),
            event=event,
            event_id=event_id,
            correlation_id=correlation_id(trigger.id, event_id),
            context=context,
            parent_id=None,
            created_at=utc_now(),
        )
        try:
            return Rendered(part.prepared.preview(message))
        except DeliveryFailed as error:
            return Rendered(None, (str(error),))
