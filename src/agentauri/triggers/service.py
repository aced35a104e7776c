"""The one door to what users want to be told."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import uuid4

import msgspec
from msgspec import UNSET

from agentauri.actions import Action, ActionService, DeliveryService, SharedSecret, TriggerFacts
from agentauri.breaker import BreakerService
from agentauri.database import Transaction
from agentauri.errors import Invalid
from agentauri.triggers import drafts
from agentauri.triggers import trigger_store as store
from agentauri.triggers.errors import ManagedByFollow, TriggerNotFound, UnsupportedChain
from agentauri.triggers.trigger_store import StoredTrigger
from agentauri.triggers.types import (
    BreakerPatch,
    Prepared,
    StateEntry,
    Trigger,
    TriggerBreaker,
    TriggerDetail,
    TriggerDraft,
    TriggerFilter,
    TriggerPatch,
)
from agentauri.types import OrganizationId, Page, Paged, TriggerId, UserId, utc_now

ANYONE = OrganizationId("")


class TriggerService:
    """`chains` are the ids that a trigger may be bound to; None allows any."""

    def __init__(
        self,
        actions: ActionService,
        deliveries: DeliveryService,
        breakers: BreakerService,
        chains: Collection[int] | None = None,
    ) -> None:
        self._actions = actions
        self._deliveries = deliveries
        self._breakers = breakers
        self._chains = chains

    async def prepare(
        self,
        wanted: TriggerDraft | TriggerPatch,
        organization_id: OrganizationId = ANYONE,
        *,
        anonymous: bool = False,
    ) -> Prepared:
        """Check what can be checked without the database. May ask name servers, so never inside a transaction.
        Actions that are `anonymous` may be stored ones although they have no id.

        Raises:
            Invalid: naming every refused field.
        """
        faults = drafts.faults_of(wanted, self._chains)
        try:
            drafts.condition_of(wanted, None, utc_now())
        except Invalid as error:
            faults += error.errors
        checked = None
        if wanted.actions is not UNSET:
            try:
                checked = await self._actions.check(wanted.actions, organization_id, anonymous=anonymous)
            except Invalid as error:
                faults += error.errors
        if faults:
            kind = UnsupportedChain if {fault.field for fault in faults} == {"chain_id"} else Invalid
            raise kind.fields(*faults)
        return Prepared(wanted=wanted, actions=checked)

    async def create(
        self,
        tx: Transaction,
        organization_id: OrganizationId,
        user_id: UserId,
        prepared: Prepared,
        *,
        managed_by: str | None = None,
        shared: SharedSecret | None = None,
    ) -> TriggerDetail:
        """Make a trigger with all its parts. It sees events from now on; signing secrets are shown this once, but for
        the `shared` one of a follow, which then manages the trigger."""
        wanted = prepared.wanted
        assert isinstance(wanted, TriggerDraft)
        trigger_id = TriggerId(str(uuid4()))
        condition = drafts.condition_of(wanted, None, utc_now()) or drafts.NOTHING
        await store.insert(
            tx,
            {
                "id": trigger_id,
                "organization_id": organization_id,
                "user_id": user_id,
                "environment": wanted.environment,
                "managed_by": managed_by,
                "condition": condition,
                "is_stateful": bool(drafts.leaves_with_state(condition)),
                **drafts.columns_of(wanted, None),
            },
        )
        actions = await self._actions.create(tx, trigger_id, prepared.actions or (), shared)
        return await _detail(tx, organization_id, trigger_id, actions)

    async def get(self, tx: Transaction, organization_id: OrganizationId, trigger_id: TriggerId) -> TriggerDetail:
        """Raises: TriggerNotFound, also where it is another organization's."""
        return await _detail(tx, organization_id, trigger_id)

    async def list(
        self, tx: Transaction, organization_id: OrganizationId, wanted: TriggerFilter, page: Page
    ) -> Paged[Trigger]:
        rows, total = await store.page(tx, organization_id, wanted, page)
        found = [_trigger(row) for row in rows]
        return Paged(data=found, total=total, has_more=page.offset + len(found) < total)

    async def update(
        self,
        tx: Transaction,
        organization_id: OrganizationId,
        trigger_id: TriggerId,
        prepared: Prepared,
        *,
        managed_by: str | None = None,
        shared: SharedSecret | None = None,
    ) -> TriggerDetail:
        """Change what is given; `conditions` and `actions` replace the whole set, where a known id stays itself.

        Any change raises the version. Switching off keeps deliveries that wait; switching on lets them go, and the
        trigger sees events from now on.

        Raises:
            TriggerNotFound
            ManagedByFollow: more than `enabled` is to change, and it is not the follow that asks.
            Invalid: the parts do not fit together, or name what is not there.
        """
        wanted = prepared.wanted
        assert isinstance(wanted, TriggerPatch)
        await store.lock_catalog(tx)
        stored = await stored_trigger(tx, organization_id, trigger_id)
        if not drafts.only_switches(wanted):
            refuse_strangers(stored, managed_by)
        columns = drafts.columns_of(wanted, stored)
        condition = drafts.condition_of(wanted, stored, utc_now())
        if condition is not None:
            leaves = drafts.leaves_with_state(condition)
            columns |= {"condition": condition, "is_stateful": bool(leaves), "invalid_reason": None}
            await store.forget_leaves(tx, trigger_id, leaves & drafts.leaves_with_state(stored.condition))
        switched = columns.get("enabled")
        if columns or prepared.actions is not None:
            await store.update(tx, trigger_id, columns, restart=switched is True)
        made = None
        if prepared.actions is not None:
            before = {action.id for action in await self._actions_of(tx, trigger_id)}
            made = await self._actions.replace(tx, trigger_id, prepared.actions, shared)
            gone = before.difference(action.id for action in made)
            if gone:
                await self._deliveries.skip_pending(tx, trigger_id, "action_deleted", gone)
        if switched is False:
            await self._deliveries.pause(tx, trigger_id)
        elif switched is True or made is not None:
            await self._deliveries.unpause(tx, trigger_id)
        return await _detail(tx, organization_id, trigger_id, made)

    async def delete(
        self,
        tx: Transaction,
        organization_id: OrganizationId,
        trigger_id: TriggerId,
        *,
        managed_by: str | None = None,
    ) -> None:
        """End a trigger: its state goes, what waits is skipped, its history stays.

        Raises:
            TriggerNotFound
            ManagedByFollow: and it is not the follow that asks.
        """
        await store.lock_catalog(tx)
        refuse_strangers(await stored_trigger(tx, organization_id, trigger_id), managed_by)
        await store.delete(tx, trigger_id)
        await self._deliveries.skip_pending(tx, trigger_id, "trigger_deleted")
        await self._breakers.forget(tx, [trigger_id])

    async def delete_all(self, tx: Transaction, organization_id: OrganizationId) -> None:
        """End every trigger of an organization, as `delete` does, whoever manages them."""
        await store.lock_catalog(tx)
        trigger_ids = await store.ids_of(tx, organization_id)
        for trigger_id in trigger_ids:
            await store.delete(tx, trigger_id)
            await self._deliveries.skip_pending(tx, trigger_id, "trigger_deleted")
        await self._breakers.forget(tx, trigger_ids)

    async def count(self, tx: Transaction, organization_id: OrganizationId) -> int:
        """How many triggers there are, without those of follows."""
        return await store.count(tx, organization_id)

    async def facts(self, tx: Transaction, trigger_ids: Collection[TriggerId]) -> dict[TriggerId, TriggerFacts]:
        """What sending needs to know of triggers; those that are gone are absent."""
        return {
            row.id: TriggerFacts(
                id=row.id,
                name=row.name,
                version=row.version,
                organization_id=OrganizationId(row.organization_id),
                enabled=row.enabled,
                on_open=row.on_open,
                breaker=drafts.breaker_config(row.circuit_breaker_config),
            )
            for row in await store.facts(tx, trigger_ids)
        }

    async def states(
        self,
        tx: Transaction,
        organization_id: OrganizationId,
        trigger_id: TriggerId,
        scope_key: str | None,
        page: Page,
    ) -> Paged[StateEntry]:
        """What the trigger's conditions and its cooldown remember. The total is counted up to a bound.

        Raises:
            TriggerNotFound
        """
        types = drafts.types_of_leaves((await stored_trigger(tx, organization_id, trigger_id)).condition)
        rows, total = await store.states(tx, trigger_id, scope_key, page)
        found = [
            StateEntry(
                condition_id=leaf_id or None,
                scope_key=row["scope_key"],
                kind=types.get(leaf_id, "unknown") if leaf_id else "cooldown",
                state=msgspec.json.decode(row["state"]),
                updated_at=row["updated_at"],
            )
            for row in rows
            for leaf_id in (row["leaf_id"],)
        ]
        more = page.offset + len(found) < total
        return Paged(data=found, total=min(total, store.COUNTED), has_more=more, total_is_exact=total <= store.COUNTED)

    async def forget(self, tx: Transaction, organization_id: OrganizationId, trigger_id: TriggerId) -> None:
        """Let the trigger remember nothing, as when it was made.

        Raises:
            TriggerNotFound
        """
        await stored_trigger(tx, organization_id, trigger_id)
        await store.forget_everything(tx, trigger_id)

    async def breaker(self, tx: Transaction, organization_id: OrganizationId, trigger_id: TriggerId) -> TriggerBreaker:
        """Raises: TriggerNotFound."""
        stored = await stored_trigger(tx, organization_id, trigger_id)
        config = drafts.breaker_config(stored.circuit_breaker_config)
        return TriggerBreaker(_trigger(stored), await self._breakers.get(tx, trigger_id), config)

    async def configure_breaker(
        self, tx: Transaction, organization_id: OrganizationId, trigger_id: TriggerId, patch: BreakerPatch
    ) -> TriggerBreaker:
        """
        Raises:
            TriggerNotFound
            Invalid: nothing is given, or a value out of its range.
        """
        await store.lock_catalog(tx)
        stored = await stored_trigger(tx, organization_id, trigger_id)
        before = drafts.breaker_config(stored.circuit_breaker_config)
        config = drafts.patched_config(before, patch)
        if config != before:
            columns = {"circuit_breaker_config": msgspec.json.encode(config).decode()}
            await store.update(tx, trigger_id, columns, restart=False)
            await self._breakers.configure(tx, trigger_id, config)
        return await self.breaker(tx, organization_id, trigger_id)

    async def reset_breaker(
        self, tx: Transaction, organization_id: OrganizationId, trigger_id: TriggerId
    ) -> TriggerBreaker:
        """Close it by hand; the dispatcher then releases what it held.

        Raises:
            TriggerNotFound
        """
        await stored_trigger(tx, organization_id, trigger_id)
        await self._breakers.reset(tx, trigger_id)
        return await self.breaker(tx, organization_id, trigger_id)

    async def _actions_of(self, tx: Transaction, trigger_id: TriggerId) -> Sequence[Action]:
        return (await self._actions.of(tx, [trigger_id])).get(trigger_id, [])


