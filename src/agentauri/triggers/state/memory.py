"""What triggers remember, in the batch's transaction: read once for all keys, folded in memory, written once.

Which keys a batch touches, and at which times, does not depend on what they hold. So one statement reads and locks all
of them, and one more, only where something leaves a window, sums up samples that leave. What is written can be undone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from agentauri.database import Transaction
from agentauri.events import Event
from agentauri.log import Seldom, get_logger
from agentauri.triggers.state import store
from agentauri.triggers.state.folding import Ask, Sample
from agentauri.triggers.state.programs import COOLDOWN_LEAF, Input, StateProgram
from agentauri.triggers.state.slots import CooldownSlot, EmaSlot, Entry, Shown, WindowSlot, context_of, encode
from agentauri.triggers.state.store import Kept, Key, Undo
from agentauri.types import EventSeq

log = get_logger(__name__)

Slot = EmaSlot | WindowSlot | CooldownSlot
Breathe = Callable[[], Awaitable[None]]
Place = tuple[EventSeq, Key]
T = TypeVar("T")

PART = 2_000
"""Rows locked or written in one statement."""

_decode_entry = msgspec.json.Decoder(Entry).decode
_seldom = Seldom()


class Visit(Struct):
    """One trigger that remembers meets one event. `again` says that the event was evaluated before.

    What came of it: `matched`, unless `suppressed` by the cooldown; `context` for its deliveries; or `error`, or
    `unknown`, where the event was taken in so long ago that nobody knows what was said of it.
    """

    trigger_id: str
    program: StateProgram
    event: Event
    again: bool = False
    matched: bool = False
    suppressed: bool = False
    unknown: bool = False
    context: bytes | None = None
    error: Exception | None = None
    inputs: list[Input] = field(default_factory=list)
    dedupe: str | None = None

    def read(self) -> None:
        """Find out what the event brings; a trigger that breaks here does so alone."""
        try:
            self.inputs = self.program.inputs(self.event)
            if self.program.cooldown_seconds:
                self.dedupe = self.program.dedupe(self.event)
        except Exception as error:  # noqa: BLE001  (one trigger's bug must not stop the others)
            self.error = error

    def key(self, given: Input) -> Key:
        return (self.trigger_id, given.leaf.id, given.scope_key)

    @property
    def cooldown_key(self) -> Key | None:
        return None if self.dedupe is None else (self.trigger_id, COOLDOWN_LEAF, self.dedupe)


class Noted(Struct):
    """A line of the undo log in the making."""

    event: Event
    before: bytes | None
    entry: Entry


async def meet(tx: Transaction, visits: Sequence[Visit], breathe: Breathe) -> None:
    """Let triggers take events in, in this order, and say what they say of them. Everything is written on return."""
    for visit in visits:
        visit.read()
        await breathe()
    visits = [visit for visit in visits if visit.error is None]
    folding = _Folding(tx, breathe)
    await folding.load(visits)
    for visit in visits:
        folding.fold(visit)
        await breathe()
    await folding.write()


class _Folding:
    def __init__(self, tx: Transaction, breathe: Breathe) -> None:
        self._tx = tx
        self._breathe = breathe
        self._slots: dict[Key, Slot] = {}
        self._known: dict[Place, Entry | None] = {}
        """What was taken in earlier; None where nobody knows what came of it."""
        self._noted: dict[Place, Noted] = {}

    async def load(self, visits: Sequence[Visit]) -> None:
        await self._remember([visit for visit in visits if visit.again])
        makers: dict[Key, Callable[[Kept | None], Slot]] = {}
        shared: set[Key] = set()
        times: dict[Key, dict[EventSeq, int]] = {}
        for visit in visits:
            program, event = visit.program, visit.event
            for given in visit.inputs:
                key = visit.key(given)
                makers.setdefault(key, partial(EmaSlot if given.leaf.kind == "ema" else WindowSlot, given.leaf))
                if given.leaf.kind != "ema" and (event.seq, key) not in self._known:
                    times.setdefault(key, {})[event.seq] = event.timestamp
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
        self._slots = {key: make(kept.get(key)) for key, make in makers.items()}
        if times:
            await self._sum_up({key: list(planned.values()) for key, planned in times.items()})

    async def _remember(self, again: Sequence[Visit]) -> None:
        """What is known of events that were evaluated before, and not undone since: they are not taken in twice."""
        if not again:
            return
        for place, entry in (await store.recorded(self._tx, {visit.event.seq for visit in again})).items():
            self._known[place] = _decode_entry(entry)
        rows = [
            (visit.key(given), visit.event.timestamp, visit.event.seq)
            for visit in again
            for given in visit.inputs
            if given.leaf.kind != "ema"
        ]
        for place in await store.sampled(self._tx, rows) if rows else ():
            self._known.setdefault(place, None)

    async def _sum_up(self, times: Mapping[Key, Sequence[int]]) -> None:
        """Sum up in the table what the windows need of it."""
        asked: dict[Key, list[Ask]] = {}
        excess: list[tuple[Key, int, int]] = []
        windows = {key: slot for key in times if isinstance(slot := self._slots[key], WindowSlot)}
        for key, slot in windows.items():
            asked[key] = slot.window.plan(times[key])
            if slot.window.excess and slot.window.newest is not None:
                excess.append((key, slot.window.newest - slot.leaf.span, slot.window.excess))
                _tell_saturated(self._tx, key)
        asks = [(key, windows[key].leaf.kind, ask) for key, planned in asked.items() for ask in planned]
        answers = iter(await store.tallies(self._tx, asks) if asks else ())
        oldest: dict[Key, list[Sample]] = await store.oldest(self._tx, excess) if excess else {}
        for key, slot in windows.items():
            slot.window.prepare([next(answers) for _ in asked[key]], oldest.get(key, ()))

    def fold(self, visit: Visit) -> None:
        holding: set[int] = set()
        leaves: dict[int, Shown] = {}
        for given in visit.inputs:
            entry = self._take(visit, given, leaves)
            if entry is None:
                visit.unknown = True
                return
            if entry.held:
                holding.add(given.leaf.id)
        visit.matched = visit.program.judge(visit.event, holding)
        if visit.matched:
            visit.context = context_of(leaves) if leaves else None
            visit.suppressed = not self._fires(visit)
            if not visit.suppressed:
                self._consume(visit)

    def _take(self, visit: Visit, given: Input, leaves: dict[int, Shown]) -> Entry | None:
        event, key = visit.event, visit.key(given)
        place, slot = (event.seq, key), self._slots[key]
        assert not isinstance(slot, CooldownSlot)
        if place in self._known:
            return self._known[place]
        if place in self._noted:
            return self._noted[place].entry
        if visit.again and slot.seq == event.seq:
            return None
        before = slot.before()
        entry, leaves[given.leaf.id] = slot.fold(event.seq, event.timestamp, given.value)
        self._noted[place] = Noted(event, before, entry)
        return entry

    def _fires(self, visit: Visit) -> bool:
        key = visit.cooldown_key
        if key is None:
            return True
        place, slot = (visit.event.seq, key), self._slots[key]
        assert isinstance(slot, CooldownSlot)
        if (known := self._known.get(place)) is not None:
            return known.held
        if place not in self._noted:
            before = slot.before()
            self._noted[place] = Noted(visit.event, before, slot.fold(visit.event.seq, visit.event.timestamp))
        return self._noted[place].entry.held

    def _consume(self, visit: Visit) -> None:
        """The trigger fires: what its windows have seen counts no more, where they are to begin again."""
        for given in visit.inputs:
            key = visit.key(given)
            noted, slot = self._noted.get((visit.event.seq, key)), self._slots[key]
            if given.leaf.resets and noted is not None and isinstance(slot, WindowSlot):
                slot.window.consume(visit.event.seq)
                noted.entry = replace(noted.entry, took="all")

    async def write(self) -> None:
        if not self._noted:
            return
        touched = sorted({key for _, key in self._noted})
        await self._in_parts(
            store.write, [(key, kept) for key in touched if (kept := self._slots[key].kept) is not None]
        )
        windows = [(key, slot.window) for key in touched if isinstance(slot := self._slots[key], WindowSlot)]
        if evicted := [(key, sample) for key, window in windows for sample in window.evicted]:
            await store.evict(self._tx, evicted)
        if emptied := [(key, window.emptied_by) for key, window in windows if window.emptied_by is not None]:
            await store.consume(self._tx, emptied)
        await self._in_parts(store.add_samples, [(key, sample) for key, window in windows for sample in window.fresh])
        await self._in_parts(
            store.log,
            [
                Undo(
                    noted.event.chain_id,
                    noted.event.block_number,
                    seq,
                    key,
                    None if noted.before is None else noted.before.decode(),
                    encode(noted.entry).decode(),
                )
                for (seq, key), noted in self._noted.items()
            ],
        )

    async def _in_parts(self, write: Callable[[Transaction, Sequence[T]], Awaitable[None]], rows: Sequence[T]) -> None:
        for part in _parts(rows):
            await write(self._tx, part)
            await self._breathe()


def _parts(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(rows), PART):
        yield rows[start : start + PART]


def _tell_saturated(tx: Transaction, key: Key) -> None:
    def tell() -> None:
        if _seldom.due(key[:2]):
            log.warning("window.saturated", code="WINDOW_SATURATED", trigger_id=key[0], leaf_id=key[1], scope=key[2])

    tx.on_commit(tell)
