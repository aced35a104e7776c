"""A process works on the schema that it knows, or not at all; an installation moves with all that it had before it."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from alembic import command
from alembic.config import Config as AlembicConfig
from sqlalchemy import Connection

from agentauri import migrations
from agentauri.config import database_config
from agentauri.database import Database
from agentauri.embedded import Embedded
from chaos.servers import world_of_embedded
from chaos.world import SECONDS
from support.folders import passing_folder
from support.processes import Child, Nursery
from support.receiver import Receiver

ROOT = Path(__file__).parents[2]
SLOTS = 10


@pytest.fixture
def folder() -> Iterator[Path]:
    with passing_folder("agentauri-versions-") as path:
        yield path


@pytest.mark.parametrize("version", ["0000_older", "9999_newer", None])
async def test_a_schema_of_another_version_is_refused_with_the_command_that_helps(
    database: Database, serve: Callable[..., Child], version: str | None
) -> None:
    async with database.transaction() as tx:
        await tx.run("DELETE FROM alembic_version")
        if version is not None:
            await tx.run("INSERT INTO alembic_version VALUES ($1)", version)

    child = serve()

    assert await child.ended(SECONDS) == 1
    refused = await child.logged(event="schema.refused")
    assert f"at {version or 'nothing'}" in str(refused["message"])
    assert "agentauri migrate" in str(refused["message"])
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT count(*) FROM process_heartbeats") == 0


@pytest.fixture
def older(folder: Path) -> Path:
    """An installation of the first version, with an event that waits."""

    async def make(url: str) -> None:
        async with migrations.connect(database_config(url, (20, 30))) as connection:
            await connection.run_sync(to_first_version)
            await connection.exec_driver_sql(
                "INSERT INTO events (id, chain_id, block_number, block_hash, transaction_hash, log_index, registry,"
                " event_type, timestamp) VALUES ('old', 84532, 1, '0xb', '0xt', 0, 'reputation', 'NewFeedback', 1)"
            )
            await connection.commit()

    with Embedded(folder, valkey=False) as old:
        assert old.database_url is not None
        asyncio.run(make(old.database_url))
    return folder


async def test_an_older_embedded_schema_is_migrated_by_serve_with_what_is_in_it(
    serve: Callable[..., Child], receiver: Receiver, older: Path
) -> None:
    async with world_of_embedded(older, serve, receiver) as world:
        assert (await migrations.state(world.app.database)).ok
        await world.processed(1)
        assert await world.fetch("SELECT event_id FROM processed_events") == [("old",)]
        await world.stop()


def to_first_version(connection: Connection) -> None:
    alembic = AlembicConfig()
    alembic.set_main_option("script_location", str(ROOT / "alembic"))
    alembic.attributes["connection"] = connection
    command.upgrade(alembic, "+1")


def commands_of(heading: str) -> list[list[str]]:
    """The commands that the page on moving data gives under a heading, in their order."""
    text = (ROOT / "docs/how-to/move-data.md").read_text()
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for block in re.findall(r"```console\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]
    return [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]


async def test_an_installation_goes_on_elsewhere_by_the_commands_of_the_manual(
    serve: Callable[..., Child],
    nursery: Nursery,
    installation: dict[str, str],
    receiver: Receiver,
    folder: Path,
    tmp_path: Path,
) -> None:
    dump, *others = commands_of("To another installation")
    assert [one[:2] for one in others] == [["agentauri", "psql"], ["agentauri", "migrate"], ["agentauri", "serve"]]

    async def run(words: list[str], data: Path) -> None:
        environment = {**installation, "DATABASE_URL": "", "REDIS_URL": "", "AGENTAURI_DATA_DIR": str(data)}
        child = nursery.start(words[1:], environment, tmp_path / "command.log")
        assert await child.ended(SECONDS) == 0, child.log.read_text()

    async def slowly(_: web.Request) -> web.Response:
        await asyncio.sleep(0.3)
        return web.Response()

    here, there = folder / "here", folder / "there"
    receiver.handle = slowly
    async with world_of_embedded(here, serve, receiver, MAX_IN_FLIGHT_DELIVERIES=str(SLOTS)) as world:
        await world.happen(40)
        await world.processed(40)
        await world.received(SLOTS)
        await world.stop()
    receiver.handle = None
    assert len(receiver.requests) < len(world.due)

    await run(dump, here)
    shutil.copytree(here / "secrets", there / "secrets")
    for words in others[:-1]:
        await run(words, there)
    async with world_of_embedded(there, serve, receiver, moved_from=world) as moved:
        await moved.happen(20)
        await moved.until(moved.is_done, "everything to be processed and delivered")
        await moved.check()
        await moved.stop()
