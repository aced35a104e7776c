"""PostgreSQL: the pool, one unit of work, and what lives outside the pool.

`Database.transaction()` is the only way to a transaction, and only the HTTP edge and the workers' steps call it. Core
statements are for queries that are put together; plain SQL with `$1` is for the ones whose text is the point.
Both run in the same transaction.

An outage shows as `DatabaseUnavailable`. Whoever catches it awaits `Database.up()`: one probe per process asks
for all.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

import asyncpg
from sqlalchemy import CursorResult, Executable, MetaData
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from agentauri import metrics
from agentauri.config import DatabaseConfig
from agentauri.errors import Unavailable
from agentauri.log import get_logger
from agentauri.outage import WEATHER as WEATHER
from agentauri.outage import Connection as Connection
from agentauri.outage import DatabaseBusy as DatabaseBusy
from agentauri.outage import DatabaseUnavailable as DatabaseUnavailable
from agentauri.outage import Outage, Weather
from agentauri.outage import is_tls_fault as is_tls_fault

log = get_logger(__name__)

metadata = MetaData()
"""Every package's `tables.py` registers here. The schema itself is made by the migrations."""

After = Callable[[], Awaitable[object] | None]
Records = Iterable[Sequence[object]] | AsyncIterable[Sequence[object]]
Later = Callable[[Coroutine[object, object, None]], object]

ROLLBACK_SECONDS = 2.0
SILENCE_SECONDS = 30
"""After which the kernel gives a TCP connection up whose other end does not answer."""


def array(values: Iterable[object]) -> str:
    """An array as its text, for a `$1::text::bigint[]` of a hot path: the driver's own encoder asks of each element
    whether it is an array too, which costs more than all else it does."""
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: object) -> str:
    if isinstance(value, int):
        return str(value)
    if value is None:
        return "NULL"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


class PoolExhausted(Unavailable):
    """No connection came free in time; the caller alone is affected."""


