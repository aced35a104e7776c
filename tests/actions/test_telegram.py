"""A due delivery becomes a message in a chat, and Telegram's answer decides what becomes of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agentauri.actions import (
    ActionDraft,
    ActionService,
    BotApi,
    Dispatcher,
    Guard,
    Outbound,
    Queue,
    connect_redis,
    make_channels,
)
from agentauri.config import ConfigError, load
from agentauri.errors import Invalid
from agentauri.sealing import Sealer
from agentauri.types import DeliveryId, EventSeq, Secret, TriggerId
from support.bot_api import CHANNEL, GROUP, PERSON, TOKEN, BadRequest
from support.bot_api import BotApi as Telegram
from support.telegram_entities import Entity

from .conftest import MakeDispatcher, World

SECRET = TOKEN.partition(":")[2]
TEMPLATE = "*Agent {{agent_id}}* got {{score}}!"


@pytest.fixture
async def telegram() -> AsyncIterator[Telegram]:
    async with Telegram.open() as opened:
        yield opened


@pytest.fixture
def token() -> str | None:
    """The bot of the installation."""
    return None


@pytest.fixture
async def actions(telegram: Telegram, outbound: Outbound, token: str | None) -> AsyncIterator[ActionService]:
    """Customers may go nowhere that is not public; the Bot API that the operator chose is at a private address."""
    guard = Guard(allow_insecure=True, blocked_ports=frozenset())
    async with Outbound.open(guard) as own:
        api = BotApi(outbound=own, url=telegram.url, token=Secret(token) if token else None)
        yield ActionService(Sealer((b"k" * 32,)), make_channels(outbound, webhook_timeout=1.0, bot_api=api))


async def a_chat(world: World, **config: object) -> TriggerId:
    """A trigger that writes to a person, with a patient breaker."""
    trigger_id = await world.trigger(breaker={"failure_threshold": 1000})
    wanted = {"chat_id": PERSON, "message_template": TEMPLATE, "bot_token": TOKEN} | config
    draft = ActionDraft(action_type="telegram", config={name: value for name, value in wanted.items() if value})
    checked = await world.actions.check([draft])
    async with world.database.transaction() as tx:
        (action,) = await world.actions.create(tx, trigger_id, checked)
    world.action_of[trigger_id] = action.id
    return trigger_id


async def a_delivery(world: World, trigger_id: TriggerId, seq: EventSeq | None = None, **changes: Any) -> DeliveryId:
    return await world.delivery(trigger_id, seq, action_type="telegram", **changes)


async def a_second_passes(world: World) -> None:
    """For the paces of chats and bots."""
    for key in await world.client.keys("agentauri:slot:*"):
        await world.client.delete(key)


async def outcome(world: World, id_: DeliveryId) -> tuple[str, str | None]:
    row = await world.row(id_)
    return row["status"], row["reason"]


async def test_a_delivery_is_a_message_and_its_number_is_kept(
    world: World, dispatcher: Dispatcher, telegram: Telegram
) -> None:
    id_ = await a_delivery(world, await a_chat(world, disable_notification=True, message_thread_id=7))

    await dispatcher.step()

    ((method, payload),) = telegram.asked
    assert method == "sendMessage"
    assert payload == {
        "chat_id": PERSON,
        "text": r"*Agent 42* got 85\!",
        "parse_mode": "MarkdownV2",
        "disable_notification": True,
        "message_thread_id": 7,
    }
    assert telegram.messages[1].text == "Agent 42 got 85!"
    row = await world.row(id_)
    assert (row["status"], json.loads(row["receipt"])) == ("delivered", {"chat_id": PERSON, "message_id": 1})
    (attempt,) = await world.attempts(id_)
    assert (attempt["outcome"], attempt["status_code"], attempt["response_excerpt"]) == ("delivered", 200, "message 1")


@pytest.mark.parametrize(
    ("config", "text", "entities"),
    [
        ({"parse_mode": "HTML", "message_template": "<b>{{tag1}}</b> & co."}, "<*_&> & co.", [("b", 0, 5)]),
        ({"parse_mode": "plain", "message_template": "*{{tag1}}*"}, "*<*_&>*", []),
        ({"message_template": "_{{tag1}}_ (it)"}, "<*_&> (it)", [("italic", 0, 5)]),
    ],
)
async def test_values_are_escaped_for_the_parse_mode(
    world: World,
    dispatcher: Dispatcher,
    telegram: Telegram,
    config: dict[str, object],
    text: str,
    entities: list[tuple[str, int, int]],
) -> None:
    await a_delivery(world, await a_chat(world, **config), await world.event(tag1="<*_&>"))

    await dispatcher.step()

    message = telegram.messages[1]
    assert (message.text, [entity[:3] for entity in message.entities]) == (text, entities)


async def test_a_long_value_is_cut(world: World, dispatcher: Dispatcher, telegram: Telegram) -> None:
    trigger = await a_chat(world, message_template="*{{token_uri}}* [more]({{explorer_url}})")
    id_ = await a_delivery(world, trigger, await world.event(token_uri="data:," + "_.\U0001f916" * 50_000))

    await dispatcher.step()

    assert await outcome(world, id_) == ("delivered", None)
    assert telegram.messages[1].text.startswith("data:,_.\U0001f916_.")
    assert telegram.messages[1].text.endswith("…")


REFUSALS = [
    (BadRequest("Bad Request: chat not found"), "dead", "Telegram answered 400"),
    (BadRequest("Unauthorized", 401), "dead", "Telegram answered 401: Telegram does not accept the bot's token"),
    (BadRequest("Forbidden: bot was blocked", 403), "dead", "Telegram answered 403: the bot may not write to the chat"),
    (BadRequest("Not Found", 404), "dead", "Telegram answered 404: Telegram does not know the bot's token"),
    (
        BadRequest("Bad Request: group chat was upgraded to a supergroup chat", migrate_to_chat_id=-1005),
        "dead",
        "Telegram answered 400: the chat has moved to another id",
    ),
    (BadRequest("Internal Server Error", 500), "pending", "Telegram answered 500"),
    (BadRequest("Bad Gateway", 502), "pending", "Telegram answered 502"),
    (BadRequest("Too Many Requests: retry after 41", 429, retry_after=41), "pending", "Telegram answered 429"),
]


async def test_a_refusal_is_final_and_weather_is_not(
    world: World, make_dispatcher: MakeDispatcher, telegram: Telegram
) -> None:
    trigger = await a_chat(world)
    found = []
    for trouble, *_ in REFUSALS:
        id_ = await a_delivery(world, trigger)
        telegram.troubles.append(trouble)

        await a_second_passes(world)
        await make_dispatcher().step()

        row, (attempt,) = await world.row(id_), await world.attempts(id_)
        assert attempt["response_excerpt"] == str(trouble)
        assert row["reason"] == ("permanent" if row["status"] == "dead" else None)
        found.append((attempt["status_code"], row["status"], attempt["error"]))

    assert found == [(trouble.code, status, told) for trouble, status, told in REFUSALS]
    assert len(telegram.asked) == len(REFUSALS)


async def test_telegrams_own_wait_is_kept_and_the_breaker_left_alone(
    world: World, dispatcher: Dispatcher, telegram: Telegram
) -> None:
    trigger = await a_chat(world)
    await world.sql("""UPDATE triggers SET circuit_breaker_config = '{"failure_threshold": 1}'""")
    id_ = await a_delivery(world, trigger)
    telegram.troubles.append(BadRequest("Too Many Requests: retry after 120", 429, retry_after=120))

    await dispatcher.step()

    assert (await world.row(id_))["wait"] > 119
    breaker = await world.breaker(trigger)
    assert breaker is None or breaker["failure_count"] == 0


async def test_markup_that_telegram_refuses_goes_out_as_plain_text_at_once(
    world: World, dispatcher: Dispatcher, telegram: Telegram
) -> None:
    id_ = await a_delivery(world, await a_chat(world))
    telegram.troubles.append(BadRequest("Bad Request: can't parse entities: Character '!' is reserved"))

    await dispatcher.step()

    assert await outcome(world, id_) == ("delivered", None)
    assert len(await world.attempts(id_)) == 1
    assert "parse_mode" not in telegram.asked[1].payload
    assert telegram.messages[1].text == "Agent 42 got 85!"


def answering(body: bytes, status: int = 200) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body)

    return answer


async def hang(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


async def reset(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def echo(request: web.Request) -> web.StreamResponse:
    """As a proxy might that knows no such page; the token stands across the end of what is kept."""
    return web.Response(status=404, text="x" * (1024 - len(SECRET) // 2) + request.path)


ANSWERS: dict[str, tuple[Callable[[web.Request], Awaitable[web.StreamResponse]], str, str | None]] = {
    "hang": (hang, "pending", "timeout"),
    "reset": (reset, "pending", "connection"),
    "captive": (answering(b"<html>captive</html>"), "pending", "protocol"),
    "no text": (answering(b"\xff\xfe"), "pending", "protocol"),
    "empty": (answering(b"{}"), "pending", "protocol"),
    "deep": (answering(b"[" * 10_000), "pending", "protocol"),
    "no server": (answering(b"<html>", 503), "pending", "status"),
    "redirect": (answering(b"<html>", 302), "dead", "status"),
    "refused in a 200": (answering(b'{"ok":false,"error_code":403,"description":"Forbidden"}'), "dead", "status"),
    "no number": (answering(b'{"ok":true,"result":true}'), "delivered", None),
}


async def test_an_answer_that_is_none_may_be_tried_again(
    world: World, make_dispatcher: MakeDispatcher, telegram: Telegram
) -> None:
    trigger = await a_chat(world)
    found = {}
    for case, (handler, _, _) in ANSWERS.items():
        id_ = await a_delivery(world, trigger)
        telegram.handle = handler

        await a_second_passes(world)
        await make_dispatcher().step()

        (attempt,) = await world.attempts(id_)
        found[case] = (await world.row(id_))["status"], attempt["error_kind"]

    assert found == {case: (status, kind) for case, (_, status, kind) in ANSWERS.items()}


@pytest.mark.parametrize("handler", [echo, hang, reset, answering(b"{}"), answering(TOKEN.encode(), 500)])
async def test_the_token_is_in_nothing_that_is_kept_or_told(
    world: World,
    dispatcher: Dispatcher,
    telegram: Telegram,
    log_lines: list[dict[str, object]],
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> None:
    trigger = await a_chat(world)
    id_ = await a_delivery(world, trigger)
    telegram.handle = handler

    await dispatcher.step()

    async with world.database.transaction() as tx:
        actions = (await world.actions.of(tx, [trigger]))[trigger]
        tables = await tx.fetch(
            """SELECT to_jsonb(t)::text FROM attempts t UNION ALL SELECT to_jsonb(t)::text FROM deliveries t
               UNION ALL SELECT to_jsonb(t)::text FROM trigger_actions t UNION ALL
               SELECT to_jsonb(t)::text FROM circuit_breaker_state t"""
        )
        shown = await world.deliveries.get(tx, (await world.row(id_))["organization_id"], id_)
    redis = {key: await world.client.dump(key) for key in await world.client.keys("*")}
    kept = repr((log_lines, tables, redis, actions, shown, world.actions._channels))
    assert len(tables) > 3
    assert [part for part in (SECRET, SECRET[: len(SECRET) // 2], TOKEN) if part in kept] == []


async def test_an_action_needs_a_bot_of_its_own_where_the_installation_has_none(world: World) -> None:
    with pytest.raises(Invalid) as error:
        await a_chat(world, bot_token=None)

    assert error.value.errors[0].field == "actions[0].config.bot_token"


@pytest.mark.parametrize("token", [TOKEN])
async def test_the_installations_bot_serves_actions_that_name_none(
    world: World, dispatcher: Dispatcher, token: str
) -> None:
    id_ = await a_delivery(world, await a_chat(world, bot_token=None))

    await dispatcher.step()

    assert await outcome(world, id_) == ("delivered", None)


async def test_a_delivery_without_any_bot_dies_of_it(world: World, dispatcher: Dispatcher) -> None:
    trigger = await a_chat(world)
    id_ = await a_delivery(world, trigger)
    await world.sql("UPDATE trigger_actions SET config = config - 'bot_token', secrets = NULL")

    await dispatcher.step()

    assert await outcome(world, id_) == ("dead", "telegram_token_missing")


async def retracted(world: World, dispatcher: Dispatcher, trigger: TriggerId) -> DeliveryId:
    """A message that was sent, and the delivery that takes it back."""
    seq = await world.event(tag1="a_b")
    first = await a_delivery(world, trigger, seq)
    await dispatcher.step()
    await world.sql("UPDATE events SET retracted_at = now() WHERE seq = $1", seq)
    id_ = await a_delivery(world, trigger, seq, kind="retraction", parent_id=first)
    await a_second_passes(world)
    return id_


STRUCK = [Entity("strikethrough", 0, len("Agent 42 got 85!"))]
NOTED = "Agent 42 got 85!\n\nRetracted: this event is not on the chain any more."


async def test_a_retraction_strikes_the_message_through(
    world: World, dispatcher: Dispatcher, telegram: Telegram
) -> None:
    id_ = await retracted(world, dispatcher, await a_chat(world))

    await dispatcher.step()

    assert [method for method, _ in telegram.asked] == ["sendMessage", "editMessageText"]
    (message,) = telegram.messages.values()
    assert (message.text, message.entities) == (NOTED, STRUCK)
    assert await outcome(world, id_) == ("delivered", None)


async def test_a_retraction_that_was_done_already_is_done(
    world: World, dispatcher: Dispatcher, telegram: Telegram
) -> None:
    id_ = await retracted(world, dispatcher, await a_chat(world))
    await dispatcher.step()
    await world.sql("UPDATE deliveries SET status = 'pending', finished_at = NULL WHERE id = $1", id_)
    await world.make_due(id_)

    await dispatcher.sweep()
    await dispatcher.step()

    assert [method for method, _ in telegram.asked] == ["sendMessage", "editMessageText", "editMessageText"]
    assert await outcome(world, id_) == ("delivered", None)


async def test_a_message_that_cannot_be_changed_is_answered(
    world: World, dispatcher: Dispatcher, telegram: Telegram
) -> None:
    id_ = await retracted(world, dispatcher, await a_chat(world))
    telegram.troubles.append(BadRequest("Bad Request: message can't be edited"))

    await dispatcher.step()

    assert (telegram.messages[2].text, telegram.messages[2].entities) == (NOTED, STRUCK)
    assert telegram.messages[2].reply_to == 1
    assert await outcome(world, id_) == ("delivered", None)


async def test_a_message_that_is_gone_is_taken_back_all_the_same(
    world: World, dispatcher: Dispatcher, telegram: Telegram
) -> None:
    await retracted(world, dispatcher, await a_chat(world))
    telegram.messages.clear()

    await dispatcher.step()

    assert telegram.messages[2].reply_to is None
    assert telegram.messages[2].text == NOTED


async def test_an_edit_in_bad_weather_is_tried_again(world: World, dispatcher: Dispatcher, telegram: Telegram) -> None:
    id_ = await retracted(world, dispatcher, await a_chat(world))
    telegram.troubles.append(BadRequest("Too Many Requests: retry after 5", 429, retry_after=5))

    await dispatcher.step()

    assert await outcome(world, id_) == ("pending", None)
    assert len(telegram.messages) == 1


async def test_a_test_message_says_so(world: World, dispatcher: Dispatcher, telegram: Telegram) -> None:
    await a_delivery(world, await a_chat(world), kind="test")

    await dispatcher.step()

    assert telegram.messages[1].text == "Test: Agent 42 got 85!"


@pytest.mark.parametrize(("chat", "interval"), [(PERSON, 1.0), (GROUP, 3.0), (CHANNEL, 3.0)])
async def test_processes_share_the_pace_of_a_chat(
    world: World,
    make_dispatcher: MakeDispatcher,
    telegram: Telegram,
    redis_url: str,
    chat: int | str,
    interval: float,
) -> None:
    trigger = await a_chat(world, chat_id=chat)
    for _ in range(6):
        await a_delivery(world, trigger)
    async with aclosing(connect_redis(redis_url)) as client, aclosing(Queue(client)) as queue:
        first, second = make_dispatcher(), make_dispatcher(queue=queue, instance="test-2")

        await asyncio.gather(first.step(), second.step())

    assert len(telegram.asked) == 1
    delayed: Any = await world.client.zrange("agentauri:queue:delayed", 0, -1, withscores=True)
    due = sorted(moment for _, moment in delayed)
    gaps = [(later - earlier) / 1000 for earlier, later in pairwise(due)]
    assert len(due) == 5
    assert all(gap > interval - 0.01 for gap in gaps)


async def test_a_bot_writes_thirty_messages_a_second_over_all_chats(
    world: World, dispatcher: Dispatcher, telegram: Telegram
) -> None:
    for chat in range(1, 41):
        telegram.chats[chat] = chat
        await a_delivery(world, await a_chat(world, chat_id=chat))

    await dispatcher.step()

    assert 1 <= len(telegram.asked) <= 10  # what goes at once, and then one each 33 ms
    assert await world.client.zcard("agentauri:queue:delayed") == 40 - len(telegram.asked)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"chat_id": None}, "chat_id"),
        ({"chat_id": True}, "chat_id"),
        ({"chat_id": 1.5}, "chat_id"),
        ({"chat_id": "agents"}, "chat_id"),
        ({"chat_id": 2**53}, "chat_id"),
        ({"message_template": None}, "message_template"),
        ({"message_template": "x" * 4097}, "message_template"),
        ({"message_template": "a *b"}, "message_template"),
        ({"message_template": "<b>", "parse_mode": "HTML"}, "message_template"),
        ({"message_template": "{{nope}}", "parse_mode": "plain"}, "message_template"),
        ({"parse_mode": "Markdown"}, "parse_mode"),
        ({"bot_token": "nonsense"}, "bot_token"),
        ({"bot_token": "***"}, "bot_token"),
        ({"disable_notification": "yes"}, "disable_notification"),
        ({"message_thread_id": -1}, "message_thread_id"),
        ({"reply_markup": {}}, "reply_markup"),
    ],
)
async def test_a_configuration_is_refused_where_it_is_wrong(
    actions: ActionService, config: dict[str, object], field: str
) -> None:
    wanted = {"chat_id": PERSON, "message_template": TEMPLATE, "bot_token": TOKEN} | config

    with pytest.raises(Invalid) as error:
        await actions.check([ActionDraft(action_type="telegram", config=wanted)])

    assert [fault.field for fault in error.value.errors] == [f"actions[0].config.{field}"]


async def test_a_configuration_is_kept_with_its_token_apart(actions: ActionService) -> None:
    config: dict[str, object] = {"chat_id": "-100123456789", "message_template": "x", "bot_token": TOKEN}

    (checked,) = await actions.check([ActionDraft(action_type="telegram", config=config)])

    assert checked.config == {"chat_id": -100123456789, "message_template": "x", "bot_token": "***"}
    assert checked.secrets == {"bot_token": TOKEN}
    assert checked.destination == "***6789"


def test_the_settings_name_a_bot_and_where_it_speaks(tmp_path: Path) -> None:
    settings = {
        "AGENTAURI_DATA_DIR": str(tmp_path),
        "TELOXIDE_TOKEN": TOKEN,
        "TELEGRAM_API_URL": "http://10.0.0.7:8081/",
    }

    by_alias = load(settings, tmp_path).dispatcher
    by_name = load(settings | {"TELEGRAM_BOT_TOKEN": f"1{TOKEN}"}, tmp_path).dispatcher

    assert (by_alias.telegram_bot_token, by_alias.telegram_api_url) == (Secret(TOKEN), "http://10.0.0.7:8081")
    assert by_name.telegram_bot_token == Secret(f"1{TOKEN}")
    with pytest.raises(ConfigError) as error:
        load({"TELEGRAM_BOT_TOKEN": SECRET, "TELEGRAM_API_URL": "10.0.0.7"}, tmp_path)
    assert "TELEGRAM_BOT_TOKEN: takes a bot's token" in error.value.faults
    assert "TELEGRAM_API_URL: takes an http:// or https:// URL" in error.value.faults
    assert SECRET not in str(error.value)
