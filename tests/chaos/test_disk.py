"""A disk that fills up under load is an outage like another: nothing is told that is not stored, and it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from agentauri.database import DatabaseUnavailable
from chaos.servers import world_of_embedded
from chaos.world import SECONDS, Gate, Row, World, insert
from support import folders
from support.processes import Child
from support.receiver import Receiver

MEGABYTE = 1 << 20


@pytest.fixture
def disk() -> Iterator[Path]:
    """Big enough for both servers."""
    with folders.small_disk(160) as folder:
        yield folder


def fill(disk: Path) -> Path:
    """Write until nothing more goes in; the file to remove."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * MEGABYTE)
    return ballast


async def test_a_full_disk_stops_everything_until_there_is_room_and_loses_nothing(
    serve: Callable[..., Child], receiver: Receiver, disk: Path
) -> None:
    async with world_of_embedded(disk, serve, receiver, SWEEP_INTERVAL_SECONDS="1") as world:
        [child] = world.children
        gate = Gate(world.receiver)
        await world.happen(100)
        await world.received(1)

        ballast = fill(disk)
        gate.open()
        refused = await insert_until_refused(world)
        told = await child.logged(SECONDS, code="DATABASE_UNAVAILABLE")
        assert child.alive
        ballast.unlink()
        await store(world, refused)

        await world.happen(20)
        await world.until(world.is_done, "everything to be processed and delivered")
        await world.check(repeats=len(world.due))
        await world.stop()
    assert "No space left on device" in str(told["message"])
    assert not [line for line in child.lines() if line.get("code") == "TASK_PANIC"]


async def insert_until_refused(world: World) -> list[Row]:
    """Make events as long as there is room for them; the ones for which there was none."""
    while True:
        rows = world.rows(200)
        try:
            async with world.app.database.transaction() as tx:
                await insert(tx, rows)
        except DatabaseUnavailable:
            return rows


async def store(world: World, rows: list[Row]) -> None:
    """Insert what was refused, unless it was stored and only the answer was lost."""
    while True:
        await world.app.database.up()
        with suppress(DatabaseUnavailable, asyncpg.UniqueViolationError):
            async with world.app.database.transaction() as tx:
                await insert(tx, rows)
            return
        if await world.fetch("SELECT id FROM events WHERE id = $1", rows[0][0]):
            return
