"""What is remembered and how it is folded: figures by hand, and any history against a naive reading of the rules."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentauri.triggers.state.folding import (
    MAX_SAMPLES,
    NOTHING,
    Ask,
    Ema,
    Sample,
    Tally,
    Window,
    ema_holds,
    fold_ema,
    joined,
    tally_holds,
)
from agentauri.triggers.state.slots import number, shown_tally, tally_of, window_state
from agentauri.types import EventSeq


@pytest.mark.parametrize(
    ("size", "values", "expected"),
    [
        (10, [85, 90, 40, 100], [85, 85.9090909090909, 77.56198347107437, 81.64162283996994]),
        (
            5,
            [50, 100, 100, 100, 100, 100],
            [50, 66.66666666666666, 77.77777777777777, 85.18518518518519, 90.12345679012347, 93.41563786008231],
        ),
        (1, [50, 100], [50, 100]),
        (20, [70, 60, 50], [70, 69.04761904761905, 67.23356009070295]),
    ],
)
def test_an_average_weighs_the_newest_value_most(size: int, values: list[float], expected: list[float]) -> None:
    ema: Ema | None = None
    for count, (value, wanted) in enumerate(zip(values, expected, strict=True), 1):
        ema = fold_ema(ema, size, value, 7)
        assert ema.ema == pytest.approx(wanted, abs=1e-12)
        assert (ema.count, ema.last_updated) == (count, 7)


def test_an_average_goes_on_from_what_is_stored() -> None:
    assert fold_ema(Ema(75, 3, 1), 10, 90, 2).ema == pytest.approx(77.72727272727272, abs=1e-12)


def test_averages_are_equal_within_a_billionth() -> None:
    assert ema_holds(85.0000000009, "eq", "85")
    assert not ema_holds(85.0000000009, "ne", "85")
    assert not ema_holds(85.00000001, "eq", "85")
    assert ema_holds(85.0000000009, "gt", "85")


Given = tuple[int, int, Decimal | None, bool]
"""Number and time of an event, its value, and whether it consumes what is there."""


class Table:
    """The samples of one key, with one `Window` for each batch as the evaluator makes them."""

    def __init__(self, kind: str, span: int, most: int = MAX_SAMPLES) -> None:
        self.kind, self.span, self.most = kind, span, most
        self.samples: list[Sample] = []
        self.state: tuple[str, int] | None = None
        self.asked = 0

    def batch(self, events: Sequence[Given]) -> list[Tally]:
        """Fold (seq, time, value, whether it consumes) events; each one's window."""
        stored, newest = (None, None) if self.state is None else (tally_of(self.state[0]), self.state[1])
        window = Window(self.kind, self.span, stored, newest, self.most)
        answers = [self._answer(ask) for ask in window.plan([time for _, time, _, _ in events])]
        window.prepare(answers, self._oldest(window))
        found = []
        for seq, time, value, consumes in events:
            found.append(window.fold(EventSeq(seq), time, value)[1])
            if consumes:
                window.consume(EventSeq(seq))
        gone = {(sample.time, sample.seq): sample for sample in window.evicted}
        kept = [gone.get((sample.time, sample.seq), sample) for sample in self.samples]
        if window.emptied_by is not None:
            kept = [one if one.consumed_by is not None else one._replace(consumed_by=window.emptied_by) for one in kept]
        self.samples = kept + window.fresh
        assert window.newest is not None
        self.state = (window_state(self.kind, self.span, window.total()), window.newest)
        return found

    def _answer(self, ask: Ask) -> Tally:
        inside = sorted(one for one in self._living() if ask.first <= one.time <= ask.last)
        inside = inside if ask.most is None else inside[max(0, len(inside) - ask.most) :]
        self.asked += len(inside)
        tally = NOTHING
        for sample in inside:
            tally = joined(self.kind, tally, sample.tally(self.kind))
        return tally

    def _oldest(self, window: Window) -> list[Sample]:
        if window.newest is None:
            return []
        return sorted(one for one in self._living() if one.time >= window.newest - self.span)[: window.excess]

    def _living(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.consumed_by is None]


def naive(kind: str, span: int, events: Sequence[Given], most: int) -> list[Any]:
    """The rules read word by word, over lists that are never thrown away."""
    living: list[tuple[int, int, Decimal | None]] = []
    newest, found = -1, []
    for seq, time, value, consumes in events:
        living.append((time, seq, value))
        inside = sorted(one for one in living if time - span <= one[0] <= time)
        values = [one[2] or Decimal(0) for one in inside]
        results = {
            "count": len(inside), "sum": sum(values), "min": min(values), "max": max(values),
            "avg": (sum(values), len(inside)),
        }  # fmt: skip
        found.append(results[kind])
        if time >= newest:
            newest = time
            for one in inside[: max(0, len(inside) - most + 1)]:
                living.remove(one)
        if consumes:
            living = []
    return found


def result(kind: str, tally: Tally) -> object:
    return {
        "count": tally.number, "sum": tally.total, "avg": (tally.total, tally.number),
        "min": tally.extreme, "max": tally.extreme,
    }[kind]  # fmt: skip


TEN: list[tuple[int | Decimal, int]] = [(10, 0), (20, 30), (Decimal("-5.5"), 60)]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("count", [1, 2, 2]),
        ("sum", [Decimal(10), Decimal(30), Decimal("14.5")]),
        ("avg", [(Decimal(10), 1), (Decimal(30), 2), (Decimal("14.5"), 2)]),
        ("min", [Decimal(10), Decimal(10), Decimal("-5.5")]),
        ("max", [Decimal(10), Decimal(20), Decimal(20)]),
    ],
)
def test_a_window_holds_what_lies_within_its_span(kind: str, expected: list[Any], at_once: bool) -> None:
    table = Table(kind, 45)
    events = [(seq, time, Decimal(value), False) for seq, (value, time) in enumerate(TEN)]
    batches = [events] if at_once else [[event] for event in events]

    assert [result(kind, tally) for batch in batches for tally in table.batch(batch)] == expected


