"""Routes about the service itself."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from msgspec.structs import replace

from agentauri.config import database_config
from agentauri.database import Database
from agentauri.http import ComponentState, health, openapi_document
from agentauri.metrics import REGISTRY
from agentauri.types import Secret

from .conftest import Api, Serve
from .test_access import ROUTES

SCRIPT = Path(__file__).parents[2] / "scripts" / "test-security-headers.sh"


async def test_the_root_says_where_to_go_on(api: Api) -> None:
    answer = (await api.ask("GET", "/")).json()
    assert answer["name"] == "AgentAuri"
    for path in (answer["openapi"], answer["health"]):
        assert (await api.ask("GET", path)).status == 200


async def test_health_tells_of_stores_and_indexing(api: Api) -> None:
    answer = (await api.ask("GET", "/api/v1/health")).json()
    assert answer | {"uptime_seconds": 0} == {
        "status": "healthy",
        "database": "connected",
        "redis": "connected",
        "indexer": "off",
        "version": "0.0.0",
        "uptime_seconds": 0,
    }


PARTS: list[tuple[dict[str, ComponentState], str, str, str]] = [
    ({"redis": "degraded"}, "degraded", "disconnected", "off"),
    ({"indexer:1": "ok", "indexer:2": "off"}, "healthy", "connected", "ok"),
    ({"indexer:1": "ok", "indexer:2": "degraded"}, "degraded", "connected", "lagging"),
    ({"indexer:1": "degraded", "indexer:2": "failed"}, "degraded", "connected", "stalled"),
]


async def test_health_is_as_good_as_its_worst_part(api: Api) -> None:
    for states, status, redis, indexer in PARTS:
        api.states = states
        api.app = api.make_app()  # what was asked is kept for a second
        answer = (await api.ask("GET", "/health")).json()
        assert (answer["status"], answer["redis"], answer["indexer"]) == (status, redis, indexer)


async def test_without_its_database_the_service_is_unhealthy_but_alive(api: Api) -> None:
    async with Database.open(database_config("postgresql://postgres@127.0.0.1:1/nothing", (14, 1))) as away:
        api.house.http_database = away
        api.app = api.make_app()
        answer = await api.ask("GET", "/health")
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "1"
        problem = answer.json()
        assert (problem["error"], problem["database"]) == ("unhealthy", "disconnected")
        assert (await api.ask("GET", "/health/live")).json() == {"status": "alive"}
        refused = await api.ask("GET", "/api/v1/triggers", key="sk_live_" + "x" * 43)
        assert (refused.status, refused.json()["error"]) == (503, "service_unavailable")


async def test_ready_lists_every_part(api: Api) -> None:
    answer = await api.ask("GET", "/api/v1/health/ready")
    assert (answer.status, answer.json()) == (200, {"status": "ready", "components": dict(api.states)})


async def test_a_failed_part_or_a_stop_in_progress_is_not_ready(api: Api) -> None:
    api.states["evaluator"] = "failed"
    api.draining = True
    answer = await api.ask("GET", "/health/ready")
    problem = answer.json()
    assert (answer.status, problem["error"], problem["failing"]) == (503, "not_ready", ["evaluator", "stopping"])
    assert problem["components"]["database"] == "ok"


async def test_a_degraded_part_is_ready(api: Api) -> None:
    api.states["redis"] = "degraded"
    assert (await api.ask("GET", "/health/ready")).status == 200


async def test_metrics_are_open_in_development(api: Api) -> None:
    answer = await api.ask("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"agentauri_http_requests_total" in answer.body


async def test_requests_and_credentials_are_counted_by_route_and_outcome(api: Api) -> None:
    def counted() -> list[float]:
        route = {"method": "GET", "route": "/api/v1/events"}
        samples: list[tuple[str, dict[str, str]]] = [
            ("http_requests_total", {**route, "status": "401"}),
            ("http_request_duration_seconds_count", route),
            ("auth_attempts_total", {"kind": "api_key", "outcome": "refused"}),
            ("http_requests_in_flight", {}),
        ]
        return [REGISTRY.get_sample_value(f"agentauri_{name}", labels) or 0.0 for name, labels in samples]

    before = counted()
    assert (await api.ask("GET", "/api/v1/events", key="sk_live_" + "x" * 43)).status == 401

    assert [now - was for now, was in zip(counted(), before, strict=True)] == [1, 1, 1, 0]


async def test_metrics_without_the_role_http_come_with_the_probes_and_nothing_else(api: Api) -> None:
    api.app = api.make_app(probes_only=True)

    assert b"agentauri_events_processed_total" in (await api.ask("GET", "/metrics")).body
    assert (await api.ask("GET", "/health/live")).status == 200
    assert (await api.ask("GET", "/health/ready")).status == 200
    for path in ("/", "/problems", "/api/v1/events", "/api/v1/openapi.json"):
        assert (await api.ask("GET", path)).status == 404, path


async def test_an_answer_of_not_ready_is_not_kept_as_long_as_one_of_ready(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "KEPT_SECONDS", 1000.0)
    monkeypatch.setattr(health, "FAILING_KEPT_SECONDS", 0.0)
    api.app = api.make_app()
    api.states["migrations"] = "failed"
    assert (await api.ask("GET", "/health/ready")).status == 503
    api.states["migrations"] = "ok"
    assert (await api.ask("GET", "/health/ready")).status == 200
    api.states = api.states | {"migrations": "failed"}

    assert (await api.ask("GET", "/health/ready")).status == 200


@pytest.mark.parametrize("path", ["/health/doctor", "/api/v1/health/doctor"])
async def test_the_doctor_tells_those_who_may_read_metrics_and_nobody_else(api: Api, path: str) -> None:
    answer = await api.ask("GET", path)

    checks = {one["check"]: one for one in answer.json()["checks"]}
    assert (answer.status, answer.json()["result"]) == (200, "fail")  # nobody works here
    assert checks["database"]["result"] == "ok"
    assert checks["workers:dispatcher"]["fix"]
    api.app = api.make_app(replace(api.house.config.server, metrics_token=Secret("the-token")))
    assert (await api.ask("GET", path)).status == 401
    api.app = api.make_app(environment="production")
    api.peer = "8.8.8.8"
    assert (await api.ask("GET", path)).status == 404


async def test_metrics_want_their_token_where_one_is_set(api: Api) -> None:
    api.app = api.make_app(replace(api.house.config.server, metrics_token=Secret("the-token")))
    for authorization, status in {"Bearer the-token": 200, "Bearer the-tokex": 401, "the-token": 401}.items():
        answer = await api.ask("GET", "/metrics", headers={"Authorization": authorization})
        assert answer.status == status
    assert (await api.ask("GET", "/metrics")).json()["error"] == "unauthorized"


async def test_in_production_metrics_are_for_our_own_network_only(api: Api) -> None:
    api.app = api.make_app(environment="production")
    for peer, forwarded, status in [
        ("127.0.0.1", {}, 200),
        ("10.1.2.3", {}, 200),
        ("::1", {}, 200),
        ("8.8.8.8", {}, 404),
        ("", {}, 404),
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, 404),
        ("127.0.0.1", {"Forwarded": "for=127.0.0.1"}, 404),
    ]:
        api.peer = peer
        assert (await api.ask("GET", "/metrics", headers=forwarded)).status == status, (peer, forwarded)


async def test_every_problem_that_is_answered_is_described(api: Api) -> None:
    listed = {problem["slug"]: problem for problem in (await api.ask("GET", "/problems")).json()["data"]}
    for method, path in [("GET", "/nothing"), ("GET", "/api/v1/triggers"), ("PUT", "/"), ("GET", "/api/v1/events/x")]:
        problem = (await api.ask(method, path)).json()
        described = (await api.ask("GET", problem["type"])).json()
        assert described == listed[problem["type"].removeprefix("/problems/")]
        assert (described["error"], described["status"]) == (problem["error"], problem["status"])
        assert described["title"] == problem["title"]
    assert (await api.ask("GET", "/problems/no-such-problem")).status == 404


async def test_the_interface_is_described_as_it_is(api: Api) -> None:
    answer = await api.ask("GET", "/api/v1/openapi.json")
    document = answer.json()
    assert answer.headers["Cache-Control"] == "no-cache"
    assert document == json.loads(openapi_document())
    assert document["openapi"].startswith("3.1")
    described = {
        f"{method.upper()} {path}"
        for path, item in document["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert described == set(ROUTES)
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["summary"] for operation in operations)


def test_every_schema_of_the_description_is_one() -> None:
    document = json.loads(openapi_document())
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for item in document["paths"].values():
        for operation in item.values():
            for parameter in operation["parameters"]:
                Draft202012Validator.check_schema(parameter["schema"])


def test_the_description_says_who_may_ask_and_what_may_be_answered() -> None:
    paths = json.loads(openapi_document())["paths"]
    create = paths["/api/v1/triggers"]["post"]
    assert create["security"] == [{"apiKey": []}, {"bearer": []}]
    assert create["x-required-scope"] == "write:triggers"
    assert {"201", "400", "401", "403", "404", "413", "415", "422", "500", "503"} <= create["responses"].keys()
    assert paths["/api/v1/events"]["get"]["security"][0] == {}
    assert paths["/health"]["get"]["security"] == []
    limit = next(
        parameter for parameter in paths["/api/v1/events"]["get"]["parameters"] if parameter["name"] == "limit"
    )
    assert limit["schema"] == {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}


async def test_the_shipped_script_grades_the_headers(api: Api, serve: Serve) -> None:
    for hsts, grade, code in ((True, "A", 0), (False, "B", 1)):
        url = await serve(api.make_app(replace(api.house.config.server, enable_hsts=hsts)))
        asked = await asyncio.create_subprocess_exec(SCRIPT, url, stdout=subprocess.PIPE)
        told, _ = await asked.communicate()
        assert f"Grade: {grade}" in told.decode(), told.decode()
        assert asked.returncode == code
