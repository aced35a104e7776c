"""The schema as it grows, and the partitions that grow with the calendar.

The revisions are in `alembic/`, which the wheel carries as `agentauri/_alembic`. `migrate` may be called by any number
of processes at once; one does the work. Deliveries and attempts are partitioned by the UTC day in the first 48 bits of
the delivery's id.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from uuid import UUID

import asyncpg
from msgspec import Struct
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from agentauri.config import DatabaseConfig
from agentauri.database import Database, Transaction
from agentauri.log import get_logger

log = get_logger(__name__)

DAYS_AHEAD = 3
PARTITIONED = {"deliveries": "id", "attempts": "delivery_id"}
"""Table and the column that holds the delivery's id."""

EVENT_TRIGGERS = (
    "queue_new_event_trigger", "notify_new_event_trigger", "queue_event_change_trigger", "notify_event_change_trigger",
)  # fmt: skip
"""What queues a change of `events`, and what tells of it."""

FIRST_DAY, LAST_DAY = date(2015, 1, 1), date(2199, 12, 31)
"""Where an event's `created_at`, and with it a delivery id, may lie."""

STRAYS_AT_ONCE = 10
"""Days found in a default partition that one call gives a partition of their own."""


class SchemaState(Struct, frozen=True):
    """`current` is None in an empty database; it is not `ok` to run unless it is the one we know."""

    current: str | None
    head: str

    @property
    def ok(self) -> bool:
        return self.current == self.head


async def migrate(config: DatabaseConfig) -> str:
    """Bring the schema to our revision and partitions up to three days ahead; the revision.

    Statements may take as long as they need, and so may waiting for another process that is at it.
    """
    async with connect(config) as connection:
        await connection.exec_driver_sql("SELECT pg_advisory_lock(hashtextextended('agentauri.migrate', 0))")
        await connection.commit()
        await connection.run_sync(_upgrade)
    async with Database.open(config) as database, database.transaction() as tx:
        await ensure_partitions(tx)
        await restore_event_triggers(tx)
    return _head()


async def state(database: Database) -> SchemaState:
    """Which revision the database is at, and which one we are."""
    async with database.transaction() as tx:
        known = await tx.fetchval("SELECT to_regclass('alembic_version') IS NOT NULL")
        current = await tx.fetchval("SELECT version_num FROM alembic_version") if known else None
    return SchemaState(current, _head())


@asynccontextmanager
async def connect(config: DatabaseConfig) -> AsyncIterator[AsyncConnection]:
    """A connection for migrations: no statement ends by timeout."""
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: asyncpg.connect(
            config.url.reveal(),
            timeout=config.acquire_timeout,
            server_settings={"application_name": f"{config.application_name} migrate", "timezone": "UTC"},
        ),
        poolclass=NullPool,
    )
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


@cache
def trigger_names() -> frozenset[str]:
    """Every trigger that a revision makes on a table."""
    sources = (path for path in _folder().rglob("*") if path.suffix in (".sql", ".py"))
    made = r"CREATE (?:OR REPLACE )?(?:CONSTRAINT )?TRIGGER ([a-z_]+)"
    return frozenset(name for path in sources for name in re.findall(made, path.read_text(encoding="utf-8")))


async def restore_event_triggers(tx: Transaction) -> bool:
    """Make the triggers on `events` and their functions again if one was dropped; one that is disabled stays so."""
    there = await tx.fetchval(
        """SELECT (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'events'::regclass AND tgname = ANY($1::text[]))""",
        EVENT_TRIGGERS,
    )
    if there == len(EVENT_TRIGGERS):
        return False
    await tx.run((_folder() / "event_triggers.sql").read_text(encoding="utf-8"))
    return True


async def ensure_partitions(tx: Transaction, days: int = DAYS_AHEAD) -> list[str]:
    """Partitions from today to `days` days ahead, and for days that rows in a default partition belong to.

    Such rows are moved. Today is the database's. Returns the names of what was made.
    """
    await tx.run("SELECT pg_advisory_xact_lock(hashtextextended('agentauri.partitions', 0))")
    today: date = await tx.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
    made: list[str] = []
    for table, key in PARTITIONED.items():
        wanted = {today + timedelta(days=ahead) for ahead in range(days + 1)} | await _stray_days(tx, table, key)
        made += [partition_name(table, day) for day in sorted(wanted) if await _ensure_partition(tx, table, key, day)]
    return made


