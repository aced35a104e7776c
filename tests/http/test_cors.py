"""Which pages of other origins may read answers."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from .conftest import Api

OURS = "https://app.example.org"


@pytest.fixture
def open_to_ours(api: Api) -> Api:
    api.app = api.make_app(replace(api.house.config.server, cors_origins=(OURS,)))
    return api


async def test_a_page_of_an_allowed_origin_may_read_answers_and_errors(open_to_ours: Api) -> None:
    for path in ("/api/v1/chains", "/api/v1/triggers", "/nothing", "/" + "a" * 9000):
        answer = await open_to_ours.ask("GET", path, headers={"Origin": OURS})
        assert answer.headers["Access-Control-Allow-Origin"] == OURS, path
        assert "X-RateLimit-Remaining" in answer.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert answer.headers["Vary"] == "Origin"


async def test_a_page_of_any_other_origin_may_not(open_to_ours: Api) -> None:
    for origin in ("https://app.example.com", "http://app.example.org", f"{OURS}.evil.example", "null", "*", ""):
        answer = await open_to_ours.ask("GET", "/api/v1/chains", headers={"Origin": origin})
        assert (answer.status, answer.headers["Vary"]) == (200, "Origin")
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_a_preflight_is_answered_without_a_credential(open_to_ours: Api) -> None:
    asked = {"Origin": OURS, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    answer = await open_to_ours.ask("OPTIONS", "/api/v1/triggers", headers=asked)
    assert (answer.status, answer.body) == (204, b"")
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert "X-API-Key" in answer.headers["Access-Control-Allow-Headers"]
    assert answer.headers["Access-Control-Max-Age"] == "3600"
    refused = await open_to_ours.ask("OPTIONS", "/api/v1/triggers", headers=asked | {"Origin": "https://evil.example"})
    assert not [name for name in refused.headers if name.startswith("Access-Control")]


async def test_in_development_the_usual_local_pages_may(api: Api) -> None:
    answer = await api.ask("GET", "/api/v1/chains", headers={"Origin": "http://localhost:3000"})
    assert answer.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
