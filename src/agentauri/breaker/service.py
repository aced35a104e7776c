"""The one door to the breakers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import get_args

import asyncpg
import msgspec

from agentauri import metrics
from agentauri.breaker import machine, store
from agentauri.breaker.types import Admission, Breaker, BreakerBusy, BreakerConfig, Failing, Outcome, State, Transition
from agentauri.database import Transaction
from agentauri.errors import Unavailable
from agentauri.log import Seldom, get_logger
from agentauri.types import TriggerId

log = get_logger(__name__)

TICK_LIMIT = 500
OWN_KEPT = 10_000
"""Transitions of ours that are remembered until their notification is heard."""


class _Heard(msgspec.Struct):
    trigger_id: str
    state: State


class BreakerService:
    """Asks and tells breakers inside the caller's transaction; keeps nothing about them in memory."""

    def __init__(self) -> None:
        self._refusals = Seldom()
        self._own: dict[TriggerId, State] = {}
        for state in get_args(State):
            metrics.BREAKER_TRANSITIONS.labels(state)

    async def admit(
        self, tx: Transaction, wanted: Mapping[TriggerId, tuple[BreakerConfig, int]]
    ) -> dict[TriggerId, Admission]:
        """How many of the wanted sends of each trigger may go. Refusals are logged, at most once a minute a trigger."""
        admissions = {trigger_id: Admission(count, "closed") for trigger_id, (_, count) in wanted.items()}
        asked = await store.not_closed(tx, wanted)
        if not asked:
            return admissions
        known = await store.lock_available(tx, asked)
        moment = await store.now(tx)
        changed = []
        for trigger_id in asked:
            config, count = wanted[trigger_id]
            breaker = known.get(trigger_id)
            if breaker is None:
                admissions[trigger_id] = Admission(0, None)
                continue
            after, go = machine.admit(breaker, config, count, moment)
            if after is not breaker:
                changed.append(after)
            if go < count:
                self._log_refusal(trigger_id, breaker.last_error)
            admissions[trigger_id] = Admission(go, breaker.state, breaker.last_error)
        if changed:
            await store.save(tx, changed)
        return admissions

    async def record(self, tx: Transaction, outcomes: Sequence[Outcome]) -> list[Transition]:
        """Tell breakers how sends ended, in the order in which they ended.

        The caller's attempt rows are in the same transaction: after a failure here all of it is repeated.

        Raises:
            BreakerBusy: some are locked by somebody else; without their outcomes it would have succeeded.
        """
        if not outcomes:
            return []
        failing = {outcome.trigger_id for outcome in outcomes if outcome.ok is False}
        others = {outcome.trigger_id for outcome in outcomes} - failing
        try:
            asked = failing.union(await store.not_at_rest(tx, others))
            if not asked:
                return []
            await store.make_missing(tx, failing)
            before = await store.lock_available(tx, asked)
            if busy := asked.difference(before):
                raise BreakerBusy(frozenset(busy))
            moment = await store.now(tx)
            after = dict(before)
            for outcome in outcomes:
                if (breaker := after.get(outcome.trigger_id)) is None:
                    continue
                if outcome.ok is None:
                    breaker = machine.undecided(breaker)
                elif outcome.ok:
                    breaker = machine.succeeded(breaker, outcome.config)
                else:
                    breaker = machine.failed(breaker, outcome.config, outcome.error, moment)
                after[outcome.trigger_id] = breaker
            return await self._save(tx, before, after)
        except (asyncpg.PostgresError, OSError, Unavailable) as error:
            log.error(
                "breaker.persist_failed",
                code="CIRCUIT_BREAKER_PERSIST_FAILED",
                message="Circuit breaker state may be inconsistent",
                triggers=sorted(failing | others)[:20],
                error=str(error)[:500],
            )
            raise

    async def tick(self, tx: Transaction) -> list[Transition]:
        """Let open breakers probe whose time has come, and take back half-open slots whose sender is gone."""
        before = await store.lock_due(tx, TICK_LIMIT)
        if not before:
            return []
        moment = await store.now(tx)
        return await self._save(tx, before, {key: machine.tick(breaker, moment) for key, breaker in before.items()})

    async def get(self, tx: Transaction, trigger_id: TriggerId) -> Breaker:
        return (await self.of(tx, [trigger_id]))[trigger_id]

    async def of(self, tx: Transaction, trigger_ids: Collection[TriggerId]) -> dict[TriggerId, Breaker]:
        """One breaker for each of the triggers; those without a row are closed."""
        known = await store.read(tx, trigger_ids)
        return {key: known.get(key) or Breaker(trigger_id=key) for key in trigger_ids}

    async def all(self, tx: Transaction) -> list[Breaker]:
        """Every breaker that ever had a failure, the latest first; for an operator at the console."""
        return await store.read_all(tx)

    async def room(
        self, tx: Transaction, configs: Mapping[TriggerId, BreakerConfig], most: int
    ) -> dict[TriggerId, int]:
        """How many sends of each trigger would be let go now, `most` where any number would."""
        breakers = await self.of(tx, configs)
        slots = {key: machine.free_slots(breaker, configs[key]) for key, breaker in breakers.items()}
        return {key: most if free is None else min(free, most) for key, free in slots.items()}

    async def reset(self, tx: Transaction, trigger_id: TriggerId) -> Breaker:
        """Close it, counters at 0. Held deliveries follow in a transaction of the dispatcher's."""
        before = await store.lock(tx, [trigger_id])
        if not before:
            return Breaker(trigger_id=trigger_id)
        after = machine.closed(before[trigger_id])
        await self._save(tx, before, {trigger_id: after})
        tx.on_commit(
            lambda: log.info(
                "breaker.reset",
                code="CIRCUIT_BREAKER_RESET",
                message="Circuit breaker reset by hand",
                trigger_id=trigger_id,
            )
        )
        return after

    async def configure(self, tx: Transaction, trigger_id: TriggerId, config: BreakerConfig) -> Breaker:
        """Apply a changed configuration to the row; where the configuration is kept is the caller's business."""
        before = await store.lock(tx, [trigger_id])
        if not before:
            return Breaker(trigger_id=trigger_id)
        after = machine.reconfigured(before[trigger_id], config)
        await self._save(tx, before, {trigger_id: after})
        return after

    async def forget(self, tx: Transaction, trigger_ids: Collection[TriggerId]) -> None:
        await store.delete(tx, trigger_ids)
        for trigger_id in trigger_ids:
            self._refusals.over(trigger_id)

    async def count_open(self, tx: Transaction) -> int:
        return await store.count_open(tx)

    def heard(self, payload: str) -> TriggerId | None:
        """Log a transition heard on `breaker_changed`, unless it was made (and logged) here; whose it was."""
        try:
            heard = msgspec.json.decode(payload, type=_Heard)
        except msgspec.MsgspecError:
            return None
        trigger_id = TriggerId(heard.trigger_id)
        if heard.state == "closed":
            self._refusals.over(trigger_id)
        if self._own.pop(trigger_id, None) != heard.state:
            _log_transition(Transition(trigger_id, heard.state))
        return trigger_id

    async def _save(
        self, tx: Transaction, before: Mapping[TriggerId, Breaker], after: Mapping[TriggerId, Breaker]
    ) -> list[Transition]:
        changed = [breaker for key, breaker in after.items() if breaker is not before[key]]
        if not changed:
            return []
        await store.save(tx, changed)
        transitions = [
            Transition(breaker.trigger_id, breaker.state, breaker.last_error)
            for breaker in changed
            if breaker.state != before[breaker.trigger_id].state
        ]
        if opened := [transition for transition in transitions if transition.state == "open"]:
            await store.audit_opened(tx, opened)
            failing = await store.note_failing(tx, [transition.trigger_id for transition in opened])
            tx.on_commit(lambda: _tell_failing(failing))
        for transition in transitions:
            # Noted before the commit: the notification may be here before we know that it was committed.
            self._own[transition.trigger_id] = transition.state
        while len(self._own) > OWN_KEPT:  # nobody listens; at worst a line is logged twice
            del self._own[next(iter(self._own))]
        if transitions:
            tx.on_commit(lambda: self._announce(transitions))
        return transitions

    def _announce(self, transitions: list[Transition]) -> None:
        for transition in transitions:
            metrics.BREAKER_TRANSITIONS.labels(transition.state).inc()
            if transition.state == "open":
                self._refusals.over(transition.trigger_id)
                self._log_refusal(transition.trigger_id, transition.last_error)
            else:
                _log_transition(transition)

    def _log_refusal(self, trigger_id: TriggerId, last_error: str | None) -> None:
        if self._refusals.due(trigger_id):
            _log_transition(Transition(trigger_id, "open", last_error))


def _tell_failing(failing: Sequence[Failing]) -> None:
    for one in failing:
        metrics.ENDPOINTS_FAILING.inc()
        log.warning(
            "endpoint.failing",
            code="ENDPOINT_FAILING",
            message=f"The endpoint of trigger {one.trigger_id} keeps failing: {', '.join(one.destinations)}",
            trigger_id=one.trigger_id,
            organization_id=one.organization_id,
            failures=one.failure_count,
            last_error=one.last_error,
        )


def _log_transition(transition: Transition) -> None:
    match transition.state:
        case "open":
            log.error(
                "breaker.changed",
                code="CIRCUIT_BREAKER_OPEN",
                message=f"Circuit breaker OPEN for trigger {transition.trigger_id}: skipping trigger (fail-fast)",
                trigger_id=transition.trigger_id,
                last_error=transition.last_error,
            )
        case "half_open" | "closed" as state:
            log.info(
                "breaker.changed",
                code=f"CIRCUIT_BREAKER_{state.upper()}",
                message=f"Circuit breaker transitioned to {state.upper()}",
                trigger_id=transition.trigger_id,
            )
