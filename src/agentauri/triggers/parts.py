"""The parts of a trigger one at a time. What is made piece by piece is the same as what is made in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agentauri.actions import (
    MAX_ACTIONS,
    Action,
    ActionDraft,
    ActionNotFound,
    ActionService,
    CheckedAction,
    DeliveryService,
)
from agentauri.database import Transaction
from agentauri.errors import FieldError, Invalid
from agentauri.triggers import drafts, editing
from agentauri.triggers import trigger_store as store
from agentauri.triggers.service import TriggerService, refuse_strangers, stored_trigger
from agentauri.triggers.types import Condition, Prepared, TriggerPatch
from agentauri.types import ActionId, OrganizationId, TriggerId


class TriggerParts:
    """Conditions and actions of triggers. Each change makes another version of the trigger."""

    def __init__(self, triggers: TriggerService, actions: ActionService, deliveries: DeliveryService) -> None:
        self._triggers = triggers
        self._actions = actions
        self._deliveries = deliveries

    async def add_condition(
        self, tx: Transaction, organization_id: OrganizationId, trigger_id: TriggerId, condition: Condition
    ) -> Condition:
        """One more item that has to hold; as it is stored.

        Raises:
            TriggerNotFound, ManagedByFollow
            Invalid: with fields relative to the condition.
        """

        def append(items: list[Condition]) -> tuple[list[Condition], editing.Path]:
            return [*items, condition], (len(items),)

        return await self._edit_conditions(tx, organization_id, trigger_id, append)

    async def change_condition(
        self,
        tx: Transaction,
        organization_id: OrganizationId,
        trigger_id: TriggerId,
        condition_id: int,
        patch: Condition,
    ) -> Condition:
        """Give one node of the tree other values; as it is stored, under a new id where its state starts afresh.

        Raises:
            TriggerNotFound, ConditionNotFound, ManagedByFollow
            Invalid: with fields relative to the condition.
        """
        return await self._edit_conditions(
            tx,
            organization_id,
            trigger_id,
            lambda items: editing.edited(items, condition_id, lambda node: editing.merged(node, patch)),
        )

    async def remove_condition(
        self, tx: Transaction, organization_id: OrganizationId, trigger_id: TriggerId, condition_id: int
    ) -> None:
        """Take one node out of the tree. Without any the trigger is a draft.

        Raises:
            TriggerNotFound, ConditionNotFound, ManagedByFollow
            Invalid: it is the only one of its group.
        """
        await self._edit_conditions(
            tx,
            organization_id,
            trigger_id,
            lambda items: (editing.edited(items, condition_id, lambda _: None)[0], ()),
        )

    async def _edit_conditions(
        self,
        tx: Transaction,
        organization_id: OrganizationId,
        trigger_id: TriggerId,
        edit: Callable[[list[Condition]], tuple[list[Condition], editing.Path]],
    ) -> Condition:
        """The edited node; of nothing where the edit left none."""
        await store.lock_catalog(tx)
        stored = await stored_trigger(tx, organization_id, trigger_id)
        items, path = edit(drafts.shown_conditions(stored))
        prepared = Prepared(wanted=TriggerPatch(conditions=items), actions=None)
        try:
            after = await self._triggers.update(tx, organization_id, trigger_id, prepared)
        except Invalid as error:
            raise drafts.from_within(error, editing.spelled(path)) from error
        return editing.at(after.conditions, path) if path else {}

    async def prepare_action(self, draft: ActionDraft, organization_id: OrganizationId) -> CheckedAction:
        """Check an action. May ask name servers, so never inside a transaction.

        Raises:
            Invalid: with fields relative to the action.
        """
        try:
            return (await self._actions.check([draft], organization_id))[0]
        except Invalid as error:
            raise drafts.from_within(error, "actions[0]") from error

    async def action(self, tx: Transaction, trigger_id: TriggerId, action_id: ActionId) -> Action:
        """Raises: ActionNotFound."""
        for action in await self.actions(tx, trigger_id):
            if action.id == action_id:
                return action
        raise ActionNotFound

    async def actions(self, tx: Transaction, trigger_id: TriggerId) -> Sequence[Action]:
        """The trigger's actions, lower priority first."""
        return (await self._actions.of(tx, [trigger_id])).get(trigger_id, [])

    async def add_action(
        self, tx: Transaction, organization_id: OrganizationId, trigger_id: TriggerId, checked: CheckedAction
    ) -> Action:
        """One more action. A signing secret is shown this once.

        Raises:
            TriggerNotFound, ManagedByFollow
            Invalid: it has as many as it may have.
        """
        await self._begin_actions(tx, organization_id, trigger_id)
        if len(await self.actions(tx, trigger_id)) >= MAX_ACTIONS:
            raise Invalid.fields(FieldError("", f"is one more than the {MAX_ACTIONS} actions that a trigger may have"))
        try:
            (made,) = await self._actions.create(tx, trigger_id, [checked])
        except Invalid as error:
            raise drafts.from_within(error, "actions[0]") from error
        await self._deliveries.unpause(tx, trigger_id)
        return made

    async def change_action(
        self,
        tx: Transaction,
        organization_id: OrganizationId,
        trigger_id: TriggerId,
        checked: CheckedAction,
        read: Action,
    ) -> Action:
        """Write what was made of an action as it was `read`. Deliveries that wait use it as it is then.

        Raises:
            TriggerNotFound, ActionNotFound, ManagedByFollow
            Conflict: somebody else was quicker.
            Invalid: it keeps a secret that is not stored, or was given for another target.
        """
        await self._begin_actions(tx, organization_id, trigger_id)
        try:
            made = await self._actions.change(tx, trigger_id, checked, read)
        except Invalid as error:
            raise drafts.from_within(error, "actions[0]") from error
        await self._deliveries.unpause(tx, trigger_id)
        return made

    async def remove_action(
        self, tx: Transaction, organization_id: OrganizationId, trigger_id: TriggerId, action_id: ActionId
    ) -> None:
        """End an action; what waits for it is skipped. Without any the trigger is a draft.

        Raises:
            TriggerNotFound, ActionNotFound, ManagedByFollow
        """
        await self._begin_actions(tx, organization_id, trigger_id)
        await self._actions.delete(tx, trigger_id, action_id)
        await self._deliveries.skip_pending(tx, trigger_id, "action_deleted", {action_id})

    async def _begin_actions(self, tx: Transaction, organization_id: OrganizationId, trigger_id: TriggerId) -> None:
        """Another version of the trigger, by what happens to its actions next."""
        await store.lock_catalog(tx)
        refuse_strangers(await stored_trigger(tx, organization_id, trigger_id), None)
        await store.update(tx, trigger_id, {}, restart=False)
