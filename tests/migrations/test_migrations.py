"""Making the schema: on an old and a new server, twice, at once, and by hand."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from alembic.config import Config as AlembicConfig
from alembic.script import ScriptDirectory

from agentauri.config import DatabaseConfig, RetentionConfig, database_config
from agentauri.database import Database, Transaction
from agentauri.events import EventFilter, EventQueue, EventService, Finished
from agentauri.janitor import Janitor
from agentauri.migrations import SchemaState, migrate, state
from agentauri.types import Page
from support.events import CHAIN, make_log, record

ROOT = Path(__file__).parents[2]
CATALOG = """
    SELECT 'column', table_name, column_name, data_type || coalesce(' default ' || column_default, '')
           || CASE is_nullable WHEN 'NO' THEN ' not null' ELSE '' END
    FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT 'trigger', tgrelid::regclass::text, tgname, tgenabled::text || pg_get_triggerdef(oid)
    FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'check', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
"""
DAILY = re.compile(r"_[0-9]{8}$")


async def catalog(tx: Transaction) -> set[tuple[str, ...]]:
    """Every column, index, trigger and check, those of extensions and of the days' partitions aside."""
    rows = await tx.fetch(CATALOG)
    return {tuple(row) for row in rows if not row[1].startswith("pg_") and not DAILY.search(row[1])}


@pytest.fixture
async def empty(admin_url: str) -> AsyncIterator[DatabaseConfig]:
    """A database that has nothing in it."""
    connection = await asyncpg.connect(admin_url)
    try:
        await connection.execute("CREATE DATABASE empty")
        yield database_config(admin_url.replace("/postgres?", "/empty?"), (20, 30))
        await connection.execute("DROP DATABASE empty WITH (FORCE)")
    finally:
        await connection.close()


@pytest.fixture
async def postgres_15(postgres_15_url: str) -> AsyncIterator[Database]:
    config = database_config(postgres_15_url, (20, 30))
    await migrate(config)
    async with Database.open(config) as database:
        yield database


async def test_an_empty_database_is_not_ok_until_it_is_migrated(empty: DatabaseConfig) -> None:
    async with Database.open(empty) as database:
        before = await state(database)
        revision = await migrate(empty)

        assert before == SchemaState(None, revision)
        assert not before.ok
        assert await state(database) == SchemaState(revision, revision)
        assert await migrate(empty) == revision


async def test_processes_that_migrate_at_once_agree(empty: DatabaseConfig) -> None:
    assert len(set(await asyncio.gather(*(migrate(empty) for _ in range(3))))) == 1


async def test_a_developer_migrates_with_the_alembic_command(empty: DatabaseConfig, tmp_path: Path) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "alembic", "-c", str(ROOT / "alembic.ini"), "upgrade", "head"],
        env={**os.environ, "DATABASE_URL": empty.url.reveal()},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    async with Database.open(empty) as database:
        assert (await state(database)).ok


async def test_postgresql_15_gets_the_same_schema(postgres_15: Database, database: Database) -> None:
    async with postgres_15.transaction() as tx:
        assert (await tx.fetchval("SHOW server_version")).startswith("15.")
        old = await catalog(tx)
    async with database.transaction() as tx:
        assert await catalog(tx) == old


async def test_postgresql_15_runs_our_statements(postgres_15: Database, log_lines: list[dict[str, object]]) -> None:
    events, queue = EventService(), EventQueue("test")
    async with postgres_15.transaction() as tx:
        await record(tx, make_log(tag1="uptime"))
        await events.retract_above(tx, CHAIN, 0)
        await record(tx, make_log(fork="b", log_index=3))
        [found] = (await events.search(tx, EventFilter(search="upt", sort="ingested"), Page())).data
        [lane] = await queue.lanes(tx)
        await queue.fail(tx, [lane.position], "error", 5)
        await queue.release_due(tx)
        await queue.finish(
            tx, [Finished(position=lane.position, kind="assert", event_seq=found.seq, event_id=found.id)]
        )
        await queue.unsettled(tx, CHAIN)
        assert (await queue.depth(tx)).waiting == 2
    await Janitor(postgres_15, queue, RetentionConfig()).step()
    assert [line for line in log_lines if line["level"] in ("ERROR", "CRITICAL")] == []


async def test_the_revision_we_name_as_ours_is_the_one_that_alembic_would_bring(database: Database) -> None:
    config = AlembicConfig()
    config.set_main_option("script_location", str(ROOT / "alembic"))

    assert (await state(database)).head == ScriptDirectory.from_config(config).get_current_head()