class Transaction:
    """One unit of work on one connection. Committed by `Database.transaction`, never by its users.

    It begins with its first statement: in the same round trip where that is a `run` without arguments.
    """

    def __init__(self, connection: AsyncConnection, raw: Connection, weather: Weather, opening: str) -> None:
        self._connection = connection
        self._raw = raw
        self._weather = weather
        self._opening = opening
        self.begun = False
        self._after: list[After] = []

    async def _begin(self) -> None:
        if not self.begun:
            self.begun = True
            await self._raw.execute(self._opening)

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        """Run a Core statement."""
        with self._weather:
            await self._begin()
            return await self._connection.execute(statement, parameters)

    async def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        with self._weather:
            await self._begin()
            return await self._raw.fetch(sql, *arguments)

    async def fetchrow(self, sql: str, *arguments: object) -> asyncpg.Record | None:
        with self._weather:
            await self._begin()
            return await self._raw.fetchrow(sql, *arguments)

    async def fetchval(self, sql: str, *arguments: object) -> Any:
        with self._weather:
            await self._begin()
            return await self._raw.fetchval(sql, *arguments)

    async def run(self, sql: str, *arguments: object) -> int:
        """Run a statement for its effect; the number of rows it touched. Without arguments there may be several."""
        with self._weather:
            if arguments:
                await self._begin()
            elif not self.begun:
                self.begun, sql = True, f"{self._opening}; {sql}"
            status = await self._raw.execute(sql, *arguments)
        count = status.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def run_many(self, sql: str, arguments: Iterable[Sequence[object]]) -> None:
        """Run a statement once for each of `arguments`, in one round trip."""
        with self._weather:
            await self._begin()
            await self._raw.executemany(sql, arguments)

    async def copy(self, table: str, columns: Sequence[str], records: Records) -> None:
        """Append rows; those of an asynchronous source as they come."""
        with self._weather:
            await self._begin()
            await self._raw.copy_records_to_table(table, columns=list(columns), records=records)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Undo what happens inside when it raises, and go on."""
        await self.run("SAVEPOINT ours")
        try:
            yield
        except BaseException:
            await self.run("ROLLBACK TO SAVEPOINT ours; RELEASE SAVEPOINT ours")
            raise
        await self.run("RELEASE SAVEPOINT ours")

    def on_commit(self, after: After) -> None:
        """Run `after` once the commit is durable. It must not matter if it never runs: a sweep backs it."""
        self._after.append(after)

    async def follow_up(self) -> None:
        """What was registered with `on_commit`, in that order. For `Database.transaction`."""
        for after in self._after:
            try:
                awaitable = after()
                if awaitable is not None:
                    await awaitable
            except Unavailable as error:
                log.warning("commit.followup_failed", reason=error.message)
            except Exception:
                log.exception("commit.followup_crashed")


class Database:
    """A pool of connections, or a share of one."""

    def __init__(
        self,
        engine: AsyncEngine,
        config: DatabaseConfig,
        *,
        outage: Outage | None = None,
        share: asyncio.Semaphore | None = None,
        droughts: list[float] | None = None,
    ) -> None:
        self._engine = engine
        self._config = config
        self._share = share
        self._droughts = [float("-inf")] if droughts is None else droughts  # of all shares of the pool, the last
        self._outage = outage or Outage(self._connect_raw)
        self._weather = Weather(self._outage)

    @classmethod
    @asynccontextmanager
    async def open(cls, config: DatabaseConfig) -> AsyncIterator[Database]:
        """A pool that connects on first use; closed on leaving."""
        engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=lambda: _connect(config, statement_timeout="30s"),
            isolation_level="AUTOCOMMIT",  # we say BEGIN and COMMIT ourselves, for Core and raw statements alike
            pool_size=config.max_connections,
            max_overflow=0,
            pool_timeout=config.acquire_timeout,
            json_deserializer=str,  # jsonb stays text, on the way in and out alike; whoever reads it knows its shape
        )
        database = cls(engine, config)
        try:
            yield database
        finally:
            database._outage.close()
            await engine.dispose()

    def limited(self, connections: int) -> Database:
        """The same pool, of which at most this many connections are in use here at once."""
        return Database(
            self._engine,
            self._config,
            outage=self._outage,
            share=asyncio.Semaphore(connections),
            droughts=self._droughts,
        )

    def ran_dry(self, seconds: float) -> bool:
        """Whether somebody waited in vain for a connection of the pool within so many seconds."""
        return time.monotonic() - self._droughts[0] < seconds

    @asynccontextmanager
    async def transaction(self, *, durable: bool = True, later: Later | None = None) -> AsyncIterator[Transaction]:
        """Commit on leaving, roll back on an exception, then run what was registered with `on_commit`.

        `durable=False` lets the commit return before it is on disk: for work whose loss costs nothing. `later` is given
        what follows the commit, as one coroutine, instead of its being waited for here.

        Raises:
            DatabaseUnavailable: the connection was lost; whether a commit in flight took place is unknown.
            PoolExhausted: no connection came free within the acquire timeout.
        """
        async with self._turn(), self._connection() as connection:
            with self._weather:
                raw = await _driver(connection)
            opening = "BEGIN" if durable else "BEGIN; SET LOCAL synchronous_commit TO off"
            tx = Transaction(connection, raw, self._weather, opening)
            try:
                yield tx
                if tx.begun:
                    started = time.perf_counter()
                    await tx.run("COMMIT")
                    metrics.DB_COMMIT.observe(time.perf_counter() - started)
            except BaseException:
                if tx.begun:
                    await _roll_back(connection, raw)
                raise
        if later is None:
            await tx.follow_up()
        else:
            later(tx.follow_up())

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Transaction]:
        """For one statement that only reads, in one round trip: it needs no BEGIN and no COMMIT. A second statement
        would see a later moment than the first, and a change would stay although what follows fails.

        Raises:
            DatabaseUnavailable, PoolExhausted: as `transaction`.
        """
        async with self._turn(), self._connection() as connection:
            with self._weather:
                raw = await _driver(connection)
            tx = Transaction(connection, raw, self._weather, "")
            tx.begun = True
            try:
                yield tx
            except asyncio.CancelledError:
                await connection.invalidate()  # the answer may still be on its way
                raise

    @asynccontextmanager
    async def outside(self) -> AsyncIterator[Connection]:
        """A connection of its own, outside the pool, without a statement timeout: LISTEN, session locks, migrations."""
        with self._weather:
            connection = await self._connect_raw()
            try:
                yield connection
            finally:
                with suppress(*WEATHER):
                    await connection.close(timeout=2)
                connection.terminate()

    async def up(self) -> None:
        """Return as soon as the database answers. Callers share one probe."""
        await self._outage.over()

    async def answers(self, timeout: float = 2.0) -> bool:
        """Ask once."""
        try:
            async with asyncio.timeout(timeout), self.transaction() as tx:
                await tx.fetchval("SELECT 1")
        except (Unavailable, TimeoutError):
            return False
        return True

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait for one of this share's connections."""
        if self._share is None:
            yield
            return
        try:
            async with asyncio.timeout(self._config.acquire_timeout):
                await self._share.acquire()
        except TimeoutError as error:
            raise self._exhausted() from error
        try:
            yield
        finally:
            self._share.release()

    def _exhausted(self) -> PoolExhausted:
        self._droughts[0] = time.monotonic()
        log.error(
            "pool.exhausted",
            code="DB_POOL_EXHAUSTED",
            message=f"Failed to acquire connection from pool: Connection timeout after {self._config.acquire_timeout}s",
        )
        return PoolExhausted("No database connection came free in time.")

    async def _connect_raw(self) -> Connection:
        return await _connect(self._config, statement_timeout="0")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        started = time.perf_counter()
        try:
            with self._weather:
                connection = await self._engine.connect()
        except PoolTimeout as error:
            raise self._exhausted() from error
        metrics.DB_POOL_WAIT.observe(time.perf_counter() - started)
        metrics.DB_POOL_IN_USE.inc()
        try:
            yield connection
        finally:
            metrics.DB_POOL_IN_USE.dec()
            await asyncio.shield(connection.close())


