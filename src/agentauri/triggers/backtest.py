"""What a trigger would have done: stored events once more, in the order of their time, with state that begins empty.

Nothing is written. A run that stops before the end of its range is kept for a while, so that its cursor goes on with
the same state; where it is not there any more, that state is made again from the beginning.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from hashlib import sha256
from secrets import token_hex
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from agentauri.database import Transaction
from agentauri.errors import FieldError, Invalid
from agentauri.events import Event, EventService, chain_times
from agentauri.triggers.errors import BacktestRunning
from agentauri.triggers.explain import Explanation, explanation_of
from agentauri.triggers.history import Place, Range, columns_of, count, last_time, narrowed, stream
from agentauri.triggers.matching import Definition
from agentauri.triggers.rules import Rule, Rules, Told, Trial
from agentauri.types import ChainId, EventSeq, OrganizationId

SECONDS = 20.0
BREATH = 200
"""Events between two turns of the loop."""
KEPT_RUNS = 4
DAY = 86_400


class Day(Struct, frozen=True):
    date: str
    matches: int


class Diff(Struct, frozen=True):
    """Events of which the draft tells and the saved trigger does not, and the other way round."""

    added: int
    removed: int


class Shown(Struct, frozen=True):
    event_id: str
    timestamp: int
    agent_id: str | None
    explanation: Explanation
    rendered: list[dict[str, object] | None]


class Backtested(Struct, frozen=True, kw_only=True):
    """What came of one call; counts are of this call alone."""

    events_scanned: int
    matches: int
    deliveries: int
    suppressed: dict[str, int]
    by_day: list[Day]
    diff: Diff | UnsetType = UNSET
    sample: list[Shown]
    complete: bool
    next_cursor: str | None
    duration_ms: int


class Wanted(Struct, frozen=True, kw_only=True):
    """`rule` is judged, `saved` is what it is compared with."""

    rule: Rule
    saved: Rule | None
    range: Range
    max_events: int
    sample: int = 20
    cursor: str | None = None

    @property
    def definitions(self) -> list[Definition]:
        return [one.definition for one in (self.rule, self.saved) if one is not None]

    @property
    def columns(self) -> frozenset[str]:
        return frozenset().union(*map(columns_of, self.definitions))

    @property
    def tie(self) -> str:
        return sha256(repr((self.definitions, self.range)).encode()).hexdigest()[:16]


class Run:
    """Trials in the middle of a range."""

    def __init__(self, wanted: Wanted) -> None:
        self.trial = Trial(wanted.rule.without_past())
        self.saved = None if wanted.saved is None else Trial(wanted.saved.without_past())
        self.place: Place | None = None
        self.times: dict[int, int] = {}
        """The newest time of each chain."""

    def step(self, event: Event, *, show: bool = False) -> tuple[list[Told], list[Told]]:
        """What both say, after the absences that this event's time makes certain."""
        self.place = (event.timestamp, event.seq)
        news = event.timestamp > self.times.get(event.chain_id, -1)
        if news:
            self.times[event.chain_id] = event.timestamp
        told = _said(self.trial, event, news=news, show=show)
        return told, [] if self.saved is None else _said(self.saved, event, news=news, show=False)

    @property
    def waits(self) -> bool:
        return self.trial.waits or (self.saved is not None and self.saved.waits)

    def end(self, chain_id: int, until: int) -> tuple[list[Told], list[Told]]:
        return self.trial.ring(chain_id, until), [] if self.saved is None else self.saved.ring(chain_id, until)


def _said(trial: Trial, event: Event, *, news: bool, show: bool) -> list[Told]:
    told = trial.ring(event.chain_id, event.timestamp) if news and trial.waits else []
    if (met := trial.meet(event, show=show)) is not None:
        told.append(met)
    return told


