"""Whose budget a request draws on, what it costs, and what every answer says of it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio
from msgspec.structs import replace

from agentauri.types import Secret

from .conftest import Answer, Api

MakeKey = Callable[..., Awaitable[str]]

PASSWORD = "a long enough secret for her"


@pytest.fixture
def limited(api: Api) -> Api:
    """The application with its budgets in force."""
    limits(api)
    return api


def limits(api: Api, **changes: Any) -> None:
    api.app = api.make_app(replace(api.house.config.server, rate_limit_mode="enforcing", **changes))


def left(answer: Answer) -> tuple[str, int]:
    """Name of the budget and units left."""
    name = re.match(r'"(\w+)";q=', answer.headers["Ratelimit-Policy"])
    assert name is not None
    return name[1], int(answer.headers["X-Ratelimit-Remaining"])


async def register(api: Api, username: str) -> tuple[str, str]:
    """A user's token, and the id of her personal organization."""
    body = {"username": username, "email": f"{username}@example.org", "password": PASSWORD}
    made = await api.ask("POST", "/api/v1/auth/register", json=body)
    assert made.status == 201, made.body
    token = made.json()["token"]
    me = await api.ask("GET", "/api/v1/auth/me", headers=bearer(token))
    return token, me.json()["organization_id"]


def bearer(token: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", **{name.replace("_", "-"): value for name, value in more.items()}}


async def test_the_request_after_the_last_is_refused_and_says_when_to_come_back(limited: Api) -> None:
    answers = [await limited.ask("GET", "/api/v1/chains") for _ in range(11)]

    assert [answer.status for answer in answers] == [200] * 10 + [429]
    assert [left(answer) for answer in answers] == [("anonymous", max(0, 9 - number)) for number in range(11)]
    refused = answers[-1]
    problem = refused.json()
    assert (problem["error"], problem["retry_after"]) == ("rate_limit_exceeded", int(refused.headers["Retry-After"]))
    assert problem["message"].startswith("Rate limit exceeded")
    assert 0 < problem["retry_after"] <= 3600


async def test_every_answer_says_where_the_budget_stands(limited: Api, key: str) -> None:
    for method, path, headers in [
        ("GET", "/api/v1/triggers", {"X-API-Key": key}),
        ("GET", "/api/v1/triggers", {}),
        ("GET", "/nothing", {}),
        ("DELETE", "/api/v1/events", {}),
        ("GET", "/" + "a" * 9000, {}),
        ("GET", "/health", {}),
        ("OPTIONS", "/api/v1/events", {}),
    ]:
        answer = await limited.ask(method, path, headers=headers)
        limit, remaining, reset = (
            int(answer.headers[f"X-Ratelimit-{name}"]) for name in ("Limit", "Remaining", "Reset")
        )
        name, _ = left(answer)
        assert answer.headers["X-Ratelimit-Window"] == "3600"
        assert answer.headers["Ratelimit-Policy"] == f'"{name}";q={limit};w=3600'
        assert re.fullmatch(rf'"{name}";r={remaining};t=[0-9]+', answer.headers["Ratelimit"])
        assert reset > 1_700_000_000


async def test_what_a_request_costs_follows_from_its_route(limited: Api, make_key: MakeKey) -> None:
    async def cost(method: str, path: str, **asked: Any) -> int:
        key = await make_key(f"costs-{method}-{abs(hash(path))}")
        before = left(await limited.ask("GET", "/api/v1/triggers", key=key))[1]
        return before - left(await limited.ask(method, path, key=key, **asked))[1]

    assert await cost("GET", "/api/v1/events") == 1
    assert await cost("GET", "/api/v1/events?search=reputation") == 2
    assert await cost("GET", "/api/v1/agents/8453/0") == 2
    assert await cost("GET", "/api/v1/agents/8453/0/reputation?clients=all") == 5
    assert await cost("POST", "/api/v1/deliveries/replay", json={}) == 10
    assert await cost("GET", "/api/v1/events?tier=3") == 1
    assert await cost("GET", "/api/v1/nothing") == 1


async def test_a_refused_request_costs_nothing(limited: Api) -> None:
    for _ in range(9):
        await limited.ask("GET", "/api/v1/chains")
    assert (await limited.ask("GET", "/api/v1/indexer/events")).status == 429  # two, and there is one
    assert (await limited.ask("GET", "/api/v1/chains")).status == 200


async def test_what_is_exempt_shows_the_budget_and_leaves_it(limited: Api) -> None:
    await limited.ask("GET", "/api/v1/chains")
    for path in ("/health", "/api/v1/openapi.json", "/problems", "/api-docs/", "/.well-known/agent.json", "/metrics"):
        answer = await limited.ask("GET", path)
        assert (left(answer), answer.headers["X-Ratelimit-Status"]) == (("anonymous", 9), "exempt"), path


async def test_who_knows_the_monitoring_token_is_exempt(api: Api) -> None:
    limits(api, monitoring_token=Secret("watching-from-outside"))
    for token, status in {"watching-from-outside": "exempt", "watching-from-insid": None}.items():
        answer = await api.ask("GET", "/api/v1/chains", headers={"X-Monitoring-Token": token})
        assert answer.headers.get("X-Ratelimit-Status") == status


async def test_a_refused_credential_costs_the_address_it_came_from(limited: Api, key: str) -> None:
    wrong = "sk_live_" + "x" * 43
    statuses = [(await limited.ask("GET", "/api/v1/triggers", key=wrong)).status for _ in range(11)]

    assert statuses == [401] * 10 + [429]
    assert (await limited.ask("GET", "/api/v1/triggers", key=key)).status == 200
    async with limited.house.database.transaction() as tx:
        assert await tx.fetchval("SELECT count(*) FROM auth_failures") == 10  # whoever is turned away leaves no row


async def test_an_organization_has_one_budget_for_all_its_users_and_keys(limited: Api, make_key: MakeKey) -> None:
    first, second = await make_key(), await make_key()
    before = left(await limited.ask("GET", "/api/v1/triggers", key=first))
    after = left(await limited.ask("GET", "/api/v1/triggers", key=second))
    assert after == (before[0], before[1] - 1)


async def test_a_key_may_have_a_tighter_budget_of_its_own(limited: Api, make_key: MakeKey) -> None:
    key, other = await make_key(rate_limit_override=2), await make_key()
    statuses = [(await limited.ask("GET", "/api/v1/triggers", key=key)) for _ in range(3)]

    assert [(answer.status, left(answer)) for answer in statuses] == [
        (200, ("key", 1)),
        (200, ("key", 0)),
        (429, ("key", 0)),
    ]
    assert (await limited.ask("GET", "/api/v1/triggers", key=other)).status == 200


async def test_nobody_spends_the_budget_of_an_organization_that_is_not_hers(limited: Api, make_key: MakeKey) -> None:
    key = await make_key("theirs")
    before = left(await limited.ask("GET", "/api/v1/triggers", key=key))
    async with limited.house.database.transaction() as tx:
        theirs = (await limited.house.organizations.find_or_create(tx, "theirs")).id
    token, _ = await register(limited, "mallory")
    mine = left(await limited.ask("GET", "/api/v1/triggers", headers=bearer(token)))

    intruding = await limited.ask("GET", "/api/v1/triggers", headers=bearer(token, X_Organization_ID=theirs))

    assert (intruding.status, left(intruding)) == (404, (mine[0], mine[1] - 1))
    assert left(await limited.ask("GET", "/api/v1/triggers", key=key)) == (before[0], before[1] - 1)


async def test_credentials_are_tried_on_a_budget_of_their_own(api: Api) -> None:
    limits(api, auth_rate_limit=3)
    login = {"username_or_email": "nobody", "password": PASSWORD}
    answers = [await api.ask("POST", "/api/v1/auth/login", json=login) for _ in range(4)]

    assert [(answer.status, left(answer)) for answer in answers] == [
        (401, ("auth", 2)),
        (401, ("auth", 1)),
        (401, ("auth", 0)),
        (429, ("auth", 0)),
    ]
    assert left(await api.ask("GET", "/api/v1/chains")) == ("anonymous", 9)


async def test_a_plan_is_the_limit(limited: Api) -> None:
    token, organization = await register(limited, "grace")
    assert (await limited.ask("GET", "/api/v1/triggers", headers=bearer(token))).headers["X-Ratelimit-Limit"] == "50"
    async with limited.house.database.transaction() as tx:
        await tx.run("UPDATE organizations SET plan = 'pro' WHERE id = $1", organization)
        limited.house.standings.forget_after(tx)
    answer = await limited.ask("GET", "/api/v1/triggers", headers=bearer(token))
    assert (answer.headers["X-Ratelimit-Limit"], left(answer)[0]) == ("500", "pro")


async def test_addresses_of_one_network_of_ipv6_count_together(limited: Api) -> None:
    remaining = []
    for peer in ("2001:db8:1:2::1", "2001:db8:1:2:ffff::2", "2001:db8:1:3::1"):
        limited.peer = peer
        remaining.append(left(await limited.ask("GET", "/api/v1/chains"))[1])
    assert remaining == [9, 8, 9]


async def test_a_name_that_anybody_may_write_is_nobodys_budget(limited: Api) -> None:
    for number in range(3):
        answer = await limited.ask("GET", "/api/v1/chains", headers={"X-Forwarded-For": f"192.0.2.{number}"})
        assert left(answer)[1] == 9 - number


async def test_the_shadow_counts_and_refuses_nobody(api: Api) -> None:
    limits(api)
    api.app = api.make_app(replace(api.house.config.server, rate_limit_mode="shadow"))
    answers = [await api.ask("GET", "/api/v1/chains") for _ in range(11)]
    assert {answer.status for answer in answers} == {200}
    assert answers[-1].headers["X-Ratelimit-Status"] == "shadow-violation"


async def test_without_redis_the_numbers_go_on(limited: Api, redis_client: redis.asyncio.Redis) -> None:
    assert left(await limited.ask("GET", "/api/v1/chains"))[1] == 9
    away = redis.asyncio.from_url("redis://127.0.0.1:1")
    limited.house.redis.connection_pool, kept = away.connection_pool, limited.house.redis.connection_pool
    try:
        answers = [await limited.ask("GET", "/api/v1/chains") for _ in range(10)]
    finally:
        limited.house.redis.connection_pool = kept
        await away.aclose()
    assert [left(answer)[1] for answer in answers] == [8, 7, 6, 5, 4, 3, 2, 1, 0, 0]
    assert {answer.headers["X-Ratelimit-Status"] for answer in answers} == {"degraded"}
    assert answers[-1].status == 429
