"""Plans and credits over HTTP, and where a plan's quotas are felt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec import structs

from agentauri.billing import PLANS
from agentauri.types import OrganizationId

from .conftest import Api
from .test_auth_routes import register

MakeKey = Callable[..., Awaitable[str]]
HOOK = {"action_type": "webhook", "config": {"url": "http://127.0.0.1:9/"}}
LEAF = {"condition_type": "agent_id_equals", "value": "1"}


@pytest.fixture
async def free(make_key: MakeKey) -> str:
    """The key of an organization on the smallest plan."""
    return await make_key(plan="free", key_type="admin", permissions=("read", "write", "delete", "admin"))


async def test_the_plans_are_told_to_anybody(api: Api) -> None:
    answer = (await api.ask("GET", "/api/v1/billing/plans")).json()["data"]
    assert [(plan["plan"], plan["requests_per_hour"]) for plan in answer] == [
        ("free", 50),
        ("starter", 100),
        ("pro", 500),
        ("enterprise", 2000),
    ]
    assert answer[0]["quotas"]["triggers"] == 10


async def test_a_waived_upgrade_holds_from_the_next_request_on(api: Api) -> None:
    alice = await register(api)
    api.app = api.make_app(structs.replace(api.house.config.server, allow_unpaid_upgrades=True))

    done = (await alice.ask("POST", "/billing/upgrade", {"plan": "pro"})).json()
    same = (await alice.ask("POST", "/billing/upgrade", {"plan": "pro"})).json()

    assert (done["previous_plan"], done["plan"], done["payment"]) == ("free", "pro", "waived")
    assert done["requests_per_hour"] == 500
    assert (same["previous_plan"], same["payment"]) == ("pro", "none")
    me = (await alice.ask("GET", "/auth/me")).json()
    assert me["plan"] == "pro"
    assert (await alice.ask("GET", "/billing/subscription")).json()["plan"] == "pro"
    log = await alice.ask("GET", f"/organizations/{me['organization_id']}/audit-log?event=plan.changed")
    assert [entry["details"] for entry in log.json()["data"]] == [{"old": "free", "new": "pro"}]


async def test_an_upgrade_that_nobody_pays_for_names_the_operators_command(api: Api) -> None:
    alice = await register(api)
    api.app = api.make_app(structs.replace(api.house.config.server, allow_unpaid_upgrades=False))

    refused = await alice.ask("POST", "/billing/upgrade", {"plan": "pro"})

    assert (refused.status, refused.json()["error"]) == (402, "payment_required")
    checkout = refused.json()["checkout"]
    assert (checkout["available"], checkout["url"]) == (False, None)
    assert "agentauri organization plan alice-personal pro" in checkout["hint"]
    assert (await alice.ask("GET", "/auth/me")).json()["plan"] == "free"


async def test_only_the_owner_changes_the_plan(api: Api, make_key: MakeKey) -> None:
    admin = await make_key(key_type="admin", permissions=("admin",))
    refused = await api.ask("POST", "/api/v1/billing/upgrade", key=admin, json={"plan": "free"})
    assert (refused.status, refused.json()["required_scope"]) == (403, "admin:all")


async def test_the_balance_is_told_in_both_forms_with_what_it_is_made_of(api: Api, free: str) -> None:
    house = api.house
    async with house.database.transaction() as tx:
        acme = await house.organizations.find(tx, "acme")
        await house.credits.book(tx, OrganizationId(acme.id), 2_500_000, "bonus", description="welcome")
        await house.credits.book(tx, OrganizationId(acme.id), -1, "usage")

    balance = (await api.ask("GET", "/api/v1/billing/credits", key=free)).json()
    rows = (await api.ask("GET", "/api/v1/billing/transactions", key=free)).json()["data"]
    bonus = (await api.ask("GET", "/api/v1/billing/transactions?transaction_type=bonus", key=free)).json()["data"]

    assert balance == {"balance": 2_499_999, "currency": "USDC", "balance_formatted": "2.499999 USDC"}
    assert [(row["amount"], row["balance_after"]) for row in rows] == [(-1, 2_499_999), (2_500_000, 2_500_000)]
    assert [row["description"] for row in bonus] == ["welcome"]


async def quota(api: Api, key: str, method: str, path: str, body: Any) -> dict[str, Any]:
    """The quota that refuses this."""
    answer = await api.ask(method, f"/api/v1{path}", key=key, json=body)
    assert (answer.status, answer.json()["error"]) == (403, "quota_exceeded"), answer.body
    refused: dict[str, Any] = answer.json()["quota"]
    return refused


async def test_the_trigger_beyond_the_plan_is_refused_however_many_ask_at_once(api: Api, free: str) -> None:
    answers = await asyncio.gather(
        *(api.ask("POST", "/api/v1/triggers", key=free, json={"name": f"t{number}"}) for number in range(14))
    )
    assert sorted(answer.status for answer in answers) == [201] * 10 + [403] * 4
    assert await quota(api, free, "POST", "/triggers", {"name": "t"}) == {
        "name": "triggers",
        "limit": 10,
        "used": 10,
        "plan": "free",
    }
    follow = {"chain_id": 84532, "actions": [HOOK]}
    assert (await api.ask("POST", "/api/v1/agents/1/follow", key=free, json=follow)).status == 201


async def test_conditions_and_actions_beyond_the_plan_are_refused_in_one_call_and_piece_by_piece(
    api: Api, free: str
) -> None:
    ten = [LEAF] * 8 + [{"any": [LEAF, {"not": LEAF}]}]
    full = {"name": "t", "conditions": ten, "actions": [HOOK] * 3}
    made = await api.ask("POST", "/api/v1/triggers", key=free, json=full)
    assert made.status == 201, made.body
    address = f"/triggers/{made.json()['id']}"
    group = made.json()["conditions"][-1]["id"]
    for method, path, body, name in [
        ("POST", "/triggers", {"name": "t", "conditions": [*ten, LEAF]}, "conditions_per_trigger"),
        ("POST", "/triggers", {"name": "t", "actions": [HOOK] * 4}, "actions_per_trigger"),
        ("PATCH", address, {"conditions": [*ten, LEAF]}, "conditions_per_trigger"),
        ("PATCH", address, {"actions": [HOOK] * 4}, "actions_per_trigger"),
        ("POST", f"{address}/conditions", LEAF, "conditions_per_trigger"),
        ("PATCH", f"{address}/conditions/{group}", {"any": [LEAF] * 3}, "conditions_per_trigger"),
        ("POST", f"{address}/actions", HOOK, "actions_per_trigger"),
        ("POST", "/agents/1/follow", {"chain_id": 84532, "actions": [HOOK] * 4}, "actions_per_trigger"),
    ]:
        assert (await quota(api, free, method, path, body))["name"] == name, (method, path)
    after = (await api.ask("GET", f"/api/v1{address}", key=free)).json()
    assert (len(after["conditions"]), len(after["actions"]), after["version"]) == (9, 3, made.json()["version"])
    assert (await api.ask("GET", "/api/v1/triggers", key=free)).json()["pagination"]["total"] == 1


async def test_what_a_larger_plan_left_behind_stays_and_can_be_changed(api: Api, make_key: MakeKey) -> None:
    large = await make_key(permissions=("read", "write"))
    made = await api.ask("POST", "/api/v1/triggers", key=large, json={"name": "t", "actions": [HOOK] * 5})
    small = await make_key(plan="free", permissions=("read", "write"))
    address = f"/triggers/{made.json()['id']}"
    assert (await api.ask("PATCH", f"/api/v1{address}", key=small, json={"actions": [HOOK] * 4})).status == 200
    assert (await quota(api, small, "PATCH", address, {"actions": [HOOK] * 5}))["used"] == 4


async def test_keys_beyond_the_plan_are_refused_and_a_rotated_one_counts_once(api: Api, free: str) -> None:
    body = {"name": "k", "environment": "live"}
    made = [(await api.ask("POST", "/api/v1/api-keys", key=free, json=body)).json() for _ in range(4)]
    assert (await quota(api, free, "POST", "/api-keys", body))["name"] == "api_keys"
    assert (await api.ask("POST", f"/api/v1/api-keys/{made[0]['id']}/rotate", key=free)).status == 200
    assert (await api.ask("DELETE", f"/api/v1/api-keys/{made[1]['id']}", key=free)).status == 200
    assert (await api.ask("POST", "/api/v1/api-keys", key=free, json=body)).status == 201


async def test_follows_and_replays_have_quotas_of_their_own(api: Api, free: str, monkeypatch: Any) -> None:
    follow = {"chain_id": 84532, "actions": [HOOK]}
    small = structs.replace(PLANS["free"], quotas=structs.replace(PLANS["free"].quotas, follows=1))
    monkeypatch.setitem(PLANS, "free", small)
    assert (await api.ask("POST", "/api/v1/agents/1/follow", key=free, json=follow)).status == 201
    assert (await quota(api, free, "POST", "/agents/2/follow", follow))["name"] == "follows"
    replay = {"trigger_id": "t", "limit": 101}
    assert (await quota(api, free, "POST", "/deliveries/replay", replay))["name"] == "replay_deliveries"
    assert (await api.ask("POST", "/api/v1/deliveries/replay", key=free, json=replay | {"limit": 100})).status == 202


async def test_whatever_is_changed_is_put_down_in_the_audit_log(api: Api, free: str) -> None:
    async def ask(method: str, path: str, body: Any = None) -> Any:
        answer = await api.ask(method, f"/api/v1{path}", key=free, json=body)
        assert answer.status < 300, answer.body
        return answer.json() if answer.body else None

    address = f"/triggers/{(await ask('POST', '/triggers', {'name': 't'}))['id']}"
    leaf = (await ask("POST", f"{address}/conditions", LEAF))["id"]
    await ask("PATCH", f"{address}/conditions/{leaf}", {"value": "2"})
    await ask("DELETE", f"{address}/conditions/{leaf}")
    action = (await ask("POST", f"{address}/actions", HOOK))["id"]
    await ask("PATCH", f"{address}/actions/{action}", {"enabled": False})
    await ask("POST", f"/webhooks/{action}/rotate-secret")
    await ask("DELETE", f"{address}/actions/{action}")
    await ask("PATCH", address, {"description": "d"})
    await ask("PATCH", f"{address}/circuit-breaker", {"failure_threshold": 3})
    await ask("POST", f"{address}/circuit-breaker/reset")
    await ask("DELETE", f"{address}/state")
    await ask("DELETE", address)
    await ask("POST", "/agents/1/follow", {"chain_id": 84532, "actions": [HOOK]})
    await ask("PATCH", "/agents/1/follow?chain_id=84532", {"enabled": False})
    await ask("DELETE", "/agents/1/follow?chain_id=84532")
    await ask("POST", "/deliveries/replay", {"trigger_id": "t"})

    own = (await ask("GET", "/organizations"))["data"][0]["id"]
    log = (await ask("GET", f"/organizations/{own}/audit-log?order=asc&limit=100"))["data"]
    told = [entry["event"] for entry in log if entry["actor"]["type"] == "api_key"]

    assert told == [
        "trigger.created", "condition.created", "condition.updated", "condition.deleted", "action.created",
        "action.updated", "webhook_secret.rotated", "action.deleted", "trigger.updated", "breaker.configured",
        "breaker.reset", "trigger.state_cleared", "trigger.deleted", "follow.created", "follow.updated",
        "follow.deleted", "delivery.replayed",
    ]  # fmt: skip
