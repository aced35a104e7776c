"""An installation to be looked at, and the doctor's word on it."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from agentauri.app import Application, Stores, assemble
from agentauri.config import Config, DatabaseConfig, RedisConfig
from agentauri.doctor import CheckResult, Patient, examine
from agentauri.types import Secret
from support.console import Command
from support.doctor import Beat, Do, Look


@pytest.fixture
async def house(config: Config, database_settings: DatabaseConfig, redis_url: str) -> AsyncIterator[Application]:
    async with assemble(config, Stores(database_settings, RedisConfig(url=Secret(redis_url)), None)) as application:
        yield application


@pytest.fixture
def patient(house: Application, database_settings: DatabaseConfig, redis_url: str) -> Patient:
    return house.patient(Stores(database_settings, RedisConfig(url=Secret(redis_url)), None))


@pytest.fixture
def look(patient: Patient) -> Look:
    """What one check finds now; `heal` as `--fix` does."""

    async def find(name: str, *, heal: bool = False, **changes: Any) -> CheckResult:
        report = await examine(msgspec.structs.replace(patient, **changes), heal=heal)
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
def beat(house: Application) -> Beat:
    """Write the heartbeat of a process that runs these roles."""

    async def write(*roles: str, listener: str = "ok", restarts: int = 0, age: int = 0) -> None:
        async with house.database.transaction() as tx:
            await tx.run(
                """INSERT INTO process_heartbeats (instance, role, version, status, seen_at)
                   SELECT 'test-1', role, '0', $2::text::jsonb, now() - make_interval(secs => $3)
                   FROM unnest($1::text[]) AS role""",
                list(roles),
                f'{{"listener": "{listener}", "restarts": {restarts}}}',
                age,
            )

    return write