HOUR = 3600


def counted(times: list[int], *, before: int = 0) -> list[int]:
    table = Table("count", HOUR)
    for first in range(0, before, 100):
        table.batch([(-seq - 1, 10_000, None, False) for seq in range(first, min(before, first + 100))])
    return [tally.number for time in times for tally in table.batch([(time, time, None, False)])]


@pytest.mark.parametrize(
    ("times", "counts"),
    [
        ([10_000], [1]),
        ([10_000 - 3 * HOUR, 10_000 - 2 * HOUR, 10_000], [1, 2, 1]),
        ([10_000 - HOUR, 10_000], [1, 2]),
        ([10_000 - HOUR - 1, 10_000], [1, 1]),
        ([100_000, 100_000 - 5 * HOUR, 100_001], [1, 1, 2]),
        ([100_000, 100_000 - 5 * HOUR, 100_000 - 5 * HOUR + 5], [1, 1, 2]),
    ],
)
def test_an_event_is_judged_by_its_own_window(times: list[int], counts: list[int]) -> None:
    assert counted(times) == counts


def test_a_window_of_many_is_exact() -> None:
    assert counted([10_001], before=10_999) == [11_000]


def test_consuming_begins_anew() -> None:
    table = Table("count", HOUR)
    events = [(seq, 1_000 + seq, None, seq == 11) for seq in range(1, 14)]

    assert [tally.number for tally in table.batch(events)] == [*range(1, 12), 1, 2]
    assert [tally.number for tally in table.batch([(20, 2_000, None, False), (21, 900, None, False)])] == [3, 1]
    assert [sample.consumed_by for sample in table.samples] == [11] * 11 + [None] * 4


def test_beyond_a_hundred_thousand_samples_the_oldest_go() -> None:
    table = Table("sum", HOUR)
    table.state = (window_state("sum", HOUR, Tally(MAX_SAMPLES - 1, Decimal(MAX_SAMPLES - 1))), 10_000)
    table.samples = [Sample(9_000 + seq % 1_000, EventSeq(seq), Decimal(1)) for seq in range(MAX_SAMPLES - 1)]

    tallies = table.batch([(200_000 + n, 10_001, Decimal(2), False) for n in range(3)])

    assert [(tally.number, tally.total) for tally in tallies] == [
        (100_000, Decimal(100_001)), (100_000, Decimal(100_002)), (100_000, Decimal(100_003)),
    ]  # fmt: skip


def test_the_cost_of_a_window_is_what_leaves_it() -> None:
    table = Table("sum", 1_000)
    for time in range(3_000):
        table.batch([(time, time, Decimal(1), False)])

    assert table.asked == 1_999


EVENTS = st.lists(
    st.tuples(
        st.integers(-30, 40),  # seconds after the newest one so far
        st.one_of(st.integers(-3, 3).map(Decimal), st.decimals(-5, 5, places=2)),
        st.sampled_from((False, False, False, True)),
    ),
    min_size=1,
    max_size=25,
)
HISTORY = {
    "kind": st.sampled_from(("count", "sum", "avg", "min", "max")),
    "span": st.integers(1, 60),
    "steps": EVENTS,
    "sizes": st.lists(st.integers(1, 6), min_size=1, max_size=6),
}


def check_window(
    kind: str, span: int, steps: list[tuple[int, Decimal, bool]], sizes: list[int], most: int = MAX_SAMPLES
) -> None:
    events, newest = [], 1_000
    for seq, (step, value, consumes) in enumerate(steps):
        time = newest + step
        events.append((seq, time, None if kind == "count" else value, consumes))
        newest = max(newest, time)
    table, found, left = Table(kind, span, most), [], list(events)
    for number_of in sizes * len(events):
        batch, left = left[:number_of], left[number_of:]
        found += [result(kind, tally) for tally in table.batch(batch)] if batch else []

    assert found == naive(kind, span, events, most)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(**HISTORY)
def test_any_history_of_a_window_is_what_a_naive_reading_makes_of_it(**history: Any) -> None:
    check_window(**history)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(most=st.integers(2, 8), **HISTORY)
def test_any_history_of_a_full_window_is_what_a_naive_reading_makes_of_it(**history: Any) -> None:
    # A full window that is late as well is only nearly exact, so time does not go back here.
    history["steps"] = [(abs(step), value, consumes) for step, value, consumes in history["steps"]]
    check_window(**history)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=100_000, deadline=None)
@given(**HISTORY)
def test_any_history_of_a_window_at_length(**history: Any) -> None:
    check_window(**history)


def test_a_mean_is_compared_without_rounding() -> None:
    third = Tally(3, Decimal(10))
    assert not tally_holds(third, "avg", "eq", "3.3333333333333333333333333333")
    assert tally_holds(third, "avg", "gt", "3.3333333333333333333333333333")
    assert tally_holds(Tally(2, Decimal(10**77) * 2), "avg", "eq", str(10**77))


def test_numbers_are_shown_as_every_reader_of_json_gets_them() -> None:
    assert number(Decimal("14.50")) == 14.5
    assert number(Decimal(2**53)) == 2**53
    assert number(Decimal(2**53 + 1)) == str(2**53 + 1)
    assert number(Decimal("0.1234567890123456789")) == "0.1234567890123456789"
    assert shown_tally("avg", Tally(2, Decimal(29))) == {"avg": 14.5, "sum": 29, "count": 2}
    assert shown_tally("max", NOTHING) == {"max": None, "count": 0}
