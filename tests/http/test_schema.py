"""The application keeps to its own description, whatever it is asked: no 5xx, no status and no body unheard of."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from msgspec.structs import replace
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok

from agentauri.http import openapi_document

from .conftest import Api, Serve
from .test_budgets import bearer, register

MakeKey = Callable[..., Awaitable[str]]

KEPT = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
ELSEWHERE = ("/api-docs", "/metrics", "/health", "/api/v1/health", "/.well-known", "/problems")
"""What takes no input; other tests ask for it."""


def try_out(url: str, callers: Sequence[Mapping[str, str]], examples: int, number: int) -> list[str]:
    """Every operation with so many requests of each caller; what was found wrong."""
    schema = schemathesis.openapi.from_dict(json.loads(openapi_document()))
    load_all_checks()
    wanted = CHECKS.get_by_names(list(KEPT))
    found = []
    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        if operation.path.startswith(ELSEWHERE):
            continue

        @seed(number)
        @settings(
            max_examples=examples,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            for headers in callers:
                case.call_and_validate(base_url=url, headers=dict(headers), checks=wanted)

        try:
            ask()
        except FailureGroup as failures:
            found += [f"{operation.label}: {failure}" for failure in failures.exceptions]
    return found


async def tried_out(
    api: Api, serve: Serve, make_key: MakeKey, examples: int, number: int, *, by_all: bool
) -> list[str]:
    token, organization = await register(api, "owner")
    async with api.house.database.transaction() as tx:
        await tx.run("UPDATE organizations SET plan = 'enterprise' WHERE id = $1", organization)
        api.house.standings.forget_after(tx)
    everything = ("read", "write", "delete", "admin")
    admin = await make_key(key_type="admin", permissions=everything, scopes=("admin:all",))
    callers = [bearer(token), {"X-API-Key": admin}, {}]
    url = await serve(api.make_app(replace(api.house.config.server, rate_limit_mode="off")))
    return await asyncio.to_thread(try_out, url, callers if by_all else callers[:1], examples, number)


async def test_a_request_of_every_kind_is_answered_as_described(api: Api, serve: Serve, make_key: MakeKey) -> None:
    assert await tried_out(api, serve, make_key, 1, 8004, by_all=False) == []


@pytest.mark.soak
async def test_many_requests_of_every_kind_are_answered_as_described(api: Api, serve: Serve, make_key: MakeKey) -> None:
    assert await tried_out(api, serve, make_key, 200, 4711, by_all=True) == []
