"""A trigger that is only tried out: it meets events as it would, and what it remembers is nowhere but here.

The slots are those of the evaluator. What it sums up in a table is summed up here from lists, of which no more is kept
than two spans of a window: an event may be one span late and still find its samples.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator

from agentauri.events import Event
from agentauri.triggers.state.folding import Ask, Sample, Tally, Window, joined
from agentauri.triggers.state.meeting import SLOTS, Folding, Visit
from agentauri.triggers.state.programs import Input, StateProgram
from agentauri.triggers.state.slots import AbsenceSlot, CooldownSlot, SequenceSlot, WindowSlot
from agentauri.triggers.state.store import Key
from agentauri.types import EventSeq

PRUNED_ABOVE = 64
"""Samples from which on it is worth a look whether some are too old."""


class Rehearsal(Folding):
    def __init__(self, trigger_id: str, program: StateProgram) -> None:
        super().__init__()
        self._trigger_id = trigger_id
        self._program = program
        self._samples: dict[Key, list[Sample]] = {}
        self._waiting: dict[Key, dict[EventSeq, Event]] = {}
        self._due: list[tuple[int, EventSeq, Key]] = []

    def meet(self, event: Event) -> tuple[Visit, frozenset[int]]:
        """What the trigger says of the next event, and the leaves that hold."""
        visit = Visit(self._trigger_id, self._program, event)
        visit.read()
        if visit.error is not None:
            raise visit.error
        for given in visit.inputs:
            self._make_ready(visit.key(given), given, event.timestamp)
        self._fold(visit)
        holding = frozenset(key[1] for (_, key), noted in self.noted.items() if noted.entry.held and key[1])
        for given in visit.inputs:
            self._settle(visit.key(given), given, event)
        self._set_timers(event)
        self.noted.clear()
        return visit, holding

    def ring(self, chain_id: int, time: int) -> Iterator[Visit]:
        """The absences that are certain once the chain has come to this time, each with what is said of it."""
        later = []
        while self._due and self._due[0][0] < time:
            due, seq, key = heapq.heappop(self._due)
            event = self._waiting[key].get(seq)
            if event is None:
                continue
            if event.chain_id != chain_id:
                later.append((due, seq, key))
                continue
            del self._waiting[key][seq]
            visit = Visit(self._trigger_id, self._program, event, absent=True)
            visit.read()
            self._fold(visit)
            self.noted.clear()
            yield visit
        for one in later:
            heapq.heappush(self._due, one)

    def _fold(self, visit: Visit) -> None:
        if (fired := visit.cooldown_key) is not None and fired not in self.slots:
            self.slots[fired] = CooldownSlot(self._program.cooldown_seconds, None)
        self.fold(visit)

    def _make_ready(self, key: Key, given: Input, time: int) -> None:
        slot = self.slots.get(key)
        if slot is None:
            slot = self.slots[key] = SLOTS.get(given.leaf.kind, WindowSlot)(given.leaf, None)
            self._samples[key] = []
        if isinstance(slot, WindowSlot) and slot.window.newest is not None:
            before = slot.window
            samples = self._samples[key]
            slot.window = window = Window(before.kind, before.span, before.total(), before.newest)
            asks = window.plan([time])
            oldest: list[Sample] = []
            if window.excess and window.newest is not None:
                first = _first(samples, window.newest - window.span)
                oldest = samples[first : first + window.excess]
            window.prepare([_tally(samples, window.kind, ask) for ask in asks], oldest)

    def _settle(self, key: Key, given: Input, event: Event) -> None:
        """Keep of what the event left in the slot what later ones may ask for."""
        slot, samples, span = self.slots[key], self._samples[key], given.leaf.span
        if isinstance(slot, WindowSlot):
            window = slot.window
            if window.emptied_by is not None:
                samples.clear()
            for gone in window.evicted:
                samples.remove(gone._replace(consumed_by=None))
            for sample in window.fresh:
                if sample.consumed_by is None:
                    insort(samples, sample, key=_place)
            assert window.newest is not None
            _prune(samples, window.newest - 2 * span)
        elif isinstance(slot, SequenceSlot):
            slot.fresh = [one for one in slot.fresh if one.consumed_by is None]
            _prune(slot.fresh, event.timestamp - 2 * span)
        elif isinstance(slot, AbsenceSlot):
            _prune(slot.fresh, event.timestamp - 2 * span)
            if given.ends:
                waiting = self._waiting.get(key, {})
                for seq, since in [(seq, one.timestamp) for seq, one in waiting.items()]:
                    if since < event.timestamp <= since + span:
                        del waiting[seq]

    def _set_timers(self, event: Event) -> None:
        for (key, seq), timer in self.timers.items():
            slot = self.slots[key]
            assert isinstance(slot, AbsenceSlot)
            if not any(event.timestamp < answer.time <= timer.due_time for answer in slot.fresh):
                self._waiting.setdefault(key, {})[seq] = event
                heapq.heappush(self._due, (timer.due_time, seq, key))
        self.timers.clear()


def _place(sample: Sample) -> tuple[int, EventSeq]:
    return sample[:2]


def _first(samples: list[Sample], time: int) -> int:
    """The place of the first sample from this time on."""
    return bisect_left(samples, time, key=lambda sample: sample.time)


def _tally(samples: list[Sample], kind: str, ask: Ask) -> Tally:
    found = samples[_first(samples, ask.first) : _first(samples, ask.last + 1)]
    if ask.most is not None:
        found = found[max(0, len(found) - ask.most) :]
    total = Tally()
    for sample in found:
        total = joined(kind, total, sample.tally(kind))
    return total


def _prune(samples: list[Sample], before: int) -> None:
    if len(samples) > PRUNED_ABOVE and samples[len(samples) // 2].time < before:
        samples[:] = [sample for sample in samples if sample.time >= before]
