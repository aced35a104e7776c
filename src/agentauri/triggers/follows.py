"""Follow an agent: one call, a trigger for each registry, and one signing secret for what they send.

The triggers are like any others, but they change with their follow and end with it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import get_args
from uuid import uuid4

import asyncpg
import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from agentauri.actions import Action, ActionDraft, ActionService
from agentauri.database import Transaction
from agentauri.errors import FieldError, Invalid
from agentauri.triggers import follow_store as store
from agentauri.triggers.errors import AlreadyFollowing, FollowNotFound
from agentauri.triggers.service import TriggerService
from agentauri.triggers.types import Environment, Prepared, Registry, TriggerDraft, TriggerPatch
from agentauri.types import ChainId, OrganizationId, Page, Paged, TriggerId, UserId

REGISTRIES: tuple[Registry, ...] = get_args(Registry)


class FollowDraft(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom to follow, and what to do when something happens to them."""

    chain_id: int
    actions: list[ActionDraft]
    environment: Environment = "live"
    organization_id: str | None = None


class FollowPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`actions` replaces the whole set; one that leads where a stored one leads is that one, and may keep secrets."""

    enabled: bool | UnsetType = UNSET
    actions: list[ActionDraft] | UnsetType = UNSET
    organization_id: str | UnsetType = UNSET


class FollowAction(Struct, frozen=True):
    action_type: str
    config_preview: dict[str, object]


class FollowTriggers(Struct, frozen=True, kw_only=True):
    """A trigger that somebody took away by hand is None."""

    identity: TriggerId | None = None
    reputation: TriggerId | None = None
    validation: TriggerId | None = None


class Follow(Struct, frozen=True, kw_only=True):
    """`enabled` is whether all of its triggers are. `signing_secret` is set once, in the answer that makes it."""

    id: str
    agent_id: str
    chain_id: ChainId
    organization_id: OrganizationId
    enabled: bool
    environment: Environment
    registries_monitored: int = len(REGISTRIES)
    actions: list[FollowAction]
    trigger_ids: FollowTriggers
    created_at: datetime
    updated_at: datetime
    signing_secret: str | UnsetType = UNSET


class FollowService:
    """The door to `follows`. An agent is named by its chain and id, and need not have been seen there yet."""

    def __init__(self, triggers: TriggerService, actions: ActionService) -> None:
        self._triggers = triggers
        self._actions = actions

    async def prepare(self, agent_id: int, wanted: FollowDraft, organization_id: OrganizationId) -> Prepared:
        """Check what can be checked without the database. May ask name servers, so never inside a transaction.

        Raises:
            Invalid: naming every refused field.
        """
        _require_some(wanted.actions)
        draft = TriggerDraft(
            name=f"Agent {agent_id}",
            chain_id=wanted.chain_id,
            environment=wanted.environment,
            conditions=[{"condition_type": "agent_id_equals", "value": str(agent_id)}],
            actions=wanted.actions,
        )
        return await self._triggers.prepare(draft, organization_id)

    async def prepare_change(self, wanted: FollowPatch, organization_id: OrganizationId) -> Prepared:
        """The same for a change."""
        if wanted.actions is not UNSET:
            _require_some(wanted.actions)
        patch = TriggerPatch(enabled=wanted.enabled, actions=wanted.actions)
        return await self._triggers.prepare(patch, organization_id, anonymous=True)

    async def create(
        self, tx: Transaction, organization_id: OrganizationId, user_id: UserId, agent_id: int, prepared: Prepared
    ) -> Follow:
        """Follow an agent from now on. The signing secret is shown this once.

        Raises:
            AlreadyFollowing
        """
        wanted = prepared.wanted
        assert isinstance(wanted, TriggerDraft)
        assert wanted.chain_id is not None
        follow_id = str(uuid4())
        made = await store.insert(
            tx,
            {
                "id": follow_id,
                "organization_id": organization_id,
                "user_id": user_id,
                "environment": wanted.environment,
                "chain_id": wanted.chain_id,
                "agent_id": agent_id,
            },
        )
        if not made:
            raise AlreadyFollowing
        shared = await self._actions.shared_secret(tx, [])
        for registry in REGISTRIES:
            draft = replace(wanted, name=f"{wanted.name}: {registry}", registry=registry)
            await self._triggers.create(
                tx,
                organization_id,
                user_id,
                Prepared(wanted=draft, actions=prepared.actions),
                managed_by=follow_id,
                shared=shared,
            )
        follow = await self.get(tx, organization_id, wanted.environment, wanted.chain_id, agent_id)
        return self._told(follow, prepared, shared.shown)

    async def get(
        self, tx: Transaction, organization_id: OrganizationId, environment: Environment, chain_id: int, agent_id: int
    ) -> Follow:
        """Raises: FollowNotFound."""
        record = await store.get(tx, organization_id, environment, chain_id, agent_id)
        if record is None:
            raise FollowNotFound
        (follow,) = await self._follows(tx, [record])
        return follow

    async def list(
        self,
        tx: Transaction,
        organization_id: OrganizationId,
        environment: Environment | None,
        page: Page,
        *,
        chain_id: int | None = None,
        enabled: bool | None = None,
    ) -> Paged[Follow]:
        records, total = await store.page(tx, organization_id, environment, chain_id, enabled, page.limit, page.offset)
        found = await self._follows(tx, records)
        return Paged(data=[*found], total=total, has_more=page.offset + len(found) < total)

    async def among(
        self,
        tx: Transaction,
        organization_id: OrganizationId,
        environment: Environment | None,
        agents: Collection[tuple[int, str]],
    ) -> set[tuple[int, str]]:
        """Those of these agents that the organization follows, each as (chain, agent)."""
        return await store.among(tx, organization_id, environment, agents)

    async def update(
        self,
        tx: Transaction,
        organization_id: OrganizationId,
        environment: Environment,
        chain_id: int,
        agent_id: int,
        prepared: Prepared,
    ) -> Follow:
        """Change all of its triggers together. The signing secret stays, whatever becomes of the actions.

        Raises:
            FollowNotFound
            Invalid: an action keeps a secret that is not stored.
        """
        await store.lock(tx, organization_id, environment, chain_id, agent_id)
        follow = await self.get(tx, organization_id, environment, chain_id, agent_id)
        trigger_ids = _ids(follow.trigger_ids)
        shared = await self._actions.shared_secret(tx, trigger_ids)
        stored = await self._actions.of(tx, trigger_ids)
        for trigger_id in trigger_ids:
            actions = prepared.actions
            if actions is not None:
                actions = self._actions.recognised(actions, stored.get(trigger_id, []))
            await self._triggers.update(
                tx,
                organization_id,
                trigger_id,
                replace(prepared, actions=actions),
                managed_by=follow.id,
                shared=shared,
            )
        await store.touch(tx, follow.id)
        return self._told(await self.get(tx, organization_id, environment, chain_id, agent_id), prepared, shared.shown)

    async def delete(
        self, tx: Transaction, organization_id: OrganizationId, environment: Environment, chain_id: int, agent_id: int
    ) -> None:
        """End a follow with its triggers.

        Raises:
            FollowNotFound
        """
        await store.lock(tx, organization_id, environment, chain_id, agent_id)
        follow = await self.get(tx, organization_id, environment, chain_id, agent_id)
        for trigger_id in _ids(follow.trigger_ids):
            await self._triggers.delete(tx, organization_id, trigger_id, managed_by=follow.id)
        await store.delete(tx, follow.id)

    async def end_organization(self, tx: Transaction, organization_id: OrganizationId) -> None:
        """End all that an organization wants to be told: its follows, its triggers, and what waits to be sent."""
        await store.delete_all(tx, organization_id)
        await self._triggers.delete_all(tx, organization_id)

    async def count(self, tx: Transaction, organization_id: OrganizationId) -> int:
        return await store.count(tx, organization_id)

    async def followed(
        self,
        tx: Transaction,
        organization_id: OrganizationId,
        environment: Environment,
        agents: Collection[tuple[int, int]],
    ) -> set[tuple[int, int]]:
        """Which of these agents, each a chain and an id, are followed."""
        return await store.followed(tx, organization_id, environment, agents)

    def _told(self, follow: Follow, prepared: Prepared, secret: str | None) -> Follow:
        """With the secret that was made for it, where an action signs with it."""
        if secret is None or not self._actions.any_signs(prepared.actions or ()):
            return follow
        return replace(follow, signing_secret=secret)

    async def _follows(self, tx: Transaction, records: Sequence[asyncpg.Record]) -> Sequence[Follow]:
        triggers = [msgspec.json.decode(record["triggers"], type=FollowTriggers) for record in records]
        shown = [next(iter(_ids(ids)), None) for ids in triggers]
        actions = await self._actions.of(tx, [trigger_id for trigger_id in shown if trigger_id is not None])
        return [
            Follow(
                id=record["id"],
                agent_id=record["agent_id"],
                chain_id=record["chain_id"],
                organization_id=record["organization_id"],
                enabled=record["enabled"],
                environment=record["environment"],
                actions=[_preview(action) for action in actions.get(first, [])] if first is not None else [],
                trigger_ids=ids,
                created_at=record["created_at"],
                updated_at=record["updated_at"],
            )
            for record, ids, first in zip(records, triggers, shown, strict=True)
        ]


def _preview(action: Action) -> FollowAction:
    return FollowAction(action.action_type, action.config)


def _ids(triggers: FollowTriggers) -> list[TriggerId]:
    ids = (triggers.identity, triggers.reputation, triggers.validation)
    return [trigger_id for trigger_id in ids if trigger_id is not None]


def _require_some(actions: Collection[ActionDraft]) -> None:
    if not actions:
        raise Invalid.fields(FieldError("actions", "must not be an empty list"))