async def _driver(connection: AsyncConnection) -> Connection:
    """asyncpg's own; a fresh one where the server has ended it while it lay in the pool, as a restart does with all."""
    while True:
        raw = cast(Connection, (await connection.get_raw_connection()).driver_connection)
        if not raw.is_closed():
            return raw
        await connection.invalidate()


async def _roll_back(connection: AsyncConnection, raw: Connection) -> None:
    try:
        await asyncio.shield(raw.execute("ROLLBACK", timeout=ROLLBACK_SECONDS))
    except BaseException:  # noqa: BLE001 (also a cancellation: whatever happened, it is not clean)
        await connection.invalidate()  # never give a connection back in doubt


def _need_files(url: str) -> None:
    """Name the file of a certificate that cannot be read: the driver says only that something cannot."""
    parameters = dict(parse_qsl(urlsplit(url).query))
    for name in ("sslrootcert", "sslcert", "sslkey"):
        path = parameters.get(name)
        try:
            if path is not None:
                Path(path).open("rb").close()
        except OSError as error:
            raise asyncpg.ClientConfigurationError(f"{name}: certificate file {path}: {error.strerror}") from error


async def _connect(config: DatabaseConfig, *, statement_timeout: str) -> Connection:
    _need_files(config.url.reveal())
    connection: Connection = await asyncpg.connect(
        config.url.reveal(),
        timeout=config.acquire_timeout,
        server_settings={
            "application_name": config.application_name,
            "timezone": "UTC",
            "statement_timeout": statement_timeout,
            "lock_timeout": "5s",
            "idle_in_transaction_session_timeout": "60s",
        },
    )
    _notice_silence(connection)
    return connection


def _notice_silence(connection: Connection) -> None:
    """Have the kernel end a connection whose server vanished without a word; asyncpg has no option for it."""
    transport = getattr(connection, "_transport", None)
    sock = transport.get_extra_info("socket") if transport else None
    if sock is None or sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)
    options = [
        (idle, SILENCE_SECONDS // 2),
        (getattr(socket, "TCP_KEEPINTVL", None), SILENCE_SECONDS // 6),
        (getattr(socket, "TCP_KEEPCNT", None), 3),
        (getattr(socket, "TCP_USER_TIMEOUT", None), SILENCE_SECONDS * 1000),
    ]
    for option, value in options:
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
