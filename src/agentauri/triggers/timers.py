"""Telling that something did not happen: timers on the time of their chains.

An event that begins an absence has set a timer. It rings once its chain has gone beyond the time it is due, and all
that the chain has brought until then is evaluated: nothing can come any more that would cancel it, unless the chain
takes blocks back. What comes then cancels it all the same, and what was told is taken back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from msgspec import Struct

from agentauri import metrics
from agentauri.actions import DeliveryDraft, DeliveryService
from agentauri.database import Transaction
from agentauri.events import chain_times
from agentauri.log import get_logger
from agentauri.triggers import store, timer_store
from agentauri.triggers.batch import Pair, draft_of, facts_of
from agentauri.triggers.index import Index, Program
from agentauri.triggers.matching import eligible
from agentauri.triggers.state.memory import Visit, meet
from agentauri.triggers.state.undo import undo
from agentauri.triggers.tide import Tide
from agentauri.triggers.timer_store import Timer
from agentauri.types import ChainId, EventSeq, TriggerId

log = get_logger(__name__)

RUNG_AT_ONCE = 500
Breathe = Callable[[], Awaitable[None]]


class Ringing(Struct):
    """One timer that is due. Without a visit its trigger cannot tell any more, or was not there before the event."""

    timer: Timer
    program: Program | None
    visit: Visit | None

    @property
    def tells(self) -> bool:
        return self.visit is not None and self.visit.matched and not self.visit.suppressed


async def due_chains(tx: Transaction) -> list[ChainId]:
    """The chains on which a timer may ring, or what one has told is to be taken back."""
    first = await timer_store.first_due(tx)
    times = await chain_times(tx, first)
    due = {chain_id for chain_id, time in times.items() if time > first[chain_id]}
    return sorted(due.union(await timer_store.void_chains(tx)))


class Timers:
    """Lets timers ring against an index. The caller has the lane."""

    def __init__(self, index: Index, deliveries: DeliveryService, tide: Tide, breathe: Breathe) -> None:
        self._index = index
        self._deliveries = deliveries
        self._tide = tide
        self._breathe = breathe

    async def ring(self, tx: Transaction, chain_id: ChainId) -> bool:
        """Tell of a part of what is due, and take back what is void; whether there is more of it."""
        time = (await chain_times(tx, [chain_id])).get(chain_id)
        void = await timer_store.void(tx, chain_id, RUNG_AT_ONCE)
        due = [] if time is None else await timer_store.due(tx, chain_id, time, RUNG_AT_ONCE)
        more = RUNG_AT_ONCE in (len(void), len(due))
        if await self._reopen(tx, chain_id, void, due):
            due, more = [], True  # what was reopened has its place among them
        ringing = [self._ringing(timer) for timer in due]
        await meet(tx, [one.visit for one in ringing if one.visit is not None], self._breathe)
        revoked = [one.timer for one in ringing if one.timer.told and not one.tells]
        await self._tell(tx, chain_id, [one for one in ringing if one.tells])
        settled = await self._take_back(tx, [*void, *revoked])
        if ringing:
            await timer_store.rang(tx, [(one.timer.id, one.tells) for one in ringing])
        await timer_store.taken_back(tx, [timer.id for timer in void if timer.event.seq in settled])
        if void or ringing:
            tx.on_commit(lambda: _report(chain_id, ringing, len(void)))
        return more

    def _ringing(self, timer: Timer) -> Ringing:
        number = self._index.find(timer.trigger_id)
        program = None if number is None else self._index.program(number)
        if program is None or program.state is None or not eligible(program.definition, timer.event):
            return Ringing(timer, program, None)
        if all(feeder.leaf.id != timer.leaf_id for feeder in program.state.feeders):
            return Ringing(timer, program, None)
        return Ringing(timer, program, Visit(timer.trigger_id, program.state, timer.event, absent=True))

    async def _reopen(self, tx: Transaction, chain_id: ChainId, void: Sequence[Timer], due: Sequence[Timer]) -> bool:
        """With a cooldown it matters who rang first: what rang after those that should have, or should not have, rings
        once more. Whether there is any of it."""
        since: dict[TriggerId, int] = {}
        for timer, after in [*((one, one.due_time - 1) for one in void), *((one, one.due_time) for one in due)]:
            if self._cools_down(timer.trigger_id):
                since[timer.trigger_id] = min(after, since.get(timer.trigger_id, after))
        reopened = False
        for trigger_id, after in since.items():
            again = await timer_store.reopen(tx, chain_id, trigger_id, after)
            reopened |= bool(again)
            again += [timer.event.seq for timer in void if timer.trigger_id == trigger_id]
            await undo(tx, again, fired=trigger_id)
        return reopened

    def _cools_down(self, trigger_id: TriggerId) -> bool:
        number = self._index.find(trigger_id)
        return number is not None and self._index.definition(number).cooldown_seconds > 0

    async def _tell(self, tx: Transaction, chain_id: ChainId, telling: Sequence[Ringing]) -> None:
        """Make the deliveries of absences. Those that were told before, and taken back, go on as they were."""
        if not telling:
            return
        drafts = [draft for one in telling for draft in _drafts(one)]
        facts = {one.timer.event.seq: facts_of(one.timer.event) for one in telling}
        existing = await self._deliveries.existing(tx, facts.values())
        known: dict[EventSeq, set[Pair]] = {}
        fresh = []
        for draft in drafts:
            pair = (draft.trigger_id, draft.action_id)
            if pair in existing.get(draft.event_seq, ()):
                known.setdefault(draft.event_seq, set()).add(pair)
            else:
                fresh.append(draft)
        reached = await self._tide.reached(tx, chain_id)
        if known:
            await self._deliveries.resume(tx, known)
            await self._deliveries.revive(tx, [facts[seq] for seq in known], known)
            await self._deliveries.weigh(tx, known, reached)
        await self._deliveries.create(tx, fresh, reached=reached)
        self._tide.touched(chain_id)

    async def _take_back(self, tx: Transaction, timers: Sequence[Timer]) -> Collection[EventSeq]:
        """What these have told is void; the events of which that is settled. What is being sent is settled later."""
        if not timers:
            return ()
        facts = {timer.event.seq: facts_of(timer.event) for timer in timers}
        void = {(timer.event.seq, timer.trigger_id) for timer in timers}
        keep: Mapping[EventSeq, Collection[Pair]] = {
            seq: {pair for pair in pairs if (seq, pair[0]) not in void}
            for seq, pairs in (await self._deliveries.existing(tx, facts.values())).items()
        }
        notify = await store.notifying(tx, {trigger_id for _, trigger_id in void})
        return await self._deliveries.settle(tx, list(facts.values()), notify, keep=keep)


def _drafts(ringing: Ringing) -> list[DeliveryDraft]:
    assert ringing.program is not None
    definition, timer = ringing.program.definition, ringing.timer
    return [draft_of(definition, action, timer.event, timer.context, "absence") for action in definition.actions]


def _report(chain_id: ChainId, ringing: Sequence[Ringing], void: int) -> None:
    visits = [one.visit for one in ringing if one.visit is not None]
    for visit in visits:
        if visit.error is not None:
            metrics.TASK_PANICKED.labels("evaluator").inc()
            about = {"event_id": visit.event.id, "trigger_id": visit.trigger_id}
            log.error("trigger.panicked", code="TASK_PANIC", exc_info=visit.error, **about)
    suppressed = sum(visit.suppressed for visit in visits)
    metrics.TRIGGERS_MATCHED.inc(sum(visit.matched for visit in visits))
    metrics.MATCHES_SUPPRESSED.inc(suppressed)
    log.info(
        "absences.told", chain_id=chain_id, rang=len(ringing), told=sum(one.tells for one in ringing),
        suppressed=suppressed, taken_back=void,
    )  # fmt: skip
