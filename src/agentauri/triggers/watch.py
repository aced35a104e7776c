"""Watchdogs: what an operator should hear although nothing has failed. Pure: time is an argument."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

from msgspec import Struct

GROWTH_CHECKS = 5
SLOW_MS = 1000
HOUR, MINUTE = 3600.0, 60.0


class Alarm(Struct, frozen=True):
    event: str
    message: str
    code: str | None = None


STALLED = Alarm("events.stalled", "No events processed in the last 5 minutes", "EVENTS_STALLED")
LISTENER_IDLE = Alarm("listener.idle", "NOTIFY listener appears idle", "LISTENER_IDLE")
SLOW = Alarm("events.slow", "Event processing slower than event arrival rate", "EVENT_PROCESSING_SLOW")
GROWING = Alarm("backlog.growing", "Backlog growing")


class Watch:
    """Remembers what was seen; `idle` is how many seconds of silence are too many."""

    def __init__(self, idle: float) -> None:
        self._idle = idle
        self._unannounced_since: float | None = None
        self._depths: deque[int] = deque(maxlen=GROWTH_CHECKS + 1)
        self._minutes: deque[tuple[float, float, int]] = deque()

    def notified(self) -> None:
        """A notification arrived, so the listener hears."""
        self._unannounced_since = None

    def took(self, now: float) -> None:
        """Rows were found in the queue."""
        if self._unannounced_since is None:
            self._unannounced_since = now

    def finished(self, now: float, events: int, total_ms: float) -> None:
        """Events were evaluated; `total_ms` is the sum of their durations."""
        if self._minutes and now - self._minutes[-1][0] < MINUTE:
            start, before, count = self._minutes[-1]
            self._minutes[-1] = (start, before + total_ms, count + events)
        else:
            self._minutes.append((now, total_ms, events))

    def check(self, now: float, *, depth: int, oldest_seconds: float, nothing_processed: bool) -> list[Alarm]:
        """What is to be said at this moment, given the queue's depth and the age of its first event."""
        self._depths.append(depth)
        while self._minutes and now - self._minutes[0][0] > HOUR:
            self._minutes.popleft()
        alarms = []
        if depth and oldest_seconds > self._idle and nothing_processed:
            alarms.append(STALLED)
        if self._unannounced_since is not None and now - self._unannounced_since > self._idle:
            alarms.append(LISTENER_IDLE)
        if self._average_ms() > SLOW_MS:
            alarms.append(SLOW)
        if len(self._depths) > GROWTH_CHECKS and _rises(self._depths):
            alarms.append(GROWING)
        return alarms

    def _average_ms(self) -> float:
        events = sum(count for _, _, count in self._minutes)
        return sum(total for _, total, _ in self._minutes) / events if events else 0.0


def _rises(depths: deque[int]) -> bool:
    return all(earlier < later for earlier, later in pairwise(depths))
