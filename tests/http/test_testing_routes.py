"""Trying a trigger out, and asking why it did what it did: over HTTP, on real stores."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.events import insert_by_hand
from support.receiver import Answer as Reply
from support.receiver import Receiver

from .conftest import Api

SCORE = {"condition_type": "score_threshold", "operator": "<", "value": "40"}
COUNT = {"condition_type": "count", "operator": ">=", "value": "2", "config": {"window": "1h"}}
TOKEN = "123456789:AAE-b0tsecret_b0tsecret_b0tsecret12"  # not a bot's


class Scene:
    def __init__(self, api: Api, key: str, receiver: Receiver) -> None:
        self.api, self.key, self.receiver = api, key, receiver

    def draft(self, **changes: Any) -> dict[str, Any]:
        config = {"url": f"{self.receiver.url}/hook", "headers": {"Authorization": "Bearer hush"}}
        return {"name": "t", "conditions": [SCORE], "actions": [{"action_type": "webhook", "config": config}]} | changes

    async def make(self, **changes: Any) -> str:
        return str((await self.ask("POST", "/triggers", json=self.draft(**changes)))["id"])

    async def ask(self, method: str, path: str, **request: Any) -> Any:
        answer = await self.api.ask(method, f"/api/v1{path}", key=self.key, **request)
        assert answer.status in (200, 201), answer.body
        return answer.json()

    async def happen(self, name: str, *, at: int = 1, score: int = 10, **columns: Any) -> None:
        async with self.api.house.database.transaction() as tx:
            await insert_by_hand(
                tx, name, block_number=at, timestamp=1_700_000_000 + at, agent_id=7, score=score, **columns
            )
        while await self.api.house.evaluator.step():
            pass

    async def send(self) -> None:
        while await self.api.house.dispatcher.step():
            pass

    async def explain(self, trigger_id: str, event_id: str) -> Any:
        return await self.ask("GET", f"/triggers/{trigger_id}/explain?event_id={event_id}")

    async def counts(self) -> dict[str, int]:
        """The rows of every table."""
        async with self.api.house.database.transaction() as tx:
            tables = await tx.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
            counted = [f"SELECT '{name}', (SELECT count(*) FROM {name})" for (name,) in tables]
            return dict(await tx.fetch(" UNION ALL ".join(counted)))  # type: ignore[arg-type]  # a record is a pair


@pytest.fixture
def scene(api: Api, key: str, receiver: Receiver) -> Scene:
    return Scene(api, key, receiver)


def gate(explained: Any, name: str) -> Any:
    return next(one["passed"] for one in explained["explanation"]["gates"] if one["gate"] == name)


async def test_explain_tells_of_what_matched_and_of_what_did_not(scene: Scene) -> None:
    trigger = await scene.make()
    await scene.happen("low")
    await scene.happen("high", at=2, score=90)

    matched, not_matched = await scene.explain(trigger, "low"), await scene.explain(trigger, "high")

    assert (matched["matched"], matched["basis"], len(matched["deliveries"])) == (True, "recorded", 1)
    assert (not_matched["matched"], not_matched["basis"], not_matched["deliveries"]) == (False, "recomputed", [])
    [leaf] = not_matched["explanation"]["tree"]["children"]
    assert (leaf["result"], leaf["expected"], leaf["actual"]) == (False, "40", "90")


async def test_explain_follows_a_delivery_to_its_end(scene: Scene) -> None:
    trigger = await scene.make()
    await scene.happen("good")
    await scene.send()
    scene.receiver.answer = lambda _: Reply(400)
    await scene.happen("bad", at=2)
    await scene.send()

    found = [(await scene.explain(trigger, name))["deliveries"][0]["status"] for name in ("good", "bad")]

    assert found == ["delivered", "dead"]


async def test_explain_says_that_the_cooldown_was_silent(scene: Scene) -> None:
    trigger = await scene.make(cooldown_seconds=600)
    await scene.happen("first")
    await scene.happen("second", at=2)

    explained = await scene.explain(trigger, "second")

    assert (explained["matched"], gate(explained, "cooldown"), explained["deliveries"]) == (True, False, [])


async def test_explain_says_what_a_delivery_waits_for(scene: Scene) -> None:
    trigger = await scene.make(fire_at="finalized")
    await scene.happen("deep")
    assert (await scene.explain(trigger, "deep"))["deliveries"][0]["hold"] == "depth"


async def test_explain_says_that_an_open_breaker_holds_a_delivery(scene: Scene) -> None:
    trigger = await scene.make()
    path = f"/triggers/{trigger}/circuit-breaker"
    await scene.ask("PATCH", path, json={"failure_threshold": 1})
    scene.receiver.answer = lambda _: Reply(500)
    await scene.happen("first")
    await scene.send()
    await scene.happen("second", at=2)
    await scene.send()
    assert (await scene.explain(trigger, "second"))["deliveries"][0]["hold"] == "breaker"


async def test_explain_says_that_an_event_is_retracted(scene: Scene) -> None:
    trigger = await scene.make()
    await scene.happen("gone")
    async with scene.api.house.database.transaction() as tx:
        await tx.run("UPDATE events SET retracted_at = now() WHERE id = 'gone'")
    while await scene.api.house.evaluator.step():
        pass

    explained = await scene.explain(trigger, "gone")

    assert (gate(explained, "retracted"), explained["deliveries"][0]["hold"]) == (False, "retraction")


async def test_explain_finds_out_again_what_a_condition_remembered(scene: Scene) -> None:
    trigger = await scene.make(conditions=[COUNT])
    await scene.happen("one")
    await scene.happen("two", at=2)

    first, second = await scene.explain(trigger, "one"), await scene.explain(trigger, "two")

    [leaf] = first["explanation"]["tree"]["children"]
    assert (first["matched"], leaf["state_before"], leaf["state_after"]) == (False, {"count": 0}, {"count": 1})
    [leaf] = second["explanation"]["tree"]["children"]
    assert (second["basis"], leaf["result"], leaf["state_after"]) == ("recorded", True, {"count": 2})


async def test_looking_leaves_no_trace_in_any_table(scene: Scene) -> None:
    """Not even of a rule that remembers, whose past is folded again."""
    trigger = await scene.make(conditions=[COUNT], cooldown_seconds=2)
    for at in (1, 2, 3):
        await scene.happen(f"event-{at}", at=at)
    before = await scene.counts()
    draft, blocks = scene.draft(conditions=[COUNT]), {"chain_id": 84532, "from_block": 1, "to_block": 9}

    for at in (1, 2, 3):
        await scene.explain(trigger, f"event-{at}")
    await scene.ask("POST", f"/triggers/{trigger}/test", json={"event_id": "event-3"})
    await scene.ask("POST", "/triggers/test", json={"trigger": draft})
    await scene.ask("POST", "/triggers/backtest", json={"trigger_id": trigger, "trigger": draft} | blocks)

    assert await scene.counts() == before
    assert before["deliveries"] == 1 < before["state_undo"]


async def test_a_test_shows_the_message_of_every_channel_and_none_of_its_secrets(scene: Scene) -> None:
    told = {"chat_id": -100200300, "message_template": "*{{tag1}}* of {{agent_id}}", "bot_token": TOKEN}
    tool = {
        "server_url": "https://127.0.0.1/mcp", "tool_name": "note", "auth_token": "t0ken-s3cret",
        "arguments_template": {"agent": "{{agent_id}}", "tag": "{{tag1}}"},
    }  # fmt: skip
    actions = [{"action_type": "telegram", "config": told}, {"action_type": "mcp", "config": tool}]
    sample = {"event_type": "NewFeedback", "agent_id": 9, "data": {"score": 3, "tag1": "so_so"}}

    tested = await scene.ask("POST", "/triggers/test", json={"trigger": scene.draft(actions=actions), "event": sample})

    telegram, mcp = (one["rendered"] for one in tested["actions"])
    assert [one["would_deliver"] for one in tested["actions"]] == [True, True]
    assert (telegram["chat_id"], telegram["text"], telegram["parse_mode"]) == (
        -100200300,
        r"*so\_so* of 9",
        "MarkdownV2",
    )
    assert (mcp["tool_name"], json.loads(mcp["arguments"])) == ("note", {"agent": 9, "tag": "so_so"})
    assert mcp["headers"] == {"authorization": "***"}
    assert [secret for secret in (TOKEN, "t0ken-s3cret") if secret in str(tested)] == []


async def test_a_test_shows_what_would_be_sent_and_leaves_no_trace(scene: Scene) -> None:
    trigger = await scene.make()
    before = await scene.counts()
    sample = {"event": {"event_type": "NewFeedback", "agent_id": 9, "data": {"score": 3}}}

    saved = await scene.ask("POST", f"/triggers/{trigger}/test", json=sample)
    draft = await scene.ask("POST", "/triggers/test", json={"trigger": scene.draft()})

    assert (saved["matched"], saved["event_source"], saved["actions"][0]["would_deliver"]) == (True, "sample", True)
    assert saved["actions"][0]["rendered"]["headers"]["authorization"] == "***"
    assert (draft["matched"], draft["event_source"], draft["actions"][0]["reason"]) == (False, "builtin", "not_matched")
    assert b"hush" not in str((saved, draft)).encode()
    assert await scene.counts() == before


async def test_a_backtest_over_a_range_tells_what_live_evaluation_told_page_by_page(scene: Scene) -> None:
    trigger = await scene.make(conditions=[COUNT], cooldown_seconds=2)
    for at in range(1, 8):
        await scene.happen(f"event-{at}", at=at)
    before = await scene.counts()
    wanted = {"trigger_id": trigger, "chain_id": 84532, "from_block": 1, "to_block": 7}

    whole = await scene.ask("POST", "/triggers/backtest", json=wanted)
    first = await scene.ask("POST", "/triggers/backtest", json=wanted | {"max_events": 3})
    cursor = {"cursor": first["next_cursor"]}
    second = await scene.ask("POST", "/triggers/backtest", json=wanted | cursor)
    again = await scene.ask("POST", "/triggers/backtest", json=wanted | cursor)

    assert whole["complete"]
    assert whole["deliveries"] == before["deliveries"] == first["deliveries"] + second["deliveries"]
    assert (whole["matches"], sum(day["matches"] for day in whole["by_day"])) == (6, 6)
    assert (first["complete"], second["complete"], second["matches"]) == (False, True, again["matches"])
    assert await scene.counts() == before


async def test_a_draft_is_compared_with_the_saved_trigger(scene: Scene) -> None:
    trigger = await scene.make()
    await scene.happen("low")
    await scene.happen("high", at=2, score=90)
    wanted = {"trigger_id": trigger, "trigger": scene.draft(conditions=[SCORE | {"operator": ">="}])}

    answer = await scene.ask(
        "POST", "/triggers/backtest", json=wanted | {"chain_id": 84532, "from_block": 1, "to_block": 9}
    )

    assert answer["diff"] == {"added": 1, "removed": 1}


async def test_an_organization_has_one_backtest_at_a_time(scene: Scene) -> None:
    trigger = await scene.make()
    wanted = {"trigger_id": trigger, "chain_id": 84532, "from_block": 1, "to_block": 9}
    async with scene.api.house.database.transaction() as tx:
        await tx.run(
            """SELECT pg_advisory_xact_lock(hashtextextended('agentauri backtest ' || organization_id, 0))
               FROM triggers"""
        )
        answer = await scene.api.ask("POST", "/api/v1/triggers/backtest", key=scene.key, json=wanted)
    assert (answer.status, answer.json()["error"]) == (429, "concurrency_limit")
