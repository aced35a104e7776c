"""One good call and one that is refused for every route there is, and a test that none is left out.

The good calls go over one organization from its first key to its end, in this order; what each did is read back by
another call. The refused ones follow from the route's access word alone.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from agentauri.accounts import SYSTEM, GivenRole
from agentauri.types import OrganizationId, UserId
from support.events import insert_by_hand
from support.receiver import Answer as Reply
from support.receiver import Receiver

from .conftest import Answer, Api
from .test_access import BODIES, ROUTES, address
from .test_auth_routes import PASSWORD, Person, register

MakeKey = Callable[..., Awaitable[str]]
World = dict[str, str]


class Good(NamedTuple):
    """`shows` is in the answer; `then` is an address and what it shows afterwards, "-" in front for what it no longer
    does. All of them take names of the world in angle brackets."""

    body: Any = None
    status: int = 200
    shows: str = ""
    then: tuple[str, str] | None = None
    query: str = ""
    keeps: str = ""  # the name under which the world remembers the `id` of what was made


class By(NamedTuple):
    """The test that makes the good call, of those that need a world of their own."""

    module: str
    test: str


AGENTS = "test_agent_routes"
WEBHOOK = {"action_type": "webhook", "config": {"url": "<receiver>/hook"}}
LEAF = {"condition_type": "event_type_equals", "value": "NewFeedback"}
T, O = "/api/v1/triggers/<trigger_id>", "/api/v1/organizations/<organization_id>"  # noqa: E741 (of 1 letter each)

GOOD: dict[str, Good | By] = {
    "GET /": Good(shows="AgentAuri"),
    "GET /health": Good(shows='"database":"connected"'),
    "GET /health/live": Good(shows="alive"),
    "GET /health/ready": Good(shows='"status":"ready"'),
    "GET /api/v1/health": Good(shows='"database":"connected"'),
    "GET /api/v1/health/live": Good(shows="alive"),
    "GET /api/v1/health/ready": Good(shows='"status":"ready"'),
    "GET /metrics": Good(shows="agentauri_http_requests_total"),
    "GET /health/doctor": By("test_service_routes", "test_the_doctor_tells_those_who_may_read_metrics_and_nobody_else"),
    "GET /api/v1/health/doctor": By(
        "test_service_routes", "test_the_doctor_tells_those_who_may_read_metrics_and_nobody_else"
    ),
    "GET /api-docs": Good(shows="swagger-ui.css"),
    "GET /api-docs/{file}": By("test_discovery", "test_the_page_is_made_of_our_own_files_and_no_script_stands_in_it"),
    "GET /.well-known/agent.json": Good(shows='"api_version"'),
    "GET /.well-known/security.txt": By("test_discovery", "test_there_is_no_security_txt_until_somebody_is_named"),
    "GET /problems": Good(shows="trigger-not-found"),
    "GET /problems/{slug}": Good(shows="trigger-not-found"),
    "GET /api/v1/openapi.json": Good(shows='"openapi": "3.1'),
    "GET /api/v1/chains": Good(shows='"chain_id":84532', query="limit=100"),
    "GET /api/v1/chains/{chain_id}": Good(shows='"chain_id":84532'),
    "GET /api/v1/indexer/status": Good(shows='"status":"initializing"'),
    "GET /api/v1/indexer/events": Good(shows='"total_types"'),
    "GET /api/v1/ponder/status": Good(shows='"status":"initializing"'),
    "GET /api/v1/ponder/events": Good(shows='"total_types"'),
    "GET /api/v1/agents": By(AGENTS, "test_who_asks_is_told_which_agents_she_follows"),
    "GET /api/v1/agents/{chain_id}/{agent_id}": By(AGENTS, "test_an_agent_is_shown_with_all_that_is_said_of_it"),
    "GET /api/v1/agents/{chain_id}/{agent_id}/feedback": By(AGENTS, "test_feedback_and_validations_are_listed"),
    "GET /api/v1/agents/{chain_id}/{agent_id}/validations": By(AGENTS, "test_feedback_and_validations_are_listed"),
    "GET /api/v1/agents/{chain_id}/{agent_id}/validations/summary": By(
        AGENTS, "test_reputation_is_what_the_contract_says"
    ),
    "GET /api/v1/agents/{chain_id}/{agent_id}/reputation": By(AGENTS, "test_reputation_is_what_the_contract_says"),
    "POST /api/v1/agents/{chain_id}/{agent_id}/reputation": By(AGENTS, "test_reputation_is_what_the_contract_says"),
    "GET /api/v1/events": Good(shows='"id":"an-event"'),
    "GET /api/v1/events/{event_id}": Good(shows='"id":"an-event"'),
    "POST /api/v1/auth/register": Good(
        {"username": "carol", "email": "carol@example.org", "password": PASSWORD}, 201, shows='"username":"carol"'
    ),
    "POST /api/v1/auth/login": Good(
        {"username": "carol", "password": PASSWORD}, shows='"username":"carol"', then=("/api/v1/auth/me", "owner")
    ),
    "POST /api/v1/auth/refresh": Good({"refresh_token": "<refresh>"}, shows='"username":"bob"'),
    "GET /api/v1/auth/me": Good(shows='"username":"owner"'),
    "PATCH /api/v1/auth/me": Good({"name": "Ada"}, shows='"name":"Ada"', then=("/api/v1/auth/me", '"name":"Ada"')),
    "PUT /api/v1/auth/me": Good(
        {"name": "Ada L.", "avatar": None}, shows="Ada L.", then=("/api/v1/auth/me", '"name":"Ada L."')
    ),
    "GET /api/v1/auth/sessions": Good(shows='"current":true'),
    "DELETE /api/v1/auth/sessions/{session_id}": Good(status=204, then=("/api/v1/auth/sessions", "-<session_id>")),
    "POST /api/v1/auth/password": Good(
        {"current_password": PASSWORD, "new_password": f"{PASSWORD} staple"}, 204,
        then=("/api/v1/auth/security-log", "account.password_changed"),
    ),
    "GET /api/v1/auth/security-log": Good(shows="account.registered"),
    "POST /api/v1/organizations": Good(
        {"name": "More engines", "slug": "more"}, 201, '"slug":"more"', ("/api/v1/organizations", '"slug":"more"')
    ),
    "GET /api/v1/organizations": Good(shows="<organization_id>"),
    "GET /api/v1/organizations/{organization_id}": Good(shows='"slug":"engines"'),
    "PATCH /api/v1/organizations/{organization_id}": Good(
        {"description": "of steam"}, shows="of steam", then=(O, '"description":"of steam"')
    ),
    "PUT /api/v1/organizations/{organization_id}": Good(
        {"name": "Engines & Co", "description": None}, shows="of steam", then=(O, '"name":"Engines & Co"')
    ),
    "GET /api/v1/organizations/{organization_id}/members": Good(shows="<user_id>"),
    "PATCH /api/v1/organizations/{organization_id}/members/{user_id}": Good(
        {"role": "admin"}, shows='"role":"admin"', then=(f"{O}/members", '"role":"admin"')
    ),
    "PUT /api/v1/organizations/{organization_id}/members/{user_id}": Good(
        {"role": "viewer"}, shows='"role":"viewer"', then=(f"{O}/members", '"role":"viewer"')
    ),
    "GET /api/v1/organizations/{organization_id}/audit-log": Good(shows="member.role_changed"),
    "POST /api/v1/organizations/{organization_id}/api-keys": Good(
        {"name": "of engines", "environment": "live"}, 201, "sk_live_", (f"{O}/api-keys", "of engines")
    ),
    "GET /api/v1/organizations/{organization_id}/api-keys": Good(shows="of engines"),
    "GET /api/v1/organizations/{organization_id}/api-keys/stats": Good(shows='"total_keys":1'),
    "POST /api/v1/api-keys": Good(
        {"name": "a key", "environment": "live"}, 201, "sk_live_", ("/api/v1/api-keys", "a key"), keeps="key_id"
    ),
    "GET /api/v1/api-keys": Good(shows="<key_id>"),
    "GET /api/v1/api-keys/stats": Good(shows='"active_keys":1'),
    "GET /api/v1/api-keys/{key_id}": Good(shows="<key_id>"),
    "PATCH /api/v1/api-keys/{key_id}": Good(
        {"name": "another name"}, shows="another name", then=("/api/v1/api-keys", "another name")
    ),
    "POST /api/v1/api-keys/{key_id}/rotate": Good(
        {"overlap_seconds": 60}, shows='"old_key_id":"<key_id>"', then=("/api/v1/api-keys/stats", '"total_keys":2'),
        keeps="key_id",
    ),
    "POST /api/v1/api-keys/{key_id}/regenerate": Good(
        shows='"old_key_id":"<key_id>"', then=("/api/v1/api-keys/stats", '"total_keys":3'), keeps="key_id"
    ),
    "DELETE /api/v1/api-keys/{key_id}": Good(
        shows='"is_revoked":true', then=("/api/v1/api-keys/<key_id>", '"is_revoked":true'), query="reason=gone"
    ),
    "GET /api/v1/billing/plans": Good(shows='"plan":"enterprise"'),
    "POST /api/v1/billing/upgrade": Good(
        {"plan": "pro"}, shows='"payment":"waived"', then=("/api/v1/auth/me", '"plan":"pro"')
    ),
    "GET /api/v1/billing/credits": Good(shows='"balance_formatted":"0.000005 USDC"'),
    "GET /api/v1/billing/transactions": Good(shows='"balance_after":5'),
    "GET /api/v1/billing/subscription": Good(shows='"plan":"pro"'),
    "GET /api/v1/organizations/{organization_id}/credits/balance": Good(shows='"balance":0'),
    "GET /api/v1/organizations/{organization_id}/credits/transactions": Good(shows='"total":0'),
    "POST /api/v1/triggers": Good(
        {"name": "first", "conditions": [LEAF], "actions": [WEBHOOK]}, 201, "whsec_", ("/api/v1/triggers", "first")
    ),
    "GET /api/v1/triggers": Good(shows="<trigger_id>"),
    "GET /api/v1/organizations/{organization_id}/triggers": Good(shows='"total":0'),
    "GET /api/v1/triggers/{trigger_id}": Good(shows="<trigger_id>"),
    "PATCH /api/v1/triggers/{trigger_id}": Good({"name": "second"}, shows="second", then=(T, '"name":"second"')),
    "PUT /api/v1/triggers/{trigger_id}": Good(
        {"name": "third", "description": None}, shows="third", then=(T, '"name":"third"')
    ),
    "POST /api/v1/triggers/{trigger_id}/test": Good({"event_id": "an-event"}, shows='"event_source":"stored"'),
    "POST /api/v1/triggers/test": Good({"trigger": {"name": "t", "conditions": [LEAF]}}, shows='"id":"an-event"'),
    "GET /api/v1/triggers/{trigger_id}/explain": Good(shows='"event_id":"an-event"', query="event_id=an-event"),
    "POST /api/v1/triggers/backtest": Good(
        {"trigger": {"name": "t", "conditions": [LEAF]}, "chain_id": 84532, "from_block": 1, "to_block": 1},
        shows='"matches":1',
    ),
    "GET /api/v1/triggers/{trigger_id}/state": Good(shows='"total":0'),
    "DELETE /api/v1/triggers/{trigger_id}/state": Good(status=204, then=(f"{T}/state", '"total":0')),
    "POST /api/v1/triggers/{trigger_id}/conditions": Good(
        {"condition_type": "tag_equals", "field": "tag1", "operator": "eq", "value": "added"}, 201, "added",
        (f"{T}/conditions", "added"), keeps="condition_id",
    ),
    "GET /api/v1/triggers/{trigger_id}/conditions": Good(shows="NewFeedback"),
    "PATCH /api/v1/triggers/{trigger_id}/conditions/{condition_id}": Good(
        {"value": "patched"}, shows="patched", then=(f"{T}/conditions", "patched"), keeps="condition_id"
    ),
    "PUT /api/v1/triggers/{trigger_id}/conditions/{condition_id}": Good(
        {"value": "put"}, shows='"put"', then=(f"{T}/conditions", '"put"'), keeps="condition_id"
    ),
    "DELETE /api/v1/triggers/{trigger_id}/conditions/{condition_id}": Good(
        status=204, then=(f"{T}/conditions", '-"put"')
    ),
    "POST /api/v1/triggers/{trigger_id}/actions": Good(
        WEBHOOK, 201, "whsec_", (f"{T}/actions", '"total":2'), keeps="action_id"
    ),
    "GET /api/v1/triggers/{trigger_id}/actions": Good(shows='"id":<action_id>'),
    "PATCH /api/v1/triggers/{trigger_id}/actions/{action_id}": Good(
        {"priority": 7}, shows='"priority":7', then=(f"{T}/actions", '"priority":7')
    ),
    "PUT /api/v1/triggers/{trigger_id}/actions/{action_id}": Good(
        {"priority": 8, "enabled": None}, shows='"priority":8', then=(f"{T}/actions", '"priority":8')
    ),
    "POST /api/v1/triggers/{trigger_id}/actions/{action_id}/send-test": Good(
        status=202, shows='"kind":"test"', then=("/api/v1/deliveries", '"kind":"test"')
    ),
    "GET /api/v1/webhooks/secrets": Good(shows='"action_id":<action_id>'),
    "POST /api/v1/webhooks/{action_id}/rotate-secret": Good(
        shows="whsec_", then=("/api/v1/webhooks/secrets", '"expires_at":"2')
    ),
    "DELETE /api/v1/triggers/{trigger_id}/actions/{action_id}": Good(
        status=204, then=(f"{T}/actions", "-<action_id>,")
    ),
    "POST /api/v1/agents/{agent_id}/follow": Good(
        {"chain_id": 84532, "actions": [WEBHOOK]}, 201, "whsec_", ("/api/v1/agents/following", '"agent_id":"42"')
    ),
    "GET /api/v1/agents/following": Good(shows='"agent_id":"42"'),
    "GET /api/v1/agents/{agent_id}/follow": Good(shows='"agent_id":"42"', query="chain_id=84532"),
    "PATCH /api/v1/agents/{agent_id}/follow": Good(
        {"enabled": False}, shows='"enabled":false', query="chain_id=84532",
        then=("/api/v1/agents/following", '"enabled":false'),
    ),
    "PUT /api/v1/agents/{agent_id}/follow": Good(
        {"enabled": True, "actions": None}, shows='"enabled":true', query="chain_id=84532",
        then=("/api/v1/agents/following", '"enabled":true'),
    ),
    "DELETE /api/v1/agents/{agent_id}/follow": Good(
        status=204, query="chain_id=84532", then=("/api/v1/agents/following", '"total":0')
    ),
    "GET /api/v1/triggers/{trigger_id}/circuit-breaker": Good(shows='"state":"closed"'),
    "PATCH /api/v1/triggers/{trigger_id}/circuit-breaker": Good(
        {"failure_threshold": 3}, shows='"failure_threshold":3', then=(f"{T}/circuit-breaker", '"failure_threshold":3')
    ),
    "POST /api/v1/triggers/{trigger_id}/circuit-breaker/reset": Good(
        shows='"failure_count":0', then=(f"{T}/circuit-breaker", '"failure_count":0')
    ),
    "GET /api/v1/deliveries": Good(shows="<delivery_id>"),
    "GET /api/v1/deliveries/dead-letters": Good(shows="<delivery_id>"),
    "GET /api/v1/deliveries/{delivery_id}": Good(shows='"status":"dead"'),
    "POST /api/v1/deliveries/replay": Good({"trigger_id": "<trigger_id>", "dry_run": True}, 202, '"matched":1'),
    "POST /api/v1/deliveries/{delivery_id}/redeliver": Good(
        status=202, shows='"status":"pending"', then=("/api/v1/deliveries/<delivery_id>", '"status":"pending"')
    ),
    "DELETE /api/v1/triggers/{trigger_id}": Good(status=204, then=("/api/v1/triggers", "-<trigger_id>")),
    "DELETE /api/v1/organizations/{organization_id}/members/{user_id}": Good(
        status=204, then=(f"{O}/members", "-<user_id>")
    ),
    "POST /api/v1/organizations/{organization_id}/transfer": Good(
        {"new_owner_id": "<carol>"}, shows='"owner_id":"<carol>"', then=(O, '"my_role":"admin"')
    ),
    "DELETE /api/v1/organizations/{organization_id}": By(
        "test_organization_routes", "test_an_organization_ends_with_its_keys_triggers_and_what_waits"
    ),
    "POST /api/v1/auth/logout": Good(shows='"success":true'),
    "DELETE /api/v1/auth/me": By("test_auth_routes", "test_deleting_oneself_takes_the_account_away"),
}  # fmt: skip

NEVER_DENIED = {"open": "credentials are not looked at", "optional": "whoever comes may leave"}


def test_every_route_has_a_good_call() -> None:
    assert GOOD.keys() == ROUTES.keys()
    for by in GOOD.values():
        if isinstance(by, By):
            assert hasattr(importlib.import_module(f".{by.module}", __package__), by.test), by


def filled(value: Any, world: World) -> Any:
    text = json.dumps(value)
    for name, known in world.items():
        text = text.replace(f"<{name}>", known)
    return json.loads(text)


@pytest.fixture
async def owner(api: Api) -> Person:
    api.app = api.make_app(replace(api.house.config.server, allow_unpaid_upgrades=True))
    return await register(api, "owner")


@pytest.fixture
async def world(api: Api, owner: Person, receiver: Receiver) -> World:
    """Two organizations, a member, a trigger that met an event, and a delivery that was refused for good."""
    bob, carol = await register(api, "bob"), await register(api, "carla")
    personal = (await owner.ask("GET", "/auth/me")).json()["organization_id"]
    engines = (await owner.ask("POST", "/organizations", {"name": "Engines", "slug": "engines"})).json()["id"]
    members: list[tuple[Person, GivenRole]] = [(bob, "member"), (carol, "admin")]
    async with api.house.database.transaction() as tx:
        for person, role in members:
            await api.house.members.add(tx, SYSTEM, OrganizationId(engines), UserId(person.id), role)
        await api.house.credits.book(tx, OrganizationId(personal), 5, "bonus")
    trigger = {"name": "t", "conditions": [LEAF], "actions": [filled(WEBHOOK, {"receiver": receiver.url})]}
    made = (await owner.ask("POST", "/triggers", trigger)).json()
    receiver.answers.append(Reply(400))
    async with api.house.database.transaction() as tx:
        await insert_by_hand(tx, "an-event", agent_id=42)
    while await api.house.evaluator.step():
        pass
    while await api.house.dispatcher.step():
        pass
    (dead,) = (await owner.ask("GET", "/deliveries")).json()["data"]
    login = {"username": "owner", "password": PASSWORD}
    await api.ask("POST", "/api/v1/auth/login", json=login)
    sessions = (await owner.ask("GET", "/auth/sessions")).json()["data"]
    return {
        "organization_id": engines, "user_id": bob.id, "carol": carol.id, "refresh": bob.result["refresh_token"],
        "trigger_id": made["id"], "delivery_id": dead["id"], "event_id": "an-event", "receiver": receiver.url,
        "session_id": next(one["id"] for one in sessions if not one["current"]), "slug": "trigger-not-found",
        "chain_id": "84532", "agent_id": "42",
    }  # fmt: skip


async def test_every_route_does_what_it_is_for(api: Api, owner: Person, world: World) -> None:
    for route, good in GOOD.items():
        if isinstance(good, By):
            continue
        method, _, template = route.partition(" ")
        path = template
        for name, known in world.items():
            path = path.replace(f"{{{name}}}", known)
        answer = await ask(api, owner, method, f"{path}?{good.query}", filled(good.body, world))
        assert answer.status == good.status, (route, answer.body)
        assert filled(good.shows, world) in answer.body.decode(), (route, answer.body)
        if good.then is not None:
            where, shown = filled(good.then, world)
            seen = (await ask(api, owner, "GET", where)).body.decode()
            assert (shown.removeprefix("-") in seen) is not shown.startswith("-"), (route, shown, seen)
        if good.keeps:
            world[good.keeps] = str(answer.json()["id"])


async def ask(api: Api, owner: Person, method: str, path: str, body: Any = None) -> Answer:
    bearer = {"Authorization": f"Bearer {owner.result['token']}"}
    return await api.ask(method, path, json=body, headers=bearer)


async def test_every_route_refuses_whom_it_is_not_for(api: Api, make_key: MakeKey) -> None:
    powerless = await make_key(key_type="restricted", permissions=("read",), scopes=("read:agents",))
    for route, access in ROUTES.items():
        method, path = address(route)
        body = BODIES.get(route)
        match access:
            case "open" | "optional":
                assert access in NEVER_DENIED
            case "cred":
                refused = await api.ask(method, path, json={"username": "nobody", "password": "x"})
                assert refused.status in (401, 422), route
            case "any":
                assert (await api.ask(method, path, key="sk_live_nonsense", json=body)).status == 401, route
            case "user":
                assert (await api.ask(method, path, key=powerless, json=body)).status == 403, route
            case "known":
                assert (await api.ask(method, path, json=body)).status == 401, route
            case _:
                refused = await api.ask(method, path.replace("/organizations/00000000-0000-4000-8000-000000000000",
                                        f"/organizations/{await own(api)}"), key=powerless, json=body)  # fmt: skip
                assert (refused.status, refused.json()["required_scope"]) == (403, access), route


async def own(api: Api) -> str:
    async with api.house.database.transaction() as tx:
        return (await api.house.organizations.find(tx, "acme")).id
