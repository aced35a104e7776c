"""One batch of queue rows: what each event means for the triggers, and writing that down.

`evaluate` decides: from the events alone, and for triggers that remember with what they have in the database, which is
then written in the caller's transaction. `write` adds the rest to that: deliveries, then the ledger, then the queue.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from itertools import groupby
from typing import Literal, NamedTuple, cast

import msgspec
from msgspec import Struct, field

from agentauri import metrics
from agentauri.actions import DeliveryDraft, DeliveryService, MatchAction, Release, SettledEvent
from agentauri.agents import Projections
from agentauri.database import Transaction
from agentauri.events import Event, EventQueue, Finished
from agentauri.log import get_logger
from agentauri.triggers import store, timer_store
from agentauri.triggers.index import Index, Program
from agentauri.triggers.matching import Definition
from agentauri.triggers.state.memory import Visit, meet
from agentauri.triggers.state.undo import remembered, undo
from agentauri.triggers.store import Resume, Row
from agentauri.triggers.tide import Tide
from agentauri.types import ActionId, EventId, EventSeq, OrganizationId, TriggerId, utc_now

log = get_logger(__name__)

MAX_MATCHES = 50_000
"""Matches written in one transaction; an event with more goes on in the next."""
CHUNK = 5_000
BREATH = 0.005
"""Seconds of matching after which others get their turn."""
CANDIDATES_AT_ONCE = 256

Pair = tuple[TriggerId, ActionId]
Progress = Callable[[], None]
Kind = Literal["match", "absence"]


class Raised(NamedTuple):
    """A trigger that broke on an event instead of answering."""

    row: Row
    definition: Definition
    error: Exception

    @property
    def trigger_id(self) -> TriggerId:
        return TriggerId(self.definition.trigger_id)


class Verdict(Struct):
    """What one row came to. Of its `visits` it is not known yet before the triggers' memories were asked.

    `total` counts with the parts that earlier transactions wrote; `unfinished` says that there are more to come, and
    that the row stays in the queue.
    """

    row: Row
    event: Event | None
    matched: int = 0
    suppressed: int = 0
    drafts: list[DeliveryDraft] = field(default_factory=list)
    visits: list[tuple[Definition, Visit]] = field(default_factory=list)
    raised: list[Raised] = field(default_factory=list)
    total: Resume = Resume()
    unfinished: bool = False
    superseded: bool = False
    """The event is taken back in this same batch, and comes again in its right place."""

    def pairs(self) -> set[Pair]:
        """The (trigger, action) that matched. A trigger that broke, or does not know any more, has not said no."""
        open_ = [raised.definition for raised in self.raised]
        open_ += [definition for definition, visit in self.visits if visit.unknown]
        matched = {(draft.trigger_id, draft.action_id) for draft in self.drafts}
        return matched.union(
            (TriggerId(definition.trigger_id), action.id) for definition in open_ for action in definition.actions
        )

    def waiting(self) -> set[Pair]:
        """The (trigger, action) of which a timer will tell."""
        waiting = [definition for definition, visit in self.visits if visit.waits]
        return {
            (TriggerId(definition.trigger_id), action.id) for definition in waiting for action in definition.actions
        }

    @property
    def so_far(self) -> Resume:
        """This row's part and those before it."""
        before = self.total
        return Resume(
            before.after, before.matched + self.matched, before.deliveries + len(self.drafts), before.spent_ms
        )

    @property
    def stands(self) -> bool:
        """What the event is now counts, not what it was when its row was queued."""
        return self.event is not None and self.event.retracted_at is None

    @property
    def asserts(self) -> bool:
        return self.row.kind == "assert" and self.stands and not self.superseded

    @property
    def retracts(self) -> bool:
        return self.row.kind == "retract" and self.event is not None and not self.stands


