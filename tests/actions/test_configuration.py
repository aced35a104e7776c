"""Actions as users write them: refused by field, secrets apart, signing secret shown once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from agentauri.actions import MASK, Action, ActionDraft, ActionService, Guard, Outbound, make_channels, masked_url
from agentauri.actions.configuration import ActionService as Service
from agentauri.database import Database
from agentauri.errors import Invalid
from agentauri.sealing import Sealer
from agentauri.types import ActionId, TriggerId

from .conftest import World

URL = "https://hooks.example.com/a?b=c"


def a_draft(action_type: str = "webhook", **config: object) -> ActionDraft:
    return ActionDraft(action_type=action_type, config={"url": URL} | config)


def faults(error: pytest.ExceptionInfo[Invalid]) -> dict[str, str]:
    return {fault.field: fault.message for fault in error.value.errors}


@pytest.fixture
async def strict(outbound: Outbound) -> ActionService:
    """Where targets must be public."""
    guard = Guard(allow_insecure=False, blocked_ports=frozenset({25}), look_up=lambda _: ["8.8.8.8"])
    return Service(Sealer((b"k" * 32,)), make_channels(Outbound(outbound._wire, guard), webhook_timeout=10))


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"url": None}, "url"),
        ({"url": "http://hooks.example.com"}, "url"),
        ({"url": "https://10.0.0.1/"}, "url"),
        ({"url": "https://hooks.example.com:25/"}, "url"),
        ({"url": "https://{{tag1}}/"}, "url"),
        ({"url": "https://a{{tag1}}.example.com/"}, "url"),
        ({"url": "https://hooks.example.com{{tag1}}/"}, "url"),
        ({"url": "https://hooks.example.com/{{nope}}"}, "url"),
        ({"url": 7}, "url"),
        ({"method": "TRACE"}, "method"),
        ({"headers": []}, "headers"),
        ({"headers": {f"X-{number}": "v" for number in range(21)}}, "headers"),
        ({"headers": {"X Y": "v"}}, "headers"),
        ({"headers": {"Host": "v"}}, "headers.Host"),
        ({"headers": {"Content-Length": "1"}}, "headers.Content-Length"),
        ({"headers": {"transfer-encoding": "chunked"}}, "headers.transfer-encoding"),
        ({"headers": {"Webhook-Id": "v"}}, "headers.Webhook-Id"),
        ({"headers": {"X-AgentAuri-Attempt": "v"}}, "headers.X-AgentAuri-Attempt"),
        ({"headers": {"X-A": "v", "x-a": "w"}}, "headers.x-a"),
        ({"headers": {"X-A": "v\r\nX-B: w"}}, "headers.X-A"),
        ({"headers": {"X-A": "v" * 1025}}, "headers.X-A"),
        ({"headers": {"X-A": "{{nope}}"}}, "headers.X-A"),
        ({"headers": {"X-A": MASK}}, "headers.X-A"),
        ({"body": {"a": "{{nope}}"}}, "body"),
        ({"body_template": "{{score | nope}}"}, "body_template"),
        ({"body": "x" * 17_000}, "body"),
        ({"body": "a", "body_template": "b"}, "body_template"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": 301}, "timeout_seconds"),
        ({"timeout_ms": 10}, "timeout_ms"),
        ({"timeout_seconds": True}, "timeout_seconds"),
        ({"expected_status_codes": [99]}, "expected_status_codes"),
        ({"expected_status_codes": 200}, "expected_status_codes"),
        ({"rate_limit_per_second": 0}, "rate_limit_per_second"),
        ({"retries": 3}, "retries"),
    ],
)
async def test_a_configuration_is_refused_by_field(strict: ActionService, config: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as error:
        await strict.check([a_draft(**config)])

    assert list(faults(error)) == [f"actions[0].config.{field}"]


async def test_every_fault_of_every_action_is_told(strict: ActionService) -> None:
    with pytest.raises(Invalid) as error:
        await strict.check(
            [a_draft(), a_draft(method="X", timeout_seconds=-1), ActionDraft(action_type="fax", config={})]
        )

    assert set(faults(error)) == {
        "actions[1].config.method",
        "actions[1].config.timeout_seconds",
        "actions[2].action_type",
    }


async def test_a_fault_says_where_and_never_repeats_a_value(strict: ActionService) -> None:
    with pytest.raises(Invalid) as error:
        await strict.check(
            [ActionDraft(action_type="webhook", config={"url": URL, "body": {"a": "x {{s3cret}}"}, "ver y": 1})]
        )

    assert faults(error)["actions[0].config.body"] == "has an unknown name at character 3"
    assert "s3cret" not in str(error.value.errors)
    assert "ver y" not in str(error.value.errors)


async def test_a_name_that_does_not_resolve_is_accepted(outbound: Outbound) -> None:
    guard = Guard(allow_insecure=False, blocked_ports=frozenset(), look_up=lambda _: [])
    service = Service(Sealer((b"k" * 32,)), make_channels(Outbound(outbound._wire, guard), webhook_timeout=10))

    (checked,) = await service.check([a_draft()])

    assert checked.destination == "hooks.example.com"


async def test_a_configuration_is_kept_as_it_applies(strict: ActionService) -> None:
    (checked,) = await strict.check(
        [
            a_draft(
                "rest",
                method="put",
                timeout_ms=120_000,
                headers={"Authorization": "Bearer t0ken"},
                body={"a": "{{score}}"},
            )
        ]
    )

    assert checked.config == {
        "url": URL,
        "method": "PUT",
        "headers": {"Authorization": MASK},
        "body": {"a": "{{score}}"},
        "timeout_seconds": 60,
    }


async def made(database: Database, service: ActionService, trigger: TriggerId, *drafts: ActionDraft) -> list[Action]:
    checked = await service.check(drafts)
    async with database.transaction() as tx:
        return await service.create(tx, trigger, checked)


async def replaced(
    database: Database, service: ActionService, trigger: TriggerId, *drafts: ActionDraft
) -> list[Action]:
    checked = await service.check(drafts)
    async with database.transaction() as tx:
        return await service.replace(tx, trigger, checked)


async def test_the_signing_secret_is_shown_once(world: World, actions: ActionService, database: Database) -> None:
    trigger = await world.trigger()
    (first,) = await made(database, actions, trigger, a_draft())
    async with database.transaction() as tx:
        shown = (await actions.of(tx, [trigger]))[trigger]

    assert str(first.signing_secret).startswith("whsec_")
    assert str(first.signing_secret) != world.secrets[trigger]
    assert b"signing_secret" not in msgspec.json.encode(shown)


async def test_secrets_are_stored_sealed_and_never_shown(
    world: World, actions: ActionService, database: Database
) -> None:
    trigger = await world.trigger()
    (action,) = await made(database, actions, trigger, a_draft(headers={"X-Key": "s3cret-value"}))
    async with database.transaction() as tx:
        rows = await tx.fetch("SELECT config::text, secrets FROM trigger_actions")
        signing = await tx.fetch("SELECT secret FROM signing_secrets")

    assert action.config["headers"] == {"X-Key": MASK}
    assert "s3cret-value" not in str(rows)
    assert str(action.signing_secret)[6:20] not in str(signing)


async def test_a_known_action_keeps_its_secrets(world: World, actions: ActionService, database: Database) -> None:
    trigger = await world.trigger()
    (action,) = await made(database, actions, trigger, a_draft(headers={"X-Key": "one", "X-Other": "two"}))
    keep = ActionDraft(
        id=action.id,
        action_type="webhook",
        config={
            "url": "https://HOOKS.example.com:443/{{agent_id}}?new=1",
            "headers": {"x-key": MASK, "X-Third": "three"},
        },
    )

    (kept,) = await replaced(database, actions, trigger, keep)
    await world.sql("UPDATE trigger_actions SET enabled = true")
    async with database.transaction() as tx:
        ready = (await actions.to_send(tx, [action.id]))[action.id]

    assert kept.id == action.id
    assert kept.config["headers"] == {"x-key": MASK, "X-Third": MASK}
    assert kept.signing_secret is UNSET
    assert {name: template.parts for name, template in ready.prepared.headers.items()} == {  # type: ignore[union-attr]
        "x-key": ("one",),
        "x-third": ("three",),
    }


async def test_replacing_removes_the_others_and_shows_new_secrets(
    world: World, actions: ActionService, database: Database
) -> None:
    trigger = await world.trigger()
    first, second = await made(database, actions, trigger, a_draft(), a_draft())

    kept, new = await replaced(
        database, actions, trigger, ActionDraft(id=second.id, action_type="webhook", config={"url": URL}), a_draft()
    )
    async with database.transaction() as tx:
        found = (await actions.of(tx, [trigger]))[trigger]

    assert {action.id for action in found} == {second.id, new.id}
    assert first.id not in {kept.id, new.id}
    assert str(new.signing_secret).startswith("whsec_")


@pytest.mark.parametrize("config", [{"headers": {"X-Never": MASK}}])
async def test_a_mask_without_a_stored_value_is_refused(
    world: World, actions: ActionService, database: Database, config: dict[str, object]
) -> None:
    trigger = await world.trigger()
    (action,) = await made(database, actions, trigger, a_draft())

    with pytest.raises(Invalid) as error:
        await replaced(
            database, actions, trigger, ActionDraft(id=action.id, action_type="webhook", config={"url": URL} | config)
        )

    assert faults(error) == {"actions[0].config.headers.X-Never": "has no stored value to keep"}


@pytest.mark.parametrize(
    "url",
    [
        "https://other.example.com/a?b=c",
        "https://hooks.example.com.other.example/a?b=c",
        "http://hooks.example.com/a?b=c",
        "http://hooks.example.com:443/a?b=c",
        "https://hooks.example.com:8443/a?b=c",
    ],
)
async def test_a_kept_secret_never_follows_its_action_to_another_target(
    world: World, actions: ActionService, database: Database, url: str
) -> None:
    trigger = await world.trigger()
    (action,) = await made(database, actions, trigger, a_draft(headers={"X-Key": "one", "X-Other": "two"}))

    def moved(**headers: str) -> ActionDraft:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return ActionDraft(id=action.id, action_type="webhook", config={"url": url, "headers": headers})

    with pytest.raises(Invalid) as error:
        await replaced(database, actions, trigger, moved(X_Key=MASK, X_Other="three"))
    (given,) = await replaced(database, actions, trigger, moved(X_Key="four"))

    assert faults(error) == {
        "actions[0].config.headers.X-Key": "cannot be kept, because the target changed: give the value again"
    }
    assert given.config["url"] == url


@pytest.mark.parametrize("stored", ["{}", '{"url": 7}', "[]"])
async def test_a_secret_is_not_kept_where_nobody_can_tell_its_target(
    world: World, actions: ActionService, database: Database, stored: str
) -> None:
    trigger = await world.trigger()
    (action,) = await made(database, actions, trigger, a_draft(headers={"X-Key": "one"}))
    await world.sql("UPDATE trigger_actions SET config = $1::jsonb", stored)

    with pytest.raises(Invalid) as error:
        await replaced(
            database,
            actions,
            trigger,
            ActionDraft(id=action.id, action_type="webhook", config={"url": URL, "headers": {"X-Key": MASK}}),
        )

    assert list(faults(error)) == ["actions[0].config.headers.X-Key"]


@pytest.mark.parametrize("name", ["body", "body_template"])
@pytest.mark.parametrize(
    "body", ['{"a": {{score}}}', " \n\t[{{tag1}}, 1]", '{"a": "{{tag1}}",}', "{ {{tag1}} }", "[" * 5000]
)
async def test_text_that_begins_like_json_must_be_json(actions: ActionService, name: str, body: str) -> None:
    with pytest.raises(Invalid) as error:
        await actions.check([a_draft(headers={"Content-Type": "application/json"}, **{name: body})])

    assert faults(error) == {
        f"actions[0].config.{name}": "begins like JSON and is not JSON: put placeholders in quotes"
        " (a string that is exactly one placeholder keeps the value's type)"
    }


@pytest.mark.parametrize("body", ['{"a": "{{score}}"}', ' ["{{tag1}}"]', "{{agent_id}} was rated", "rated: {{score}}"])
async def test_json_with_quoted_placeholders_and_plain_text_are_bodies(actions: ActionService, body: str) -> None:
    (checked,) = await actions.check([a_draft(body=body)])

    assert checked.config["body"] == body


async def test_a_trigger_has_at_most_twenty_actions(actions: ActionService) -> None:
    assert len(await actions.check([a_draft()] * 20)) == 20

    with pytest.raises(Invalid) as error:
        await actions.check([a_draft()] * 20 + [a_draft(method="X")])

    assert faults(error) == {"actions": "must be at most 20 items"}


async def test_an_action_of_another_trigger_is_refused(
    world: World, actions: ActionService, database: Database
) -> None:
    mine, other = await world.trigger(), await world.trigger()

    with pytest.raises(Invalid) as error:
        await replaced(
            database,
            actions,
            mine,
            ActionDraft(id=ActionId(world.action_of[other]), action_type="webhook", config={"url": URL}),
        )

    assert list(faults(error)) == ["actions[0].id"]


async def test_only_enabled_actions_match(world: World, actions: ActionService, database: Database) -> None:
    trigger = await world.trigger()
    await world.sql("DELETE FROM trigger_actions")
    second, first = await made(
        database,
        actions,
        trigger,
        ActionDraft(action_type="webhook", config={"url": URL}, priority=5),
        ActionDraft(action_type="rest", config={"url": URL}, priority=-5),
    )
    await made(database, actions, trigger, ActionDraft(action_type="rest", config={"url": URL}, enabled=False))
    async with database.transaction() as tx:
        found = (await actions.for_matching(tx, [trigger]))[trigger]

    assert [(action.id, action.action_type) for action in found] == [(first.id, "rest"), (second.id, "webhook")]


def test_a_masked_url_shows_its_host_only() -> None:
    assert masked_url("https://hooks.example.com/a?token=b") == "https://hooks.example.com/***"
