"""An outage of PostgreSQL: by which errors it is told from a mistake of ours, and how everybody waits for its end.

Whoever catches `DatabaseUnavailable` awaits the end of the outage; one probe per process asks for all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import asyncpg
from sqlalchemy.exc import DBAPIError

from agentauri.errors import Unavailable
from agentauri.log import Seldom, get_logger

log = get_logger(__name__)

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"  # subscriptable for type checkers alone

PROBE_FIRST, PROBE_LAST = 0.5, 2.0
SHORT_LIVED = 10.0
"""A server that refuses again within so many seconds of answering the probe is given more and more time."""

WEATHER: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InsufficientResourcesError,  # connections, memory, disk
    asyncpg.ReadOnlySQLTransactionError,  # what was the primary before a failover
    asyncpg.PostgresIOError,
    asyncpg.InternalClientError,  # the protocol is out of step: the server spoke its last words between two statements
)
"""What asyncpg raises when the server, the way to it, or its disk is the matter, not our statement."""

BUSY: tuple[type[BaseException], ...] = (
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.SerializationError,
)
"""Somebody else was in the way; the same again will do."""

ANY: tuple[type[BaseException], ...] = (*WEATHER, asyncpg.PostgresError)


class DatabaseUnavailable(Unavailable):
    """PostgreSQL cannot be reached, or ended our connection."""


class DatabaseBusy(DatabaseUnavailable):
    """Another transaction was in the way: a deadlock, or a lock that did not come free in time."""


def is_tls_fault(error: BaseException) -> bool:
    """Whether the server, or we, insist on an encryption or a certificate that the other side does not offer."""
    kinds = (OSError, asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InterfaceError)
    reason = str(error)
    return isinstance(error, kinds) and ("SSL" in reason or "certificate" in reason or "pg_hba.conf" in reason)


class Outage:
    """One probe for everybody who waits for PostgreSQL."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        self._connect = connect
        self._probe: asyncio.Task[None] | None = None
        self._seldom = Seldom()
        self._answered_at = float("-inf")
        self._pause = 0.0

    def noticed(self, error: BaseException) -> None:
        reason = str(error) or type(error).__name__
        if not self._seldom.due("database"):
            return
        if is_tls_fault(error):
            log.error(
                "database.unavailable",
                code="DATABASE_TLS_FAILED",
                message=reason,
                remedy="check sslmode and sslrootcert in DATABASE_URL; "
                "scripts/generate-pg-certs.sh makes new certificates, then restart PostgreSQL",
            )
        else:
            log.error("database.unavailable", code="DATABASE_UNAVAILABLE", message=reason)

    async def over(self) -> None:
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._ask_until_answered(), name="database-probe")
        await asyncio.shield(self._probe)

    async def _ask_until_answered(self) -> None:
        delay = PROBE_FIRST
        while True:
            try:
                connection = await self._connect()
            except ANY as error:
                self.noticed(error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, PROBE_LAST)
                continue
            connection.terminate()
            break
        # It may answer and still refuse the work, as with a full disk: then nobody shall try in a hot loop.
        lasted = time.monotonic() - self._answered_at
        self._pause = 0.0 if lasted > SHORT_LIVED else min(max(0.1, self._pause * 2), PROBE_LAST)
        await asyncio.sleep(self._pause)
        self._answered_at = time.monotonic()
        if self._pause == 0 and self._seldom.over("database"):
            log.info("database.back")

    def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()


class Weather:
    """Around single statements: turn what asyncpg and SQLAlchemy raise in an outage into `DatabaseUnavailable`."""

    def __init__(self, outage: Outage) -> None:
        self._outage = outage

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None or isinstance(error, Unavailable | asyncio.CancelledError):
            return
        cause: BaseException = error
        if isinstance(error, DBAPIError) and error.orig is not None:
            # SQLAlchemy wraps the driver's error twice; the inner one says which kind it is.
            cause = error.orig.__cause__ or error.orig
        if isinstance(cause, BUSY):
            raise DatabaseBusy("Another transaction was in the way.") from error
        if is_tls_fault(cause):
            weather = True  # whoever keeps the server may change its mind, or its certificate
        elif isinstance(cause, asyncpg.InterfaceError):
            weather = "connection" in str(cause) or "closed" in str(cause)
        else:
            weather = isinstance(cause, WEATHER)
        if weather:
            self._outage.noticed(cause)
            raise DatabaseUnavailable("The database is away.") from error