class Batch:
    """Evaluates rows against an index. `progress` is told before others get a turn, and after every chunk written.
    Deliveries of events that are older than `kept` may be forgotten; `tide` says which are deep enough to be told.
    """

    def __init__(self, index: Index, progress: Progress, kept: timedelta, tide: Tide) -> None:
        self._index = index
        self._tide = tide
        self._progress = progress
        self._remembered_from = utc_now() - kept
        self._started = self._breath = time.perf_counter()
        self.verdicts: list[Verdict] = []
        self.evaluated = 0

    @property
    def raised(self) -> list[Raised]:
        """Who broke. Of an event in parts that is asked after the last of them."""
        return [raised for verdict in self.verdicts if not verdict.unfinished for raised in verdict.raised]

    async def evaluate(self, tx: Transaction, rows: Iterable[Row]) -> None:
        """Go through rows in their order, until all are done or as many matches found as one transaction takes."""
        room = MAX_MATCHES
        rows = list(rows)
        taken_back = {row.event_seq: row.position for row in rows if row.kind == "retract"}
        for row in rows:
            verdict = Verdict(row, None if row.event_id is None else row.event())
            verdict.superseded = taken_back.get(row.event_seq, row.position) > row.position
            if verdict.asserts:
                found = await self._matches(verdict)
                if len(found) > room and self.verdicts:
                    break
                self._decide(verdict, found)
                room -= len(found)
            self.verdicts.append(verdict)
            await self._breathe()
        await self._remember(tx)
        for verdict in self.verdicts:
            verdict.total = verdict.so_far

    async def _matches(self, verdict: Verdict) -> list[Program]:
        row, event = verdict.row, cast(Event, verdict.event)
        if row.trigger_id is None:
            numbers = self._index.candidates(event)
        else:
            number = self._index.find(row.trigger_id)
            numbers = [] if number is None else [number]
        self.evaluated += len(numbers)
        found = []
        for count, number in enumerate(numbers, 1):
            try:
                program = self._index.program(number)
                if program is not None and program.matches(event):
                    found.append(program)
            except Exception as error:  # noqa: BLE001  (one trigger's bug must not stop the others)
                verdict.raised.append(Raised(row, self._index.definition(number), error))
            if not count % CANDIDATES_AT_ONCE:
                await self._breathe()
        if row.resume is not None:
            after = row.resume.after
            found = [program for program in found if program.definition.trigger_id > after]
        return found

    def _decide(self, verdict: Verdict, found: list[Program]) -> None:
        """Draft what the matches ask for; those that depend on what a trigger remembers are to be visited.

        An event that returns is not cut: most of its deliveries exist already.
        """
        row, event = verdict.row, cast(Event, verdict.event)
        before = row.resume or Resume()
        if len(found) > MAX_MATCHES and not row.again:
            verdict.unfinished = True
            found = sorted(found, key=lambda program: program.definition.trigger_id)[:MAX_MATCHES]
            before = msgspec.structs.replace(before, after=found[-1].definition.trigger_id)
        for program in found:
            definition = program.definition
            if program.state is None:
                verdict.matched += 1
                verdict.drafts += [draft_of(definition, action, event) for action in definition.actions]
            else:
                visit = Visit(definition.trigger_id, program.state, event, again=row.again, version=definition.version)
                verdict.visits.append((definition, visit))
        verdict.total = before

    async def _remember(self, tx: Transaction) -> None:
        """Ask the memories of triggers: in the order of the rows, since what one event leaves there another one finds,
        and what was taken back has to be gone before it comes again."""
        retracted = {verdict.row.event_seq for verdict in self.verdicts if verdict.row.kind == "retract"}
        left = await remembered(tx, retracted) if retracted else set()
        met: set[EventSeq] = set()
        for takes_back, verdicts in groupby(self.verdicts, key=lambda verdict: verdict.row.kind == "retract"):
            if takes_back:
                gone = {verdict.row.event_seq for verdict in verdicts} & (left | met)
                if gone:
                    await undo(tx, gone)
                met -= gone
            elif visited := [verdict for verdict in verdicts if verdict.visits]:
                visits = [visit for verdict in visited for _, visit in verdict.visits]
                for visit in visits:
                    visit.again |= visit.event.seq in met
                await meet(tx, visits, self._breathe)
                met |= {visit.event.seq for visit in visits}
                for verdict in visited:
                    _conclude(verdict)

    async def write(
        self, tx: Transaction, deliveries: DeliveryService, queue: EventQueue, max_attempts: int, *, fresh: bool
    ) -> None:
        """Put everything that was decided into `tx`. `fresh` says that what was never evaluated has no deliveries.

        Raises:
            asyncpg.UniqueViolationError: it has.
        """
        self._progress()
        if retracted := {verdict.row.event_seq for verdict in self.verdicts if verdict.retracts}:
            await deliveries.hold_retracted(tx, retracted)
        kept = await self._meet_again(tx, deliveries)
        drafts = [draft for verdict in self.verdicts for draft in verdict.drafts]
        fresh = fresh and not any(verdict.row.again for verdict in self.verdicts)
        waits = any(draft.release is not None for draft in drafts)
        reached = await self._tide.reached(tx, drafts[0].chain_id) if waits else {}
        for start in range(0, len(drafts), CHUNK):
            await deliveries.create(tx, drafts[start : start + CHUNK], fresh=fresh, reached=reached)
            self._progress()
        kept |= await self._set_aside(tx, queue, max_attempts)
        spent_ms = self.elapsed_ms()
        unfinished = [verdict for verdict in self.verdicts if verdict.unfinished]
        if unfinished:
            await store.remember(
                tx,
                {
                    verdict.row.position: msgspec.structs.replace(
                        verdict.total, spent_ms=verdict.total.spent_ms + spent_ms
                    )
                    for verdict in unfinished
                },
            )
            kept |= {verdict.row.position for verdict in unfinished}
        done = [verdict for verdict in self.verdicts if verdict.row.position not in kept]
        await _project(tx, done)
        await queue.finish(tx, [_finished(verdict, spent_ms) for verdict in done])

    async def _meet_again(self, tx: Transaction, deliveries: DeliveryService) -> set[int]:
        """Reconcile events that were evaluated before with the deliveries they have: what matches goes on under its
        old id, what does not is void. One whose deliveries may be forgotten gets no new ones: they would be its old
        ones again. The positions of rows that must come again, since a send is under way."""
        again = [verdict for verdict in self.verdicts if verdict.asserts and verdict.row.again]
        if not again:
            return set()
        facts = {verdict.row.event_seq: facts_of(cast(Event, verdict.event)) for verdict in again}
        existing = await deliveries.existing(tx, facts.values())
        wanted: dict[EventSeq, set[Pair]] = {}
        keep: dict[EventSeq, set[Pair]] = {}
        matched: dict[EventSeq, set[Pair]] = {}
        for verdict in again:
            known = existing.get(verdict.row.event_seq, set())
            if both := known.intersection((draft.trigger_id, draft.action_id) for draft in verdict.drafts):
                matched.setdefault(verdict.row.event_seq, set()).update(both)
            if verdict.row.trigger_id is None:
                wanted[verdict.row.event_seq] = verdict.pairs()
                keep[verdict.row.event_seq] = wanted[verdict.row.event_seq] | verdict.waiting()
            verdict.drafts = [
                draft
                for draft in verdict.drafts
                if (draft.trigger_id, draft.action_id) not in known and not self._forgotten(verdict)
            ]
        void = {trigger_id for seq, pairs in keep.items() for trigger_id, _ in existing.get(seq, set()) - pairs}
        notify = await store.notifying(tx, void) if void else set()
        settled = await deliveries.settle(tx, [facts[seq] for seq in wanted], notify, keep=keep)
        told = {
            (verdict.row.event_seq, trigger_id)
            for verdict in again
            for trigger_id, _ in verdict.waiting() & existing.get(verdict.row.event_seq, set())
        }
        if told:
            await timer_store.remember_told(tx, told)
        await deliveries.resume(tx, wanted)
        if matched:
            await deliveries.revive(tx, [facts[seq] for seq in matched], matched)
        await deliveries.weigh(tx, facts, await self._tide.reached(tx, again[0].row.chain_id))
        busy = wanted.keys() - settled
        positions = {verdict.row.position for verdict in again if verdict.row.event_seq in busy}
        if positions:
            await store.postpone(tx, positions)
        return positions

    def _forgotten(self, verdict: Verdict) -> bool:
        event = cast(Event, verdict.event)
        return verdict.row.returned and event.epoch == 0 and event.created_at < self._remembered_from

    async def _set_aside(self, tx: Transaction, queue: EventQueue, max_attempts: int) -> set[int]:
        """Give events back for the triggers that broke on them, alone; the positions of rows that stay for that."""
        stay = set()
        for raised in self.raised:
            row, error = raised.row, repr(raised.error)
            if row.trigger_id is None:
                await queue.requeue_pair(
                    tx, row.event_seq, row.chain_id, raised.trigger_id, error, returned=row.returned
                )
            else:
                await queue.fail(tx, [row.position], error, max_attempts)
                stay.add(row.position)
        return stay

    def goes_on_at(self, rows: Sequence[Row]) -> int | None:
        """The position of the first of these rows that is still to be done, None when all are."""
        done = {verdict.row.position for verdict in self.verdicts if not verdict.unfinished}
        return next((row.position for row in rows if row.position not in done), None)

    def report(self, warn_above: int) -> None:
        """Say what was done, once it is committed."""
        done = [verdict for verdict in self.verdicts if not verdict.unfinished]
        elapsed = (time.perf_counter() - self._started) * 1000
        metrics.EVENTS_PROCESSED.inc(len(done))
        metrics.observe(metrics.EVENT_PROCESSING, elapsed / 1000, len(done))
        metrics.TRIGGERS_EVALUATED.inc(self.evaluated)
        metrics.TRIGGERS_MATCHED.inc(sum(verdict.matched for verdict in self.verdicts))
        suppressed = sum(verdict.suppressed for verdict in self.verdicts)
        metrics.MATCHES_SUPPRESSED.inc(suppressed)
        for verdict in done:
            if verdict.row.is_first and verdict.event is not None and verdict.event.origin != "chain":
                # Nobody here stored it: others write into `events` as well.
                metrics.EVENTS_INGESTED.labels(str(verdict.row.chain_id), "external").inc()
            if verdict.total.matched > warn_above:
                metrics.TRIGGER_COUNT_EXCEEDED.inc()
                log.warning(
                    "event.many_triggers",
                    code="TRIGGER_COUNT_EXCEEDED",
                    event_id=verdict.row.event_id,
                    matched=verdict.total.matched,
                    served=verdict.total.matched,
                )
        for raised in self.raised:
            metrics.TASK_PANICKED.labels("evaluator").inc()
            about = {"event_id": raised.row.event_id, "trigger_id": raised.trigger_id}
            log.error("trigger.panicked", code="TASK_PANIC", exc_info=raised.error, **about)
            log.error("trigger.failed", code="POLLING_FALLBACK_EVENT_FAILED", error=repr(raised.error)[:500], **about)
        log.info(
            "events.evaluated",
            taken=len(self.verdicts),
            matched=sum(verdict.matched for verdict in self.verdicts),
            deliveries=sum(len(verdict.drafts) for verdict in self.verdicts),
            suppressed=suppressed,
            took_ms=round(elapsed, 1),
        )

    def elapsed_ms(self) -> int:
        return round((time.perf_counter() - self._started) * 1000)

    async def _breathe(self) -> None:
        if time.perf_counter() - self._breath > BREATH:
            self._progress()
            await asyncio.sleep(0)
            self._breath = time.perf_counter()


