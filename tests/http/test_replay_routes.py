"""Deliveries by the dozen, and by way of trial: replay and send-test."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agentauri import console
from support.events import insert_by_hand
from support.receiver import Answer as Reply
from support.receiver import Receiver
from support.reused import reused_database

from .conftest import Answer, Api

MakeKey = Callable[..., Awaitable[str]]


class Scene:
    """A trigger whose deliveries were refused by their receiver for good."""

    def __init__(self, api: Api, key: str, receiver: Receiver) -> None:
        self.api, self.key, self.receiver = api, key, receiver
        self.trigger: dict[str, Any] = {}

    async def make_trigger(self, **changes: Any) -> None:
        body = {
            "name": "t",
            "match_all": True,
            "actions": [{"action_type": "webhook", "config": {"url": f"{self.receiver.url}/hook"}}],
        }
        answer = await self.api.ask("POST", "/api/v1/triggers", key=self.key, json=body | changes)
        assert answer.status == 201, answer.body
        self.trigger = answer.json()

    async def dead(self, *blocks: int) -> list[dict[str, Any]]:
        """A dead delivery for an event in each of these blocks, oldest first."""
        self.receiver.answer = lambda _: Reply(400)
        async with self.api.house.database.transaction() as tx:
            for block in blocks:
                await insert_by_hand(tx, f"event-{block}", block_number=block)
        while await self.api.house.evaluator.step():
            pass
        await self.send()
        self.receiver.answer = lambda _: Reply()
        self.receiver.requests.clear()
        listed = await self.ask("GET", "/api/v1/deliveries?order=asc&status=dead")
        found: list[dict[str, Any]] = listed.json()["data"]
        return found

    async def send(self) -> None:
        while await self.api.house.dispatcher.step():
            pass

    async def ask(self, method: str, path: str, **request: Any) -> Answer:
        return await self.api.ask(method, path, key=self.key, **request)

    async def replay(self, **body: Any) -> dict[str, Any]:
        answer = await self.ask("POST", "/api/v1/deliveries/replay", json=body)
        assert answer.status == 202, answer.body
        done: dict[str, Any] = answer.json()
        return done

    async def show(self, delivery_id: str) -> dict[str, Any]:
        shown: dict[str, Any] = (await self.ask("GET", f"/api/v1/deliveries/{delivery_id}")).json()
        return shown

    async def send_test(self) -> Answer:
        action = self.trigger["actions"][0]["id"]
        return await self.ask("POST", f"/api/v1/triggers/{self.trigger['id']}/actions/{action}/send-test")

    async def sql(self, statement: str, *arguments: object) -> None:
        async with self.api.house.database.transaction() as tx:
            await tx.run(statement, *arguments)


@pytest.fixture
async def database_url(admin_url: str, template: str) -> str:
    return await reused_database(admin_url, template, "routes")


@pytest.fixture
async def scene(api: Api, key: str, receiver: Receiver) -> Scene:
    made = Scene(api, key, receiver)
    await made.make_trigger()
    return made


async def test_dead_deliveries_are_sent_again_under_their_ids_oldest_first(scene: Scene) -> None:
    first, second = await scene.dead(1, 2)
    done = await scene.replay(trigger_id=scene.trigger["id"], limit=1)
    assert (done["matched"], done["queued"], done["refused"], done["has_more"]) == (1, 1, {}, True)
    await scene.send()
    assert (await scene.show(first["id"]))["status"] == "delivered"
    assert (await scene.show(second["id"]))["status"] == "dead"
    assert [request.headers["webhook-id"] for request in scene.receiver.requests] == [f"msg_{first['id']}"]

    rest = await scene.replay(trigger_id=scene.trigger["id"], limit=1)
    assert (rest["queued"], rest["has_more"], rest["next_cursor"]) == (1, False, None)
    await scene.send()
    assert [attempt["number"] for attempt in (await scene.show(second["id"]))["attempt_log"]] == [1, 2]


async def test_a_dry_run_only_counts(scene: Scene) -> None:
    await scene.dead(1, 2)
    done = await scene.replay(since="2020-01-01T00:00:00Z", dry_run=True)
    assert (done["matched"], done["queued"], done["dry_run"]) == (2, 2, True)
    await scene.send()
    assert scene.receiver.requests == []


async def test_a_replay_as_new_makes_deliveries_of_its_own_that_tell_the_same(scene: Scene) -> None:
    first, second = await scene.dead(1, 2)
    ids, cursor = set(), None
    for _ in range(2):
        done = await scene.replay(trigger_id=scene.trigger["id"], limit=1, **{"as": "new", "cursor": cursor})
        assert done["queued"] == 1
        cursor = done["next_cursor"]
        await scene.send()
    assert cursor is None
    for request in scene.receiver.requests:
        data = json.loads(request.body)["data"]
        assert (json.loads(request.body)["type"], data["kind"]) == ("event.matched", "replay")
        shown = await scene.show(data["delivery_id"])
        ids.add(shown["id"])
        parent = await scene.show(shown["parent_id"])
        assert parent["status"] == "dead"
        for same in ("event_id", "trigger_version", "correlation_id", "action_id"):
            assert shown[same] == parent[same]
    assert len(ids | {first["id"], second["id"]}) == 4


async def test_what_may_not_be_sent_again_is_counted_by_its_reason(scene: Scene, make_key: MakeKey) -> None:
    retracted, gone, pending, good = await scene.dead(1, 2, 3, 4)
    await scene.sql("UPDATE events SET retracted_at = now() WHERE id = $1", retracted["event_id"])
    await scene.sql("UPDATE deliveries SET action_id = 9999 WHERE id = $1::text::uuid", gone["id"])
    await scene.sql("UPDATE deliveries SET status = 'pending' WHERE id = $1::text::uuid", pending["id"])
    ids = [one["id"] for one in (retracted, gone, pending, good)]
    done = await scene.replay(delivery_ids=[*ids, "00000000-0000-4000-8000-000000000000"])
    assert done["queued"] == 1
    assert done["refused"] == {"event_retracted": 1, "action_deleted": 1, "delivery_pending": 1, "no_match": 1}
    assert done["matched"] == 5


async def test_a_retraction_is_never_replayed_as_a_match(scene: Scene) -> None:
    (dead,) = await scene.dead(1)
    await scene.sql("UPDATE deliveries SET kind = 'retraction' WHERE id = $1::text::uuid", dead["id"])
    done = await scene.replay(delivery_ids=[dead["id"]], **{"as": "new"})
    assert (done["queued"], done["refused"]) == (0, {"not_a_match": 1})
    assert (await scene.replay(delivery_ids=[dead["id"]]))["queued"] == 1


async def test_a_replay_goes_by_what_it_is_asked_for(scene: Scene) -> None:
    dead = await scene.dead(1, 2, 3)
    action = scene.trigger["actions"][0]["id"]
    for wanted, count in (
        ({"event_id": "event-2"}, 1),
        ({"chain_id": 84532, "from_block": 2}, 2),
        ({"chain_id": 84532, "from_block": 2, "to_block": 2}, 1),
        ({"chain_id": 1, "from_block": 0}, 0),
        ({"action_id": action}, 3),
        ({"action_id": action, "status": ["delivered"]}, 0),
        ({"until": "2020-01-01T00:00:00Z"}, 0),
        ({"delivery_ids": [dead[0]["id"]], "trigger_id": scene.trigger["id"]}, 1),
        ({"delivery_ids": [], "trigger_id": scene.trigger["id"]}, 0),
    ):
        assert (await scene.replay(dry_run=True, **wanted))["queued"] == count, wanted


async def test_a_replay_of_everything_or_nonsense_is_refused(scene: Scene) -> None:
    nobody = "00000000-0000-4000-8000-000000000000"
    bad: list[tuple[dict[str, Any], str]] = [
        ({}, ""),
        ({"chain_id": 1}, ""),
        ({"status": ["dead"]}, ""),
        ({"from_block": 1}, "chain_id"),
        ({"trigger_id": "t", "limit": 1001}, "limit"),
        ({"trigger_id": "t", "as": "other"}, "as"),
        ({"trigger_id": "t", "status": ["lost"]}, "status[0]"),
        ({"delivery_ids": ["x"]}, "delivery_ids[0]"),
        ({"delivery_ids": [nobody] * 1001}, "delivery_ids"),
        ({"trigger_id": "t", "cursor": "x"}, "cursor"),
        ({"trigger_id": "t", "all": True}, "all"),
    ]
    for body, field in bad:
        answer = await scene.ask("POST", "/api/v1/deliveries/replay", json=body)
        assert (answer.status, [fault["field"] for fault in answer.json()["errors"]]) == (422, [field])


async def test_nobody_replays_what_is_another_tenants_or_environments(
    scene: Scene, api: Api, make_key: MakeKey
) -> None:
    (dead,) = await scene.dead(1)
    for other in (await make_key("strangers"), await make_key(environment="test")):
        for wanted in ({"trigger_id": scene.trigger["id"]}, {"delivery_ids": [dead["id"]]}):
            answer = await api.ask("POST", "/api/v1/deliveries/replay", key=other, json=wanted)
            assert (answer.status, answer.json()["queued"]) == (202, 0)
    assert (await scene.show(dead["id"]))["status"] == "dead"


async def test_the_operator_replays_by_the_same_door_page_by_page(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "REPLAYED_AT_ONCE", 2)
    dead = await scene.dead(1, 2, 3)
    await scene.sql("UPDATE events SET retracted_at = now() WHERE id = $1", dead[1]["event_id"])
    house, trigger = scene.api.house, scene.trigger["id"]
    assert await console.redeliver(house, None, trigger, None, dry_run=True) == (2, 1)
    assert await console.redeliver(house, dead[1]["id"], None, None, dry_run=True) == (0, 1)
    await scene.send()
    assert scene.receiver.requests == []
    assert await console.redeliver(house, None, trigger, None, dry_run=False) == (2, 1)
    await scene.send()
    assert len(scene.receiver.requests) == 2


async def test_send_test_sends_one_real_message_that_says_what_it_is(scene: Scene) -> None:
    await scene.dead(7)
    answer = await scene.send_test()
    assert (answer.status, answer.json()["kind"], answer.json()["status"]) == (202, "test", "pending")
    await scene.send()
    (request,) = scene.receiver.requests
    body = json.loads(request.body)
    assert (body["type"], body["data"]["kind"], body["data"]["event"]["id"]) == ("test", "test", "event-7")
    assert request.headers["x-agentauri-test"] == "true"
    assert request.headers["webhook-id"] == f"msg_{answer.json()['id']}"
    assert (await scene.show(answer.json()["id"]))["status"] == "delivered"


@pytest.mark.parametrize("registry", ["identity", "reputation", "validation", None])
async def test_before_any_event_a_test_tells_of_a_sample(
    api: Api, key: str, receiver: Receiver, registry: str | None
) -> None:
    scene = Scene(api, key, receiver)
    await scene.make_trigger(registry=registry)
    answer = await scene.send_test()
    assert (answer.status, answer.json()["event_id"]) == (202, "sample")
    await scene.send()
    (request,) = receiver.requests
    event = json.loads(request.body)["data"]["event"]
    assert (event["id"], event["registry"]) == ("sample", registry or "reputation")
    shown = await scene.show(answer.json()["id"])
    assert (shown["event"], shown["correlation_id"]) == (None, request.headers["x-agentauri-correlation-id"])
    assert json.loads(shown["rendered"]["body"])["data"]["event"] == event


async def test_a_test_goes_out_while_trigger_and_action_are_switched_off(scene: Scene) -> None:
    path = f"/api/v1/triggers/{scene.trigger['id']}"
    action = scene.trigger["actions"][0] | {"enabled": False}
    assert (await scene.ask("PATCH", path, json={"enabled": False, "actions": [action]})).status == 200
    await scene.send_test()
    await scene.send()
    assert len(scene.receiver.requests) == 1


async def test_each_test_is_a_message_of_its_own(scene: Scene) -> None:
    ids = {(await scene.send_test()).json()["id"] for _ in range(3)}
    assert len(ids) == 3


async def test_nothing_is_sent_from_the_test_environment(api: Api, receiver: Receiver, make_key: MakeKey) -> None:
    scene = Scene(api, await make_key(environment="test"), receiver)
    await scene.make_trigger()
    refused = await scene.send_test()
    assert (refused.status, refused.json()["error"]) == (409, "conflict")


async def test_there_is_nothing_to_test_where_there_is_no_such_action(scene: Scene, make_key: MakeKey) -> None:
    for action in ("999999", "x", "0", "9" * 40):
        path = f"/api/v1/triggers/{scene.trigger['id']}/actions/{action}/send-test"
        assert (await scene.ask("POST", path)).status == 404
    stranger = await make_key("strangers")
    path = f"/api/v1/triggers/{scene.trigger['id']}/actions/{scene.trigger['actions'][0]['id']}/send-test"
    assert (await scene.api.ask("POST", path, key=stranger)).status == 404
