"""The process looks after itself: heartbeats that others read, gauges, loop lag, and servers of our own that died."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from agentauri import metrics
from agentauri.database import Database
from agentauri.embedded import Embedded, EmbeddedError
from agentauri.errors import Unavailable
from agentauri.log import get_logger
from agentauri.supervisor import wait_until

log = get_logger(__name__)

BEAT_SECONDS, LAG_SECONDS, REVIVE_SECONDS, FAREWELL_SECONDS = 10.0, 0.5, 2.0, 1.0
DRY_SECONDS = 300.0
"""For so long after it the heartbeat tells that the pool was exhausted."""


class Pulse:
    """Worker `pulse`. The heartbeat carries, for others to see, each component's state, whether the pool was exhausted
    of late, and how often a worker was started again within the last hour."""

    def __init__(
        self,
        database: Database,
        *,
        instance: str,
        version: str,
        roles: tuple[str, ...],
        states: Callable[[], Awaitable[Mapping[str, str]]],
        restarts: Callable[[], int],
        embedded: Embedded | None,
    ) -> None:
        self._database = database
        self._instance = instance
        self._version = version
        self._roles = roles
        self._states = states
        self._restarts = restarts
        self._embedded = embedded

    async def run(self, stopping: asyncio.Event) -> None:
        next_beat = next_look = 0.0
        told_dry = False
        while not stopping.is_set():
            started = time.monotonic()
            await wait_until(stopping, LAG_SECONDS)
            if not stopping.is_set():
                metrics.LOOP_LAG.observe(max(0.0, time.monotonic() - started - LAG_SECONDS))
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + REVIVE_SECONDS
                self._revive()
            dry = self._database.ran_dry(DRY_SECONDS)
            if time.monotonic() >= next_beat or dry != told_dry:
                told_dry = dry
                next_beat = time.monotonic() + BEAT_SECONDS
                await self.beat()
        await self._farewell()

    async def beat(self) -> None:
        """Write this instance's heartbeat, and note its memory and tasks; an outage only skips a beat."""
        metrics.RESIDENT_BYTES.set(resident_bytes())
        metrics.LOOP_TASKS.set(len(asyncio.all_tasks()))
        try:
            pool = "exhausted" if self._database.ran_dry(DRY_SECONDS) else "ok"
            states = {**await self._states(), "pool": pool, "restarts": self._restarts()}
            status = msgspec.json.encode(states).decode()
            async with self._database.transaction(durable=False) as tx:
                await tx.run(
                    "INSERT INTO process_heartbeats (instance, role, version, status, seen_at)"
                    " SELECT $1, role, $3, $4::jsonb, now() FROM unnest($2::text[]) AS role"
                    " ON CONFLICT (instance, role) DO UPDATE"
                    " SET version = excluded.version, status = excluded.status, seen_at = excluded.seen_at",
                    self._instance,
                    list(self._roles),
                    self._version,
                    status,
                )
        except Unavailable:
            return

    async def _farewell(self) -> None:
        """Take the heartbeat away, so that nobody takes this process for one that died."""
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS), self._database.transaction(durable=False) as tx:
                await tx.run("DELETE FROM process_heartbeats WHERE instance = $1", self._instance)

    def _revive(self) -> None:
        if self._embedded is None:
            return
        try:
            for name in self._embedded.revive():
                log.error("embedded.revived", server=name)
        except EmbeddedError as error:
            log.error("embedded.not_revived", reason=error.message)


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # no /proc: the peak has to do
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