class Sheet:
    """What is counted in one call."""

    def __init__(self, most: int) -> None:
        self.scanned = self.matches = self.told = self.suppressed = 0
        self.days: Counter[int] = Counter()
        self.sample: list[Told] = []
        self.fired: tuple[set[EventSeq], set[EventSeq]] = (set(), set())
        self._most = most

    @property
    def wants_more(self) -> bool:
        """Whether the sample has room for another match."""
        return len(self.sample) < self._most

    def enter(self, answers: tuple[list[Told], list[Told]]) -> None:
        for told in answers[0]:
            if not told.matched:
                continue
            self.matches += 1
            self.days[told.event.timestamp // DAY] += 1
            if told.suppressed:
                self.suppressed += 1
                continue
            self.told += 1
            self.fired[0].add(told.event.seq)
            if self.wants_more:
                self.sample.append(told)
        self.fired[1].update(told.event.seq for told in answers[1] if told.matched and not told.suppressed)


class Backtester:
    """`seconds` is how long one call may take before it stops and hands out a cursor."""

    def __init__(self, rules: Rules, events: EventService, seconds: float = SECONDS) -> None:
        self._rules = rules
        self._events = events
        self._seconds = seconds
        self._runs: OrderedDict[str, Run] = OrderedDict()

    async def run(
        self,
        tx: Transaction,
        organization_id: OrganizationId,
        wanted: Wanted,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Backtested:
        """
        Raises:
            BacktestRunning: the organization has one running.
            Invalid: the cursor belongs to something else.
        """
        started = time.monotonic()
        await _alone(tx, organization_id)
        run = await self._continued(tx, wanted)
        sheet, stop = Sheet(wanted.sample), time.monotonic() + self._seconds
        complete = await self._scan(tx, run, wanted, sheet, stop, progress)
        if complete:
            await _finish(tx, run, wanted.range, sheet)
        cursor = None if complete else self._keep(run, wanted)
        return Backtested(
            events_scanned=sheet.scanned,
            matches=sheet.matches,
            deliveries=sheet.told * wanted.rule.enabled_actions,
            suppressed={"cooldown": sheet.suppressed} if sheet.suppressed else {},
            by_day=[
                Day(f"{datetime.fromtimestamp(day * DAY, UTC):%Y-%m-%d}", count)
                for day, count in sorted(sheet.days.items())
            ],
            diff=UNSET if wanted.saved is None else _diff(sheet),
            sample=await self._shown(tx, wanted.rule, sheet.sample),
            complete=complete,
            next_cursor=cursor,
            duration_ms=round((time.monotonic() - started) * 1000),
        )

    async def size(self, tx: Transaction, wanted: Wanted) -> int:
        """How many events a run would scan."""
        return await count(tx, narrowed(wanted.range, wanted.definitions), wanted.max_events)

    async def _scan(
        self, tx: Transaction, run: Run, wanted: Wanted, sheet: Sheet, stop: float, progress: Callable[[int], None]
    ) -> bool:
        """Go on until the range, the number of events or the time is used up; whether it was the range."""
        range_ = narrowed(wanted.range, wanted.definitions)
        async with aclosing(stream(tx, range_, wanted.columns, by_time=True, after=run.place)) as parts:
            async for part in parts:
                for event in part:
                    if sheet.scanned >= wanted.max_events or (sheet.scanned and time.monotonic() > stop):
                        return False
                    sheet.enter(run.step(event, show=sheet.wants_more))
                    sheet.scanned += 1
                    if not sheet.scanned % BREATH:
                        await asyncio.sleep(0)
                progress(sheet.scanned)
        return True

    async def _continued(self, tx: Transaction, wanted: Wanted) -> Run:
        """The run that the cursor is about, or another one that has come as far."""
        if wanted.cursor is None:
            return Run(wanted)
        token, place = _read_cursor(wanted.cursor, wanted.tie)
        run = self._runs.pop(token, None)
        if run is not None and run.place == place:
            return run
        run = Run(wanted)
        if not (wanted.rule.remembers or (wanted.saved is not None and wanted.saved.remembers)):
            run.place = place
            return run
        range_ = narrowed(wanted.range, wanted.definitions)
        async with aclosing(stream(tx, range_, wanted.columns, by_time=True)) as parts:
            async for part in parts:
                for event in part:
                    if (event.timestamp, event.seq) > place:
                        return run
                    run.step(event)
                await asyncio.sleep(0)
        return run

    def _keep(self, run: Run, wanted: Wanted) -> str:
        assert run.place is not None
        token = token_hex(8)
        self._runs[token] = run
        while len(self._runs) > KEPT_RUNS:
            self._runs.popitem(last=False)
        return base64.urlsafe_b64encode(msgspec.json.encode([token, wanted.tie, *run.place])).decode()

    async def _shown(self, tx: Transaction, rule: Rule, sample: list[Told]) -> list[Shown]:
        events = await self._events.by_seqs(tx, {told.event.seq for told in sample})
        rule = rule.without_past()
        shown = []
        for told in sample:
            event = events[told.event.seq]
            context = None if told.context is None else told.context.decode()
            rendered = [
                self._rules.rehearsing.render(part, rule.facts, event.fields(), context).content
                for part in rule.parts
                if part.enabled
            ]
            agent = None if event.agent_id is None else str(event.agent_id)
            shown.append(Shown(event.id, event.timestamp, agent, explanation_of(rule, told, event), rendered))
        return shown


async def _alone(tx: Transaction, organization_id: OrganizationId) -> None:
    locked = await tx.fetchval(
        "SELECT pg_try_advisory_xact_lock(hashtextextended('agentauri backtest ' || $1, 0))", organization_id
    )
    if not locked:
        raise BacktestRunning


async def _finish(tx: Transaction, run: Run, range_: Range, sheet: Sheet) -> None:
    """Tell of the absences that are certain at the end of the range, as far as the chains have come."""
    if not run.waits:
        return
    if range_.to_block is not None:
        ends = await last_time(tx, range_)
    else:
        times = await chain_times(tx, [ChainId(chain_id) for chain_id in run.times])
        ends = {int(chain_id): end for chain_id, end in times.items()}
    for chain_id, end in ends.items():
        sheet.enter(run.end(chain_id, end if range_.to_time is None else min(end, range_.to_time + 1)))


def _diff(sheet: Sheet) -> Diff:
    draft, saved = sheet.fired
    return Diff(len(draft - saved), len(saved - draft))


def _read_cursor(cursor: str, tie: str) -> tuple[str, Place]:
    try:
        read: Any = msgspec.json.decode(base64.b64decode(cursor, altchars=b"-_"), type=tuple[str, str, int, int])
    except (ValueError, msgspec.MsgspecError):
        read = ("", "", 0, 0)
    token, tied, moment, seq = read
    if tied != tie:
        raise Invalid.fields(FieldError("cursor", "must be the next_cursor of a backtest like this one"))
    return token, (moment, EventSeq(seq))
