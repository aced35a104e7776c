"""LISTEN, outside the pool: hints that arrive at once, where the polls would find the same within a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import asyncpg

from agentauri import metrics
from agentauri.database import Connection, Database, DatabaseUnavailable
from agentauri.log import get_logger
from agentauri.supervisor import Wake, wait_until

log = get_logger(__name__)

CHANNELS = ("new_event", "trigger_changed", "breaker_changed")
RETRY_FIRST, RETRY_LAST = 0.5, 60.0
TEST_SECONDS, TEST_TIMEOUT = 30.0, 10.0

FATAL = (
    asyncpg.InvalidAuthorizationSpecificationError,  # and wrong passwords, a kind of it
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)
"""The server's answer, and waiting will not change it."""

Hear = Callable[[str], object]


class Listener:
    """Keeps one connection that listens. `wakes` are all set after each connecting, for what was missed meanwhile."""

    def __init__(self, database: Database, wakes: Sequence[Wake]) -> None:
        self._database = database
        self._wakes = wakes
        self._callbacks: dict[str, list[Hear]] = {channel: [] for channel in CHANNELS}
        self._connected_before = False
        self.connected = False
        self.heard_at: float | None = None
        """When `new_event` last spoke, by `time.monotonic`."""

    def on(self, channel: str, callback: Hear) -> None:
        """Call `callback` with the payload of every notification on `channel`. To be registered before `run`.

        A payload is a hint and may be anything.
        """
        self._callbacks[channel].append(callback)

    async def run(self, stopping: asyncio.Event) -> None:
        delay = RETRY_FIRST
        while not stopping.is_set():
            try:
                async with self._database.outside() as connection:
                    lost = await self._listen(connection)
                    delay = RETRY_FIRST
                    try:
                        await self._watch(connection, stopping, lost)
                    finally:
                        self.connected = False
                        metrics.LISTENER_CONNECTED.set(0)
            except DatabaseUnavailable as error:
                log.warning(
                    "listener.lost",
                    code="LISTENER_TRANSIENT_ERROR",
                    reason=str(error.__cause__ or error),
                    retry_in=delay,
                )
                await wait_until(stopping, delay)
                delay = min(delay * 2, RETRY_LAST)
            except FATAL as error:
                log.critical("listener.refused", code="LISTENER_FATAL_ERROR", message=str(error))
                raise

    async def _listen(self, connection: Connection) -> asyncio.Event:
        """Subscribe and tell everybody; the event that is set when the connection ends."""
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        for channel in CHANNELS:
            await connection.add_listener(channel, self._heard)
        if self._connected_before:
            metrics.LISTENER_RECONNECTS.inc()
        self._connected_before = True
        self.connected = True
        metrics.LISTENER_CONNECTED.set(1)
        log.info(
            "listener.started",
            code="LISTENER_STARTED",
            message="Listening for PostgreSQL NOTIFY events on channel 'new_event'",
        )
        for wake in self._wakes:
            wake.set()
        return lost

    async def _watch(self, connection: Connection, stopping: asyncio.Event, lost: asyncio.Event) -> None:
        """Return on `stopping`. A connection may be dead without a word, so a silent one is asked now and then."""
        while not stopping.is_set():
            await wait_until(stopping, TEST_SECONDS, lost)
            if lost.is_set():
                raise DatabaseUnavailable("The listening connection ended.")
            if not stopping.is_set():
                await connection.fetchval("SELECT 1", timeout=TEST_TIMEOUT)

    def _heard(self, _: object, __: int, channel: str, payload: object) -> None:
        if channel == "new_event":
            self.heard_at = time.monotonic()
        for callback in self._callbacks[channel]:
            try:
                callback(str(payload))
            except Exception:
                log.exception("listener.callback_failed", channel=channel)
