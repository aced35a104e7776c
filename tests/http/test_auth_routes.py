"""Accounts over HTTP: a stranger becomes a user, works, and ends what she began."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from .conftest import Answer, Api

MakeKey = Callable[..., Awaitable[str]]
PASSWORD = "correct horse battery"


class Person:
    """Somebody with an account, at her browser."""

    def __init__(self, api: Api, result: dict[str, Any]) -> None:
        self.api = api
        self.result = result
        self.id: str = result["user"]["id"]

    async def ask(self, method: str, path: str, json: Any = None, **headers: str) -> Answer:
        bearer = {"Authorization": f"Bearer {self.result['token']}"}
        return await self.api.ask(method, f"/api/v1{path}", json=json, headers=bearer | headers)


async def register(api: Api, name: str = "alice") -> Person:
    body = {"username": name, "email": f"{name}@example.org", "password": PASSWORD}
    answer = await api.ask("POST", "/api/v1/auth/register", json=body)
    assert answer.status == 201, answer.body
    return Person(api, answer.json())


async def login(api: Api, name: str = "alice", password: str = PASSWORD) -> Answer:
    return await api.ask("POST", "/api/v1/auth/login", json={"username_or_email": name, "password": password})


async def test_a_stranger_registers_and_is_known_from_then_on(api: Api) -> None:
    alice = await register(api)

    me = (await alice.ask("GET", "/auth/me")).json()

    assert alice.result["token_type"] == "Bearer"
    assert alice.result["expires_in"] == 3600
    assert (me["type"], me["username"], me["email"], me["plan"]) == ("user", "alice", "alice@example.org", "free")
    assert me["mfa_enabled"] is False
    assert me["wallets"] == []
    assert me["providers"] == ["email"]
    assert me["organizations"] == [
        {
            "id": me["organization_id"],
            "name": "alice's Personal",
            "slug": "alice-personal",
            "role": "owner",
            "plan": "free",
        }
    ]


async def test_a_refused_registration_names_the_fields_and_makes_nobody(api: Api) -> None:
    body = {"username": "a", "email": "nowhere", "password": "short"}
    answer = await api.ask("POST", "/api/v1/auth/register", json=body)

    assert answer.status == 422
    assert {error["field"] for error in answer.json()["errors"]} == {"username", "email", "password"}
    await register(api)
    again = await api.ask("POST", "/api/v1/auth/register", json=body | {"username": "ALICE", "email": "x@example.org",
                                                                        "password": PASSWORD})  # fmt: skip
    assert (again.status, again.json()["error"]) == (409, "username_exists")


async def test_logging_in_gives_tokens_and_a_wrong_password_the_one_answer(api: Api) -> None:
    await register(api)

    good, wrong, unknown = await login(api), await login(api, password="wrong wrong wrong"), await login(api, "nobody")

    assert good.status == 200
    assert (wrong.status, wrong.json()["error"]) == (401, "invalid_credentials")
    assert unknown.json() | {"request_id": ""} == wrong.json() | {"request_id": ""}
    both = {"username": "alice", "email": "alice@example.org", "password": PASSWORD}
    assert (await api.ask("POST", "/api/v1/auth/login", json=both)).status == 422


async def test_five_failures_lock_the_login_with_the_seconds_left(api: Api) -> None:
    for _ in range(5):
        assert (await login(api, "nobody")).status == 401

    locked = await login(api, "nobody")

    assert (locked.status, locked.json()["error"]) == (429, "account_locked")
    assert 890 < int(locked.headers["Retry-After"]) <= 900


async def test_a_refresh_token_is_exchanged_once(api: Api) -> None:
    alice = await register(api)
    body = {"refresh_token": alice.result["refresh_token"]}

    fresh = await api.ask("POST", "/api/v1/auth/refresh", json=body)
    again = await api.ask("POST", "/api/v1/auth/refresh", json=body)

    assert fresh.status == 200
    assert (again.status, again.json()["error"]) == (401, "invalid_refresh_token")
    ended = await api.ask("POST", "/api/v1/auth/refresh", json={"refresh_token": fresh.json()["refresh_token"]})
    assert ended.status == 401


async def test_logging_out_ends_the_token_and_answers_everybody_the_same(api: Api) -> None:
    alice = await register(api)

    out = await alice.ask("POST", "/auth/logout")
    nobody = await api.ask("POST", "/api/v1/auth/logout", json={"refresh_token": "urt_unknown"})

    assert out.json() == nobody.json()
    assert out.json()["success"] is True
    after = await alice.ask("GET", "/auth/me")
    assert (after.status, after.json()["message"]) == (401, "Invalid or expired token")


async def test_what_is_a_users_is_refused_to_keys_and_strangers(api: Api, make_key: MakeKey) -> None:
    key = await make_key()
    for method, path in (("GET", "/auth/sessions"), ("GET", "/auth/security-log"), ("DELETE", "/auth/me")):
        assert (await api.ask(method, f"/api/v1{path}")).status == 401
        assert (await api.ask(method, f"/api/v1{path}", key=key)).status == 403


async def test_a_key_is_told_what_it_is(api: Api, make_key: MakeKey) -> None:
    me = (await api.ask("GET", "/api/v1/auth/me", key=await make_key())).json()

    assert (me["type"], me["environment"], me["key_type"]) == ("api_key", "live", "standard")
    assert me["permissions"] == ["read", "write", "delete"]
    assert "read:triggers" in me["scopes"]
    assert (await api.ask("GET", "/api/v1/auth/me")).status == 401


async def test_changing_oneself_takes_the_password_where_it_matters(api: Api) -> None:
    alice = await register(api)

    assert (await alice.ask("PATCH", "/auth/me", {"name": "Alice"})).json()["name"] == "Alice"
    assert (await alice.ask("PATCH", "/auth/me", {"email": "new@example.org"})).status == 401
    changed = await alice.ask("PATCH", "/auth/me", {"email": "new@example.org", "current_password": PASSWORD})
    assert changed.json()["email"] == "new@example.org"
    kept = await alice.ask("PUT", "/auth/me", {"name": None, "avatar": "https://example.org/a.png"})
    assert (kept.json()["name"], kept.json()["avatar"]) == ("Alice", "https://example.org/a.png")
    assert (await alice.ask("PATCH", "/auth/me", {"avatar": "http://example.org/a.png"})).status == 422


async def test_sessions_are_listed_and_ended(api: Api) -> None:
    alice = await register(api)
    other = Person(api, (await login(api)).json())

    sessions = (await alice.ask("GET", "/auth/sessions")).json()["data"]
    assert [one["current"] for one in sessions] == [False, True]
    assert (await alice.ask("DELETE", f"/auth/sessions/{sessions[0]['id']}")).status == 204
    assert (await other.ask("GET", "/auth/me")).status == 401
    assert (await alice.ask("DELETE", f"/auth/sessions/{sessions[0]['id']}")).status == 404


async def test_a_new_password_replaces_the_old_one(api: Api) -> None:
    alice = await register(api)

    wrong = {"current_password": "wrong wrong wrong", "new_password": "another long password"}
    assert (await alice.ask("POST", "/auth/password", wrong)).status == 401
    assert (await alice.ask("POST", "/auth/password", wrong | {"current_password": PASSWORD})).status == 204

    assert (await login(api)).status == 401
    assert (await login(api, password="another long password")).status == 200


async def test_the_security_log_tells_what_one_did_oneself(api: Api) -> None:
    alice = await register(api)
    await register(api, "bob")

    entries = (await alice.ask("GET", "/auth/security-log")).json()["data"]

    assert [entry["event"] for entry in entries] == ["account.logged_in", "account.registered"]
    assert {entry["actor"]["id"] for entry in entries} == {alice.id}


async def test_deleting_oneself_takes_the_account_away(api: Api) -> None:
    alice = await register(api)

    assert (await alice.ask("DELETE", "/auth/me", {"password": "wrong wrong wrong"})).status == 401
    assert (await alice.ask("DELETE", "/auth/me", {"password": PASSWORD})).status == 204
    assert (await login(api)).status == 401


async def test_a_user_works_in_her_own_organization_and_in_the_one_that_she_names(api: Api, key: str) -> None:
    alice = await register(api)
    made = await alice.ask("POST", "/triggers", {"name": "mine", "environment": "test"})
    assert (made.status, made.json()["environment"]) == (201, "test")
    async with api.house.database.transaction() as tx:
        acme = (await api.house.organizations.find(tx, "acme")).id
        assert (await alice.ask("GET", "/triggers", **{"X-Organization-ID": acme})).status == 404
        await tx.run(
            "INSERT INTO memberships (organization_id, user_id, role) VALUES ($1, $2, 'viewer')", acme, alice.id
        )
    await api.ask("POST", "/api/v1/triggers", key=key, json={"name": "theirs"})

    seen = await alice.ask("GET", "/triggers", **{"X-Organization-ID": acme})
    mine = await alice.ask("GET", "/triggers")
    refused = await alice.ask("POST", "/triggers", {"name": "x", "organization_id": acme})

    assert [one["name"] for one in seen.json()["data"]] == ["theirs"]
    assert [one["name"] for one in mine.json()["data"]] == ["mine"]
    assert (refused.status, refused.json()["required_scope"]) == (403, "write:triggers")
    conflict = await alice.ask("GET", f"/triggers?organization_id={alice.id}", **{"X-Organization-ID": acme})
    assert (conflict.status, conflict.json()["error"]) == (400, "organization_conflict")


async def test_no_secret_of_an_account_is_in_its_tables(api: Api) -> None:
    alice = await register(api)
    planted = [PASSWORD, alice.result["token"], alice.result["refresh_token"]]
    async with api.house.database.transaction() as tx:
        for table in ("users", "sessions", "refresh_tokens", "lockouts", "auth_failures", "audit_log", "identities"):
            dump = await tx.fetchval(f"SELECT coalesce(string_agg(t::text, ' '), '') FROM {table} AS t")
            assert not [secret for secret in planted if secret in dump], table
