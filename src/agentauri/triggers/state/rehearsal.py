"""A trigger that is only tried out: it meets events as it would, and what it remembers is nowhere but here.

The evaluator keeps what is remembered in tables, and reads no more of it than a batch needs. Here all of it is at hand,
so the same rules come out shorter: a window is its samples, a sequence those that wait. Both share the arithmetic of
`folding`. No more is kept than two spans: an event may be one span late and still find what it looks for.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Iterator
from decimal import Decimal
from typing import NamedTuple

from agentauri.events import Event
from agentauri.triggers.conditions import Stateful
from agentauri.triggers.state.folding import (
    EXTREMES,
    MAX_SAMPLES,
    SUMS,
    ZERO,
    Ema,
    Sample,
    Tally,
    added,
    ema_holds,
    fold_ema,
    joined,
    subtracted,
    tally_holds,
)
from agentauri.triggers.state.programs import Input, StateProgram
from agentauri.triggers.state.slots import Shown, context_of, shown_tally
from agentauri.types import EventSeq

FORGOTTEN_AT_ONCE = 64


class Answer(NamedTuple):
    """What a trigger says of an event. `fed` tells whether it took any of it in; `shown` is what the leaves that did
    show of themselves, by their ids."""

    event: Event
    matched: bool
    suppressed: bool = False
    fed: bool = False
    holding: Collection[int] = ()
    shown: dict[int, Shown] = {}  # noqa: RUF012 (of a tuple: nobody writes to it)
    context: bytes | None = None


class Rehearsal:
    def __init__(self, program: StateProgram) -> None:
        self._program = program
        self._memories: dict[tuple[int, str], Memory] = {}
        self._fired: dict[str | None, int] = {}
        self._due: dict[int, list[tuple[int, EventSeq, int]]] = {}
        """Of each chain, when something is due, and of which event and leaf."""
        self._asked: dict[tuple[EventSeq, int], tuple[AbsenceMemory, Answer]] = {}
        leaves = [feeder.leaf for feeder in program.feeders]
        self._resets = any(leaf.resets for leaf in leaves)
        self._absences = frozenset(leaf.id for leaf in leaves if leaf.kind == "absence")

    def meet(self, event: Event, *, show: bool = True) -> Answer:
        """What the trigger says of the next event. Whoever does not want to see what it remembers saves time."""
        inputs = self._program.inputs(event)
        fed = [(given, self._memory(given)) for given in inputs]
        holding = {given.leaf.id for given, memory in fed if memory.take(event, given)}
        shown = {}
        if show or self._absences:
            shown = {given.leaf.id: tells for given, memory in fed if (tells := memory.shown())}
        if self._absences:
            self._ask(event, fed, holding, shown)
        matched = self._program.judge(event, holding)
        suppressed = matched and not self._fires(event)
        if self._resets and matched and not suppressed:
            for given, memory in fed:
                if given.leaf.resets and isinstance(memory, WindowMemory):
                    memory.consume()
        context = context_of(shown) if matched and shown else None
        return Answer(event, matched, suppressed, bool(fed), holding, shown, context)

    def ring(self, chain_id: int, time: int) -> Iterator[Answer]:
        """The absences that are certain once the chain has come to this time, each as things stood at its event."""
        due = self._due.get(chain_id, [])
        while due and due[0][0] < time:
            _, seq, leaf_id = heapq.heappop(due)
            memory, answer = self._asked.pop((seq, leaf_id))
            if memory.ring(seq):
                yield answer._replace(suppressed=not self._fires(answer.event))

    def _memory(self, given: Input) -> Memory:
        key = (given.leaf.id, given.scope_key)
        memory = self._memories.get(key)
        if memory is None:
            memory = self._memories[key] = _MEMORIES.get(given.leaf.kind, WindowMemory)(given.leaf)
        return memory

    def _ask(self, event: Event, fed: list[tuple[Input, Memory]], holding: set[int], shown: dict[int, Shown]) -> None:
        """Wait for what may not come, where nothing but an absence is missing to a match."""
        for given, memory in fed:
            if not isinstance(memory, AbsenceMemory) or not given.begins:
                continue
            leaf, holds = given.leaf, holding | {given.leaf.id}
            due = event.timestamp + leaf.span
            if self._program.judge(event, holds) and memory.ask(event, due):
                answer = Answer(event, matched=True, fed=True, holding=holds, shown=shown, context=context_of(shown))
                self._asked[event.seq, leaf.id] = (memory, answer)
                heapq.heappush(self._due.setdefault(event.chain_id, []), (due, event.seq, leaf.id))

    def _fires(self, event: Event) -> bool:
        """Whether the last match that was told of is far enough away, before or after."""
        seconds = self._program.cooldown_seconds
        if not seconds:
            return True
        key = self._program.dedupe(event)
        last = self._fired.get(key)
        fires = last is None or abs(event.timestamp - last) >= seconds
        if fires:
            self._fired[key] = event.timestamp
        return fires


class EmaMemory:
    def __init__(self, leaf: Stateful) -> None:
        self._leaf = leaf
        self._before: Ema | None = None
        self._now: Ema | None = None

    def take(self, event: Event, given: Input) -> bool:
        """Take an event in; whether the leaf holds."""
        assert given.value is not None
        leaf, self._before = self._leaf, self._now
        self._now = now = fold_ema(self._before, leaf.span, float(given.value), event.timestamp)
        return ema_holds(now.ema, leaf.operator, leaf.operand)

    def shown(self) -> Shown:
        """How things stand before and after the event taken in last."""
        before, now = self._before, self._now
        assert now is not None
        shown: Shown = {"ema": now.ema, "count": now.count}
        return shown | {"before": None if before is None else {"ema": before.ema, "count": before.count}}


class WindowMemory:
    """Samples by their time, with the sum of those in the window of the newest; extremes have their own order."""

    def __init__(self, leaf: Stateful, most: int = MAX_SAMPLES) -> None:
        self._leaf = leaf
        self._most = most
        self._samples: list[Sample] = []
        self._first = 0
        """The place of the first sample within the window."""
        self._newest = -1
        self._total = ZERO
        self._ranked: list[tuple[Decimal, int, EventSeq]] = []
        self._evicted: set[EventSeq] = set()
        self._before = self._now = Tally()

    def take(self, event: Event, given: Input) -> bool:
        leaf, time = self._leaf, event.timestamp
        own = Sample(time, event.seq, given.value)
        if time >= self._newest:
            self._move(time)
            self._before = self._tally()
            self._enter(own)
            self._now = self._tally()
            while len(self._samples) - self._first >= self._most:
                self._leave(self._samples.pop(self._first), evicted=True)
        else:
            self._before = self._summed(time - leaf.span, time)
            self._now = joined(leaf.kind, self._before, own.tally(leaf.kind))
            self._enter(own)
        return tally_holds(self._now, leaf.kind, leaf.operator, leaf.operand)

    def shown(self) -> Shown:
        kind = self._leaf.kind
        return shown_tally(kind, self._now) | {"before": shown_tally(kind, self._before)}

    def tallies(self) -> tuple[Tally, Tally]:
        """Of the window of the event taken in last, without and with it."""
        return self._before, self._now

    def consume(self) -> None:
        """Every sample so far counts no more."""
        self._samples.clear()
        self._ranked.clear()
        self._first, self._total = 0, ZERO

    def _move(self, time: int) -> None:
        """Bring the window up to this time."""
        span, samples = self._leaf.span, self._samples
        self._newest = time
        while self._first < len(samples) and samples[self._first].time < time - span:
            self._leave(samples[self._first])
            self._first += 1
        if self._first > FORGOTTEN_AT_ONCE and samples[self._first // 2].time < time - 2 * span:
            old = _place_of(samples, time - 2 * span)
            del samples[:old]
            self._first -= old

    def _enter(self, sample: Sample) -> None:
        samples, kind = self._samples, self._leaf.kind
        if samples and sample[:2] < samples[-1][:2]:
            insort(samples, sample, key=_order)
        else:
            samples.append(sample)
        if sample.time < self._newest - self._leaf.span:
            self._first += 1
        elif kind in SUMS:
            self._total = added(self._total, sample.value or ZERO)
        elif kind in EXTREMES and sample.value is not None:
            rank = sample.value if kind == "min" else sample.value.copy_negate()
            heapq.heappush(self._ranked, (rank, sample.time, sample.seq))

    def _leave(self, sample: Sample, *, evicted: bool = False) -> None:
        if self._leaf.kind in SUMS:
            self._total = subtracted(self._total, sample.value or ZERO)
        if evicted:
            self._evicted.add(sample.seq)

    def _tally(self) -> Tally:
        """Of the window of the newest sample."""
        kind, ranked = self._leaf.kind, self._ranked
        number = len(self._samples) - self._first
        if kind not in EXTREMES:
            return Tally(number, self._total)
        while ranked and (ranked[0][1] < self._newest - self._leaf.span or ranked[0][2] in self._evicted):
            heapq.heappop(ranked)
        if not ranked:
            return Tally(number)
        rank, at, _ = ranked[0]
        return Tally(number, ZERO, rank if kind == "min" else rank.copy_negate(), at)

    def _summed(self, first: int, last: int) -> Tally:
        total, samples = Tally(), self._samples
        for sample in samples[_place_of(samples, first) : _place_of(samples, last + 1)]:
            total = joined(self._leaf.kind, total, sample.tally(self._leaf.kind))
        return total


class SequenceMemory:
    """The events that began something, by their place on the chain; what ends it takes the oldest that it may."""

    def __init__(self, leaf: Stateful) -> None:
        self._span = leaf.span
        self._waiting: list[tuple[int, int, int, EventSeq]] = []
        self._begun: tuple[int, int, int, EventSeq] | None = None

    def take(self, event: Event, given: Input) -> bool:
        time, waiting = event.timestamp, self._waiting
        own = (time, event.block_number, event.log_index, event.seq)
        self._begun = None
        if given.ends:
            at = bisect_left(waiting, (time - self._span,))
            if at < len(waiting) and waiting[at][:3] < own[:3]:
                self._begun = waiting.pop(at)
        if given.begins:
            insort(waiting, own)
        if len(waiting) > FORGOTTEN_AT_ONCE and waiting[FORGOTTEN_AT_ONCE][0] < waiting[-1][0] - 2 * self._span:
            del waiting[: bisect_left(waiting, (waiting[-1][0] - 2 * self._span,))]
        return self._begun is not None

    def shown(self) -> Shown:
        begun = self._begun
        return {} if begun is None else {"first_seq": begun[3], "first_at": begun[0]}


class AbsenceMemory:
    """When the events came that others wait for, and who waits."""

    def __init__(self, leaf: Stateful) -> None:
        self._span = leaf.span
        self._answers: list[int] = []
        self._waiting: dict[EventSeq, int] = {}
        self._began: int | None = None

    def take(self, event: Event, given: Input) -> bool:
        time, answers = event.timestamp, self._answers
        self._began = time if given.begins else None
        if given.ends:
            insort(answers, time)
            in_time = [seq for seq, since in self._waiting.items() if since < time <= since + self._span]
            for seq in in_time:
                del self._waiting[seq]
        if len(answers) > FORGOTTEN_AT_ONCE and answers[FORGOTTEN_AT_ONCE] < answers[-1] - 2 * self._span:
            del answers[: bisect_left(answers, answers[-1] - 2 * self._span)]
        return False

    def shown(self) -> Shown:
        return {} if self._began is None else {"since": self._began, "due": self._began + self._span}

    def ask(self, event: Event, due: int) -> bool:
        """Wait for an answer to this event, unless there is one."""
        after = bisect_right(self._answers, event.timestamp)
        if after < len(self._answers) and self._answers[after] <= due:
            return False
        self._waiting[event.seq] = event.timestamp
        return True

    def ring(self, seq: EventSeq) -> bool:
        """Whether that event had no answer in time."""
        return self._waiting.pop(seq, None) is not None


Memory = EmaMemory | WindowMemory | SequenceMemory | AbsenceMemory
_MEMORIES: dict[str, type[EmaMemory | SequenceMemory | AbsenceMemory]] = {
    "ema": EmaMemory,
    "sequence": SequenceMemory,
    "absence": AbsenceMemory,
}


def _order(sample: Sample) -> tuple[int, EventSeq]:
    return sample[:2]


def _place_of(samples: list[Sample], time: int) -> int:
    """The place of the first sample from this time on."""
    return bisect_left(samples, time, key=lambda sample: sample.time)
