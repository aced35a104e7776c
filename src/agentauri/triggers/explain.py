"""Why a trigger fired or did not, and what it would send: asked of the evaluator's own rules, and nothing is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from agentauri.actions import DeliveryDetail, DeliveryFilter, DeliveryService, Part, TriggerFacts
from agentauri.database import Transaction
from agentauri.events import Event
from agentauri.triggers.history import Range, columns_of, count, narrowed, scope_of, stream
from agentauri.triggers.matching import eligible
from agentauri.triggers.rules import DRAFT, Rule, Rules, Told, Trial, gates
from agentauri.triggers.service import TriggerService
from agentauri.triggers.tracing import Memory, Passed, Traced, recalled
from agentauri.triggers.types import Prepared
from agentauri.types import ActionId, DeliveryId, EventSeq, OrganizationId, Page, TriggerId

_NOT_OF_MATCHING = frozenset({"cooldown", "environment"})
"""Gates behind which an event is a match all the same, only that nobody is told."""


class Explanation(Struct, frozen=True):
    matched: bool | None
    gates: list[Passed]
    tree: Traced


class Whereabouts(Struct, frozen=True):
    """Where the delivery of one action stands; `hold` says what it waits for."""

    id: DeliveryId
    action_id: ActionId
    status: str
    reason: str | None
    hold: str | None


class Explained(Struct, frozen=True):
    """`basis` says whether the values of state are those of the match, or were found out again."""

    trigger_id: TriggerId
    trigger_version: int
    event_id: str
    matched: bool | None
    basis: Literal["recorded", "recomputed"]
    explanation: Explanation
    deliveries: list[Whereabouts]


class Trying(Struct, frozen=True):
    """What one action would do."""

    action_id: ActionId | None
    action_type: str
    would_deliver: bool
    reason: str | None
    rendered: dict[str, object] | None
    errors: list[str]


class Tested(Struct, frozen=True):
    matched: bool | None
    event: Event
    explanation: Explanation
    actions: list[Trying]


class Explainer:
    """Reads only. `limit` is how many events may be read again to find out what a trigger remembered."""

    def __init__(self, triggers: TriggerService, deliveries: DeliveryService, rules: Rules) -> None:
        self._triggers = triggers
        self._deliveries = deliveries
        self._rules = rules

    async def explain(
        self, tx: Transaction, organization_id: OrganizationId, trigger_id: TriggerId, event: Event, limit: int
    ) -> Explained:
        """
        Raises:
            TriggerNotFound
            Invalid: the trigger was written by hand, and cannot run.
        """
        rule = await self.rule(tx, organization_id, trigger_id)
        wanted = DeliveryFilter(trigger_id=trigger_id, event_id=event.id, order="asc")
        found = (await self._deliveries.list(tx, organization_id, wanted, Page(limit=100))).data
        matches = [one for one in found if one.kind in ("match", "absence")]
        whereabouts = [Whereabouts(one.id, one.action_id, one.status, one.reason, one.hold) for one in found]
        if matches:
            match = await self._deliveries.get(tx, organization_id, matches[-1].id)
            explanation = _explained(rule, event, _recorded(rule, match), quiet=False)
            explanation = replace(explanation, matched=True)
            version = match.trigger_version
            return Explained(trigger_id, version, event.id, True, "recorded", explanation, whereabouts)
        told = await self._told(tx, rule, event, limit)
        memory, quiet = (None, None) if told is None else (told.memory, told.suppressed)
        explanation = _explained(rule, event, memory, quiet=quiet)
        matched, version = explanation.matched, rule.definition.version
        return Explained(trigger_id, version, event.id, matched, "recomputed", explanation, whereabouts)

    async def test(self, tx: Transaction, rule: Rule, event: Event, limit: int) -> Tested:
        """Let a rule meet an event, whatever its age. A stored event finds what came before it since the trigger was
        made; any other one finds nothing remembered."""
        told: Told | None
        if event.seq > 0 and rule.facts.id != DRAFT and eligible(rule.definition, event):
            told = await self._told(tx, rule, event, limit)
        else:
            told = Trial(rule.without_past()).meet(event) or Told(event, matched=False)
        rule = rule.without_past()
        memory, quiet = (None, None) if told is None else (told.memory, told.suppressed)
        explanation = _explained(replace(rule, facts=replace(rule.facts, enabled=True)), event, memory, quiet=quiet)
        explanation = replace(explanation, gates=gates(rule, event, quiet=quiet))
        context = None if told is None or told.context is None else told.context.decode()
        actions = [self._tried(rule, part, explanation, event.fields(), context) for part in rule.parts]
        return Tested(explanation.matched, event, explanation, actions)

    async def rule(self, tx: Transaction, organization_id: OrganizationId, trigger_id: TriggerId) -> Rule:
        """Raises: TriggerNotFound, also where it is another organization's."""
        await self._triggers.get(tx, organization_id, trigger_id)
        facts: TriggerFacts = (await self._triggers.facts(tx, [trigger_id]))[trigger_id]
        return await self._rules.stored(tx, facts)

    def drafted(self, organization_id: OrganizationId, prepared: Prepared) -> Rule:
        return self._rules.drafted(organization_id, prepared)

    def _tried(
        self, rule: Rule, part: Part, explanation: Explanation, event: Mapping[str, object], context: str | None
    ) -> Trying:
        rendered = self._rules.rehearsing.render(part, rule.facts, event, context)
        reason = _against(part, explanation)
        if reason is None and rendered.errors:
            reason = "not_renderable"
        return Trying(part.action_id, part.action_type, reason is None, reason, rendered.content, list(rendered.errors))

    async def _told(self, tx: Transaction, rule: Rule, event: Event, limit: int) -> Told | None:
        """What the rule says of the event after all that came before it since the trigger was made; None where that
        is too much to be read."""
        definition = rule.definition
        trial = Trial(rule)
        if not rule.remembers or event.retracted_at is not None or not eligible(definition, event):
            met = trial.meet(event) if not rule.remembers else None
            return met or Told(event, matched=False)
        since = Range(after_seq=EventSeq(definition.start_seq), to_seq=event.seq, all_of=scope_of(definition, event))
        before = narrowed(since, [definition])
        if await count(tx, before, limit + 1) > limit:
            return None
        async with aclosing(stream(tx, before, columns_of(definition), by_time=False)) as parts:
            async for part in parts:
                for one in part:
                    trial.ring(one.chain_id, one.timestamp)  # for the cooldown it matters what was told before
                    told = trial.meet(one, show=one.seq == event.seq)
                    if one.seq == event.seq:
                        return told or Told(event, matched=False)
                await asyncio.sleep(0)
        return Told(event, matched=False)


def explanation_of(rule: Rule, told: Told, event: Event) -> Explanation:
    return _explained(rule, event, told.memory, quiet=told.suppressed)


def _explained(rule: Rule, event: Event, memory: Memory | None, *, quiet: bool | None) -> Explanation:
    tree = rule.trace(event, memory)
    passed = gates(rule, event, quiet=quiet)
    barred = any(one.passed is False for one in passed if one.gate not in _NOT_OF_MATCHING)
    return Explanation(False if barred else tree.result, passed, tree)


def _against(part: Part, explanation: Explanation) -> str | None:
    """What keeps this action from being done; None where nothing does."""
    barred = next((one.gate for one in explanation.gates if one.passed is False and one.gate != "draft"), None)
    if not explanation.matched:
        return "not_matched"
    if not part.enabled:
        return "action_disabled"
    return {"enabled": "trigger_disabled", "environment": "test_environment"}.get(barred, barred) if barred else None


def _recorded(rule: Rule, match: DeliveryDetail) -> Memory:
    context: Any = match.context or {}
    leaves = context.get("leaves", {}) if isinstance(context, dict) else {}
    stateful: Sequence[Any] = rule.stateful
    return recalled(stateful, leaves, absent=match.kind == "absence")
