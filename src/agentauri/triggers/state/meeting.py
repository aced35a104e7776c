"""A trigger meets an event: what it takes in, and what it says of it. Pure; where the state comes from and where it
goes is the affair of `memory`, or of nobody, where a trigger is only tried out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from msgspec import Struct, field
from msgspec.structs import replace

from agentauri.events import Event
from agentauri.triggers.conditions import Stateful
from agentauri.triggers.state.programs import COOLDOWN_LEAF, Input, StateProgram
from agentauri.triggers.state.slots import (
    AbsenceSlot,
    CooldownSlot,
    EmaSlot,
    Entry,
    SequenceSlot,
    Shown,
    WindowSlot,
    context_of,
)
from agentauri.triggers.state.store import Kept, Key, Timer
from agentauri.types import EventSeq

LeafSlot = EmaSlot | WindowSlot | SequenceSlot | AbsenceSlot
Slot = LeafSlot | CooldownSlot
Place = tuple[EventSeq, Key]


class Visit(Struct):
    """One trigger that remembers meets one event. `again` says that the event was evaluated before.

    What came of it: `matched`, unless `suppressed` by the cooldown; `context` for its deliveries; `waits`, where a
    timer will tell; or `error`, or `unknown`, where the event was taken in so long ago that nobody knows what was said
    of it. `absent` is the visit of that timer: its event has a match, unless it is suppressed. `shown` is what the
    leaves that were fed show of themselves.
    """

    trigger_id: str
    program: StateProgram
    event: Event
    again: bool = False
    version: int = 0
    absent: bool = False
    matched: bool = False
    suppressed: bool = False
    waits: bool = False
    unknown: bool = False
    context: bytes | None = None
    error: Exception | None = None
    inputs: list[Input] = field(default_factory=list)
    dedupe: str | None = None
    shown: dict[int, Shown] = field(default_factory=dict)

    def read(self) -> None:
        """Find out what the event brings; a trigger that breaks here does so alone."""
        try:
            self.inputs = [] if self.absent else self.program.inputs(self.event)
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


class Folding:
    """Events taken in one after the other, by slots that somebody has put here before."""

    def __init__(self) -> None:
        self.slots: dict[Key, Slot] = {}
        self.known: dict[Place, Entry | None] = {}
        """What was taken in earlier; None where nobody knows what came of it."""
        self.noted: dict[Place, Noted] = {}
        self.timers: dict[tuple[Key, EventSeq], Timer] = {}

    def fold(self, visit: Visit) -> None:
        holding: set[int] = set()
        leaves = visit.shown
        for given in visit.inputs:
            entry = self._take(visit, given, leaves)
            if entry is None:
                visit.unknown = True
                return
            if entry.held:
                holding.add(given.leaf.id)
        context = context_of(leaves) if leaves else None
        self._wait(visit, holding, context)
        visit.matched = visit.absent or visit.program.judge(visit.event, holding)
        if visit.matched:
            visit.context = context
            visit.suppressed = not self._fires(visit)
            if not visit.suppressed:
                self._consume(visit)

    def _wait(self, visit: Visit, holding: Collection[int], context: bytes | None) -> None:
        """Set a timer, where nothing but an absence is missing to a match."""
        for given in visit.inputs:
            leaf, event = given.leaf, visit.event
            if leaf.kind == "absence" and given.begins and visit.program.judge(event, {*holding, leaf.id}):
                visit.waits = True
                key = visit.key(given)
                due = event.timestamp + leaf.span
                self.timers[key, event.seq] = Timer(
                    event.chain_id, due, event.seq, visit.version, key, None if context is None else context.decode()
                )

    def _take(self, visit: Visit, given: Input, leaves: dict[int, Shown]) -> Entry | None:
        event, key = visit.event, visit.key(given)
        place, slot = (event.seq, key), self.slots[key]
        assert not isinstance(slot, CooldownSlot)
        if place in self.known:
            return self.known[place]
        if place in self.noted:
            return self.noted[place].entry
        if visit.again and slot.seq == event.seq:
            return None
        before = slot.before()
        entry, shown = slot.fold(event, given)
        if shown:
            leaves[given.leaf.id] = shown
        self.noted[place] = Noted(event, before, entry)
        return entry

    def _fires(self, visit: Visit) -> bool:
        key = visit.cooldown_key
        if key is None:
            return True
        place, slot = (visit.event.seq, key), self.slots[key]
        assert isinstance(slot, CooldownSlot)
        if (known := self.known.get(place)) is not None:
            return known.held
        if place not in self.noted:
            before = slot.before()
            self.noted[place] = Noted(visit.event, before, slot.fold(visit.event.seq, visit.event.timestamp))
        return self.noted[place].entry.held

    def _consume(self, visit: Visit) -> None:
        """The trigger fires: what its windows have seen counts no more, where they are to begin again."""
        for given in visit.inputs:
            key = visit.key(given)
            noted, slot = self.noted.get((visit.event.seq, key)), self.slots[key]
            if given.leaf.resets and noted is not None and isinstance(slot, WindowSlot):
                slot.window.consume(visit.event.seq)
                noted.entry = replace(noted.entry, took="all")


SLOTS: dict[str, Callable[[Stateful, Kept | None], Slot]] = {
    "ema": EmaSlot,
    "sequence": SequenceSlot,
    "absence": AbsenceSlot,
}
"""What there is beside windows."""
