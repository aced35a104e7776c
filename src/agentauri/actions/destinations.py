"""Who gets a send slot of this process: none so many that a stranger would have to wait for it.

Concurrency to one destination adapts: a time-out or a failed connection halves it, ten successes add one. Those that
are slow or fail share a part of the slots, an organization gets at most half of them while others wait, and the last
few are kept for whoever has next to nothing under way.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict

from msgspec import Struct

KEPT = 10_000
SUCCESSES_FOR_MORE = 10
FIRST_LATENCY = 0.1
"""Seconds that a send to an unknown destination is expected to take."""

SLOW = 1.0
"""Seconds that a send takes lately, or for which nothing has come back of what is under way."""

SLOW_SHARE, SLOW_SHARE_ALONE = 0.25, 0.75
ORGANIZATION_SHARE = 0.5
RESERVE_SHARE, FEW = 0.125, 8
SHARED_FROM = 64
"""Slots below which there is nothing to keep back: everybody's share would be none."""

UNREACHED = frozenset({"timeout", "connection"})
"""Kinds of failure that call for less concurrency."""


class _Destination(Struct):
    """`latency` is what a send takes lately; `waiting_since` is when the last answer came, or the first send of those
    that are under way began."""

    limit: float
    under_way: int = 0
    successes: int = 0
    latency: float = FIRST_LATENCY
    failed: bool = False
    waiting_since: float = 0.0

    def is_slow(self, now: float) -> bool:
        return self.failed or self.latency > SLOW or (self.under_way > 0 and now - self.waiting_since > SLOW)


class Destinations:
    """Kept in memory: a process that starts anew learns again within seconds."""

    def __init__(self, first_limit: int, most: int) -> None:
        self._first = float(min(first_limit, most))
        self._most = most
        self._reserve = int(most * RESERVE_SHARE) if most >= SHARED_FROM else 0
        self._known: OrderedDict[str, _Destination] = OrderedDict()
        self._active: dict[str, _Destination] = {}
        self._of_organization: Counter[str] = Counter()
        self._under_way = 0

    def enter(self, target: str, organization_id: str, *, others: bool = False, faster: bool = False) -> bool:
        """Take a slot for one send, if there is one for it. `others`: other organizations' work waits; `faster`: some
        that is not for a slow destination does."""
        destination = self._of(target)
        now = time.monotonic()
        if destination.under_way >= min(int(destination.limit), self._part(destination)):
            return False
        if others and self._of_organization[organization_id] >= _share(self._most, ORGANIZATION_SHARE):
            return False
        if destination.is_slow(now):
            slow = sum(other.under_way for other in self._active.values() if other.is_slow(now))
            if slow >= _share(self._most, SLOW_SHARE if faster else SLOW_SHARE_ALONE):
                return False
        if destination.under_way == 0:
            destination.waiting_since = now
            self._active[target] = destination
        destination.under_way += 1
        self._of_organization[organization_id] += 1
        self._under_way += 1
        return True

    def leave(self, target: str, organization_id: str, took: float, failure: str | None = None) -> None:
        """A send is over after `took` seconds; `failure` is its kind."""
        destination = self._of(target)
        destination.latency += (took - destination.latency) / 8
        destination.failed = failure is not None
        destination.waiting_since = time.monotonic()
        if failure in UNREACHED:
            destination.limit = max(1.0, destination.limit / 2)
        elif failure is None:
            destination.successes += 1
            if destination.successes % SUCCESSES_FOR_MORE == 0:
                destination.limit = min(float(self._most), destination.limit + 1)
        self.unused(target, organization_id)

    def unused(self, target: str, organization_id: str) -> None:
        """Give a slot back, perhaps of a send that did not begin."""
        destination = self._of(target)
        destination.under_way -= 1
        self._under_way -= 1
        if destination.under_way == 0:
            del self._active[target]
        self._of_organization[organization_id] -= 1
        if not self._of_organization[organization_id]:
            del self._of_organization[organization_id]

    def interval(self, target: str) -> float:
        """Seconds after which one of those under way ends, as fast as they go lately, or as long as all keep silent."""
        destination = self._of(target)
        if not destination.under_way:
            return destination.latency
        silence = time.monotonic() - destination.waiting_since
        return max(destination.latency, silence) / destination.under_way

    def is_slow(self, target: str) -> bool:
        return self._of(target).is_slow(time.monotonic())

    def _part(self, destination: _Destination) -> int:
        """How many slots it may have as things are. One that never answered might hang: it gets half of what is free,
        so that the next such finds the other half. The reserve is for those that have next to nothing, so that nobody
        finds all of it taken by somebody else."""
        if not self._reserve:
            return self._most
        free = self._most - self._under_way
        answers = destination.successes > 0
        if free <= self._reserve:
            return FEW if answers else 1
        return self._most if answers else max(FEW, (free - self._reserve) // 2 + 1)

    def _of(self, target: str) -> _Destination:
        destination = self._known.get(target)
        if destination is None:
            destination = self._known[target] = _Destination(limit=self._first)
            self._forget_idle()
        self._known.move_to_end(target)
        return destination

    def _forget_idle(self) -> None:
        for target in list(self._known)[: max(0, len(self._known) - KEPT)]:
            if self._known[target].under_way == 0:
                del self._known[target]


def _share(most: int, part: float) -> int:
    return max(1, int(most * part))