def _conclude(verdict: Verdict) -> None:
    """Draft what came of the visits. A match that the cooldown suppresses is one, but nothing is made of it."""
    event = cast(Event, verdict.event)
    for definition, visit in verdict.visits:
        if visit.error is not None:
            verdict.raised.append(Raised(verdict.row, definition, visit.error))
        elif visit.matched:
            verdict.matched += 1
            if visit.suppressed:
                verdict.suppressed += 1
            else:
                verdict.drafts += [draft_of(definition, action, event, visit.context) for action in definition.actions]


async def _project(tx: Transaction, verdicts: Sequence[Verdict]) -> None:
    """Bring the state of agents up to events that others than our indexer wrote. Each has one row for each of its
    changes, unless it is in the queue for the sake of a single trigger."""
    changes: dict[EventSeq, list[Verdict]] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for verdict in verdicts:
        row, event = verdict.row, verdict.event
        if event is not None and event.origin != "chain" and row.trigger_id is None:
            changes.setdefault(event.seq, []).append(verdict)
            counts[event.registry, event.event_type] += 1 if row.kind == "assert" else -1
    if not changes:
        return
    entered = {seq for seq, [one, *more] in changes.items() if not more and one.row.is_first and one.stands}
    await Projections().written(tx, verdicts[0].row.chain_id, entered, changes.keys() - entered, counts)


