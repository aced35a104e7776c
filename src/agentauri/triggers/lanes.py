"""Whose turn it is: chains with work take turns, and nobody looks again at what is known to be done. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from agentauri.events import Lane
from agentauri.types import ChainId


class Lanes:
    """What the last poll found and what is left of it.

    `floor` is the lowest queue position that can still wait, as far as is known here: a late commit may come in below.
    """

    def __init__(self) -> None:
        self._ready: deque[Lane] = deque()
        self._last = ChainId(0)
        self._taken = 0
        self.floor = 0

    def __bool__(self) -> bool:
        return bool(self._ready)

    def found(self, lanes: Iterable[Lane]) -> None:
        """A poll's answer replaces what was known; the chain after the one served last comes first."""
        known = sorted(lanes, key=lambda lane: (lane.chain_id <= self._last, lane.chain_id))
        self._ready = deque(known)
        if known:
            self.floor = min(lane.position for lane in known)
        else:
            self.floor = max(self.floor, self._taken + 1)

    def hint(self, chain_id: ChainId) -> None:
        """There may be something to take from this chain."""
        if all(lane.chain_id != chain_id for lane in self._ready):
            self._ready.append(Lane(chain_id, self.floor))

    def next(self) -> Lane | None:
        if not self._ready:
            return None
        lane = self._ready.popleft()
        self._last = lane.chain_id
        return lane

    def served(self, lane: Lane, position: int, *, more: bool) -> None:
        """All below `position` was taken from the lane; with `more` to take it queues up again."""
        self._taken = max(self._taken, position - 1)
        if more:
            self._ready.append(Lane(lane.chain_id, position))

    def back(self, position: int) -> None:
        """A row that had failed waits again."""
        self.floor = min(self.floor, position)
