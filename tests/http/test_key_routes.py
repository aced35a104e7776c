"""API keys over HTTP: the life of a key, and that nobody makes herself stronger with one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from .conftest import Api

MakeKey = Callable[..., Awaitable[str]]
ALL = ("read", "write", "delete", "admin")


@pytest.fixture
async def admin(make_key: MakeKey) -> str:
    return await make_key(key_type="admin", permissions=ALL)


async def make(api: Api, admin: str, **fields: Any) -> dict[str, Any]:
    body = {"name": "bot", "environment": "live", **fields}
    answer = await api.ask("POST", "/api/v1/api-keys", key=admin, json=body)
    assert answer.status == 201, answer.body
    made: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"/api/v1/api-keys/{made['id']}"
    return made


async def test_a_key_is_shown_once_works_and_is_told_of_without_itself(api: Api, admin: str) -> None:
    made = await make(api, admin, rate_limit_override=50)

    shown = await api.ask("GET", f"/api/v1/api-keys/{made['id']}", key=admin)
    listed = await api.ask("GET", "/api/v1/api-keys", key=admin)

    assert made["permissions"] == ["read"]
    assert made["prefix"] == made["key"][:16]
    assert (await api.ask("GET", "/api/v1/triggers", key=made["key"])).status == 200
    assert (await api.ask("POST", "/api/v1/triggers", key=made["key"], json={"name": "t"})).status == 403
    assert shown.json() == {name: value for name, value in made.items() if name != "key"}
    assert listed.json()["data"][0]["id"] == made["id"]
    for answer in (shown, listed):
        assert made["key"].encode() not in answer.body


async def test_a_key_that_is_no_admins_makes_no_keys(api: Api, key: str) -> None:
    refused = await api.ask("POST", "/api/v1/api-keys", key=key, json={"name": "k", "environment": "live"})
    assert (refused.status, refused.json()["required_scope"]) == (403, "write:api-keys")


async def test_a_key_cannot_be_given_more_than_its_maker_has(api: Api, admin: str) -> None:
    strong = {"name": "k", "environment": "live", "key_type": "admin", "permissions": list(ALL)}
    owners = await api.ask("POST", "/api/v1/api-keys", key=admin, json=strong | {"scopes": ["admin:all"]})
    other = await api.ask("POST", "/api/v1/api-keys", key=admin, json={"name": "k", "environment": "test"})
    assert (owners.status, other.status) == (403, 403)
    assert (await api.ask("POST", "/api/v1/api-keys", key=admin, json=strong)).status == 201


async def test_an_override_stays_within_the_plan(api: Api, make_key: MakeKey) -> None:
    admin = await make_key(plan="free", key_type="admin", permissions=ALL)
    body = {"name": "k", "environment": "live", "rate_limit_override": 51}
    refused = await api.ask("POST", "/api/v1/api-keys", key=admin, json=body)
    assert [error["field"] for error in refused.json()["errors"]] == ["rate_limit_override"]


async def test_fields_of_a_key_change_and_null_takes_an_end_away(api: Api, admin: str) -> None:
    made = await make(api, admin, expires_at="2029-01-01T00:00:00Z", rate_limit_override=5)
    address = f"/api/v1/api-keys/{made['id']}"

    named = await api.ask("PATCH", address, key=admin, json={"name": " robot ", "scopes": ["read:agents"]})
    freed = await api.ask("PATCH", address, key=admin, json={"expires_at": None, "rate_limit_override": None})

    assert (named.json()["name"], named.json()["scopes"]) == ("robot", ["read:agents"])
    assert (freed.json()["expires_at"], freed.json()["rate_limit_override"]) == (None, None)
    assert (await api.ask("GET", "/api/v1/triggers", key=made["key"])).status == 403
    widened = await api.ask("PATCH", address, key=admin, json={"scopes": ["write:triggers"]})
    assert [error["field"] for error in widened.json()["errors"]] == ["scopes"]


async def test_a_rotated_key_works_beside_its_successor(api: Api, admin: str) -> None:
    for word in ("rotate", "regenerate"):
        made = await make(api, admin, permissions=["read", "write"])

        rotated = await api.ask("POST", f"/api/v1/api-keys/{made['id']}/{word}", key=admin)

        new = rotated.json()
        assert (rotated.status, new["old_key_id"], new["scopes"]) == (200, made["id"], made["scopes"])
        assert new["old_key_revoked_at"] > new["created_at"]
        for key in (made["key"], new["key"]):
            assert (await api.ask("GET", "/api/v1/triggers", key=key)).status == 200
        again = await api.ask("POST", f"/api/v1/api-keys/{made['id']}/{word}", key=admin, json={})
        assert (again.status, again.json()["error"]) == (409, "conflict")


async def test_without_an_overlap_the_old_key_dies_at_once(api: Api, admin: str) -> None:
    made = await make(api, admin)
    assert (await api.ask("GET", "/api/v1/triggers", key=made["key"])).status == 200
    address = f"/api/v1/api-keys/{made['id']}/rotate"
    assert (await api.ask("POST", address, key=admin, json={"overlap_seconds": 0})).status == 200
    refused = await api.ask("GET", "/api/v1/triggers", key=made["key"])
    assert (refused.status, refused.json()["message"]) == (401, "Invalid or expired API key")


async def test_a_revoked_key_is_refused_and_told_of_with_its_reason(api: Api, admin: str) -> None:
    told: list[tuple[str, dict[str, str] | None]] = [("?reason=leaked", None), ("", {"reason": "lost"})]
    for query, body in told:
        made = await make(api, admin)
        address = f"/api/v1/api-keys/{made['id']}"

        revoked = await api.ask("DELETE", address + query, key=admin, json=body)

        assert (revoked.status, revoked.json()["is_active"], revoked.json()["is_revoked"]) == (200, False, True)
        assert (await api.ask("DELETE", address, key=admin)).json() == revoked.json()
        assert (await api.ask("GET", "/api/v1/triggers", key=made["key"])).status == 401
        assert (await api.ask("PATCH", address, key=admin, json={"name": "x"})).status == 409
        kept = await api.ask("GET", "/api/v1/api-keys", key=admin)
        every = await api.ask("GET", "/api/v1/api-keys?include_revoked=true", key=admin)
        assert made["id"] not in [one["id"] for one in kept.json()["data"]]
        assert made["id"] in [one["id"] for one in every.json()["data"]]
    own = (await api.ask("GET", "/api/v1/organizations", key=admin)).json()["data"][0]["id"]
    log = await api.ask("GET", f"/api/v1/organizations/{own}/audit-log?event=api_key.revoked", key=admin)
    assert [entry["details"]["reason"] for entry in log.json()["data"]] == ["lost", "leaked"]


async def test_a_key_of_another_organization_is_not_there_whatever_its_state(
    api: Api, admin: str, make_key: MakeKey
) -> None:
    made = await make(api, admin)
    stranger = await make_key("strangers", key_type="admin", permissions=ALL)
    for _ in ("active", "revoked"):
        for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate")):
            body: dict[str, str] | None = None if method in ("GET", "DELETE") else {}
            answer = await api.ask(method, f"/api/v1/api-keys/{made['id']}{path}", key=stranger, json=body)
            assert answer.status == 404, (method, path)
        await api.ask("DELETE", f"/api/v1/api-keys/{made['id']}", key=admin)
    assert (await api.ask("GET", "/api/v1/api-keys/not-an-id", key=admin)).status == 404


async def test_stats_count_what_callers_did(api: Api, admin: str) -> None:
    made = await make(api, admin)
    for _ in range(3):
        await api.ask("GET", "/api/v1/triggers", key=made["key"])
    await api.ask("GET", "/api/v1/triggers", key=made["key"][:-1] + "_")
    await api.house.api_keys.usage.write(api.house.database)

    stats = (await api.ask("GET", "/api/v1/api-keys/stats", key=admin)).json()
    shown = (await api.ask("GET", f"/api/v1/api-keys/{made['id']}", key=admin)).json()

    assert (stats["total_keys"], stats["active_keys"], stats["failed_auth_24h"]) == (2, 2, 1)
    assert stats["api_calls_total"] == stats["calls_24h"] == 4
    assert stats["keys_by_type"] == {"standard": 1, "restricted": 0, "admin": 1}
    assert shown["last_used_ip"] == "127.0.0.1"
