"""One remembered thing during one batch: read from its row, folded event by event, written back. Pure.

Each kind has its own document in `trigger_state`; what an event brought to it is an `Entry` of the undo log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType

from agentauri.events import Event
from agentauri.triggers.conditions import Stateful
from agentauri.triggers.state.config import PAIRS
from agentauri.triggers.state.folding import (
    EXTREMES,
    NOTHING,
    SUMS,
    ZERO,
    Ema,
    Sample,
    Tally,
    Window,
    ema_holds,
    fold_ema,
    tally_holds,
)
from agentauri.triggers.state.programs import Input, plain
from agentauri.triggers.state.store import Kept
from agentauri.types import EventSeq

Shown: TypeAlias = dict[str, object]
"""State as a match's context tells it."""

EXACT_INTEGER = 2**53


class Entry(Struct, frozen=True, omit_defaults=True):
    """What an event brought: its time `t` and value `x`, and what came of it.

    `held` says that the leaf was true, or that the trigger fired; `took` that samples were consumed, `all` or the
    `oldest`. Kind and span stand here since the trigger may be another one when this is undone.
    """

    kind: str
    span: int
    t: int
    x: float | None = None
    held: bool = False
    took: Literal["all", "oldest"] | None = None


class Before(Struct, frozen=True, omit_defaults=True):
    """How it was before an event. A window's sum is not kept: it is summed up again."""

    seq: EventSeq
    time: int
    state: msgspec.Raw = msgspec.Raw(b"null")


class WindowDocument(Struct, frozen=True, omit_defaults=True):
    seconds: int
    count: int | UnsetType = UNSET
    sum: str | None = None
    extreme: str | None = None
    at: int = 0


class Fired(Struct, frozen=True):
    """When a trigger fired last, in the time of its events."""

    fired_at: int


encode = msgspec.json.Encoder().encode
_decode_ema = msgspec.json.Decoder(Ema).decode
_decode_window = msgspec.json.Decoder(WindowDocument).decode
_decode_fired = msgspec.json.Decoder(Fired).decode


class EmaSlot:
    def __init__(self, leaf: Stateful, kept: Kept | None) -> None:
        self.leaf = leaf
        self.kept = kept
        self.seq = None if kept is None else kept.seq
        self._ema = None if kept is None else _decode_ema(kept.state)

    def fold(self, event: Event, given: Input) -> tuple[Entry, Shown]:
        """Take an event in. What it brought, and how things stand before and after it."""
        assert given.value is not None
        seq, time = event.seq, event.timestamp
        before, number = self._ema, float(given.value)
        self._ema = now = fold_ema(before, self.leaf.span, number, time)
        self.kept, self.seq = Kept(encode(now).decode(), seq, time), seq
        held = ema_holds(now.ema, self.leaf.operator, self.leaf.operand)
        shown: Shown = {"ema": now.ema, "count": now.count}
        shown["before"] = None if before is None else {"ema": before.ema, "count": before.count}
        return Entry("ema", self.leaf.span, time, number, held), shown

    def before(self) -> bytes | None:
        return None if self.kept is None else encode(Before(self.kept.seq, self.kept.time, raw(self.kept.state)))


class WindowSlot:
    def __init__(self, leaf: Stateful, kept: Kept | None) -> None:
        self.leaf = leaf
        self.seq = None if kept is None else kept.seq
        stored = None if kept is None else tally_of(kept.state)
        self.window = Window(leaf.kind, leaf.span, stored, None if kept is None else kept.time)

    @property
    def kept(self) -> Kept | None:
        if self.seq is None or self.window.newest is None:
            return None
        return Kept(window_state(self.leaf.kind, self.leaf.span, self.window.total()), self.seq, self.window.newest)

    def fold(self, event: Event, given: Input) -> tuple[Entry, Shown]:
        evicted, time = self.window.evictions, event.timestamp
        before, now = self.window.fold(event.seq, time, given.value)
        self.seq = event.seq
        held = tally_holds(now, self.leaf.kind, self.leaf.operator, self.leaf.operand)
        took: Literal["oldest"] | None = "oldest" if self.window.evictions > evicted else None
        entry = Entry(self.leaf.kind, self.leaf.span, time, None, held, took)
        return entry, shown_tally(self.leaf.kind, now) | {"before": shown_tally(self.leaf.kind, before)}

    def before(self) -> bytes | None:
        if self.seq is None or self.window.newest is None:
            return None
        return encode(Before(self.seq, self.window.newest))


