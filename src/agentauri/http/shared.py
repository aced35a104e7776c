"""What many callers ask, where an answer some seconds old is as good: fetched by one of them, told to all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    def __init__(self, seconds: float, fetch: Callable[[], Awaitable[T]]) -> None:
        self._seconds = seconds
        self._fetch = fetch
        self._lock = asyncio.Lock()
        self._value: T | None = None
        self._until = -1.0

    async def get(self) -> T:
        """The value, at most so many seconds old. A failure is told to the one who fetched, and not kept."""
        async with self._lock:
            if self._value is None or time.monotonic() >= self._until:
                self._value = await self._fetch()
                self._until = time.monotonic() + self._seconds
            return self._value

    def keep(self, seconds: float) -> None:
        """Ask anew in so many seconds at the latest."""
        self._until = min(self._until, time.monotonic() + seconds)
