"""Conditions and actions of a trigger, one at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agentauri.actions import ActionPatch, patched
from agentauri.errors import Conflict
from support.events import insert_by_hand
from support.reused import reused_database

from .conftest import Answer, Api

MakeKey = Callable[..., Awaitable[str]]

AGENT: dict[str, Any] = {"condition_type": "agent_id_equals", "value": "42"}
GROUP: dict[str, Any] = {
    "any": [
        {"condition_type": "score_threshold", "operator": "<", "value": "60"},
        {"not": {"condition_type": "tag_equals", "field": "tag1", "value": "uptime"}},
    ]
}
HOOK: dict[str, Any] = {
    "action_type": "webhook",
    "config": {"url": "http://127.0.0.1:9/hook?token=canary", "headers": {"Authorization": "Bearer canary"}},
}


class Trigger:
    """A trigger, and requests about its parts."""

    def __init__(self, api: Api, key: str, made: dict[str, Any]) -> None:
        self.api, self.key, self.id = api, key, made["id"]
        self.path = f"/api/v1/triggers/{self.id}"

    async def ask(self, method: str, part: str = "", **request: Any) -> Answer:
        return await self.api.ask(method, f"{self.path}{part}", key=self.key, **request)

    async def show(self) -> dict[str, Any]:
        shown: dict[str, Any] = (await self.ask("GET")).json()
        return shown

    async def add(self, part: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self.ask("POST", part, json=body)
        assert answer.status == 201, answer.body
        made: dict[str, Any] = answer.json()
        return made


@pytest.fixture
async def database_url(admin_url: str, template: str) -> str:
    return await reused_database(admin_url, template, "routes")


@pytest.fixture
async def trigger(api: Api, key: str) -> Trigger:
    return Trigger(api, key, (await api.ask("POST", "/api/v1/triggers", key=key, json={"name": "t"})).json())


def fields(answer: Answer) -> list[str]:
    return [fault["field"] for fault in answer.json()["errors"]]


async def test_a_trigger_built_piece_by_piece_is_the_one_built_at_once(api: Api, key: str, trigger: Trigger) -> None:
    await trigger.add("/conditions", AGENT)
    assert (await trigger.show())["status"] == "draft"
    await trigger.add("/conditions", GROUP)
    await trigger.add("/actions", HOOK)
    built = await trigger.show()
    body = {"name": "t", "conditions": [AGENT, GROUP], "actions": [HOOK]}
    at_once = (await api.ask("POST", "/api/v1/triggers", key=key, json=body)).json()
    differ = ("trigger_id", "created_at")
    assert [{k: v for k, v in one.items() if k not in differ} for one in built["conditions"]] == [
        {k: v for k, v in one.items() if k not in differ} for one in at_once["conditions"]
    ]
    assert (built["status"], at_once["status"]) == ("active", "active")
    async with api.house.database.transaction() as tx:
        for number, agent in enumerate((42, 7)):
            await insert_by_hand(tx, f"e{number}", agent_id=agent, score=10, log_index=number)
    while await api.house.evaluator.step():
        pass
    listed = (await api.ask("GET", "/api/v1/deliveries", key=key)).json()["data"]
    assert sorted(one["trigger_id"] for one in listed) == sorted([trigger.id, at_once["id"]])


async def test_each_change_of_a_part_is_another_version(trigger: Trigger) -> None:
    before = (await trigger.show())["version"]
    condition = await trigger.add("/conditions", AGENT)
    action = await trigger.add("/actions", HOOK)
    await trigger.ask("PATCH", f"/conditions/{condition['id']}", json={"value": "43"})
    await trigger.ask("PATCH", f"/actions/{action['id']}", json={"priority": 3})
    await trigger.ask("DELETE", f"/conditions/{condition['id']}")
    await trigger.ask("DELETE", f"/actions/{action['id']}")
    assert (await trigger.show())["version"] == before + 6


async def test_conditions_are_listed_in_their_order(trigger: Trigger) -> None:
    added = [await trigger.add("/conditions", one) for one in (AGENT, GROUP)]
    listed = (await trigger.ask("GET", "/conditions")).json()
    assert (listed["data"], listed["pagination"]["total"], listed["pagination"]["limit"]) == (added, 2, 100)
    page = (await trigger.ask("GET", "/conditions?limit=1&offset=1")).json()
    assert (page["data"], page["pagination"]["has_more"]) == (added[1:], False)


async def test_any_node_of_the_tree_is_changed_by_its_id(trigger: Trigger) -> None:
    await trigger.add("/conditions", AGENT)
    group = await trigger.add("/conditions", GROUP)
    negation = group["any"][1]
    changed = await trigger.ask("PATCH", f"/conditions/{negation['not']['id']}", json={"value": "fraud"})
    assert (changed.status, changed.json()) == (200, negation["not"] | {"value": "fraud"})
    replaced = await trigger.ask("PATCH", f"/conditions/{negation['id']}", json=AGENT)
    assert replaced.json() == {"id": negation["id"], "field": "agent_id", "operator": "eq"} | AGENT
    shown = (await trigger.show())["conditions"][1]
    assert shown == group | {"any": [group["any"][0], replaced.json()]}


async def test_put_leaves_what_is_null(trigger: Trigger) -> None:
    made = await trigger.add("/conditions", GROUP["any"][0])
    put = await trigger.ask("PUT", f"/conditions/{made['id']}", json={"value": "50", "operator": None})
    assert put.json() == made | {"value": "50"}
    patch = await trigger.ask("PATCH", f"/conditions/{made['id']}", json={"operator": None})
    assert (patch.status, fields(patch)) == (422, ["operator"])


async def test_what_was_read_may_be_sent_back(trigger: Trigger) -> None:
    made = await trigger.add("/conditions", GROUP)
    assert (await trigger.ask("PATCH", f"/conditions/{made['id']}", json=made)).json() == made


async def test_a_leaf_that_remembers_something_else_has_another_id(trigger: Trigger) -> None:
    ema = {"condition_type": "ema_threshold", "operator": "<", "value": "60", "config": {"window_size": 10}}
    made = await trigger.add("/conditions", ema)
    compared = await trigger.ask("PATCH", f"/conditions/{made['id']}", json={"value": "50"})
    assert compared.json()["id"] == made["id"]
    other = await trigger.ask("PATCH", f"/conditions/{made['id']}", json={"config": {"window_size": 20}})
    assert other.json()["id"] != made["id"]
    assert (await trigger.ask("PATCH", f"/conditions/{made['id']}", json={"value": "1"})).status == 404


async def test_a_fault_is_named_as_seen_from_the_part(trigger: Trigger) -> None:
    bad = {"any": [AGENT, {"condition_type": "score_threshold", "operator": "<", "value": "x"}]}
    refused = await trigger.ask("POST", "/conditions", json=bad)
    assert (refused.status, fields(refused)) == (422, ["any[1].value"])
    made = await trigger.add("/conditions", GROUP)
    refused = await trigger.ask("PATCH", f"/conditions/{made['any'][0]['id']}", json={"value": "x"})
    assert (refused.status, fields(refused)) == (422, ["value"])
    refused = await trigger.ask("POST", "/actions", json={"action_type": "webhook", "config": {"url": 7}})
    assert (refused.status, fields(refused)) == (422, ["config.url"])
    nonsense: list[dict[str, Any]] = [{"all": []}, {"nonsense": 1}]
    for body in nonsense:
        assert (await trigger.ask("POST", "/conditions", json=body)).status == 422


async def test_the_last_condition_leaves_a_draft_and_the_last_of_a_group_stays(trigger: Trigger) -> None:
    await trigger.add("/actions", HOOK)
    group = await trigger.add("/conditions", GROUP)
    score, negation = group["any"]
    refused = await trigger.ask("DELETE", f"/conditions/{negation['not']['id']}")
    assert refused.status == 422
    assert (await trigger.ask("DELETE", f"/conditions/{negation['id']}")).status == 204
    assert (await trigger.ask("DELETE", f"/conditions/{score['id']}")).status == 422
    assert (await trigger.ask("DELETE", f"/conditions/{group['id']}")).status == 204
    shown = await trigger.show()
    assert (shown["status"], shown["conditions"]) == ("draft", [])


async def test_an_action_is_added_listed_and_shown_with_its_secret_once(trigger: Trigger) -> None:
    made = await trigger.add("/actions", HOOK | {"id": 7, "signing_secret": "whsec_mine"})
    assert made["signing_secret"].startswith("whsec_")
    assert made["signing_secret"] != "whsec_mine"
    first = await trigger.add("/actions", HOOK | {"priority": -1})
    listed = await trigger.ask("GET", "/actions")
    assert [one["id"] for one in listed.json()["data"]] == [first["id"], made["id"]]
    assert b"whsec_" not in listed.body
    assert b"Bearer" not in listed.body


async def test_who_may_only_look_does_not_see_the_path_of_a_target(trigger: Trigger, make_key: MakeKey) -> None:
    await trigger.add("/actions", HOOK)
    reader = await make_key(permissions=("read",))
    listed = await trigger.api.ask("GET", f"{trigger.path}/actions", key=reader)
    assert listed.json()["data"][0]["config"]["url"] == "http://127.0.0.1:9/***"


async def test_a_configuration_merges_key_by_key_and_keeps_its_secrets(trigger: Trigger) -> None:
    made = await trigger.add("/actions", HOOK | {"config": HOOK["config"] | {"method": "PUT"}})
    patch = {"config": {"method": None, "timeout_seconds": 3}, "enabled": False}
    changed = (await trigger.ask("PATCH", f"/actions/{made['id']}", json=patch)).json()
    masked = HOOK["config"] | {"headers": {"Authorization": "***"}}
    assert (changed["config"], changed["enabled"]) == (masked | {"timeout_seconds": 3}, False)
    assert "signing_secret" not in changed
    refused = await trigger.ask("PATCH", f"/actions/{made['id']}", json={"config": {"url": "http://127.0.0.2:9/"}})
    assert (refused.status, fields(refused)) == (422, ["config.headers.Authorization"])


async def test_a_trigger_has_so_many_actions_at_most(trigger: Trigger) -> None:
    assert (await trigger.ask("PATCH", json={"actions": [HOOK] * 20})).status == 200
    assert (await trigger.ask("POST", "/actions", json=HOOK)).status == 422


async def test_what_waits_for_a_deleted_action_is_skipped(api: Api, key: str, trigger: Trigger) -> None:
    await trigger.add("/conditions", AGENT)
    made = await trigger.add("/actions", HOOK)
    async with api.house.database.transaction() as tx:
        await insert_by_hand(tx, "e", agent_id=42)
    while await api.house.evaluator.step():
        pass
    assert (await trigger.ask("DELETE", f"/actions/{made['id']}")).status == 204
    (waited,) = (await api.ask("GET", "/api/v1/deliveries", key=key)).json()["data"]
    assert (waited["status"], waited["reason"]) == ("skipped", "action_deleted")
    assert (await trigger.show())["status"] == "draft"


async def test_of_two_who_change_an_action_at_once_the_slower_one_is_told(api: Api, trigger: Trigger) -> None:
    made = await trigger.add("/actions", HOOK)
    house, shown = api.house, await trigger.show()
    async with house.database.transaction() as tx:
        read = await house.parts.action(tx, trigger.id, made["id"])
    checked = await house.parts.prepare_action(
        patched(read, ActionPatch(config={"method": "PUT"})), shown["organization_id"]
    )
    await trigger.ask("PATCH", f"/actions/{made['id']}", json={"config": {"timeout_seconds": 3}})
    with pytest.raises(Conflict):
        async with house.database.transaction() as tx:
            await house.parts.change_action(tx, shown["organization_id"], trigger.id, checked, read)


@pytest.mark.parametrize("part", ["conditions", "actions"])
async def test_a_part_that_is_not_there_is_not_found(trigger: Trigger, part: str, make_key: MakeKey) -> None:
    made = await trigger.add(f"/{part}", AGENT if part == "conditions" else HOOK)
    for number in ("999", "x", "0", "-1", "9" * 30):
        for method in ("PATCH", "PUT", "DELETE"):
            assert (await trigger.ask(method, f"/{part}/{number}", json={})).status == 404, (method, number)
    stranger = Trigger(trigger.api, await make_key("strangers"), {"id": trigger.id})
    for method in ("PATCH", "PUT", "DELETE"):
        assert (await stranger.ask(method, f"/{part}/{made['id']}", json={})).status == 404
    for method in ("GET", "POST"):
        assert (await stranger.ask(method, f"/{part}", json=AGENT if part == "conditions" else HOOK)).status == 404
