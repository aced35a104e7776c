"""What a condition remembers, folded event by event. Pure: (state, event's part) to (next state, answer).

An EMA is one number. A window is never loaded: its state is the sum of its samples (their count, sum or extreme) up to
the newest event. An event that comes next leaves the samples that it pushes out of the window to be summed up in the
table and taken off, so a window costs what enters and leaves it, each sample twice in its life, whatever its size.
Only two things sum up a whole window anew: an event that is late, and the loss of a minimum or maximum.

A batch is folded in three steps, since feeding does not depend on state: `plan` says from the times of the events alone
what is to be summed up in the table, `prepare` takes the answers, `fold` goes event by event.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, Inexact, InvalidOperation
from typing import Any, NamedTuple

from msgspec import Struct

from agentauri.types import EventSeq

MAX_SAMPLES = 100_000
"""Samples in one window; beyond it the oldest go."""

EMA_EQUAL = 1e-9
SUMS, EXTREMES = frozenset({"sum", "avg"}), frozenset({"min", "max"})
ZERO = Decimal(0)

# A numeric of PostgreSQL has 131,072 digits before the point and 16,383 behind it.
_EXACT = Context(prec=200_000, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[Inexact, InvalidOperation])
added, subtracted = _EXACT.add, _EXACT.subtract
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "lte": operator.le, "gt": operator.gt, "gte": operator.ge,
}  # fmt: skip


class Ema(Struct, frozen=True):
    ema: float
    count: int
    last_updated: int


def fold_ema(before: Ema | None, size: int, value: float, time: int) -> Ema:
    if before is None:
        return Ema(value, 1, time)
    weight = 2 / (size + 1)
    return Ema(weight * value + (1 - weight) * before.ema, before.count + 1, time)


def ema_holds(ema: float, compared: str, operand: str) -> bool:
    wanted = float(operand)
    if compared in ("eq", "ne"):
        return (abs(ema - wanted) <= EMA_EQUAL) is (compared == "eq")
    return _COMPARE[compared](ema, wanted)


class Tally(NamedTuple):
    """Samples, summed up: `total` for sums alone, `extreme` for extremes alone, `at` the latest time it occurs."""

    number: int = 0
    total: Decimal = ZERO
    extreme: Decimal | None = None
    at: int = 0


NOTHING = Tally()


def tally_holds(tally: Tally, kind: str, compared: str, operand: str) -> bool:
    wanted = Decimal(operand)
    compare = _COMPARE[compared]
    if kind == "count":
        return compare(tally.number, wanted)
    if kind == "sum":
        return compare(tally.total, wanted)
    if kind == "avg":
        return compare(tally.total, _EXACT.multiply(wanted, tally.number))
    return tally.extreme is not None and compare(tally.extreme, wanted)


def joined(kind: str, one: Tally, other: Tally) -> Tally:
    number = one.number + other.number
    if kind in SUMS:
        return Tally(number, _EXACT.add(one.total, other.total))
    if kind not in EXTREMES or other.extreme is None:
        return Tally(number, ZERO, one.extreme, one.at)
    if one.extreme is None:
        return Tally(number, ZERO, other.extreme, other.at)
    if one.extreme == other.extreme:
        return Tally(number, ZERO, one.extreme, max(one.at, other.at))
    best = one if (one.extreme < other.extreme) is (kind == "min") else other
    return Tally(number, ZERO, best.extreme, best.at)


class Sample(NamedTuple):
    time: int
    seq: EventSeq
    value: Decimal | None = None
    consumed_by: EventSeq | None = None

    def tally(self, kind: str) -> Tally:
        if self.value is None or kind == "count":
            return Tally(1)
        return Tally(1, self.value) if kind in SUMS else Tally(1, ZERO, self.value, self.time)


class Ask(NamedTuple):
    """Sum up the stored samples from `first` to `last`, the newest `most` of them."""

    first: int
    last: int
    most: int | None = None


class Window:
    """One key's window during one batch: what is stored, known by its sum, and the samples of this batch.

    `stored` sums up the samples from `newest` minus `span` on; None for a key that nobody has fed.
    """

    def __init__(self, kind: str, span: int, stored: Tally | None, newest: int | None, most: int = MAX_SAMPLES) -> None:
        self.kind = kind
        self.span = span
        self.newest = newest
        self._stored = stored
        self._known = stored is not None
        self._most = most
        self._asks: list[Ask | None] = []
        self._answers: list[Tally | None] = []
        self._oldest: list[Sample] = []
        self.fresh: list[Sample] = []
        self.evicted: list[Sample] = []
        """Stored samples that had to go, each with the event that pushed it out."""
        self.emptied_by: EventSeq | None = None
        """The event that consumed what was stored."""
        self.evictions = 0
        self.excess = 0
        """How many of the oldest stored samples `prepare` has to be given."""

    def plan(self, times: Sequence[int]) -> list[Ask]:
        """What to sum up in the table before events of these times are folded, in this order."""
        if self._stored is None or self.newest is None:
            self._asks = [None] * len(times)
            return []
        self.excess = max(0, self._stored.number + len(times) - (self._most - 1))
        newest, extreme_at = self.newest, self._stored.at if self._stored.extreme is not None else None
        for number, time in enumerate(times):
            first = time - self.span
            if time < newest:
                self._asks.append(Ask(first, time))
                continue
            saturated = self.excess and self.kind in EXTREMES
            if self.kind in EXTREMES and (saturated or (extreme_at is not None and extreme_at < first)):
                # Where the extreme goes nobody knows the next one; from here on it is looked for each time.
                self._asks.append(Ask(first, time, max(0, self._most - 1 - number) if saturated else None))
                extreme_at = first - 1
            elif self._stored.number and first > newest - self.span:
                self._asks.append(Ask(newest - self.span, first - 1))
            else:
                self._asks.append(None)
            newest = time
        return [ask for ask in self._asks if ask is not None]

    def prepare(self, answers: Sequence[Tally], oldest: Sequence[Sample] = ()) -> None:
        """Take the sums that `plan` asked for, and the `excess` oldest samples of the window."""
        given = iter(answers)
        self._answers = [None if ask is None else next(given) for ask in self._asks]
        self._oldest = list(reversed(oldest))

    def fold(self, seq: EventSeq, time: int, value: Decimal | None) -> tuple[Tally, Tally]:
        """The event's window without it, and with it."""
        number = len(self.fresh)
        late = self.newest is not None and time < self.newest
        before = self._stored_in(number, time, late)
        for sample in self.fresh:
            if sample.consumed_by is None and time - self.span <= sample.time <= time:
                before = joined(self.kind, before, sample.tally(self.kind))
        own = Sample(time, seq, value)
        now = joined(self.kind, before, own.tally(self.kind))
        self.fresh.append(own)
        if not late:
            self.newest = time
            self._evict(seq, now.number - (self._most - 1))
        return before, now

    def _stored_in(self, number: int, time: int, late: bool) -> Tally:
        """The stored samples of an event's window. The event that comes next moves the sum on to its own."""
        if not self._known or self._stored is None:
            return NOTHING
        ask, answer = self._asks[number], self._answers[number]
        if ask is None or answer is None:
            return self._stored
        answer = self._without_evicted(ask, answer)
        if late:
            return answer
        if ask.last < time - self.span:
            self._stored = Tally(
                self._stored.number - answer.number,
                _EXACT.subtract(self._stored.total, answer.total),
                self._stored.extreme,
                self._stored.at,
            )
        else:
            self._stored = answer
        return self._stored

    def _without_evicted(self, ask: Ask, answer: Tally) -> Tally:
        gone = [sample for sample in self.evicted if ask.first <= sample.time <= ask.last]
        if not gone or ask.most is not None:
            return answer
        total = answer.total
        if self.kind in SUMS:
            for sample in gone:
                total = _EXACT.subtract(total, sample.value or ZERO)
        return Tally(answer.number - len(gone), total, answer.extreme, answer.at)

    def _evict(self, seq: EventSeq, excess: int) -> None:
        """Let the oldest samples of the window go, so that there is room for the next event's."""
        assert self.newest is not None
        for _ in range(excess):
            while self._oldest and self._oldest[-1].time < self.newest - self.span:
                self._oldest.pop()
            mine = [
                (sample.time, sample.seq, number)
                for number, sample in enumerate(self.fresh)
                if sample.consumed_by is None and sample.time >= self.newest - self.span
            ]
            first = min(mine, default=None)
            self.evictions += 1
            stored = self._oldest[-1] if self._oldest and self._known else None
            if stored is not None and (first is None or stored[:2] < first[:2]):
                assert self._stored is not None
                self.evicted.append(self._oldest.pop()._replace(consumed_by=seq))
                total = _EXACT.subtract(self._stored.total, stored.value or ZERO) if self.kind in SUMS else ZERO
                self._stored = self._stored._replace(number=self._stored.number - 1, total=total)
            elif first is not None:
                self.fresh[first[2]] = self.fresh[first[2]]._replace(consumed_by=seq)

    def consume(self, seq: EventSeq) -> None:
        """Every sample so far counts no more."""
        if self.emptied_by is None:
            self.emptied_by = seq
        self._known = False
        self.fresh = [
            sample if sample.consumed_by is not None else sample._replace(consumed_by=seq) for sample in self.fresh
        ]

    def total(self) -> Tally:
        """The sum to go on from, of the window that ends at `newest`."""
        total = self._stored if self._known and self._stored is not None else NOTHING
        assert self.newest is not None
        for sample in self.fresh:
            if sample.consumed_by is None and sample.time >= self.newest - self.span:
                total = joined(self.kind, total, sample.tally(self.kind))
        return total
