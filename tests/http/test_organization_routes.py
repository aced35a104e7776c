"""Organizations over HTTP: made, shared, handed over and ended; and what is put down about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from agentauri.accounts import SYSTEM, GivenRole
from agentauri.types import OrganizationId, UserId

from .conftest import Api
from .test_auth_routes import Person, register

MakeKey = Callable[..., Awaitable[str]]


async def make(person: Person, slug: str = "acme", **fields: Any) -> dict[str, Any]:
    answer = await person.ask("POST", "/organizations", {"name": slug.title(), "slug": slug, **fields})
    assert answer.status == 201, answer.body
    made: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"/api/v1/organizations/{made['id']}"
    return made


async def join(api: Api, organization_id: str, person: Person, role: GivenRole) -> None:
    """What accepting an invitation will come to."""
    async with api.house.database.transaction() as tx:
        await api.house.members.add(tx, SYSTEM, OrganizationId(organization_id), UserId(person.id), role)


async def test_a_user_makes_an_organization_and_it_is_hers(api: Api) -> None:
    alice = await register(api)

    made = await make(alice, description="rockets")

    assert (made["slug"], made["plan"], made["is_personal"], made["my_role"]) == ("acme", "free", False, "owner")
    assert (await alice.ask("GET", f"/organizations/{made['id']}")).json() == made
    listed = (await alice.ask("GET", "/organizations")).json()
    assert [one["slug"] for one in listed["data"]] == ["acme", "alice-personal"]
    assert listed["pagination"]["total"] == 2


async def test_a_key_makes_no_organization_and_sees_its_own_only(api: Api, key: str) -> None:
    refused = await api.ask("POST", "/api/v1/organizations", key=key, json={"name": "A", "slug": "a"})
    listed = (await api.ask("GET", "/api/v1/organizations", key=key)).json()["data"]

    assert (refused.status, refused.json()["error"]) == (403, "forbidden")
    assert [(one["slug"], one["my_role"]) for one in listed] == [("acme", None)]


async def test_a_refused_organization_names_the_field(api: Api) -> None:
    alice = await register(api)
    for changes, field in [
        ({"name": ""}, "name"),
        ({"name": "  "}, "name"),
        ({"slug": "-a"}, "slug"),
        ({"slug": "A b"}, "slug"),
        ({"slug": "a\n"}, "slug"),
        ({"slug": "a" * 101}, "slug"),
        ({"description": "x" * 1001}, "description"),
        ({"plan": "pro"}, "plan"),
    ]:
        answer = await alice.ask("POST", "/organizations", {"name": "A", "slug": "a"} | changes)
        assert answer.status == 422, changes
        assert [error["field"] for error in answer.json()["errors"]] == [field]


async def test_a_slug_that_the_owner_has_is_taken(api: Api) -> None:
    alice = await register(api)
    await make(alice)
    answer = await alice.ask("POST", "/organizations", {"name": "A", "slug": "acme"})
    assert (answer.status, answer.json()["error"]) == (409, "slug_exists")


async def test_fields_change_by_patch_and_null_means_leave_it_in_a_put(api: Api) -> None:
    alice = await register(api)
    address = f"/organizations/{(await make(alice, description='rockets'))['id']}"

    put = await alice.ask("PUT", address, {"name": "Acme & Sons", "description": None})
    patched = await alice.ask("PATCH", address, {"slug": "sons", "description": None})

    assert (put.json()["name"], put.json()["description"]) == ("Acme & Sons", "rockets")
    assert (patched.json()["slug"], patched.json()["description"]) == ("sons", None)


async def test_members_of_each_role_may_what_the_table_says(api: Api) -> None:
    alice, bob = await register(api), await register(api, "bob")
    made = await make(alice)
    address = f"/organizations/{made['id']}"
    assert (await bob.ask("GET", address)).status == 404

    await join(api, made["id"], bob, "viewer")
    assert (await bob.ask("GET", address)).json()["my_role"] == "viewer"
    for method, path, body, scope in [
        ("PATCH", "", {"name": "x"}, "write:organizations"),
        ("DELETE", "", None, "admin:all"),
        ("GET", "/audit-log", None, "read:audit"),
        ("POST", "/transfer", {"new_owner_id": bob.id}, "admin:all"),
        ("PATCH", f"/members/{bob.id}", {"role": "admin"}, "admin:all"),
        ("DELETE", f"/members/{alice.id}", None, "write:organizations"),
    ]:
        refused = await bob.ask(method, address + path, body)
        assert (refused.status, refused.json()["required_scope"]) == (403, scope), path


async def test_an_owner_raises_a_member_who_then_sees_the_audit_log_and_leaves(api: Api) -> None:
    alice, bob = await register(api), await register(api, "bob")
    made = await make(alice)
    address = f"/organizations/{made['id']}"
    await join(api, made["id"], bob, "viewer")
    listed = (await bob.ask("GET", f"{address}/members")).json()["data"]
    assert {one["username"]: one["email"] for one in listed} == {"alice": "a***@e***.org", "bob": "bob@example.org"}

    raised = await alice.ask("PATCH", f"{address}/members/{bob.id}", {"role": "admin"})
    log = (await bob.ask("GET", f"{address}/audit-log")).json()["data"]
    left = await bob.ask("DELETE", f"{address}/members/{bob.id}")

    assert (raised.status, raised.json()["role"], left.status) == (200, "admin", 204)
    assert [entry["event"] for entry in log] == ["member.role_changed", "member.joined", "organization.created"]
    assert (log[0]["actor"]["type"], log[0]["actor"]["name"]) == ("user", "alice")
    assert log[0]["target"] == {"type": "user", "id": bob.id}
    assert log[0]["details"] == {"old": "viewer", "new": "admin"}
    assert (await bob.ask("GET", address)).status == 404
    assert (await alice.ask("GET", f"{address}/members?status=invited")).json()["data"] == []


async def test_the_audit_log_is_filtered_and_paged(api: Api) -> None:
    alice = await register(api)
    made = await make(alice)
    address = f"/organizations/{made['id']}"
    for name in ("one", "two", "three"):
        await alice.ask("PATCH", address, {"name": name})
    await alice.ask("POST", f"{address}/api-keys", {"name": "k", "environment": "live"})

    by_prefix = (await alice.ask("GET", f"{address}/audit-log?event=api_key.")).json()["data"]
    first = (await alice.ask("GET", f"{address}/audit-log?event=organization.updated&limit=2")).json()
    cursor = first["pagination"]["next_cursor"]
    rest = (await alice.ask("GET", f"{address}/audit-log?event=organization.updated&limit=2&cursor={cursor}")).json()
    oldest = (await alice.ask("GET", f"{address}/audit-log?order=asc&limit=1")).json()["data"]

    assert [entry["event"] for entry in by_prefix] == ["api_key.created"]
    assert [entry["details"]["name"]["new"] for entry in first["data"] + rest["data"]] == ["three", "two", "one"]
    assert [entry["event"] for entry in oldest] == ["organization.created"]


async def test_an_organization_is_handed_over(api: Api) -> None:
    alice, bob = await register(api), await register(api, "bob")
    made = await make(alice)
    address = f"/organizations/{made['id']}"
    stranger = await alice.ask("POST", f"{address}/transfer", {"new_owner_id": bob.id})
    await join(api, made["id"], bob, "member")

    done = await alice.ask("POST", f"{address}/transfer", {"new_owner_id": bob.id})

    assert stranger.status == 422
    assert (done.status, done.json()["owner_id"], done.json()["my_role"]) == (200, bob.id, "admin")
    assert (await bob.ask("GET", address)).json()["my_role"] == "owner"
    assert (await alice.ask("DELETE", address)).status == 403


async def test_an_organization_ends_with_its_keys_triggers_and_what_waits(api: Api) -> None:
    alice = await register(api)
    made = await make(alice)
    address = f"/organizations/{made['id']}"
    here = {"X-Organization-ID": made["id"]}
    body = {"name": "k", "environment": "live", "permissions": ["read", "write"]}
    key = (await alice.ask("POST", f"{address}/api-keys", body)).json()["key"]
    action = {"action_type": "webhook", "config": {"url": "http://127.0.0.1:9/"}}
    wanted = {"name": "t", "match_all": True, "actions": [action]}
    trigger = (await api.ask("POST", "/api/v1/triggers", key=key, json=wanted)).json()
    await api.ask("POST", "/api/v1/agents/42/follow", key=key, json={"chain_id": 84532, "actions": [action]})
    sent = f"/api/v1/triggers/{trigger['id']}/actions/{trigger['actions'][0]['id']}/send-test"
    delivery = (await api.ask("POST", sent, key=key)).json()

    assert (await alice.ask("DELETE", address)).status == 204

    assert (await api.ask("GET", "/api/v1/triggers", key=key)).status == 401
    assert (await alice.ask("GET", "/triggers", **here)).status == 404
    async with api.house.database.transaction() as tx:
        for table in ("triggers", "follows", "api_keys"):
            assert await tx.fetchval(f"SELECT count(*) FROM {table} WHERE organization_id = $1", made["id"]) == 0
        ended = await tx.fetchrow("SELECT status, reason FROM deliveries WHERE id = $1", delivery["id"])
    assert ended is not None
    assert tuple(ended) == ("skipped", "trigger_deleted")


async def test_a_personal_organization_stays_until_its_user_goes_and_then_ends_whole(api: Api) -> None:
    alice = await register(api)
    me = (await alice.ask("GET", "/auth/me")).json()
    body = {"name": "k", "environment": "live", "permissions": ["read", "write"]}
    key = (await alice.ask("POST", "/api-keys", body)).json()["key"]
    assert (await api.ask("POST", "/api/v1/triggers", key=key, json={"name": "t"})).status == 201

    kept = await alice.ask("DELETE", f"/organizations/{me['organization_id']}")
    gone = await alice.ask("DELETE", "/auth/me", {"password": "correct horse battery"})

    assert (kept.status, kept.json()["error"], gone.status) == (409, "conflict", 204)
    assert (await api.ask("GET", "/api/v1/triggers", key=key)).status == 401
    async with api.house.database.transaction() as tx:
        assert await tx.fetchval("SELECT count(*) FROM triggers") == 0


async def test_what_is_under_an_organizations_address_is_the_same_as_without_it(api: Api) -> None:
    alice = await register(api)
    made = await make(alice)
    here, address = {"X-Organization-ID": made["id"]}, f"/organizations/{made['id']}"
    await alice.ask("POST", "/triggers", {"name": "t"}, **here)
    await alice.ask("POST", "/api-keys", {"name": "k", "environment": "live"}, **here)
    for within, plain in [
        ("/triggers", "/triggers"),
        ("/api-keys", "/api-keys"),
        ("/api-keys/stats", "/api-keys/stats"),
        ("/credits/balance", "/billing/credits"),
        ("/credits/transactions", "/billing/transactions"),
    ]:
        found = await alice.ask("GET", address + within)
        assert found.status == 200, within
        assert found.json() == (await alice.ask("GET", plain, **here)).json(), within
    assert len((await alice.ask("GET", f"{address}/triggers")).json()["data"]) == 1
    assert (await alice.ask("GET", "/triggers")).json()["data"] == []
