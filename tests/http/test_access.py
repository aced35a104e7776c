"""Who may use which route. The table is the promise; the application must say the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from agentauri.accounts import ADMIN_ALL, SCOPES
from agentauri.http.app import create_litestar
from agentauri.http.auth import WITHOUT_SCOPE
from agentauri.http.entrance import RouteTable, declared_access

from .conftest import Answer, Api

MakeKey = Callable[..., Awaitable[str]]

ROUTES = {
    "GET /": "open",
    "GET /health": "open",
    "GET /health/live": "open",
    "GET /health/ready": "open",
    "GET /api/v1/health": "open",
    "GET /api/v1/health/live": "open",
    "GET /api/v1/health/ready": "open",
    "GET /metrics": "open",
    "GET /health/doctor": "open",
    "GET /api/v1/health/doctor": "open",
    "GET /api-docs": "open",
    "GET /api-docs/{file}": "open",
    "GET /.well-known/agent.json": "open",
    "GET /.well-known/security.txt": "open",
    "GET /problems": "open",
    "GET /problems/{slug}": "open",
    "GET /api/v1/openapi.json": "open",
    "GET /api/v1/chains": "any",
    "GET /api/v1/chains/{chain_id}": "any",
    "GET /api/v1/indexer/status": "any",
    "GET /api/v1/indexer/events": "any",
    "GET /api/v1/ponder/status": "any",
    "GET /api/v1/ponder/events": "any",
    "GET /api/v1/agents": "any",
    "GET /api/v1/agents/{chain_id}/{agent_id}": "any",
    "GET /api/v1/agents/{chain_id}/{agent_id}/feedback": "any",
    "GET /api/v1/agents/{chain_id}/{agent_id}/validations": "any",
    "GET /api/v1/agents/{chain_id}/{agent_id}/validations/summary": "any",
    "GET /api/v1/agents/{chain_id}/{agent_id}/reputation": "any",
    "POST /api/v1/agents/{chain_id}/{agent_id}/reputation": "any",
    "GET /api/v1/events": "any",
    "GET /api/v1/events/{event_id}": "any",
    "POST /api/v1/auth/register": "cred",
    "POST /api/v1/auth/login": "cred",
    "POST /api/v1/auth/refresh": "cred",
    "POST /api/v1/auth/logout": "optional",
    "GET /api/v1/auth/me": "known",
    "PATCH /api/v1/auth/me": "user",
    "PUT /api/v1/auth/me": "user",
    "DELETE /api/v1/auth/me": "user",
    "GET /api/v1/auth/sessions": "user",
    "DELETE /api/v1/auth/sessions/{session_id}": "user",
    "POST /api/v1/auth/password": "user",
    "GET /api/v1/auth/security-log": "user",
    "POST /api/v1/organizations": "user",
    "GET /api/v1/organizations": "known",
    "GET /api/v1/organizations/{organization_id}": "read:organizations",
    "PATCH /api/v1/organizations/{organization_id}": "write:organizations",
    "PUT /api/v1/organizations/{organization_id}": "write:organizations",
    "POST /api/v1/organizations/{organization_id}/transfer": "admin:all",
    "GET /api/v1/organizations/{organization_id}/members": "read:organizations",
    "PATCH /api/v1/organizations/{organization_id}/members/{user_id}": "admin:all",
    "PUT /api/v1/organizations/{organization_id}/members/{user_id}": "admin:all",
    "DELETE /api/v1/organizations/{organization_id}/members/{user_id}": "read:organizations",
    "GET /api/v1/organizations/{organization_id}/audit-log": "read:audit",
    "GET /api/v1/organizations/{organization_id}/triggers": "read:triggers",
    "GET /api/v1/organizations/{organization_id}/credits/balance": "read:billing",
    "GET /api/v1/organizations/{organization_id}/credits/transactions": "read:billing",
    "POST /api/v1/organizations/{organization_id}/api-keys": "write:api-keys",
    "GET /api/v1/organizations/{organization_id}/api-keys": "read:api-keys",
    "GET /api/v1/organizations/{organization_id}/api-keys/stats": "read:api-keys",
    "POST /api/v1/api-keys": "write:api-keys",
    "GET /api/v1/api-keys": "read:api-keys",
    "GET /api/v1/api-keys/stats": "read:api-keys",
    "GET /api/v1/api-keys/{key_id}": "read:api-keys",
    "PATCH /api/v1/api-keys/{key_id}": "write:api-keys",
    "DELETE /api/v1/api-keys/{key_id}": "delete:api-keys",
    "POST /api/v1/api-keys/{key_id}/rotate": "write:api-keys",
    "POST /api/v1/api-keys/{key_id}/regenerate": "write:api-keys",
    "GET /api/v1/billing/plans": "any",
    "POST /api/v1/billing/upgrade": "admin:all",
    "GET /api/v1/billing/credits": "read:billing",
    "GET /api/v1/billing/transactions": "read:billing",
    "GET /api/v1/billing/subscription": "read:billing",
    "POST /api/v1/triggers": "write:triggers",
    "GET /api/v1/triggers": "read:triggers",
    "GET /api/v1/triggers/{trigger_id}": "read:triggers",
    "PATCH /api/v1/triggers/{trigger_id}": "write:triggers",
    "PUT /api/v1/triggers/{trigger_id}": "write:triggers",
    "DELETE /api/v1/triggers/{trigger_id}": "delete:triggers",
    "POST /api/v1/triggers/{trigger_id}/test": "write:triggers",
    "POST /api/v1/triggers/test": "write:triggers",
    "GET /api/v1/triggers/{trigger_id}/explain": "read:triggers",
    "POST /api/v1/triggers/backtest": "write:triggers",
    "GET /api/v1/triggers/{trigger_id}/state": "read:triggers",
    "DELETE /api/v1/triggers/{trigger_id}/state": "write:triggers",
    "POST /api/v1/triggers/{trigger_id}/conditions": "write:triggers",
    "GET /api/v1/triggers/{trigger_id}/conditions": "read:triggers",
    "PATCH /api/v1/triggers/{trigger_id}/conditions/{condition_id}": "write:triggers",
    "PUT /api/v1/triggers/{trigger_id}/conditions/{condition_id}": "write:triggers",
    "DELETE /api/v1/triggers/{trigger_id}/conditions/{condition_id}": "delete:triggers",
    "POST /api/v1/triggers/{trigger_id}/actions": "write:triggers",
    "GET /api/v1/triggers/{trigger_id}/actions": "read:triggers",
    "PATCH /api/v1/triggers/{trigger_id}/actions/{action_id}": "write:triggers",
    "PUT /api/v1/triggers/{trigger_id}/actions/{action_id}": "write:triggers",
    "DELETE /api/v1/triggers/{trigger_id}/actions/{action_id}": "delete:triggers",
    "POST /api/v1/triggers/{trigger_id}/actions/{action_id}/send-test": "write:deliveries",
    "GET /api/v1/webhooks/secrets": "read:triggers",
    "POST /api/v1/webhooks/{action_id}/rotate-secret": "write:webhooks",
    "GET /api/v1/agents/following": "read:triggers",
    "POST /api/v1/agents/{agent_id}/follow": "write:triggers",
    "GET /api/v1/agents/{agent_id}/follow": "read:triggers",
    "PATCH /api/v1/agents/{agent_id}/follow": "write:triggers",
    "PUT /api/v1/agents/{agent_id}/follow": "write:triggers",
    "DELETE /api/v1/agents/{agent_id}/follow": "delete:triggers",
    "GET /api/v1/triggers/{trigger_id}/circuit-breaker": "read:triggers",
    "PATCH /api/v1/triggers/{trigger_id}/circuit-breaker": "write:triggers",
    "POST /api/v1/triggers/{trigger_id}/circuit-breaker/reset": "write:triggers",
    "GET /api/v1/deliveries": "read:deliveries",
    "GET /api/v1/deliveries/dead-letters": "read:deliveries",
    "GET /api/v1/deliveries/{delivery_id}": "read:deliveries",
    "POST /api/v1/deliveries/replay": "write:deliveries",
    "POST /api/v1/deliveries/{delivery_id}/redeliver": "write:deliveries",
    "DELETE /api/v1/organizations/{organization_id}": "admin:all",  # the last one, for those who go through them all
}
OF_ORGANIZATIONS = {route: access for route, access in ROUTES.items() if access not in WITHOUT_SCOPE}
A_KEY = {
    "name": "k",
    "environment": "live",
    "key_type": "admin",
    "permissions": ["admin"],
    "scopes": ["write:api-keys"],
}
"""One that its maker may make, with just the scope that it takes."""
BODIES = {
    "POST /api/v1/triggers/{trigger_id}/test": {"event": {"event_type": "NewFeedback"}},
    "POST /api/v1/triggers/test": {"trigger": {"name": "t"}},
    "POST /api/v1/triggers/backtest": {"trigger": {"name": "t"}, "chain_id": 1, "from_block": 1, "to_block": 1},
    "POST /api/v1/triggers": {"name": "t"},
    "PATCH /api/v1/triggers/{trigger_id}": {"name": "t"},
    "PUT /api/v1/triggers/{trigger_id}": {"name": "t"},
    "PATCH /api/v1/triggers/{trigger_id}/circuit-breaker": {"failure_threshold": 1},
    "POST /api/v1/triggers/{trigger_id}/conditions": {"condition_type": "agent_id_equals", "value": 1},
    "PATCH /api/v1/triggers/{trigger_id}/conditions/{condition_id}": {"value": 1},
    "PUT /api/v1/triggers/{trigger_id}/conditions/{condition_id}": {"value": 1},
    "POST /api/v1/triggers/{trigger_id}/actions": {"action_type": "webhook", "config": {"url": "http://127.0.0.1:9/"}},
    "PATCH /api/v1/triggers/{trigger_id}/actions/{action_id}": {"enabled": False},
    "PUT /api/v1/triggers/{trigger_id}/actions/{action_id}": {"enabled": False},
    "POST /api/v1/agents/{chain_id}/{agent_id}/reputation": {"clients": "all"},
    "POST /api/v1/deliveries/replay": {"trigger_id": "none", "dry_run": True},
    "POST /api/v1/agents/{agent_id}/follow": {"chain_id": 1, "actions": []},
    "PATCH /api/v1/agents/{agent_id}/follow": {"enabled": False},
    "PUT /api/v1/agents/{agent_id}/follow": {"enabled": False},
    "PATCH /api/v1/organizations/{organization_id}": {},
    "PUT /api/v1/organizations/{organization_id}": {},
    "POST /api/v1/organizations/{organization_id}/transfer": {"new_owner_id": "nobody"},
    "PATCH /api/v1/organizations/{organization_id}/members/{user_id}": {"role": "viewer"},
    "PUT /api/v1/organizations/{organization_id}/members/{user_id}": {"role": "viewer"},
    "POST /api/v1/organizations/{organization_id}/api-keys": A_KEY,
    "POST /api/v1/api-keys": A_KEY,
    "PATCH /api/v1/api-keys/{key_id}": {"name": "k"},
    "POST /api/v1/billing/upgrade": {"plan": "enterprise"},
}
LEAVING = "DELETE /api/v1/organizations/{organization_id}/members/{user_id}"
"""Who may read may leave; removing somebody else takes `write:organizations`."""
NOTHING = "00000000-0000-4000-8000-000000000000"


def address(route: str, object_id: str = NOTHING, *, of: str = NOTHING) -> tuple[str, str]:
    method, _, template = route.partition(" ")
    template = template.replace("{organization_id}", of)
    for name in ("slug", "chain_id", "event_id", "trigger_id", "delivery_id", "condition_id", "action_id", "agent_id",
                 "session_id", "user_id", "key_id"):  # fmt: skip
        template = template.replace(f"{{{name}}}", object_id)
    return method, template


def test_every_route_is_in_the_table_with_its_access_word() -> None:
    table = RouteTable(create_litestar())
    assert {f"{method} {template}": access for template, method, access in table.items()} == ROUTES


def test_a_scope_that_a_route_asks_for_exists() -> None:
    assert set(OF_ORGANIZATIONS.values()) <= SCOPES


def test_a_route_that_does_not_say_who_may_use_it_is_refused_at_start() -> None:
    with pytest.raises(TypeError, match="/forgotten"):
        declared_access({}, "/forgotten")


async def organization_id(api: Api, slug: str = "acme") -> str:
    async with api.house.database.transaction() as tx:
        return (await api.house.organizations.find(tx, slug)).id


async def test_open_routes_do_not_look_at_credentials(api: Api) -> None:
    for route, access in ROUTES.items():
        if access == "open":
            answer = await api.ask(*address(route, "not-found"), key="nonsense")
            assert answer.status in (200, 404), route


async def test_any_routes_serve_the_anonymous_but_not_the_refused(api: Api) -> None:
    for route, access in ROUTES.items():
        if access == "any":
            assert (await api.ask(*address(route), json=BODIES.get(route))).status in (200, 404), route
            assert (await api.ask(*address(route), key="nonsense")).status == 401, route


async def test_routes_of_organizations_want_a_credential(api: Api) -> None:
    for route in OF_ORGANIZATIONS:
        answer = await api.ask(*address(route), json=BODIES.get(route))
        assert (answer.status, answer.json()["error"]) == (401, "unauthorized"), route
        assert answer.json()["message"] == "Authentication required"
        assert answer.headers["Www-Authenticate"] == 'Bearer realm="agentauri"'


async def test_a_key_needs_the_very_scope(api: Api, make_key: MakeKey) -> None:
    for wanted in set(OF_ORGANIZATIONS.values()):
        permissions = ("read", "write", "delete", "admin")
        others = tuple(SCOPES - {wanted, ADMIN_ALL})
        without = await make_key(key_type="admin", permissions=permissions, scopes=others)
        only = await make_key(key_type="admin", permissions=permissions, scopes=(wanted,))
        own = await organization_id(api)
        for route, access in OF_ORGANIZATIONS.items():
            if access == wanted:
                refused = await api.ask(*address(route, of=own), key=without, json=BODIES.get(route))
                assert (refused.status, refused.json()["error"]) == (403, "forbidden"), route
                assert refused.json()["required_scope"] == wanted
                let = await api.ask(*address(route, of=own), key=only, json=BODIES.get(route))
                assert let.status != 403 or route == LEAVING, route


async def test_the_owners_scope_opens_every_route(api: Api, make_key: MakeKey) -> None:
    key = await make_key(key_type="admin", permissions=("admin",), scopes=(ADMIN_ALL,))
    own = await organization_id(api)
    for route, access in ROUTES.items():
        if access not in ("user", "cred"):
            answer = await api.ask(*address(route, of=own), key=key, json=BODIES.get(route))
            assert answer.status not in (401, 403), route


async def test_what_is_another_tenants_is_not_there_to_the_byte(api: Api, key: str, make_key: MakeKey) -> None:
    made = await api.ask("POST", "/api/v1/triggers", key=key, json={"name": "secret"})
    stranger = await make_key("strangers", environment="live")
    for route in OF_ORGANIZATIONS:
        if "{trigger_id}" in route:
            theirs = await api.ask(*address(route, made.json()["id"]), key=stranger, json=BODIES.get(route))
            nobodys = await api.ask(*address(route), key=stranger, json=BODIES.get(route))
            assert theirs.status == 404, route
            assert _without_id(theirs) == _without_id(nobodys), route
    assert (await api.ask("GET", "/api/v1/triggers", key=stranger)).json()["data"] == []
    assert (await api.ask("GET", f"/api/v1/triggers/{made.json()['id']}", key=key)).json()["name"] == "secret"


def _without_id(answer: Answer) -> bytes:
    return answer.body.replace(answer.headers["X-Request-Id"].encode(), b"")


async def test_a_key_of_one_environment_does_not_see_the_other(api: Api, key: str, make_key: MakeKey) -> None:
    tester = await make_key(environment="test")
    made = await api.ask("POST", "/api/v1/triggers", key=key, json={"name": "t", "environment": "test"})
    assert made.json()["environment"] == "live"  # the key's own wins
    for route in OF_ORGANIZATIONS:
        if "{trigger_id}" in route:
            answer = await api.ask(*address(route, made.json()["id"]), key=tester, json=BODIES.get(route))
            assert answer.status == 404, route
    assert (await api.ask("GET", "/api/v1/triggers", key=tester)).json()["data"] == []
    assert (await api.ask("GET", "/api/v1/triggers?environment=test", key=key)).json()["data"] == []
    assert len((await api.ask("GET", "/api/v1/triggers?environment=live", key=key)).json()["data"]) == 1


async def test_an_organization_that_is_not_the_keys_is_not_there_on_every_route(
    api: Api, key: str, make_key: MakeKey
) -> None:
    await make_key("strangers")
    own, other = await organization_id(api), await organization_id(api, "strangers")
    for route in OF_ORGANIZATIONS:
        method, path = address(route)
        if "{organization_id}" in route:
            named = [address(route, of=one)[1] for one in (other, NOTHING, "\0")]
            answers = [await api.ask(method, one, key=key, json=BODIES.get(route)) for one in named]
            assert {answer.status for answer in answers} == {404}, route
            assert len({_without_id(answer) for answer in answers}) == 1, route
            continue
        answers = [
            await api.ask(method, path, key=key, json=BODIES.get(route), headers={"X-Organization-ID": named})
            for named in (other, NOTHING)
        ]
        answers.append(await api.ask(method, f"{path}?organization_id={other}", key=key, json=BODIES.get(route)))
        assert {answer.status for answer in answers} == {404}, route
        assert len({_without_id(answer) for answer in answers}) == 1, route
    headers = {"X-Organization-ID": own}
    assert (await api.ask("GET", "/api/v1/triggers", key=key, headers=headers)).status == 200
    assert (await api.ask("GET", f"/api/v1/triggers?organization_id={own}", key=key, headers=headers)).status == 200
    conflict = await api.ask("GET", f"/api/v1/triggers?organization_id={other}", key=key, headers=headers)
    assert (conflict.status, conflict.json()["error"]) == (400, "organization_conflict")


async def test_a_body_may_name_the_keys_organization_and_no_other(api: Api, key: str) -> None:
    own = await organization_id(api)
    for named, headers, status in [
        (own, {}, 201),
        (NOTHING, {}, 404),
        (NOTHING, {"X-Organization-ID": own}, 400),
        (own, {"X-Organization-ID": own}, 201),
    ]:
        body = {"name": "t", "organization_id": named}
        assert (await api.ask("POST", "/api/v1/triggers", key=key, json=body, headers=headers)).status == status
