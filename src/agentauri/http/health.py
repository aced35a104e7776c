"""How the process is, in words that give nothing away: names of parts and states, no error text."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from msgspec import Struct

from agentauri.database import Database
from agentauri.http.errors import NotReady, Unhealthy
from agentauri.http.shared import Shared

KEPT_SECONDS, FAILING_KEPT_SECONDS = 1.0, 0.05
DATABASE_SECONDS = 2.0

ComponentState = Literal["ok", "degraded", "failed", "off"]
Indexing = Literal["ok", "lagging", "stalled", "off"]


class Health(Struct, frozen=True, kw_only=True):
    status: Literal["healthy", "degraded"]
    database: Literal["connected"]
    redis: Literal["connected", "disconnected"]
    indexer: Indexing
    version: str
    uptime_seconds: int


class Alive(Struct, frozen=True):
    status: Literal["alive"] = "alive"


class Ready(Struct, frozen=True, kw_only=True):
    status: Literal["ready"] = "ready"
    components: Mapping[str, ComponentState]


class Checkup:
    """Asks the parts at most once a second, however many callers come."""

    def __init__(
        self,
        database: Database,
        components: Callable[[], Awaitable[Mapping[str, ComponentState]]],
        stopping: Callable[[], bool],
        version: str,
    ) -> None:
        self._components = Shared(KEPT_SECONDS, components)
        self._answers = Shared(KEPT_SECONDS, lambda: database.answers(DATABASE_SECONDS))
        self._stopping = stopping
        self._version = version
        self._started = time.monotonic()

    async def health(self) -> Health:
        """
        Raises:
            Unhealthy: PostgreSQL does not answer.
        """
        if not await self._answers.get():
            raise Unhealthy
        components = await self._components.get()
        well = all(state in ("ok", "off") for state in components.values())
        return Health(
            status="healthy" if well else "degraded",
            database="connected",
            redis="connected" if components.get("redis", "ok") == "ok" else "disconnected",
            indexer=_indexing(components),
            version=self._version,
            uptime_seconds=int(time.monotonic() - self._started),
        )

    async def readiness(self) -> Ready:
        """
        Raises:
            NotReady: a part failed, or the process is stopping.
        """
        components = await self._components.get()
        failing = [name for name, state in components.items() if state == "failed"]
        if failing:
            self._components.keep(FAILING_KEPT_SECONDS)  # whoever waits for us should not wait for nothing
        if self._stopping():
            failing.append("stopping")
        if failing:
            raise NotReady(failing, components)
        return Ready(components=components)


def _indexing(components: Mapping[str, ComponentState]) -> Indexing:
    """The worst of the chains that are indexed here."""
    states = {state for name, state in components.items() if name.startswith("indexer:")}
    if "failed" in states:
        return "stalled"
    if "degraded" in states:
        return "lagging"
    return "ok" if "ok" in states else "off"
