"""The documentation page, and what an installation says of itself."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from msgspec.structs import replace

from agentauri.config import DiscoveryConfig
from agentauri.http.routes.docs import FILES, FOLDER
from agentauri.types import utc_now

from .conftest import Api


async def test_the_page_is_made_of_our_own_files_and_no_script_stands_in_it(api: Api) -> None:
    page = await api.ask("GET", "/api-docs/")
    html = page.body.decode()
    asked = re.findall(r'(?:src|href)="([^"]+)"', html)

    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["Cache-Control"] == "no-store"
    assert "script-src 'self';" in page.headers["Content-Security-Policy"]
    assert "unsafe-eval" not in page.headers["Content-Security-Policy"]
    assert not re.findall(r"<script(?![^>]*src=)|\son\w+=|<style", html)
    assert all(path.startswith("/") and not path.startswith("//") for path in asked)
    for path in asked:
        answer = await api.ask("GET", path)
        assert answer.status == 200, path
        if path.startswith("/api-docs/"):
            assert answer.headers["Cache-Control"] == "public, max-age=86400"
            assert answer.headers["Content-Type"].partition(";")[0] == FILES[path.removeprefix("/api-docs/")]


async def test_the_viewer_is_told_to_ask_nobody_else(api: Api) -> None:
    start = (FOLDER / "start.js").read_text()
    assert "validatorUrl: null" in start
    assert 'url: "/api/v1/openapi.json"' in start
    assert "http:" not in start
    assert "https:" not in start


async def test_nothing_else_of_that_folder_is_served(api: Api) -> None:
    for name in ("README.md", "..%2fapp.py", "../app.py", "index.html"):
        assert (await api.ask("GET", f"/api-docs/{name}")).status == 404


async def test_the_page_can_be_switched_off(api: Api) -> None:
    api.app = api.make_app(replace(api.house.config.server, api_docs=False))
    assert (await api.ask("GET", "/api-docs/")).status == 404
    assert (await api.ask("GET", "/")).json()["docs"] is None


async def test_there_is_no_security_txt_until_somebody_is_named(api: Api) -> None:
    assert (await api.ask("GET", "/.well-known/security.txt")).status == 404
    found = DiscoveryConfig(security_email="security@example.org", security_policy_url="https://example.org/policy")
    api.app = api.make_app(replace(api.house.config.server, discovery=found, base_url="https://api.example.org"))
    answer = await api.ask("GET", "/.well-known/security.txt")
    fields = dict(line.split(": ", 1) for line in answer.body.decode().splitlines())

    expires = datetime.fromisoformat(fields.pop("Expires"))
    assert timedelta(days=364) < expires - utc_now() < timedelta(days=366)
    assert fields == {
        "Contact": "mailto:security@example.org",
        "Policy": "https://example.org/policy",
        "Canonical": "https://api.example.org/.well-known/security.txt",
        "Preferred-Languages": "en",
    }
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Cache-Control"] == "public, max-age=300"


async def test_the_agent_document_tells_what_there_is_to_everybody(api: Api) -> None:
    answer = await api.ask("GET", "/.well-known/agent.json", headers={"Origin": "http://localhost:3000"})
    document = answer.json()

    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    tiers = {tier["tier"]: tier["rate_limit"] for tier in document["capabilities"]["rate_limiting"]["tiers"]}
    assert tiers == {"anonymous": 10, "free": 50, "starter": 100, "pro": 500, "enterprise": 2000}
    chains = (await api.ask("GET", "/api/v1/chains")).json()["data"]
    supported = document["capabilities"]["push_layer"]["supported_chains"]
    assert [chain["chain_id"] for chain in supported] == [chain["chain_id"] for chain in chains if chain["enabled"]]
    for url in list(document["endpoints"].values())[1:]:
        path = url.removeprefix(document["base_url"])
        assert (await api.ask("GET", path)).status in (200, 401), path
