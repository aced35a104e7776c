"""A rule to be tried out: a stored trigger as it is now, or one that somebody has in mind."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from agentauri.actions import ActionService, Part, Rehearsing, TriggerFacts
from agentauri.database import Transaction
from agentauri.events import Event
from agentauri.triggers import drafts, store
from agentauri.triggers.catalog import definition_of
from agentauri.triggers.conditions import Stateful, parse, walk
from agentauri.triggers.errors import TriggerNotFound
from agentauri.triggers.matching import Check, Definition, compile_nodes, eligible
from agentauri.triggers.state.programs import compile_state
from agentauri.triggers.state.rehearsal import Answer, Rehearsal
from agentauri.triggers.tracing import Memory, Passed, Traced, trace
from agentauri.triggers.types import Condition, Prepared, TriggerDraft
from agentauri.types import OrganizationId, TriggerId, utc_now

DRAFT = TriggerId("draft")
BEFORE_ALL = -(2**62)


class Rule(Struct, frozen=True, kw_only=True):
    definition: Definition
    documents: Sequence[Condition]
    facts: TriggerFacts
    parts: Sequence[Part]

    @property
    def remembers(self) -> bool:
        return bool(self.stateful) or self.definition.cooldown_seconds > 0

    @property
    def stateful(self) -> list[Stateful]:
        return [node for node in walk(self.definition.nodes) if isinstance(node, Stateful)]

    @property
    def enabled_actions(self) -> int:
        return sum(part.enabled for part in self.parts)

    def without_past(self) -> Rule:
        """The same rule, to which no event is too old."""
        return replace(self, definition=replace(self.definition, start_seq=BEFORE_ALL, start_blocks={}, created=0))

    def trace(self, event: Event, memory: Memory | None) -> Traced:
        return trace(self.definition.nodes, self.documents, event, memory)


class Told(Struct, frozen=True):
    """What a rule said of an event."""

    event: Event
    matched: bool
    suppressed: bool = False
    memory: Memory = Memory()
    context: bytes | None = None


class Trial:
    """A rule meets events, one after the other, and leaves no trace anywhere."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        definition = rule.definition
        state = compile_state(definition) if definition.nodes else None
        self._rehearsal = None if state is None else Rehearsal(state)
        self.waits = any(leaf.kind == "absence" for leaf in rule.stateful)
        self._check: Check = compile_nodes(definition.nodes) if definition.nodes else lambda _: False

    def meet(self, event: Event, *, show: bool = True) -> Told | None:
        """None where the rule does not see the event, or nothing comes of it. Whoever only counts matches does not want
        to be shown what is remembered, and saves time."""
        if not eligible(self.rule.definition, event):
            return None
        if self._rehearsal is None:
            return Told(event, matched=True) if self._check(event) else None
        answer = self._rehearsal.meet(event, show=show)
        return _told(answer) if answer.matched or (show and answer.fed) else None

    def ring(self, chain_id: int, time: int) -> list[Told]:
        """The absences that are certain once the chain has come to that time."""
        if self._rehearsal is None or not self.waits:
            return []
        return [_told(answer) for answer in self._rehearsal.ring(chain_id, time)]


def _told(answer: Answer) -> Told:
    return Told(answer.event, answer.matched, answer.suppressed, Memory(answer.holding, answer.shown), answer.context)


class Rules:
    """Where rules come from."""

    def __init__(self, actions: ActionService, rehearsing: Rehearsing) -> None:
        self._actions = actions
        self.rehearsing = rehearsing

    async def stored(self, tx: Transaction, facts: TriggerFacts) -> Rule:
        """
        Raises:
            TriggerNotFound: it is gone.
            Invalid: its row was written by hand, and cannot run.
        """
        rows = await store.trigger_rows(tx, [facts.id])
        if not rows:
            raise TriggerNotFound
        [row] = rows
        parts = await self.rehearsing.stored(tx, facts.id)
        if row.condition == drafts.NOTHING:
            nothing = row._replace(condition=msgspec.json.encode([drafts.MATCH_ALL]).decode())
            definition = replace(definition_of(nothing, ()), nodes=())
            return Rule(definition=definition, documents=(), facts=facts, parts=parts)
        actions = (await self._actions.for_matching(tx, [facts.id])).get(facts.id, ())
        documents = parse(msgspec.json.decode(row.condition), path="condition").document
        return Rule(definition=definition_of(row, actions), documents=documents, facts=facts, parts=parts)

    def drafted(self, organization_id: OrganizationId, prepared: Prepared) -> Rule:
        """The rule of a checked draft; it has no past."""
        wanted = prepared.wanted
        assert isinstance(wanted, TriggerDraft)
        condition = drafts.condition_of(wanted, None, utc_now()) or drafts.NOTHING
        tree = None if condition == drafts.NOTHING else parse(msgspec.json.decode(condition))
        definition = Definition(
            trigger_id=DRAFT,
            organization_id=organization_id,
            version=1,
            environment=wanted.environment,
            chain_id=wanted.chain_id,
            registry=wanted.registry,
            start_seq=BEFORE_ALL,
            start_blocks={},
            created=0,
            nodes=() if tree is None else tree.nodes,
            actions=(),
            cooldown_seconds=wanted.cooldown_seconds,
            dedupe_key=wanted.dedupe_key,
            fire_at=drafts.depth_of(wanted.fire_at),
        )
        facts = TriggerFacts(
            id=DRAFT, name=wanted.name, version=1, organization_id=organization_id, enabled=wanted.enabled
        )
        documents = () if tree is None else tree.document
        parts = self.rehearsing.drafted(prepared.actions or ())
        return Rule(definition=definition, documents=documents, facts=facts, parts=parts)


def gates(rule: Rule, event: Event, *, quiet: bool | None) -> list[Passed]:
    """What else stands between an event and a delivery. `quiet` says whether the cooldown is silent about it, None that
    nobody knows."""
    definition = rule.definition
    same = replace(definition, chain_id=None, registry=None)
    standing = event if event.retracted_at is None else replace(event, retracted_at=None)
    return [
        Passed("enabled", rule.facts.enabled),
        Passed("draft", bool(definition.nodes) and rule.enabled_actions > 0),
        Passed("chain", definition.chain_id in (None, event.chain_id)),
        Passed("registry", definition.registry in (None, event.registry)),
        Passed("environment", definition.environment == "live"),
        Passed("created_after", eligible(same, standing)),
        Passed("retracted", event.retracted_at is None),
        Passed("cooldown", None if quiet is None else not quiet),
    ]
