"""Servers of the chaos tests' own, which may be stopped, starved and killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Self

import asyncpg

from agentauri.config import database_config, load
from agentauri.embedded import DATABASE, Embedded
from agentauri.migrations import migrate
from chaos.world import World
from support.folders import passing_folder
from support.processes import Child, until
from support.receiver import Receiver

SECONDS = 60.0


class OwnPostgres:
    """A PostgreSQL to be ended and started again."""

    def __init__(self, embedded: Embedded, folder: Path) -> None:
        assert embedded.database_url is not None
        self._embedded = embedded
        self._folder = folder
        self._template = embedded.database_url
        self._numbers = count(1)

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Self]:
        settings = {"fsync": "off", "full_page_writes": "off"}  # what is committed survives a crash of the server
        with (
            passing_folder("agentauri-chaos-") as folder,
            Embedded(folder, valkey=False, postgres_settings=settings) as embedded,
        ):
            own = cls(embedded, folder)
            asyncio.run(migrate(database_config(own._template, (20, 30))))
            yield own

    async def database(self) -> str:
        """The URL of a new database with our schema."""
        name = f"test_{next(self._numbers)}"
        admin = await asyncpg.connect(self._url("postgres"))
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {DATABASE}")
        await admin.close()
        return self._url(name)

    def end(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends it in order and all sessions with it, SIGQUIT as a crash does."""
        os.kill(int((self._folder / "postgres" / "postmaster.pid").read_text().split()[0]), how)

    async def ended(self) -> None:
        await until(lambda: not self._embedded._servers[0].alive, SECONDS, "PostgreSQL to end")

    async def start(self) -> None:
        """Return as soon as it answers."""
        assert self._embedded.revive() == ["postgres"]

        async def answers() -> bool:
            try:
                connection = await asyncpg.connect(self._url("postgres"))
            except (OSError, asyncpg.PostgresError):
                return False
            await connection.close()
            return True

        await until(answers, SECONDS, "PostgreSQL to answer again")

    def _url(self, name: str) -> str:
        return self._template.replace(f"/{DATABASE}?", f"/{name}?")


@asynccontextmanager
async def world_of_embedded(
    folder: Path,
    serve: Callable[..., Child],
    receiver: Receiver,
    *,
    moved_from: World | None = None,
    **settings: str,
) -> AsyncIterator[World]:
    """An `agentauri serve` with servers of its own in `folder`, which has just started."""
    child = serve(DATABASE_URL="", REDIS_URL="", AGENTAURI_DATA_DIR=str(folder), **settings)
    await child.logged(SECONDS, event="process.started")
    with Embedded(folder, join=True) as stores:
        assert stores.database_url is not None
        assert stores.redis_url is not None
        config = {
            "DATABASE_URL": stores.database_url,
            "REDIS_URL": stores.redis_url,
            "ENVIRONMENT": "development",
            "AGENTAURI_DATA_DIR": str(folder),
        }
        async with World.open(load(config, folder), serve, receiver, moved_from=moved_from) as world:
            world.children.append(child)
            yield world
