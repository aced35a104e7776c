"""Real servers for every test: PostgreSQL and Valkey once per run, a fresh database and an empty Valkey per test."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import asyncpg
import pytest
import redis.asyncio
import structlog

from agentauri.config import Config, DatabaseConfig, database_config, load
from agentauri.database import Database, Transaction
from agentauri.embedded import DATABASE, Embedded
from agentauri.migrations import migrate
from agentauri.types import Secret
from support.console import Command
from support.folders import passing_folder
from support.processes import Child, Nursery, serving
from support.processes import nursery as open_nursery
from support.receiver import Receiver

TEMPLATE = "template_agentauri"
_numbers = itertools.count()


@pytest.fixture(scope="session")
def servers() -> Iterator[Embedded]:
    """PostgreSQL and Valkey of our own. Without fsync: no test cuts the power of the machine."""
    settings = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_connections": "300"}
    with passing_folder("agentauri-tests-") as folder, Embedded(folder, postgres_settings=settings) as embedded:
        yield embedded


@pytest.fixture(scope="session")
def admin_url(servers: Embedded) -> str:
    """The maintenance database of the test server."""
    assert servers.database_url is not None
    return servers.database_url.replace(f"/{DATABASE}?", "/postgres?")


@pytest.fixture(scope="session")
def template(admin_url: str) -> str:
    """A migrated database to copy."""

    async def make() -> None:
        connection = await asyncpg.connect(admin_url)
        await connection.execute(f"CREATE DATABASE {TEMPLATE}")
        await connection.close()
        await migrate(database_config(admin_url.replace("/postgres?", f"/{TEMPLATE}?"), (20, 30)))

    asyncio.run(make())
    return TEMPLATE


@pytest.fixture
async def database_url(admin_url: str, template: str) -> AsyncIterator[str]:
    """The URL of a migrated database that is this test's alone."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    connection = await asyncpg.connect(admin_url)
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        yield admin_url.replace("/postgres?", f"/{name}?")
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@pytest.fixture
def database_settings(database_url: str) -> DatabaseConfig:
    return database_config(database_url, (20, 30))


@pytest.fixture
async def database(database_settings: DatabaseConfig) -> AsyncIterator[Database]:
    async with Database.open(database_settings) as opened:
        yield opened


@pytest.fixture(scope="session")
def shared_database_url(admin_url: str, template: str) -> str:
    """The URL of a migrated database in which nobody commits."""

    async def make() -> None:
        connection = await asyncpg.connect(admin_url)
        await connection.execute(f"CREATE DATABASE shared TEMPLATE {template}")
        await connection.close()

    asyncio.run(make())
    return admin_url.replace("/postgres?", "/shared?")


@pytest.fixture
async def tx(shared_database_url: str) -> AsyncIterator[Transaction]:
    """A transaction that is undone: for tests that need one and no more, since it is much cheaper than `database`."""

    class Undo(Exception):
        pass

    async with Database.open(database_config(shared_database_url, (20, 30))) as database:
        with suppress(Undo):
            async with database.transaction() as opened:
                yield opened
                raise Undo


@pytest.fixture
async def redis_url(servers: Embedded) -> str:
    """The URL of a Valkey that holds nothing."""
    assert servers.redis_url is not None
    client = redis.asyncio.from_url(servers.redis_url)
    await client.flushall()
    await client.aclose()
    return servers.redis_url


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def config(tmp_path: Path, database_url: str, redis_url: str) -> Config:
    """Development settings on this test's servers."""
    return load(
        {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "ENVIRONMENT": "development",
            "RATE_LIMIT_MODE": "off",
            "AGENTAURI_DATA_DIR": str(tmp_path / "data"),
            "SERVER_PORT": "0",
            "INSTANCE_NAME": "test",
        },
        tmp_path,
    )


@pytest.fixture
def log_lines() -> Iterator[list[dict[str, object]]]:
    """Every line that is logged, as a dict with its level in upper case under `level`."""
    lines: list[dict[str, object]] = []

    def keep(_: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        lines.append({**event, "level": "ERROR" if method == "exception" else method.upper()})
        raise structlog.DropEvent

    structlog.reset_defaults()  # a command that ran in this process may have set its own up
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, keep])
    yield lines
    structlog.reset_defaults()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A web server of a customer's: records what it gets, answers what the test says."""
    async with Receiver.open() as opened:
        yield opened


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Starts real processes from one that has imported everything."""
    with open_nursery() as opened:
        yield opened


@pytest.fixture
def installation(database_url: str, redis_url: str, tmp_path: Path) -> dict[str, str]:
    """The environment of every `agentauri` that works on this test's stores."""
    return {
        "PATH": os.environ["PATH"],
        "PWD": str(tmp_path),
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "ENVIRONMENT": "development",
        "RATE_LIMIT_MODE": "off",
        "AGENTAURI_DATA_DIR": str(tmp_path / "data"),
        "SERVER_PORT": "0",
        "PAGER": "cat",
    }


@pytest.fixture
def serve(nursery: Nursery, installation: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Start `agentauri serve` on this test's stores; keyword arguments are further settings. Killed at the end."""
    yield from serving(nursery, installation, tmp_path)


@pytest.fixture
def agentauri(nursery: Nursery, installation: dict[str, str], tmp_path: Path) -> Command:
    """Run an `agentauri` command on this test's stores; what it printed."""
    numbers = itertools.count(1)

    async def run(*arguments: str) -> str:
        child = nursery.start(list(arguments), installation, tmp_path / f"command-{next(numbers)}.log")
        code = await child.ended()
        output = child.log.read_text()
        assert code == 0, f"agentauri {' '.join(arguments)} ended with {code}: {output}"
        return output

    return run


@pytest.fixture
async def http(agentauri: Command) -> AsyncIterator[aiohttp.ClientSession]:
    """A session with an API key of this installation."""
    key = (await agentauri("key", "create", "--organization", "acme")).strip()
    async with aiohttp.ClientSession(headers={"X-API-Key": key}) as session:
        yield session


@pytest.fixture
def pepper() -> Secret:
    return Secret("a pepper that is only used in tests 0123456789")