async def partition_days(tx: Transaction) -> list[date]:
    """The days that have a partition of deliveries, oldest first."""
    rows = await tx.fetch(
        """SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day
           FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
           WHERE i.inhparent = 'deliveries'::regclass AND c.relname ~ '^deliveries_[0-9]{8}$' ORDER BY day"""
    )
    return [row["day"] for row in rows]


async def drop_partitions(tx: Transaction, day: date) -> None:
    """Drop one day of every partitioned table, with all that is in it."""
    for table in PARTITIONED:
        await tx.run(f"DROP TABLE IF EXISTS {partition_name(table, day)}")


def partition_name(table: str, day: date) -> str:
    return f"{table}_{day:%Y%m%d}"


def partition_bounds(day: date) -> tuple[UUID, UUID]:
    """The first delivery id of a UTC day, and the first one after it."""
    return _first_id(day), _first_id(day + timedelta(days=1))


def _first_id(day: date) -> UUID:
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return UUID(int=int(midnight.timestamp() * 1000) << 80)


def _day_of(delivery_id: UUID) -> date:
    """The UTC day of an id made by us; any other id may say any day."""
    milliseconds = min(delivery_id.int >> 80, int(datetime(9999, 1, 1, tzinfo=UTC).timestamp() * 1000))
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC).date()


async def _stray_days(tx: Transaction, table: str, key: str) -> set[date]:
    """Some of the days that rows of the default partition belong to."""
    days: set[date] = set()
    at_least = _first_id(FIRST_DAY)
    while len(days) < STRAYS_AT_ONCE:
        first = await tx.fetchval(
            f"SELECT {key} FROM {table}_default WHERE {key} >= $1 ORDER BY 1 LIMIT 1",  # noqa: S608 (our own names)
            at_least,
        )
        if first is None or (day := _day_of(first)) > LAST_DAY:
            break
        days.add(day)
        _, at_least = partition_bounds(day)
    return days


async def _ensure_partition(tx: Transaction, table: str, key: str, day: date) -> bool:
    """Make one day's partition, with its rows out of the default one; False when it exists."""
    name = partition_name(table, day)
    if await tx.fetchval("SELECT to_regclass($1) IS NOT NULL", name):
        return False
    low, high = partition_bounds(day)
    # Attaching, unlike CREATE … PARTITION OF, lets others go on reading and writing, and takes a filled table.
    await tx.run(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL) WITH (fillfactor = 85)")
    await tx.run(
        f"WITH moved AS (DELETE FROM {table}_default WHERE {key} >= $1 AND {key} < $2 RETURNING *) "  # noqa: S608
        f"INSERT INTO {name} SELECT * FROM moved",
        low,
        high,
    )
    await tx.run(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{low}') TO ('{high}')")
    return True


def _upgrade(connection: Connection) -> None:
    # A quarter of a second to import, and most starts have nothing to migrate.
    from alembic import command
    from alembic.config import Config as AlembicConfig

    alembic = AlembicConfig()
    # The configuration interpolates: a per cent sign in a path must be doubled.
    alembic.set_main_option("script_location", str(_folder()).replace("%", "%%"))
    alembic.attributes["connection"] = connection
    command.upgrade(alembic, "head")


def _head() -> str:
    """The revision that no other one follows, read off the files: see `_upgrade`."""
    texts = [path.read_text(encoding="utf-8") for path in (_folder() / "versions").glob("*.py")]
    revisions, followed = (
        {name for text in texts for name in re.findall(rf'^{what}\b.*= "(.+)"$', text, re.MULTILINE)}
        for what in ("revision", "down_revision")
    )
    head: str
    [head] = revisions - followed
    return head


def _folder() -> Path:
    """In the wheel it lies in the package, in a checkout at the root."""
    packaged = Path(__file__).parent / "_alembic"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "alembic"
