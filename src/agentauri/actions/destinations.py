"""How much may be under way to one destination at once, and how fast one action may go.

Concurrency adapts: a time-out or a failed connection halves it, ten successes add one. What finds no room is given the
next free moment, so that it need not be looked at before.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TypeVar

from msgspec import Struct

from agentauri.types import ActionId, DeliveryId

_Key = TypeVar("_Key")

KEPT = 10_000
SUCCESSES_FOR_MORE = 10
FIRST_LATENCY = 0.5
"""Seconds that a send to an unknown destination is expected to take."""

LONGEST_WAIT = 3600.0
UNREACHED = frozenset({"timeout", "connection"})
"""Kinds of failure that call for less concurrency."""


class _Destination(Struct):
    """`latency` is what a send takes lately; `next_slot` is when the last one that found no room may come back."""

    limit: float
    under_way: int = 0
    successes: int = 0
    latency: float = FIRST_LATENCY
    next_slot: float = 0.0


class Destinations:
    """Kept in memory: a process that starts anew learns again within seconds."""

    def __init__(self, first_limit: int, most: int) -> None:
        self._first = float(min(first_limit, most))
        self._most = float(most)
        self._known: OrderedDict[str, _Destination] = OrderedDict()
        self._paces: OrderedDict[ActionId, float] = OrderedDict()
        self._promised: OrderedDict[DeliveryId, float] = OrderedDict()

    def enter(self, target: str) -> float:
        """Take room for one send: 0, or the seconds after which there should be some."""
        destination = self._of(target)
        if destination.under_way < int(destination.limit):
            destination.under_way += 1
            return 0.0
        # Where `limit` are under way at once, one ends every `latency / limit` seconds.
        now = time.monotonic()
        destination.next_slot = max(destination.next_slot, now) + destination.latency / destination.limit
        return min(destination.next_slot - now, LONGEST_WAIT)

    def leave(self, target: str, took: float, failure: str | None = None) -> None:
        """A send is over after `took` seconds; `failure` is its kind."""
        destination = self._of(target)
        destination.under_way -= 1
        destination.latency += (took - destination.latency) / 8
        if failure in UNREACHED:
            destination.limit = max(1.0, destination.limit / 2)
        elif failure is None:
            destination.successes += 1
            if destination.successes % SUCCESSES_FOR_MORE == 0:
                destination.limit = min(self._most, destination.limit + 1)

    def unused(self, target: str) -> None:
        """Give room back that was taken for a send that did not begin."""
        self._of(target).under_way -= 1

    def pace(self, action_id: ActionId, rate: float | None, delivery_id: DeliveryId) -> float:
        """Keep to an owner's limit: 0, or the seconds until this delivery's turn, which it then has."""
        if rate is None:
            return 0.0
        now = time.monotonic()
        promised = self._promised.get(delivery_id)
        if promised is not None and promised <= now:
            del self._promised[delivery_id]
            return 0.0
        turn = promised or max(self._paces.get(action_id, 0.0), now)
        if promised is None:
            _remember(self._paces, action_id, turn + 1 / rate)
        if turn <= now:
            return 0.0
        _remember(self._promised, delivery_id, turn)
        return min(turn - now, LONGEST_WAIT)

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


def _remember(memory: OrderedDict[_Key, float], key: _Key, moment: float) -> None:
    memory[key] = moment
    memory.move_to_end(key)
    while len(memory) > 10 * KEPT:
        memory.popitem(last=False)