class SequenceSlot:
    """The events that began something, as samples; each is consumed by the first event that ends it.

    The value of a sample is its place among those of its second. Of all that an event may end, it ends the oldest.
    """

    def __init__(self, leaf: Stateful, kept: Kept | None) -> None:
        self.leaf = leaf
        self.kept = kept
        self.seq = None if kept is None else kept.seq
        self.fresh: list[Sample] = []
        self.taken: list[Sample] = []
        self._stored: set[Sample] = set()

    def prepare(self, stored: Iterable[Sample]) -> None:
        """Take the stored samples that the batch's events may end."""
        self._stored.update(stored)

    def fold(self, event: Event, given: Input) -> tuple[Entry, Shown]:
        time, place = event.timestamp, place_of(event)
        begun: Sample | None = None
        if given.ends:
            begun = self._take(event.seq, time, place)
        if given.begins:
            self.fresh.append(Sample(time, event.seq, place))
        self.kept, self.seq = _touched(self.kept, self.leaf, event), event.seq
        entry = Entry("sequence", self.leaf.span, time, held=begun is not None, took="oldest" if begun else None)
        return entry, {} if begun is None else {"first_seq": begun.seq, "first_at": begun.time}

    def _take(self, seq: EventSeq, time: int, place: Decimal) -> Sample | None:
        waiting = [one for one in (*self._stored, *self.fresh) if one.consumed_by is None]
        fits = (one for one in waiting if time - self.leaf.span <= one.time and (one.time, one.value) < (time, place))
        begun = min(fits, default=None, key=lambda one: (one.time, one.value, one.seq))
        if begun is None:
            return None
        if begun in self._stored:
            self._stored.remove(begun)
            self.taken.append(begun._replace(consumed_by=seq))
        else:
            self.fresh[self.fresh.index(begun)] = begun._replace(consumed_by=seq)
        return begun

    def before(self) -> bytes | None:
        return None if self.kept is None else encode(Before(self.kept.seq, self.kept.time))


class AbsenceSlot:
    """The events that others wait for, as samples. Who waits is in `timers`, and whether in vain follows from both."""

    def __init__(self, leaf: Stateful, kept: Kept | None) -> None:
        self.leaf = leaf
        self.kept = kept
        self.seq = None if kept is None else kept.seq
        self.fresh: list[Sample] = []

    def fold(self, event: Event, given: Input) -> tuple[Entry, Shown]:
        if given.ends:
            self.fresh.append(Sample(event.timestamp, event.seq))
        self.kept, self.seq = _touched(self.kept, self.leaf, event), event.seq
        entry = Entry("absence", self.leaf.span, event.timestamp)
        return entry, {"since": event.timestamp, "due": event.timestamp + self.leaf.span} if given.begins else {}

    def before(self) -> bytes | None:
        return None if self.kept is None else encode(Before(self.kept.seq, self.kept.time))


class CooldownSlot:
    """When the trigger fired last under one dedupe key."""

    def __init__(self, seconds: int, kept: Kept | None) -> None:
        self._seconds = seconds
        self.kept = kept
        self._fired = None if kept is None else _decode_fired(kept.state).fired_at

    def fold(self, seq: EventSeq, time: int) -> Entry:
        """Take a match in; it fires where the last one that did is far enough away, before or after."""
        fires = self._fired is None or abs(time - self._fired) >= self._seconds
        if fires:
            self._fired = time
            self.kept = Kept(encode(Fired(time)).decode(), seq, time)
        return Entry("cooldown", self._seconds, time, None, fires)

    def before(self) -> bytes | None:
        return None if self.kept is None else encode(Before(self.kept.seq, self.kept.time, raw(self.kept.state)))


def _touched(kept: Kept | None, leaf: Stateful, event: Event) -> Kept:
    newest = event.timestamp if kept is None else max(kept.time, event.timestamp)
    return Kept(window_state(leaf.kind, leaf.span, NOTHING), event.seq, newest)


def place_of(event: Event) -> Decimal:
    """Where an event stands among those of the same second: by its block, then by its log."""
    return Decimal(event.block_number * 2**32 + event.log_index)


def tally_of(state: str) -> Tally:
    document = _decode_window(state)
    return Tally(
        0 if document.count is UNSET else document.count,
        ZERO if document.sum is None else Decimal(document.sum),
        None if document.extreme is None else Decimal(document.extreme),
        document.at,
    )


def window_state(kind: str, span: int, tally: Tally) -> str:
    return encode(
        WindowDocument(
            span,
            UNSET if kind in PAIRS else tally.number,
            plain(tally.total) if kind in SUMS else None,
            None if tally.extreme is None else plain(tally.extreme),
            tally.at if tally.extreme is not None else 0,
        )
    ).decode()


def shown_tally(kind: str, tally: Tally) -> Shown:
    shown: Shown = {}
    if kind in EXTREMES:
        shown[kind] = None if tally.extreme is None else number(tally.extreme)
    if kind == "avg":
        shown["avg"] = float(tally.total / tally.number) if tally.number else None
    if kind in SUMS:
        shown["sum"] = number(tally.total)
    return shown | {"count": tally.number}


def number(value: Decimal) -> object:
    """As JSON: a number where every reader gets the same one out of it, else text."""
    written = plain(value)
    if "." not in written:
        return int(written) if abs(int(written)) <= EXACT_INTEGER else written
    return float(written) if Decimal(repr(float(written))) == value else written


def raw(state: str) -> msgspec.Raw:
    return msgspec.Raw(state.encode())


def context_of(leaves: Mapping[int, Shown]) -> bytes:
    document: dict[str, Any] = {"leaves": {str(leaf): shown for leaf, shown in leaves.items()}}
    return encode(document)
