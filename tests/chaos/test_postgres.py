"""PostgreSQL may go away under load, for long or in the middle of a transaction: everybody waits, nothing is lost, and
work goes on by itself.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator

import aiohttp
import pytest
from msgspec.structs import replace

from agentauri.config import Config, database_config
from chaos.servers import OwnPostgres
from chaos.world import SECONDS, Gate, World
from support.processes import Child
from support.receiver import Receiver

SLOTS = 10


@pytest.fixture(scope="module")
def postgres() -> Iterator[OwnPostgres]:
    with OwnPostgres.open() as opened:
        yield opened


@pytest.fixture
async def world_on_postgres(
    config: Config, postgres: OwnPostgres, serve: Callable[..., Child], receiver: Receiver
) -> AsyncIterator[World]:
    url = await postgres.database()
    settings = {"DATABASE_URL": url, "MAX_IN_FLIGHT_DELIVERIES": str(SLOTS), "MAX_CONCURRENT_EVENTS": "10"}
    own = replace(config, database=database_config(url, (20, 30)))
    async with World.open(own, serve, receiver, settings=settings) as opened:
        yield opened


@pytest.mark.parametrize("seconds", [2, pytest.param(30, marks=pytest.mark.soak)])
async def test_while_postgresql_is_away_everybody_waits_and_goes_on_when_it_is_back(
    world_on_postgres: World, postgres: OwnPostgres, seconds: int
) -> None:
    world = world_on_postgres
    gate = Gate(world.receiver)
    await world.happen(200)
    child = await world.start("evaluator,dispatcher,http", WEBHOOK_TIMEOUT_SECONDS="60")
    await world.received(SLOTS)
    base = f"http://127.0.0.1:{await child.port()}/health"

    postgres.end()
    await child.logged(SECONDS, code="DATABASE_UNAVAILABLE")
    await postgres.ended()
    gate.open()  # what was being sent ends now, and cannot be recorded yet
    assert await status(f"{base}/live") == 200
    assert await status(f"{base}/ready") == 503
    await asyncio.sleep(seconds)
    assert child.alive
    assert len(world.receiver.requests) == SLOTS
    await postgres.start()

    back = time.monotonic()
    await world.app.database.up()
    await world.received(SLOTS + 1)
    recovered = time.monotonic() - back
    await world.until(lambda: is_ready(base), "readiness")
    await world.happen(20)
    await world.finish()
    lines = child.lines()
    assert sum(line.get("code") == "LISTENER_STARTED" for line in lines) == 2
    assert not [line for line in lines if line.get("code") == "TASK_PANIC"]
    if seconds > 2:
        assert recovered <= 5


async def status(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status


async def is_ready(base: str) -> bool:
    return await status(f"{base}/ready") == 200


@pytest.mark.parametrize(
    ("table", "statement"),
    [("deliveries", '(COPY|INSERT INTO) "?deliveries'), ("attempts", "INSERT INTO attempts")],
    ids=["evaluating", "recording"],
)
async def test_a_transaction_that_postgresql_crashed_in_is_made_again_whole(
    world_on_postgres: World, postgres: OwnPostgres, table: str, statement: str
) -> None:
    world = world_on_postgres
    async with world.app.database.outside() as connection:
        await connection.execute(f"BEGIN; LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
        await world.happen(20)
        child = await world.start()
        await world.until(
            lambda: world.waits_for_a_lock(statement), f"a transaction to be stopped in the middle of {statement}"
        )

        postgres.end(signal.SIGQUIT)
        await child.logged(SECONDS, code="DATABASE_UNAVAILABLE")
        await postgres.ended()
    await postgres.start()
    await world.app.database.up()

    await world.finish()


async def test_what_came_while_nobody_listened_is_found_on_reconnecting(world: World) -> None:
    """The poll is a minute away, and what the process has not noticed is not found by anything else."""
    child = await world.start(POLL_INTERVAL_MS="60000")
    await child.logged(SECONDS, code="LISTENER_STARTED")
    await world.fetch("ALTER TABLE events DISABLE TRIGGER notify_new_event_trigger")
    await world.happen_unnoticed()

    await world.fetch(
        """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
           WHERE datname = current_database() AND query ILIKE 'LISTEN%'"""
    )

    await world.finish(seconds=SECONDS / 2)
    assert [line for line in child.lines() if line.get("code") == "LISTENER_TRANSIENT_ERROR"]
