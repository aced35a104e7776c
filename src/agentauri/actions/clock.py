"""The database's clock, estimated between readings: due times and leases are never measured by ours."""

from __future__ import annotations

import time


class DatabaseClock:
    def __init__(self) -> None:
        self._ahead_ms: float | None = None

    @property
    def is_set(self) -> bool:
        return self._ahead_ms is not None

    def set(self, now_ms: int) -> None:
        """The database says it is `now_ms`, in milliseconds since 1970."""
        self._ahead_ms = now_ms - time.monotonic() * 1000

    def now(self) -> int:
        if self._ahead_ms is None:
            raise RuntimeError("the database has not been asked yet")
        return int(time.monotonic() * 1000 + self._ahead_ms)
