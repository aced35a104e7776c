"""What triggers remember, in the batch's transaction: read once for all keys, folded in memory, written once.

Which keys a batch touches, and at which times, does not depend on what they hold. So one statement reads and locks all
of them, and one more, only where something leaves a window, sums up samples that leave. What is written can be undone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import TypeVar

import msgspec

from agentauri.database import Transaction
from agentauri.events import Event
from agentauri.log import Seldom, get_logger
from agentauri.triggers.state import store
from agentauri.triggers.state.folding import Ask, Sample
from agentauri.triggers.state.meeting import SLOTS as SLOTS
from agentauri.triggers.state.meeting import Folding, Noted, Slot
from agentauri.triggers.state.meeting import Visit as Visit
from agentauri.triggers.state.programs import Input
from agentauri.triggers.state.slots import (
    AbsenceSlot,
    CooldownSlot,
    Entry,
    SequenceSlot,
    WindowSlot,
    encode,
    place_of,
)
from agentauri.triggers.state.store import Kept, Key, Undo, Wanted
from agentauri.types import EventSeq

log = get_logger(__name__)

Breathe = Callable[[], Awaitable[None]]
T = TypeVar("T")

PART = 2_000
"""Rows locked or written in one statement."""

_decode_entry = msgspec.json.Decoder(Entry).decode
_seldom = Seldom()


async def meet(tx: Transaction, visits: Sequence[Visit], breathe: Breathe) -> None:
    """Let triggers take events in, in this order, and say what they say of them. Everything is written on return."""
    for visit in visits:
        visit.read()
        await breathe()
    visits = [visit for visit in visits if visit.error is None]
    folding = _Batch(tx, breathe)
    await folding.load(visits)
    for visit in visits:
        folding.fold(visit)
        await breathe()
    await folding.write()


class _Batch(Folding):
    """The visits of one batch, with the state that the table has of them."""

    def __init__(self, tx: Transaction, breathe: Breathe) -> None:
        super().__init__()
        self._tx = tx
        self._breathe = breathe

    async def load(self, visits: Sequence[Visit]) -> None:
        await self._remember([visit for visit in visits if visit.again])
        makers: dict[Key, Callable[[Kept | None], Slot]] = {}
        shared: set[Key] = set()
        planned: dict[Key, dict[EventSeq, tuple[Event, Input]]] = {}
        for visit in visits:
            program, event = visit.program, visit.event
            for given in visit.inputs:
                key = visit.key(given)
                makers.setdefault(key, partial(SLOTS.get(given.leaf.kind, WindowSlot), given.leaf))
                if (event.seq, key) not in self.known:
                    planned.setdefault(key, {})[event.seq] = (event, given)
                if program.is_shared_by(given.leaf):
                    shared.add(key)
            if (fired := visit.cooldown_key) is not None:
                makers.setdefault(fired, partial(CooldownSlot, program.cooldown_seconds))
                if program.is_shared_by(None):
                    shared.add(fired)
            await self._breathe()
        if shared:
            await self._in_parts(store.claim, sorted(shared))
        kept: dict[Key, Kept] = {}
        for part in _parts(sorted(makers)):
            kept |= await store.lock(self._tx, part)
        self.slots = {key: make(kept.get(key)) for key, make in makers.items()}
        await self._sum_up(planned)
        await self._find_begun(planned)

    async def _find_begun(self, planned: Mapping[Key, Mapping[EventSeq, tuple[Event, Input]]]) -> None:
        """Read what the events of each key may end: one more for each, since those before may have ended the others."""
        slots = {key: slot for key in planned if isinstance(slot := self.slots[key], SequenceSlot) and slot.kept}
        wanted = []
        for key, slot in slots.items():
            ending = [event for event, given in planned[key].values() if given.ends]
            for most, event in enumerate(ending, 1):
                time = event.timestamp
                wanted.append(Wanted(key, time - slot.leaf.span, time, place_of(event), most))
        for part in _parts(wanted):
            for key, sample in await store.begun(self._tx, part):
                slots[key].prepare([sample])

    async def _remember(self, again: Sequence[Visit]) -> None:
        """What is known of events that were evaluated before, and not undone since: they are not taken in twice."""
        if not again:
            return
        for place, entry in (await store.recorded(self._tx, {visit.event.seq for visit in again})).items():
            self.known[place] = _decode_entry(entry)
        rows = [
            (visit.key(given), visit.event.timestamp, visit.event.seq)
            for visit in again
            for given in visit.inputs
            if given.leaf.kind != "ema"
        ]
        for place in await store.sampled(self._tx, rows) if rows else ():
            self.known.setdefault(place, None)

    async def _sum_up(self, planned: Mapping[Key, Mapping[EventSeq, tuple[Event, Input]]]) -> None:
        """Sum up in the table what the windows need of it."""
        asked: dict[Key, list[Ask]] = {}
        excess: list[tuple[Key, int, int]] = []
        windows = {key: slot for key in planned if isinstance(slot := self.slots[key], WindowSlot)}
        for key, slot in windows.items():
            asked[key] = slot.window.plan([event.timestamp for event, _ in planned[key].values()])
            if slot.window.excess and slot.window.newest is not None:
                excess.append((key, slot.window.newest - slot.leaf.span, slot.window.excess))
                _tell_saturated(self._tx, key)
        asks = [(key, windows[key].leaf.kind, ask) for key, planned in asked.items() for ask in planned]
        answers = iter(await store.tallies(self._tx, asks) if asks else ())
        oldest: dict[Key, list[Sample]] = await store.oldest(self._tx, excess) if excess else {}
        for key, slot in windows.items():
            slot.window.prepare([next(answers) for _ in asked[key]], oldest.get(key, ()))

    async def write(self) -> None:
        if not self.noted:
            return
        slots = [(key, self.slots[key]) for key in sorted({key for _, key in self.noted})]
        windows = [(key, slot.window) for key, slot in slots if isinstance(slot, WindowSlot)]
        if evicted := [(key, sample) for key, window in windows for sample in window.evicted]:
            await store.evict(self._tx, evicted)
        if emptied := [(key, window.emptied_by) for key, window in windows if window.emptied_by is not None]:
            await store.consume(self._tx, emptied)
        fresh = [(key, sample) for key, window in windows for sample in window.fresh]
        pairs = [(key, slot) for key, slot in slots if isinstance(slot, SequenceSlot | AbsenceSlot)]
        fresh += [(key, sample) for key, slot in pairs for sample in slot.fresh]
        parts = zip_longest(
            _parts([(key, kept) for key, slot in slots if (kept := slot.kept) is not None]),
            _parts(fresh),
            _parts([(key, one) for key, slot in pairs if isinstance(slot, SequenceSlot) for one in slot.taken]),
            _parts([_undo_of(noted, key) for (_, key), noted in self.noted.items()]),
            fillvalue=(),
        )
        for part in parts:
            await store.put(self._tx, *part)
            await self._breathe()
        await self._write_timers([(key, slot) for key, slot in pairs if isinstance(slot, AbsenceSlot)])

    async def _write_timers(self, slots: Sequence[tuple[Key, AbsenceSlot]]) -> None:
        await self._in_parts(store.set_timers, list(self.timers.values()))
        spans = [(timer.key, timer.due_time, timer.due_time) for timer in self.timers.values()]
        for key, slot in slots:
            spans += [(key, sample.time, sample.time + slot.leaf.span - 1) for sample in slot.fresh]
        await self._in_parts(store.cancel_timers, [(key, self._span(key), first, last) for key, first, last in spans])

    def _span(self, key: Key) -> int:
        slot = self.slots[key]
        assert isinstance(slot, AbsenceSlot)
        return slot.leaf.span

    async def _in_parts(self, write: Callable[[Transaction, Sequence[T]], Awaitable[None]], rows: Sequence[T]) -> None:
        for part in _parts(rows):
            await write(self._tx, part)
            await self._breathe()


def _parts(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(rows), PART):
        yield rows[start : start + PART]


def _undo_of(noted: Noted, key: Key) -> Undo:
    event, before = noted.event, None if noted.before is None else noted.before.decode()
    return Undo(event.chain_id, event.block_number, event.seq, key, before, encode(noted.entry).decode())


def _tell_saturated(tx: Transaction, key: Key) -> None:
    def tell() -> None:
        if _seldom.due(key[:2]):
            log.warning("window.saturated", code="WINDOW_SATURATED", trigger_id=key[0], leaf_id=key[1], scope=key[2])

    tx.on_commit(tell)
