"""Routes about triggers and their breakers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agentauri.database import Database

from .conftest import Answer, Api

MakeKey = Callable[..., Awaitable[str]]

WEBHOOK = {
    "action_type": "webhook",
    "config": {"url": "http://127.0.0.1:9/hook?token=canary", "headers": {"Authorization": "Bearer canary"}},
}
TRIGGER: dict[str, Any] = {
    "name": "  Rated badly  ",
    "registry": "reputation",
    "conditions": [
        {"condition_type": "agent_id_equals", "value": 42},
        {
            "any": [
                {"condition_type": "score_threshold", "operator": "<", "value": 59.5},
                {"not": {"condition_type": "field", "field": "tag1", "operator": "in", "value": ["a", "b"]}},
            ]
        },
    ],
    "actions": [WEBHOOK, {**WEBHOOK, "priority": -1}],
}


@pytest.fixture
async def made(api: Api, key: str) -> dict[str, Any]:
    answer = await api.ask("POST", "/api/v1/triggers", key=key, json=TRIGGER)
    assert answer.status == 201, answer.body
    body: dict[str, Any] = answer.json()
    return body


async def test_a_trigger_is_made_with_all_its_parts_in_one_call(api: Api, key: str) -> None:
    answer = await api.ask("POST", "/api/v1/triggers", key=key, json=TRIGGER)
    made = answer.json()
    assert answer.headers["Location"] == f"/api/v1/triggers/{made['id']}"
    assert (made["name"], made["status"], made["version"]) == ("Rated badly", "active", 1)
    assert made["circuit_breaker"] == {"state": "closed", "failure_count": 0}
    assert [action["priority"] for action in made["actions"]] == [-1, 0]
    assert all(action["signing_secret"].startswith("whsec_") for action in made["actions"])
    leaf, group = made["conditions"]
    assert (leaf["condition_type"], leaf["value"], leaf["trigger_id"]) == ("agent_id_equals", "42", made["id"])
    assert group["any"][0]["value"] == "59.5"
    assert group["any"][1]["not"]["value"] == ["a", "b"]

    shown = await api.ask("GET", answer.headers["Location"], key=key)
    assert shown.status == 200
    assert shown.json() == made | {
        "actions": [{k: v for k, v in action.items() if k != "signing_secret"} for action in made["actions"]]
    }


async def test_a_trigger_is_its_makers(api: Api, made: dict[str, Any]) -> None:
    async with api.house.database.transaction() as tx:
        organization = await api.house.organizations.find(tx, "acme")
    assert (made["organization_id"], made["user_id"]) == (organization.id, organization.owner_id)


async def test_secrets_never_come_back(api: Api, key: str, made: dict[str, Any]) -> None:
    for action in made["actions"]:
        assert action["config"]["headers"] == {"Authorization": "***"}
        assert action["destination"] == "127.0.0.1"
    shown = await api.ask("GET", f"/api/v1/triggers/{made['id']}", key=key)
    assert b"Bearer canary" not in shown.body
    assert b"whsec_" not in shown.body


async def test_who_may_only_look_does_not_see_the_path_of_a_target(
    api: Api, made: dict[str, Any], make_key: MakeKey
) -> None:
    shown = await api.ask("GET", f"/api/v1/triggers/{made['id']}", key=await make_key(permissions=("read",)))
    assert shown.json()["actions"][0]["config"]["url"] == "http://127.0.0.1:9/***"


async def test_what_was_read_may_be_sent_back_and_changes_nothing_secret(
    api: Api, key: str, made: dict[str, Any]
) -> None:
    path = f"/api/v1/triggers/{made['id']}"
    body = {"actions": made["actions"][:1], "conditions": made["conditions"]}
    changed = await api.ask("PATCH", path, key=key, json=body)
    assert changed.status == 200, changed.body
    assert [action["id"] for action in changed.json()["actions"]] == [made["actions"][0]["id"]]
    assert changed.json()["conditions"] == made["conditions"]
    assert "signing_secret" not in changed.json()["actions"][0]


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_stored_header_is_not_taken_along_to_another_host(
    api: Api, key: str, made: dict[str, Any], method: str
) -> None:
    path = f"/api/v1/triggers/{made['id']}"
    first = made["actions"][0]
    moved = first | {"config": first["config"] | {"url": "http://127.0.0.2:9/hook?token=canary"}}
    refused = await api.ask(method, path, key=key, json={"actions": [moved]})
    assert refused.status == 422
    assert fields(refused) == {"actions[0].config.headers.Authorization"}
    assert (await api.ask("GET", path, key=key)).json()["actions"][0]["config"] == first["config"]


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_change_is_held_to_the_number_of_actions_too(
    api: Api, key: str, made: dict[str, Any], method: str
) -> None:
    refused = await api.ask(method, f"/api/v1/triggers/{made['id']}", key=key, json={"actions": [WEBHOOK] * 21})
    assert (refused.status, fields(refused)) == (422, {"actions"})


async def test_patch_changes_what_is_given_and_clears_what_is_null(api: Api, key: str, made: dict[str, Any]) -> None:
    path = f"/api/v1/triggers/{made['id']}"
    await api.ask("PATCH", path, key=key, json={"description": "why"})
    changed = (await api.ask("PATCH", path, key=key, json={"enabled": False, "description": None})).json()
    assert (changed["enabled"], changed["status"], changed["description"]) == (False, "disabled", None)
    assert changed["name"] == "Rated badly"
    assert changed["version"] == made["version"] + 2


async def test_put_is_the_same_but_null_leaves_a_field_as_it_is(api: Api, key: str, made: dict[str, Any]) -> None:
    path = f"/api/v1/triggers/{made['id']}"
    await api.ask("PATCH", path, key=key, json={"description": "why"})
    changed = (await api.ask("PUT", path, key=key, json={"name": "new", "description": None, "registry": None})).json()
    assert (changed["name"], changed["description"], changed["registry"]) == ("new", "why", "reputation")


async def test_a_deleted_trigger_is_gone(api: Api, key: str, made: dict[str, Any]) -> None:
    path = f"/api/v1/triggers/{made['id']}"
    answer = await api.ask("DELETE", path, key=key)
    assert (answer.status, answer.body) == (204, b"")
    for method in ("GET", "DELETE"):
        assert (await api.ask(method, path, key=key)).status == 404


async def test_triggers_are_listed_and_filtered(api: Api, key: str, made: dict[str, Any]) -> None:
    await api.ask("POST", "/api/v1/triggers", key=key, json={"name": "100% draft", "chain_id": 8453})

    async def names(query: str) -> list[str]:
        answer = await api.ask("GET", f"/api/v1/triggers?{query}", key=key)
        assert answer.status == 200, answer.body
        return [trigger["name"] for trigger in answer.json()["data"]]

    assert await names("") == ["100% draft", "Rated badly"]
    assert await names("order=asc") == ["Rated badly", "100% draft"]
    assert await names("status=draft") == ["100% draft"]
    assert await names("registry=reputation&enabled=true") == ["Rated badly"]
    assert await names("chain_id=8453") == ["100% draft"]
    assert await names("search=100%25") == ["100% draft"]
    assert await names("search=%25%25") == []
    assert await names("breaker_state=open") == []
    assert await names("managed=true") == []
    assert await names("limit=1&page=2") == ["Rated badly"]


async def test_the_breaker_is_shown_configured_and_reset(api: Api, key: str, made: dict[str, Any]) -> None:
    path = f"/api/v1/triggers/{made['id']}/circuit-breaker"
    async with api.house.database.transaction() as tx:
        await tx.run(
            "INSERT INTO circuit_breaker_state (trigger_id, state, failure_count) VALUES ($1, 'open', 10)", made["id"]
        )
    shown = (await api.ask("GET", path, key=key)).json()
    assert (shown["state"], shown["failure_count"], shown["held_deliveries"]) == ("open", 10, 0)
    assert (shown["trigger_id"], shown["trigger_name"]) == (made["id"], "Rated badly")
    assert shown["next_probe_at"] > shown["opened_at"]
    changed = (await api.ask("PATCH", path, key=key, json={"failure_threshold": 5})).json()
    assert changed["config"] == {
        "failure_threshold": 5,
        "recovery_timeout_seconds": 60,
        "half_open_max_calls": 1,
    }
    reset = await api.ask("POST", f"{path}/reset", key=key)
    assert (reset.status, reset.json()["state"], reset.json()["failure_count"]) == (200, "closed", 0)
    assert reset.json()["opened_at"] is None


async def test_breaker_settings_have_their_range(api: Api, key: str, made: dict[str, Any]) -> None:
    path = f"/api/v1/triggers/{made['id']}/circuit-breaker"
    refused: list[dict[str, object]] = [
        {},
        {"failure_threshold": 0},
        {"recovery_timeout_seconds": 604801},
        {"half_open_max_calls": "1"},
        {"x": 1},
    ]
    for body in refused:
        assert (await api.ask("PATCH", path, key=key, json=body)).status == 422


def fields(answer: Answer) -> set[str]:
    assert answer.status == 422, answer.body
    return {error["field"] for error in answer.json()["errors"]}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name"),
    ({"name": "   "}, "name"),
    ({"name": "n" * 256}, "name"),
    ({"name": None}, "name"),
    ({"name": 1}, "name"),
    ({"description": "d" * 1001}, "description"),
    ({"chain_id": 2}, "chain_id"),
    ({"chain_id": "8453"}, "chain_id"),
    ({"registry": "other"}, "registry"),
    ({"environment": "production"}, "environment"),
    ({"fire_at": "later"}, "fire_at"),
    ({"cooldown_seconds": -1}, "cooldown_seconds"),
    ({"cooldown_seconds": int("9" * 400)}, "cooldown_seconds"),
    ({"on_reorg": "cry"}, "on_reorg"),
    ({"colour": "red"}, "colour"),
    ({"conditions": {}}, "conditions"),
    ({"conditions": [{}]}, "conditions[0].condition_type"),
    ({"conditions": [{"all": []}]}, "conditions[0].all"),
    ({"conditions": [{"condition_type": "score_threshold", "operator": "<", "value": "x"}]}, "conditions[0].value"),
    ({"conditions": [{"condition_type": "magic"}]}, "conditions[0].condition_type"),
    ({"actions": [{}]}, "actions[0].action_type"),
    ({"actions": [{"action_type": "webhook", "config": {}}]}, "actions[0].config.url"),
    ({"actions": [{**WEBHOOK, "colour": "red"}]}, "actions[0].colour"),
    ({"actions": [{**WEBHOOK, "priority": 40000}]}, "actions[0].priority"),
    ({"actions": [{"action_type": "webhook", "config": {"url": "ftp://a"}}]}, "actions[0].config.url"),
    ({"actions": [WEBHOOK] * 21}, "actions"),
]


async def test_every_refused_field_is_named_and_nothing_is_stored(api: Api, key: str) -> None:
    for change, field in REFUSED:
        answer = await api.ask("POST", "/api/v1/triggers", key=key, json=TRIGGER | change)
        assert field in fields(answer), (change, answer.body)
    assert (await api.ask("GET", "/api/v1/triggers", key=key)).json()["pagination"]["total"] == 0


async def test_an_unknown_chain_has_a_code_of_its_own(api: Api, key: str) -> None:
    answer = await api.ask("POST", "/api/v1/triggers", key=key, json={"name": "t", "chain_id": 2})
    assert (answer.status, answer.json()["error"]) == (422, "unsupported_chain")


async def test_a_template_with_an_unknown_name_is_refused_where_it_stands(api: Api, key: str) -> None:
    action = {"action_type": "webhook", "config": {"url": "http://127.0.0.1:9", "body": {"a": "{{ nonsense }}"}}}
    answer = await api.ask("POST", "/api/v1/triggers", key=key, json={"name": "t", "actions": [action]})
    [field] = fields(answer)
    assert field.startswith("actions[0].config.body")


async def test_the_environment_cannot_be_changed(api: Api, key: str, made: dict[str, Any]) -> None:
    answer = await api.ask("PATCH", f"/api/v1/triggers/{made['id']}", key=key, json={"environment": "test"})
    assert fields(answer) == {"environment"}


async def test_what_a_trigger_remembers_is_shown_and_can_be_cleared(
    api: Api, key: str, make_key: MakeKey, database: Database
) -> None:
    leaf = {"condition_type": "ema_threshold", "operator": ">", "value": 3, "config": {"window_size": 10}}
    trigger = {"name": "average", "conditions": [{"any": [leaf]}], "cooldown_seconds": 60, "actions": [WEBHOOK]}
    made = (await api.ask("POST", "/api/v1/triggers", key=key, json=trigger)).json()
    address = f"/api/v1/triggers/{made['id']}/state"
    number = made["conditions"][0]["any"][0]["id"]
    async with database.transaction() as tx:
        await tx.run(
            """INSERT INTO trigger_state (trigger_id, leaf_id, scope_key, state)
               VALUES ($1, $2, 'a', '{"count": 4}'), ($1, $2, 'b', '{"count": 5}'), ($1, 0, '', '{"time": 1}')""",
            made["id"],
            number,
        )

    shown = (await api.ask("GET", address, key=key)).json()
    assert [(one["condition_id"], one["scope_key"], one["kind"], one["state"]) for one in shown["data"]] == [
        (None, "", "cooldown", {"time": 1}),
        (number, "a", "ema_threshold", {"count": 4}),
        (number, "b", "ema_threshold", {"count": 5}),
    ]
    only = (await api.ask("GET", f"{address}?scope_key=b", key=key)).json()
    assert [one["scope_key"] for one in only["data"]] == ["b"]
    second = (await api.ask("GET", f"{address}?limit=1&offset=1", key=key)).json()
    assert ([one["scope_key"] for one in second["data"]], second["pagination"]["total"]) == (["a"], 3)

    reader = await make_key(permissions=("read",))
    assert (await api.ask("DELETE", address, key=reader)).status == 403
    assert (await api.ask("DELETE", address, key=key)).status == 204
    assert (await api.ask("GET", address, key=key)).json()["data"] == []
