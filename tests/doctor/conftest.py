"""An installation to be looked at, and the doctor's word on it."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import msgspec
import pytest

from agentauri.app import Application, Stores, assemble
from agentauri.config import Config, DatabaseConfig, RedisConfig
from agentauri.doctor import CheckResult, Patient, examine
from agentauri.embedded import Embedded
from agentauri.types import Secret
from doctor.house import House
from support.console import Command
from support.doctor import Beat, Do, Look
from support.folders import passing_folder
from support.processes import Nursery


@pytest.fixture(scope="session")
def standing_house(admin_url: str, template: str, nursery: Nursery) -> Iterator[House]:
    """A running installation with a Valkey of its own, which may be stopped."""

    async def make() -> None:
        connection = await asyncpg.connect(admin_url)
        await connection.execute(f"CREATE DATABASE house TEMPLATE {template}")
        await connection.close()

    asyncio.run(make())
    with passing_folder("agentauri-house-") as folder, Embedded(folder / "stores", postgres=False) as valkey:
        house = House(folder, nursery, admin_url.replace("/postgres?", "/house?"), valkey)
        try:
            yield house
        finally:
            house.close()


@pytest.fixture
async def house(standing_house: House) -> House:
    await standing_house.stand()
    return standing_house


@pytest.fixture
async def application(config: Config, database_settings: DatabaseConfig, redis_url: str) -> AsyncIterator[Application]:
    async with assemble(config, Stores(database_settings, RedisConfig(url=Secret(redis_url)), None)) as application:
        yield application


@pytest.fixture
def patient(application: Application, database_settings: DatabaseConfig, redis_url: str) -> Patient:
    return application.patient(Stores(database_settings, RedisConfig(url=Secret(redis_url)), None))


@pytest.fixture
def look(patient: Patient) -> Look:
    """What one check finds now; `heal` as `--fix` does."""

    async def find(name: str, *, heal: bool = False, **changes: Any) -> CheckResult:
        only = [name.partition(":")[0]]
        report = await examine(msgspec.structs.replace(patient, **changes), heal=heal, only=only)
        (found,) = [one for one in report.checks if one.check == name]
        return found

    return find


@pytest.fixture
def do(agentauri: Command) -> Do:
    """Run a fix as it was printed, its words as a shell takes them."""

    async def run(fix: str | None) -> str:
        assert fix is not None
        words = subprocess.run(["sh", "-c", f'printf "%s\\0" {fix}'], capture_output=True, text=True, check=True)  # noqa: ASYNC221 (at once)
        program, *arguments = words.stdout.split("\0")[:-1]
        assert program == "agentauri"
        return await agentauri(*arguments)

    return run


@pytest.fixture
def beat(application: Application) -> Beat:
    """Write the heartbeat of a process that runs these roles."""

    async def write(*roles: str, listener: str = "ok", restarts: int = 0, age: int = 0) -> None:
        async with application.database.transaction() as tx:
            await tx.run(
                """INSERT INTO process_heartbeats (instance, role, version, status, seen_at)
                   SELECT 'test-1', role, '0', $2::text::jsonb, now() - make_interval(secs => $3)
                   FROM unnest($1::text[]) AS role""",
                list(roles),
                f'{{"listener": "{listener}", "restarts": {restarts}}}',
                age,
            )

    return write
