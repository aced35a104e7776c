"""The application keeps to its own description, whatever it is asked: no 5xx, no status and no body unheard of, and
what fits the description is taken while what does not is refused."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from msgspec.structs import replace
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok

from agentauri.http import openapi_document
from support.events import insert_by_hand

from .conftest import Api, Serve
from .test_budgets import bearer, register

MakeKey = Callable[..., Awaitable[str]]

RULES = Path(__file__).with_name("schemathesis.toml")
ENDS_THE_CALLER = "^(logout|end_session)$"
"""After these a token is worth nothing, and nothing that follows would be looked at: they come last."""
SLICE = 24


async def served(api: Api, serve: Serve) -> tuple[str, str, str]:
    """The application with something in it, without budgets: its URL, an owner's token and her organization."""
    token, organization = await register(api, "owner")
    async with api.house.database.transaction() as tx:
        await tx.run("UPDATE organizations SET plan = 'enterprise' WHERE id = $1", organization)
        api.house.standings.forget_after(tx)
        for number in range(3):
            await insert_by_hand(tx, f"event-{number}", agent_id=number)
    return await serve(api.make_app(replace(api.house.config.server, rate_limit_mode="off"))), token, organization


def ask_some(url: str, headers: Mapping[str, str], number: int) -> list[str]:
    """One request of each of some operations; what was found wrong."""
    described = schemathesis.openapi.from_dict(
        json.loads(openapi_document()), config=SchemathesisConfig.from_path(RULES)
    )
    load_all_checks()
    checks = CHECKS.get_all()
    operations = [result.ok() for result in described.get_all_operations() if isinstance(result, Ok)]
    found = []
    for operation in random.Random(number).sample(operations, SLICE):

        @seed(number)
        @settings(
            max_examples=1, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            case.call_and_validate(base_url=url, headers=dict(headers), checks=checks)

        try:
            ask()
        except FailureGroup as failures:
            found += [f"{operation.label}: {failure}" for failure in failures.exceptions]
    return found


async def test_some_requests_are_answered_as_described(api: Api, serve: Serve) -> None:
    url, token, _ = await served(api, serve)
    assert await asyncio.to_thread(ask_some, url, bearer(token), 8004) == []


async def schemathesis_says(url: str, headers: Mapping[str, str], *arguments: str) -> None:
    """Let the program itself look for what is wrong; it tells how to ask again for each finding."""
    program = Path(sys.executable).with_name("schemathesis")
    given = [part for name, value in headers.items() for part in ("--header", f"{name}: {value}")]
    asked = await asyncio.create_subprocess_exec(
        program, "--config-file", RULES, "run", f"{url}/api/v1/openapi.json", "--checks", "all", "--seed", "4711",
        "--no-shrink", *given, *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    told, _ = await asked.communicate()
    print(told.decode())
    assert asked.returncode == 0, told.decode()[-20_000:]


@pytest.mark.soak
@pytest.mark.timeout(2400)
async def test_an_owner_is_answered_as_described_whatever_she_asks(api: Api, serve: Serve) -> None:
    url, token, _ = await served(api, serve)
    sized = ("--phases", "coverage,fuzzing,stateful", "--max-examples", "200")
    await schemathesis_says(url, bearer(token), *sized, "--exclude-operation-id-regex", ENDS_THE_CALLER)
    await schemathesis_says(url, bearer(token), *sized, "--include-operation-id-regex", ENDS_THE_CALLER)


@pytest.mark.soak
@pytest.mark.timeout(2400)
async def test_a_key_is_answered_as_described_whatever_it_asks(api: Api, serve: Serve, make_key: MakeKey) -> None:
    url, _, _ = await served(api, serve)
    everything = ("read", "write", "delete", "admin")
    key = await make_key(key_type="admin", permissions=everything, scopes=("admin:all",))
    keeps = "^(logout|revoke_key|delete_organization)$"
    sized = ("--phases", "coverage,stateful", "--max-examples", "200")
    await schemathesis_says(url, {"X-API-Key": key}, *sized, "--exclude-operation-id-regex", keeps)


@pytest.mark.soak
@pytest.mark.timeout(2400)
async def test_nobody_is_answered_as_described_whatever_he_asks(api: Api, serve: Serve) -> None:
    url, _, _ = await served(api, serve)
    await schemathesis_says(url, {}, "--phases", "coverage,stateful", "--max-examples", "200")
