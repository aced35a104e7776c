"""Routes about deliveries, fed by a trigger, an event and the workers between them."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from support.events import insert_by_hand
from support.receiver import Answer as Reply
from support.receiver import Receiver

from .conftest import Api

MakeKey = Callable[..., Awaitable[str]]


@pytest.fixture
async def delivery(api: Api, key: str, receiver: Receiver) -> dict[str, Any]:
    """A delivery that was refused for good by its receiver, as the list shows it."""
    receiver.answers.append(Reply(400, None, b"go away"))
    await make_delivery(api, key, receiver)
    [listed] = (await api.ask("GET", "/api/v1/deliveries", key=key)).json()["data"]
    found: dict[str, Any] = listed
    return found


async def make_delivery(api: Api, key: str, receiver: Receiver) -> None:
    body = {
        "name": "t",
        "conditions": [{"condition_type": "agent_id_equals", "value": "7"}],
        "actions": [{"action_type": "webhook", "config": {"url": f"{receiver.url}/hook?token=canary"}}],
    }
    assert (await api.ask("POST", "/api/v1/triggers", key=key, json=body)).status == 201
    async with api.house.database.transaction() as tx:
        await insert_by_hand(tx, "an-event", agent_id=7, tag1="uptime")
    while await api.house.evaluator.step():
        pass
    await send(api)


async def send(api: Api) -> None:
    while await api.house.dispatcher.step():
        pass


async def test_a_delivery_is_listed_and_shown_with_its_attempts(
    api: Api, key: str, delivery: dict[str, Any], receiver: Receiver
) -> None:
    assert (delivery["status"], delivery["attempts"], delivery["kind"]) == ("dead", 1, "match")
    assert (delivery["agent_id"], delivery["environment"]) == ("7", "live")
    shown = (await api.ask("GET", f"/api/v1/deliveries/{delivery['id']}", key=key)).json()
    assert {name: shown[name] for name in delivery} == delivery
    [attempt] = shown["attempt_log"]
    assert (attempt["number"], attempt["outcome"], attempt["status_code"]) == (1, "permanent", 400)
    assert attempt["response_excerpt"] == "go away"
    assert shown["event"]["data"]["tag1"] == "uptime"
    assert shown["rendered"]["method"] == "POST"
    assert receiver.requests[0].headers["webhook-id"] == f"msg_{delivery['id']}"


async def test_who_may_only_look_does_not_see_the_path_of_a_target(
    api: Api, delivery: dict[str, Any], receiver: Receiver, make_key: MakeKey
) -> None:
    reader = await make_key(permissions=("read",))
    shown = await api.ask("GET", f"/api/v1/deliveries/{delivery['id']}", key=reader)
    assert shown.json()["rendered"]["url"] == f"{receiver.url}/***"
    assert b"canary" not in shown.body


async def test_deliveries_are_filtered(api: Api, key: str, delivery: dict[str, Any]) -> None:
    async def count(query: str, path: str = "/api/v1/deliveries") -> int:
        answer = await api.ask("GET", f"{path}?{query}", key=key)
        assert answer.status == 200, answer.body
        return len(answer.json()["data"])

    for query in (
        "status=dead",
        "status=pending&status=dead",
        f"trigger_id={delivery['trigger_id']}",
        f"action_id={delivery['action_id']}",
        f"event_id={delivery['event_id']}",
        f"correlation_id={delivery['correlation_id']}",
        "action_type=webhook&kind=match&chain_id=84532&agent_id=7&environment=live",
        "since=2020-01-01T00:00:00Z",
    ):
        assert await count(query) == 1, query
    for query in ("status=delivered", "agent_id=8", "environment=test", "hold=breaker", "until=2020-01-01T00:00:00Z"):
        assert await count(query) == 0, query
    assert await count("", "/api/v1/deliveries/dead-letters") == 1


async def test_parameters_of_the_list_are_checked(api: Api, key: str) -> None:
    for query in ("status=lost", "agent_id=x", "action_id=0", "kind=x", "hold=x", "since=x", "cursor=altered"):
        answer = await api.ask("GET", f"/api/v1/deliveries?{query}", key=key)
        assert answer.status == 422, query
        assert answer.json()["errors"][0]["field"].startswith(f"query.{query.partition('=')[0]}")


async def test_a_finished_delivery_is_sent_again_under_its_id(
    api: Api, key: str, delivery: dict[str, Any], receiver: Receiver
) -> None:
    path = f"/api/v1/deliveries/{delivery['id']}"
    again = await api.ask("POST", f"{path}/redeliver", key=key)
    assert (again.status, again.json()["status"], again.json()["attempts"]) == (202, "pending", 1)
    refused = await api.ask("POST", f"{path}/redeliver", key=key)
    assert (refused.status, refused.json()["error"]) == (409, "delivery_pending")
    await send(api)
    shown = (await api.ask("GET", path, key=key)).json()
    assert (shown["status"], [attempt["number"] for attempt in shown["attempt_log"]]) == ("delivered", [1, 2])
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1


async def test_a_delivery_of_a_retracted_event_is_not_sent_again(api: Api, key: str, delivery: dict[str, Any]) -> None:
    async with api.house.database.transaction() as tx:
        await tx.run("UPDATE events SET retracted_at = now()")
    refused = await api.ask("POST", f"/api/v1/deliveries/{delivery['id']}/redeliver", key=key)
    assert (refused.status, refused.json()["error"]) == (409, "event_retracted")


async def test_what_is_another_tenants_or_environments_is_not_there(
    api: Api, delivery: dict[str, Any], make_key: MakeKey
) -> None:
    path = f"/api/v1/deliveries/{delivery['id']}"
    for key in (await make_key("strangers"), await make_key(environment="test")):
        assert (await api.ask("GET", path, key=key)).status == 404
        assert (await api.ask("POST", f"{path}/redeliver", key=key)).status == 404
        assert (await api.ask("GET", "/api/v1/deliveries", key=key)).json()["data"] == []


async def test_an_id_of_the_wrong_form_is_not_found(api: Api, key: str) -> None:
    for delivery_id in ("x", str(uuid.uuid4()).upper(), str(uuid.uuid4()), "1" * 400):
        assert (await api.ask("GET", f"/api/v1/deliveries/{delivery_id}", key=key)).status == 404
