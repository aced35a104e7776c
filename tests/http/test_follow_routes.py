"""Follow an agent: one call, three triggers, one secret."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from standardwebhooks import Webhook

from support.events import insert_by_hand
from support.receiver import Receiver
from support.reused import reused_database

from .conftest import Answer, Api

MakeKey = Callable[..., Awaitable[str]]

PATH = "/api/v1/agents/42/follow"
ON_CHAIN = f"{PATH}?chain_id=84532"
REGISTRIES = {"identity": "Registered", "reputation": "NewFeedback", "validation": "ValidationRequest"}


def hook(receiver: Receiver, **config: Any) -> dict[str, Any]:
    headers = {"Authorization": "Bearer canary"}
    return {"action_type": "webhook", "config": {"url": f"{receiver.url}/hook?key=canary", "headers": headers} | config}


@pytest.fixture
async def database_url(admin_url: str, template: str) -> str:
    return await reused_database(admin_url, template, "routes")


@pytest.fixture
async def follow(api: Api, key: str, receiver: Receiver) -> dict[str, Any]:
    answer = await api.ask("POST", PATH, key=key, json={"chain_id": 84532, "actions": [hook(receiver)]})
    assert answer.status == 201, answer.body
    assert answer.headers["Location"] == ON_CHAIN
    made: dict[str, Any] = answer.json()
    return made


async def happen(api: Api, *, agent: int = 42, name: str = "e") -> None:
    """Something happens to an agent in every registry."""
    async with api.house.database.transaction() as tx:
        for number, (registry, event_type) in enumerate(REGISTRIES.items()):
            await insert_by_hand(
                tx, f"{name}-{registry}", registry=registry, event_type=event_type, agent_id=agent, log_index=number
            )
    while await api.house.evaluator.step():
        pass
    while await api.house.dispatcher.step():
        pass


def verify(secret: str, receiver: Receiver) -> None:
    for request in receiver.requests:
        Webhook(secret).verify(request.body, dict(request.headers))


async def test_one_call_watches_the_agent_on_every_registry(
    api: Api, key: str, follow: dict[str, Any], receiver: Receiver
) -> None:
    assert (follow["agent_id"], follow["chain_id"], follow["registries_monitored"]) == ("42", 84532, 3)
    assert (follow["enabled"], follow["environment"]) == (True, "live")
    for registry, trigger_id in follow["trigger_ids"].items():
        trigger = (await api.ask("GET", f"/api/v1/triggers/{trigger_id}", key=key)).json()
        assert (trigger["registry"], trigger["chain_id"], trigger["status"]) == (registry, 84532, "active")
        assert trigger["managed_by"] == follow["id"]
        (condition,) = trigger["conditions"]
        assert (condition["condition_type"], condition["value"]) == ("agent_id_equals", "42")
    await happen(api)
    await happen(api, agent=43, name="other")
    assert len(receiver.requests) == 3
    verify(follow["signing_secret"], receiver)


async def test_the_secret_is_shown_once_and_other_secrets_never(api: Api, key: str, follow: dict[str, Any]) -> None:
    assert follow["actions"][0]["config_preview"]["headers"] == {"Authorization": "***"}
    shown = await api.ask("GET", ON_CHAIN, key=key)
    assert shown.json() == {name: value for name, value in follow.items() if name != "signing_secret"}
    listed = await api.ask("GET", "/api/v1/agents/following", key=key)
    assert listed.json()["data"] == [shown.json()]
    assert b"whsec_" not in shown.body + listed.body
    assert b"Bearer" not in shown.body


async def test_who_may_only_look_does_not_see_the_path_of_a_target(
    api: Api, follow: dict[str, Any], make_key: MakeKey
) -> None:
    reader = await make_key(permissions=("read",))
    for path in (ON_CHAIN, "/api/v1/agents/following"):
        assert b"key=canary" not in (await api.ask("GET", path, key=reader)).body


async def test_an_agent_is_followed_once(
    api: Api, key: str, follow: dict[str, Any], receiver: Receiver, make_key: MakeKey
) -> None:
    body = {"chain_id": 84532, "actions": [hook(receiver)]}
    again = await api.ask("POST", PATH, key=key, json=body)
    assert (again.status, again.json()["error"]) == (409, "already_following")
    for path, sent, other in (
        (PATH, body | {"chain_id": 8453}, key),
        ("/api/v1/agents/43/follow", body, key),
        (PATH, body, await make_key("strangers")),
        (PATH, body, await make_key(environment="test")),
    ):
        assert (await api.ask("POST", path, key=other, json=sent)).status == 201
    listed = await api.ask("GET", "/api/v1/agents/following", key=key)
    assert listed.json()["pagination"]["total"] == 3


async def test_of_two_who_follow_at_once_one_is_told(api: Api, key: str, receiver: Receiver) -> None:
    body = {"chain_id": 84532, "actions": [hook(receiver)]}
    answers = await asyncio.gather(*(api.ask("POST", PATH, key=key, json=body) for _ in range(4)))
    assert sorted(answer.status for answer in answers) == [201, 409, 409, 409]
    triggers = (await api.ask("GET", "/api/v1/triggers?managed=true", key=key)).json()
    assert triggers["pagination"]["total"] == 3


async def test_a_follow_that_cannot_work_is_refused(api: Api, key: str) -> None:
    empty = {"action_type": "webhook", "config": {}}
    bad: list[tuple[dict[str, Any], str]] = [
        ({"chain_id": 84532, "actions": []}, "actions"),
        ({"chain_id": 84532}, "actions"),
        ({"actions": [empty]}, "chain_id"),
        ({"chain_id": 5, "actions": [empty]}, "chain_id"),
        ({"chain_id": 84532, "actions": [empty]}, "actions[0].config.url"),
        ({"chain_id": 84532, "actions": [empty | {"action_type": "x"}]}, "actions[0].action_type"),
    ]
    for body, field in bad:
        refused = await api.ask("POST", PATH, key=key, json=body)
        assert refused.status == 422
        assert field in {fault["field"] for fault in refused.json()["errors"]}
    for agent in ("x", str(2**256)):
        refused = await api.ask("POST", f"/api/v1/agents/{agent}/follow", key=key, json=bad[0][0])
        assert refused.status == 404
    assert (await api.ask("GET", "/api/v1/triggers", key=key)).json()["data"] == []


async def test_a_chain_that_is_not_ours_has_a_code_of_its_own(api: Api, key: str, receiver: Receiver) -> None:
    refused = await api.ask("POST", PATH, key=key, json={"chain_id": 5, "actions": [hook(receiver)]})
    assert (refused.status, refused.json()["error"]) == (422, "unsupported_chain")


async def test_agent_0_and_the_last_one_are_ordinary_agents(api: Api, key: str, receiver: Receiver) -> None:
    for agent in ("0", str(2**256 - 1)):
        path = f"/api/v1/agents/{agent}/follow"
        made = await api.ask("POST", path, key=key, json={"chain_id": 84532, "actions": [hook(receiver)]})
        assert (made.status, made.json()["agent_id"]) == (201, agent)
        assert (await api.ask("GET", f"{path}?chain_id=84532", key=key)).json()["agent_id"] == agent


async def test_a_managed_trigger_changes_with_its_follow_alone(
    api: Api, key: str, follow: dict[str, Any], receiver: Receiver
) -> None:
    path = f"/api/v1/triggers/{follow['trigger_ids']['reputation']}"
    trigger = (await api.ask("GET", path, key=key)).json()
    action, condition = trigger["actions"][0]["id"], trigger["conditions"][0]["id"]

    async def refused(method: str, part: str, body: Any = None) -> bool:
        answer = await api.ask(method, f"{path}{part}", key=key, json=body)
        return (answer.status, answer.json()["error"]) == (409, "managed_by_follow")

    assert await refused("PATCH", "", {"name": "mine"})
    assert await refused("PUT", "", {"enabled": False, "actions": []})
    assert await refused("DELETE", "")
    assert await refused("POST", "/conditions", {"condition_type": "agent_id_equals", "value": 1})
    assert await refused("PATCH", f"/conditions/{condition}", {"value": 1})
    assert await refused("DELETE", f"/conditions/{condition}")
    assert await refused("POST", "/actions", hook(receiver))
    assert await refused("PATCH", f"/actions/{action}", {"enabled": False})
    assert await refused("DELETE", f"/actions/{action}")
    assert (await api.ask("PATCH", path, key=key, json={"enabled": False})).json()["status"] == "disabled"
    assert (await api.ask("GET", ON_CHAIN, key=key)).json()["enabled"] is False


async def test_a_change_of_a_follow_is_one_of_all_its_triggers(
    api: Api, key: str, follow: dict[str, Any], receiver: Receiver
) -> None:
    for enabled, count in ((False, 0), (True, 3)):
        changed = await api.ask("PATCH", ON_CHAIN, key=key, json={"enabled": enabled})
        assert (changed.status, changed.json()["enabled"]) == (200, enabled)
        await happen(api, name=f"e{count}")
        assert len(receiver.requests) == count
        listed = await api.ask("GET", f"/api/v1/agents/following?enabled={str(enabled).lower()}", key=key)
        assert len(listed.json()["data"]) == 1


async def test_replaced_actions_keep_what_they_are_told_to_and_the_signing_secret(
    api: Api, key: str, follow: dict[str, Any], receiver: Receiver
) -> None:
    kept = hook(receiver, headers={"Authorization": "***"}, method="PUT")
    fresh = hook(receiver, url=f"{receiver.url.replace('127.0.0.1', 'localhost')}/other", headers={})
    changed = await api.ask("PATCH", ON_CHAIN, key=key, json={"actions": [fresh, kept]})
    assert changed.status == 200, changed.body
    assert "signing_secret" not in changed.json()
    await happen(api)
    assert sorted(request.method for request in receiver.requests) == ["POST"] * 3 + ["PUT"] * 3
    for request in receiver.requests:
        assert request.headers.get("Authorization") == ("Bearer canary" if request.method == "PUT" else None)
    verify(follow["signing_secret"], receiver)
    assert (await api.ask("PATCH", ON_CHAIN, key=key, json={"actions": [fresh]})).status == 200
    receiver.requests.clear()
    await happen(api, name="later")
    assert len(receiver.requests) == 3
    verify(follow["signing_secret"], receiver)


async def test_a_secret_that_was_never_stored_cannot_be_kept(
    api: Api, key: str, follow: dict[str, Any], receiver: Receiver
) -> None:
    before = (await api.ask("GET", ON_CHAIN, key=key)).json()
    for unknown in (
        hook(receiver, headers={"X-Other": "***"}),
        hook(receiver, url="http://127.0.0.2:9/", headers={"Authorization": "***"}),
    ):
        refused = await api.ask("PATCH", ON_CHAIN, key=key, json={"actions": [unknown]})
        assert refused.status == 422, refused.body
    assert (await api.ask("GET", ON_CHAIN, key=key)).json() == before


async def test_rotating_the_secret_of_one_action_rotates_it_for_all(
    api: Api, key: str, follow: dict[str, Any], receiver: Receiver, make_key: MakeKey
) -> None:
    admin = await make_key(key_type="admin", permissions=("read", "write", "admin"))
    secrets = (await api.ask("GET", "/api/v1/webhooks/secrets", key=key)).json()["data"]
    assert [one["follow_id"] for one in secrets] == [follow["id"]] * 3
    path = f"/api/v1/webhooks/{secrets[1]['action_id']}/rotate-secret"
    rotated = (await api.ask("POST", path, key=admin)).json()
    assert rotated["action_ids"] == sorted(one["action_id"] for one in secrets)
    changed = hook(receiver, url=f"{receiver.url.replace('127.0.0.1', 'localhost')}/other", headers={})
    await api.ask("PATCH", ON_CHAIN, key=key, json={"actions": [changed]})  # which are other actions
    await happen(api)
    assert len(receiver.requests) == 3
    verify(follow["signing_secret"], receiver)
    verify(rotated["signing_secret"], receiver)


async def test_the_end_of_a_follow_is_that_of_its_triggers(api: Api, key: str, follow: dict[str, Any]) -> None:
    ended = await api.ask("DELETE", ON_CHAIN, key=key)
    assert (ended.status, ended.body) == (204, b"")
    for trigger_id in follow["trigger_ids"].values():
        assert (await api.ask("GET", f"/api/v1/triggers/{trigger_id}", key=key)).status == 404
    for method in ("GET", "PATCH", "DELETE"):
        assert (await api.ask(method, ON_CHAIN, key=key, json={} if method == "PATCH" else None)).status == 404
    assert (await api.ask("GET", "/api/v1/agents/following", key=key)).json()["data"] == []


async def test_nobody_sees_whom_another_follows(api: Api, follow: dict[str, Any], make_key: MakeKey) -> None:
    for other in (await make_key("strangers"), await make_key(environment="test")):
        for method in ("GET", "PATCH", "PUT", "DELETE"):
            answer = await api.ask(method, ON_CHAIN, key=other, json={"enabled": False} if method[0] == "P" else None)
            assert answer.status == 404, method
        assert (await api.ask("GET", "/api/v1/agents/following", key=other)).json()["data"] == []


async def test_the_chain_has_to_be_named(api: Api, key: str, follow: dict[str, Any]) -> None:
    refused: Answer = await api.ask("GET", PATH, key=key)
    assert (refused.status, refused.json()["errors"][0]["field"]) == (422, "query.chain_id")


async def test_which_agents_of_a_list_are_followed(api: Api, key: str, follow: dict[str, Any]) -> None:
    async with api.house.database.transaction() as tx:
        organization = (await api.house.organizations.find(tx, "acme")).id
        found = await api.house.follows.followed(tx, organization, "live", [(84532, 42), (84532, 43), (1, 42)])
    assert found == {(84532, 42)}
