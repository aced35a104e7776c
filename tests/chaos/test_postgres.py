"""PostgreSQL may be restarted under load: everybody waits, nothing is lost, and work goes on by itself."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from agentauri.config import Config, database_config
from agentauri.embedded import Embedded
from agentauri.migrations import migrate
from chaos.world import SECONDS, Gate, World
from support.processes import Child, until
from support.receiver import Receiver

SLOTS = 10


@pytest.fixture
def postgres(folder: Path) -> Iterator[Embedded]:
    settings = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
    with Embedded(folder, valkey=False, postgres_settings=settings) as embedded:
        yield embedded


@pytest.fixture
async def world_on_postgres(
    config: Config, postgres: Embedded, serve: Callable[..., Child], receiver: Receiver
) -> AsyncIterator[World]:
    assert postgres.database_url is not None
    own = database_config(postgres.database_url, (20, 30))
    await migrate(own)
    async with World.open(replace(config, database=own), serve, receiver) as opened:
        yield opened


async def test_a_restart_of_postgresql_under_load_loses_and_doubles_nothing(
    world_on_postgres: World, postgres: Embedded, folder: Path
) -> None:
    world = world_on_postgres
    assert postgres.database_url is not None
    gate = Gate(world.receiver)
    await world.happen(20)
    child = await world.start(
        DATABASE_URL=postgres.database_url, MAX_IN_FLIGHT_DELIVERIES=str(SLOTS), MAX_CONCURRENT_EVENTS="10"
    )
    await world.received(SLOTS)

    os.kill(int((folder / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGINT)
    await child.logged(SECONDS, code="DATABASE_UNAVAILABLE")
    gate.open()  # what was being sent ends now, and cannot be recorded yet
    await until(lambda: postgres.revive() == ["postgres"], SECONDS, "PostgreSQL to end, to be started again")
    await world.app.database.up()
    await world.happen(20)

    await world.finish()
    lines = child.lines()
    assert sum(line.get("code") == "LISTENER_STARTED" for line in lines) == 2
    assert not [line for line in lines if line.get("code") == "TASK_PANIC"]


async def test_what_came_while_nobody_listened_is_found_on_reconnecting(world: World) -> None:
    child = await world.start(POLL_INTERVAL_MS="60000")
    await child.logged(SECONDS, code="LISTENER_STARTED")
    await world.happen(1)
    await world.processed(1)
    await world.fetch("ALTER TABLE events DISABLE TRIGGER notify_new_event_trigger")
    await world.happen(20)

    await world.fetch(
        """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
           WHERE datname = current_database() AND query ILIKE 'LISTEN%'"""
    )

    await world.finish()
    assert [line for line in child.lines() if line.get("code") == "LISTENER_TRANSIENT_ERROR"]