def draft_of(
    definition: Definition, action: MatchAction, event: Event, context: bytes | None = None, kind: Kind = "match"
) -> DeliveryDraft:
    depth = definition.fire_at
    return DeliveryDraft(
        organization_id=OrganizationId(definition.organization_id),
        trigger_id=TriggerId(definition.trigger_id),
        trigger_version=definition.version,
        environment=definition.environment,
        action_id=action.id,
        action_type=action.action_type,
        destination=action.destination,
        priority=action.priority,
        event_seq=event.seq,
        event_id=event.id,
        event_epoch=event.epoch,
        event_created_at=event.created_at,
        chain_id=event.chain_id,
        kind=kind,
        context=context,
        release=None if depth is None else Release(depth.tag, event.block_number + depth.blocks, depth.blocks),
    )


def facts_of(event: Event) -> SettledEvent:
    return SettledEvent(
        seq=event.seq, event_id=event.id, epoch=event.epoch, created_at=event.created_at, chain_id=event.chain_id
    )


def _finished(verdict: Verdict, spent_ms: int) -> Finished:
    row = verdict.row
    return Finished(
        position=row.position,
        # The ledger tells of events; a row whose event was deleted leaves it alone, as retractions do.
        kind="assert" if row.kind == "assert" and row.event_id is not None else "retract",
        event_seq=row.event_seq,
        event_id=EventId(row.event_id or ""),
        trigger_id=row.trigger_id,
        duration_ms=verdict.total.spent_ms + spent_ms,
        triggers_matched=verdict.total.matched,
        actions_enqueued=verdict.total.deliveries,
    )