async def stored_trigger(tx: Transaction, organization_id: OrganizationId, trigger_id: TriggerId) -> StoredTrigger:
    """Raises: TriggerNotFound."""
    stored = await store.get(tx, organization_id, trigger_id)
    if stored is None:
        raise TriggerNotFound
    return stored


async def _detail(
    tx: Transaction, organization_id: OrganizationId, trigger_id: TriggerId, written: Sequence[Action] | None = None
) -> TriggerDetail:
    """`written` are its actions as they were just written, with what is only shown once.

    Raises: TriggerNotFound.
    """
    found = await store.whole(tx, organization_id, trigger_id)
    if found is None:
        raise TriggerNotFound
    stored, actions, breaker = found
    if written is not None:
        actions = sorted(written, key=lambda action: (action.priority, action.id))
    return TriggerDetail(
        **drafts.shown(stored),
        conditions=drafts.shown_conditions(stored),
        actions=actions,
        circuit_breaker=breaker,
    )


def refuse_strangers(stored: StoredTrigger, managed_by: str | None) -> None:
    """Raises: ManagedByFollow, unless the trigger is nobody's, or theirs who ask."""
    if stored.managed_by is not None and stored.managed_by != managed_by:
        raise ManagedByFollow


def _trigger(stored: StoredTrigger) -> Trigger:
    return Trigger(**drafts.shown(stored))
