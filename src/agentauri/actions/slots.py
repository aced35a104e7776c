"""When what finds no room now may come again: each of a crowd gets a moment of its own.

Moments are reserved in Redis, where all processes share them, and in memory while it is away. An owner's limit on the
rate of an action is kept the same way, by one clock for what goes and another for what waits.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256

from msgspec import Struct

from agentauri.actions.errors import RedisUnavailable
from agentauri.actions.queue import Queue

KEEP_MS = 3_600_000
"""No moment is further away; one that nobody asks about is forgotten after this."""

LEAST_WAIT_MS, LONGEST_FULL_MS = 20, 120_000
"""What has no turn is not looked at again at once; what found its destination full is in time to go as soon as that
answers again, however slowly it did lately."""

SLACK_MS = 100
"""A moment counts as come this much before: ids are brought that late at most, and a rate would never be reached."""

KEPT = 100_000


class Wish(Struct, frozen=True):
    """`count` of them, one each `interval` milliseconds. Where they are `paced`, those whose turn it is may go now;
    otherwise there is no room and all of them wait."""

    key: str
    interval: float
    count: int
    paced: bool = False


class Turns(Struct, frozen=True):
    """The first `go` may go now, the others come from `first` on, in milliseconds of the database's clock."""

    go: int
    first: float


class Slots:
    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._free: OrderedDict[str, float] = OrderedDict()

    async def reserve(self, wishes: Sequence[Wish], *, now: int) -> list[Turns]:
        if not self._queue.away:
            try:
                words = [
                    word
                    for wish in wishes
                    for word in (
                        _hash("wait", wish.key),
                        _hash("pace", wish.key) if wish.paced else "",
                        f"{wish.interval:.3f}",
                        wish.count,
                    )
                ]
                answer = await self._queue.reserve(words, now=now, slack=SLACK_MS, keep=KEEP_MS)
                return [Turns(go, first) for go, first in zip(answer[::2], answer[1::2], strict=True)]
            except RedisUnavailable:
                pass
        return [self._reserve_here(wish, now) for wish in wishes]

    def _reserve_here(self, wish: Wish, now: int) -> Turns:
        """What the script does."""
        go, free = 0, 0.0
        if wish.paced:
            free = self._free.get(pace := _hash("pace", wish.key), 0.0)
            while go < wish.count and free <= now + SLACK_MS:
                free = max(free, now) + wish.interval
                go += 1
            self._remember(pace, free)
        wait = _hash("wait", wish.key)
        first = max(now, free, self._free.get(wait, 0.0))
        if wish.count > go:
            self._remember(wait, min(first + (wish.count - go) * wish.interval, now + KEEP_MS))
        return Turns(go, first)

    def _remember(self, name: str, free: float) -> None:
        self._free[name] = free
        self._free.move_to_end(name)
        while len(self._free) > KEPT:
            self._free.popitem(last=False)


def _hash(use: str, key: str) -> str:
    return sha256(f"{use} {key}".encode()).hexdigest()[:32]


def bounded(wait: float, *, paced: bool) -> float:
    """How long one waits for its moment, in milliseconds. Where a destination all but stood still, its backlog would
    wait for hours after it has recovered: it is looked at again within two minutes, and not all at once."""
    most = KEEP_MS if paced else LONGEST_FULL_MS
    if wait > most:
        return random.uniform(most / 2, most)  # noqa: S311 (a spread, no secret)
    return max(wait, LEAST_WAIT_MS)
