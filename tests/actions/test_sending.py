"""A due delivery becomes a signed request, and what comes back decides what becomes of it."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
from collections.abc import Awaitable, Callable
from datetime import UTC
from typing import Any

import pytest
import standardwebhooks
from aiohttp import web

from agentauri.actions import ActionDraft, Dispatcher, Guard
from agentauri.types import DeliveryId
from support.receiver import Answer

from .conftest import World

PACKED = gzip.compress(b"\0" * 5_000_000)


async def sent_again(world: World, dispatcher: Dispatcher, id_: DeliveryId) -> None:
    """The wait is over, and the next try is made."""
    await world.make_due(id_)
    await dispatcher.sweep()
    assert await dispatcher.step()


async def test_a_delivery_is_sent_once_and_recorded(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger()
    id_ = await world.delivery(trigger)

    assert await dispatcher.step()
    assert not await dispatcher.step()

    (request,) = world.receiver.requests
    assert (request.method, request.path) == ("POST", "/hook")
    row = await world.row(id_)
    assert (row["status"], row["attempts"], row["leased_until"]) == ("delivered", 1, None)
    (attempt,) = await world.attempts(id_)
    assert (attempt["outcome"], attempt["status_code"], attempt["number"]) == ("delivered", 200, 1)
    assert await world.breaker(trigger) is None


async def test_a_stock_verifier_accepts_what_is_sent(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger()
    id_ = await world.delivery(trigger)

    await dispatcher.step()

    (request,) = world.receiver.requests
    verified = standardwebhooks.Webhook(world.secrets[trigger]).verify(request.body.decode(), dict(request.headers))
    assert verified["type"] == "event.matched"
    assert request.headers["webhook-id"] == f"msg_{id_}"
    assert request.headers["user-agent"].startswith("AgentAuri/")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-agentauri-trigger-id"] == trigger
    assert request.headers["x-agentauri-attempt"] == "1"


async def test_the_default_body_tells_the_event(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger()
    seq = await world.event(
        agent_id=2**200, value_raw=9977, value_decimals=2, score="99.770", tag1="", args='{"x": "1"}'
    )
    id_ = await world.delivery(trigger, seq, context=b'{"leaves":{"3":{"ema":81.64}}}')

    await dispatcher.step()

    body = json.loads(world.receiver.requests[0].body)
    row = await world.row(id_)
    assert body["timestamp"] == row["created_at"].astimezone(UTC).isoformat(timespec="milliseconds")[:23] + "Z"
    data = body["data"]
    assert data["delivery_id"] == str(id_)
    assert data["correlation_id"] == world.receiver.requests[0].headers["x-agentauri-correlation-id"]
    assert data["trigger"] == {"id": trigger, "name": "Low scores", "version": 1}
    assert data["chain"] == {"id": 84532, "name": "Base Sepolia"}
    assert data["context"] == {"leaves": {"3": {"ema": 81.64}}}
    event = data["event"]
    assert (event["agent_id"], event["score"], event["value_raw"]) == (str(2**200), "99.77", "9977")
    assert (event["timestamp"], event["value_decimals"], event["tag1"]) == (1702425600, 2, "")
    assert event["args"] == {"x": "1"}
    assert "tag2" not in event


async def test_a_long_event_is_told_in_short(world: World, dispatcher: Dispatcher) -> None:
    """Whoever writes the event must not be able to keep its alert from being sent."""
    uri = "data:," + '"é' * 60_000
    trigger = await world.trigger()
    seq = await world.event(file_uri=uri, tag1="spam", args=json.dumps({"feedbackURI": uri}))
    id_ = await world.delivery(trigger, seq)

    await dispatcher.step()

    assert (await world.row(id_))["status"] == "delivered"
    data = json.loads(world.receiver.requests[0].body)["data"]
    assert data["shortened"] == ["file_uri", "args"]
    assert data["event"]["file_uri"] == uri[:512] + "…"
    assert data["event"]["tag1"] == "spam"
    assert "args" not in data["event"]


async def test_retries_wait_longer_and_carry_the_same_id_and_body(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger()
    id_ = await world.delivery(trigger)
    world.receiver.answers.extend([Answer(503, body=b"no"), Answer(503)])

    await dispatcher.step()
    first = (await world.row(id_))["wait"]
    await sent_again(world, dispatcher, id_)
    second = (await world.row(id_))["wait"]
    await sent_again(world, dispatcher, id_)

    assert 2.4 < first < 7.5
    assert 14.9 < second < 45
    assert (await world.row(id_))["status"] == "delivered"
    attempts = await world.attempts(id_)
    assert [attempt["outcome"] for attempt in attempts] == ["retryable", "retryable", "delivered"]
    assert attempts[0]["response_excerpt"] == "no"
    assert attempts[0]["error"] == "the endpoint answered 503"
    assert len({request.headers["webhook-id"] for request in world.receiver.requests}) == 1
    assert len({request.body for request in world.receiver.requests}) == 1
    assert [request.headers["x-agentauri-attempt"] for request in world.receiver.requests] == ["1", "2", "3"]


async def test_too_many_requests_waits_as_asked_and_leaves_the_breaker_alone(
    world: World, dispatcher: Dispatcher
) -> None:
    trigger = await world.trigger(breaker={"failure_threshold": 1})
    id_ = await world.delivery(trigger)
    world.receiver.answers.append(Answer(429, {"Retry-After": "120"}))

    await dispatcher.step()

    assert (await world.row(id_))["wait"] > 119
    breaker = await world.breaker(trigger)
    assert breaker is None or (breaker["state"], breaker["failure_count"]) == ("closed", 0)


@pytest.mark.parametrize("status", [301, 400, 404, 410])
async def test_a_permanent_answer_ends_it(world: World, dispatcher: Dispatcher, status: int) -> None:
    trigger = await world.trigger()
    id_ = await world.delivery(trigger)
    world.receiver.answers.append(Answer(status, {"Location": f"{world.receiver.url}/else"}))

    await dispatcher.step()

    row = await world.row(id_)
    assert (row["status"], row["reason"], row["attempts"]) == ("dead", "permanent", 1)
    assert row["finished_at"] is not None
    assert len(world.receiver.requests) == 1


async def test_eleven_failures_exhaust_it(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger(breaker={"failure_threshold": 1000})
    id_ = await world.delivery(trigger)
    world.receiver.answer = lambda _: Answer(503)

    await dispatcher.step()
    for _ in range(10):
        assert (await world.row(id_))["status"] == "pending"
        await sent_again(world, dispatcher, id_)

    row = await world.row(id_)
    assert (row["status"], row["reason"], row["attempts"]) == ("dead", "attempts_exhausted", 11)


async def test_a_redelivery_starts_the_schedule_again(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger(breaker={"failure_threshold": 1000})
    id_ = await world.delivery(trigger)
    await world.sql("UPDATE deliveries SET status = 'dead', attempts = 11")
    world.receiver.answer = lambda _: Answer(503)

    async with world.database.transaction() as tx:
        revived = await world.deliveries.redeliver(tx, (await world.row(id_))["organization_id"], id_)
    await dispatcher.step()

    assert (revived.status, revived.attempts) == ("pending", 11)
    row = await world.row(id_)
    assert (row["status"], row["attempts"]) == ("pending", 12)
    assert row["wait"] < 7.5


async def test_expected_codes_replace_the_usual_ones(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger(config={"expected_status_codes": [404]})
    good, bad = await world.delivery(trigger), await world.delivery(trigger)
    world.receiver.answer = lambda received: Answer(404 if received.headers["webhook-id"] == f"msg_{good}" else 200)

    await dispatcher.step()

    assert (await world.row(good))["status"] == "delivered"
    assert (await world.row(bad))["status"] == "dead"


async def test_a_template_is_filled_in_url_headers_and_body(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger(
        config={
            "url": f"{world.receiver.url}/agents/{{{{ agent_id }}}}?tag={{{{tag1}}}}",
            "method": "PUT",
            "headers": {"X-Tag": "tag {{tag1}}", "Authorization": "Bearer t0ken", "User-Agent": "mine"},
            "body_template": '{"score": "{{score}}", "text": "{{chain_name}}: {{tag1}}"}',
        }
    )
    await world.delivery(trigger, await world.event(tag1='a&b"\r\nX-Evil: 1'))

    await dispatcher.step()

    (request,) = world.receiver.requests
    assert (request.method, request.path) == ("PUT", "/agents/42?tag=a%26b%22%0D%0AX-Evil%3A%201")
    assert json.loads(request.body) == {"score": 85, "text": 'Base Sepolia: a&b"\r\nX-Evil: 1'}
    assert request.headers["X-Tag"] == 'tag a&b"X-Evil: 1'
    assert request.headers["Authorization"] == "Bearer t0ken"
    assert request.headers["User-Agent"].startswith("AgentAuri/")
    assert "X-Evil" not in request.headers


async def test_a_text_body_is_escaped_for_its_content_type(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger(
        config={
            "headers": {"Content-Type": "application/x-www-form-urlencoded"},
            "body": "tag={{tag1}}&score={{score}}",
        }
    )
    await world.delivery(trigger, await world.event(tag1="a&b=c"))

    await dispatcher.step()

    (request,) = world.receiver.requests
    assert request.body == b"tag=a%26b%3Dc&score=85"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"


async def test_a_get_has_no_body_unless_it_is_given_one(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger(config={"method": "GET"})
    await world.delivery(trigger)

    await dispatcher.step()

    (request,) = world.receiver.requests
    assert (request.method, request.body) == ("GET", b"")
    assert "content-type" not in request.headers


async def test_a_corrected_url_helps_deliveries_that_wait(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger(config={"url": "http://127.0.0.1:1/"})
    id_ = await world.delivery(trigger)
    await dispatcher.step()
    assert (await world.attempts(id_))[0]["error_kind"] == "connection"

    await world.sql("UPDATE trigger_actions SET config = jsonb_build_object('url', $1::text)", world.receiver.url)
    await sent_again(world, dispatcher, id_)

    assert (await world.row(id_))["status"] == "delivered"


async def hang(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x" * 65536)


async def drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b".")
        await asyncio.sleep(0.05)


async def bomb(_: web.Request) -> web.StreamResponse:
    return web.Response(body=PACKED, headers={"Content-Encoding": "gzip"})


async def binary(_: web.Request) -> web.StreamResponse:
    return web.Response(body=bytes(range(256)) * 100)


async def big_headers(_: web.Request) -> web.StreamResponse:
    return web.Response(headers={"X-Big": "x" * 100_000})


async def reset(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def raw(head: bytes, more: bytes = b"") -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Answers with these very bytes, then with `more` for as long as somebody listens."""

    async def answer(request: web.Request) -> web.StreamResponse:
        transport = request.transport
        assert transport is not None
        transport.write(head)
        while more and not transport.is_closing():
            transport.write(more)
            await asyncio.sleep(0.001)
        transport.close()
        return web.Response()

    return answer


@pytest.mark.parametrize(
    ("handler", "outcome", "kind"),
    [
        (hang, "retryable", "timeout"),
        (drip, "retryable", "timeout"),
        (reset, "retryable", "connection"),
        (raw(b"HTTP/1.1 200 OK\r\n", b"X-More: x\r\n" * 100), "retryable", "protocol"),
        (raw(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 100), "retryable", "protocol"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"), "retryable", "protocol"),
        (raw(b"HTTP/1.1 200 \xff\r\nX-\xff: \xff\r\nContent-Length: 0\r\n\r\n"), "retryable", "protocol"),
        (raw(b"HTTP/1.1 200 OK\r\nX-A: \xff\r\nContent-Length: 2\r\n\r\n\xff\x00"), "delivered", None),
        (raw(b"\x16\x03\x01\x02\x00\x01"), "retryable", "protocol"),
        (endless, "delivered", None),
        (bomb, "delivered", None),
        (binary, "delivered", None),
        (big_headers, "retryable", "protocol"),
    ],
)
async def test_a_hostile_answer_is_bounded_in_time_and_size(
    world: World, dispatcher: Dispatcher, handler: Any, outcome: str, kind: str | None
) -> None:
    trigger = await world.trigger(config={"timeout_seconds": 1 if kind == "timeout" else 30})
    id_, fine = await world.delivery(trigger), await world.trigger(config={"url": f"{world.receiver.url}/fine"})
    await world.delivery(fine)
    world.receiver.handle = lambda request: (
        handler(request) if request.path == "/hook" else asyncio.sleep(0, web.Response())
    )

    tracemalloc.start()
    await dispatcher.step()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 4_000_000  # also what the endpoint itself has in its buffers
    (attempt,) = await world.attempts(id_)
    assert (attempt["outcome"], attempt["error_kind"]) == (outcome, kind)
    assert len(attempt["response_excerpt"] or "") <= 1024
    async with world.database.transaction() as tx:
        assert await tx.fetchval("SELECT status FROM deliveries WHERE trigger_id = $1", fine) == "delivered"


async def test_a_private_target_is_refused_when_sending(world: World, dispatcher: Dispatcher, guard: Guard) -> None:
    trigger = await world.trigger()
    id_ = await world.delivery(trigger)
    guard._allow_insecure = False

    await dispatcher.step()

    row = await world.row(id_)
    (attempt,) = await world.attempts(id_)
    assert (row["status"], row["reason"], attempt["error_kind"]) == ("dead", "permanent", "egress_refused")
    assert world.receiver.requests == []


@pytest.mark.parametrize(
    "damage",
    [
        'UPDATE trigger_actions SET config = \'{"url": "nonsense"}\'',
        'UPDATE trigger_actions SET config = \'{"url": "http://127.0.0.1/{{nope}}"}\'',
        "UPDATE trigger_actions SET config = '[]'",
        'UPDATE trigger_actions SET config = config || \'{"headers": {"X-A": "***"}}\'',
        "UPDATE trigger_actions SET action_type = 'telegram'",
        "UPDATE signing_secrets SET secret = 'no secret'",
    ],
)
async def test_an_action_damaged_by_hand_ends_its_deliveries_alone(
    world: World, dispatcher: Dispatcher, damage: str
) -> None:
    damaged = await world.trigger()
    id_ = await world.delivery(damaged)
    await world.sql(damage)
    fine = await world.delivery(await world.trigger())

    await dispatcher.step()

    (attempt,) = await world.attempts(id_)
    assert (await world.row(id_))["status"] == "dead"
    assert attempt["outcome"] == "permanent"
    assert (await world.row(fine))["status"] == "delivered"


async def test_a_failure_is_one_error_line_with_the_real_cause(
    world: World, dispatcher: Dispatcher, log_lines: list[dict[str, object]]
) -> None:
    trigger = await world.trigger(config={"headers": {"Authorization": "Bearer s3cret"}})
    id_ = await world.delivery(trigger)
    world.receiver.answers.extend([Answer(500, body=b"payload of the answer")])

    await dispatcher.step()
    await sent_again(world, dispatcher, id_)

    failed, good = [line for line in log_lines if line["event"] == "delivery.attempted"]
    assert (failed["level"], failed["trigger_id"], failed["status"]) == ("ERROR", trigger, 500)
    assert failed["error"] == "the endpoint answered 500"
    assert failed["retry_at"] is not None
    assert (good["level"], good["attempt"], good["outcome"]) == ("INFO", 2, "delivered")
    everything = str(log_lines)
    assert "s3cret" not in everything
    assert "payload of the answer" not in everything
    assert world.secrets[trigger] not in everything


async def test_nothing_secret_is_in_redis(world: World, client: Any) -> None:
    trigger = await world.trigger(
        config={"url": f"{world.receiver.url}/t0ken", "headers": {"Authorization": "Bearer s3cret"}}
    )
    id_ = await world.delivery(trigger)

    assert await client.lrange("action_jobs", 0, -1) == [str(id_)]
    assert sorted(await client.keys("*")) == ["action_jobs", "agentauri:queue:known"]


async def test_priorities_order_the_actions_of_one_event(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger()
    checked = await world.actions.check(
        [
            ActionDraft(action_type="webhook", config={"url": f"{world.receiver.url}/{priority}"}, priority=priority)
            for priority in (3, 1, 2)
        ]
    )
    async with world.database.transaction() as tx:
        made = await world.actions.create(tx, trigger, checked)
    seq = await world.event()
    ids = [await world.delivery(trigger, seq, action_id=action.id, priority=action.priority) for action in made]

    async with world.database.transaction() as tx:
        await tx.run("UPDATE deliveries SET due_at = '2026-01-01'")
        with dispatcher._claimer.batch() as claimed:
            await dispatcher._claimer.claim(tx, claimed, ids, lambda _: False)

    assert [send.id for send in claimed.sends] == [ids[1], ids[2], ids[0]]


async def test_an_owners_rate_is_kept(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger(config={"rate_limit_per_second": 0.01})
    for _ in range(3):
        await world.delivery(trigger)

    await dispatcher.step()
    await dispatcher.step()

    assert len(world.receiver.requests) == 1


async def test_half_a_secret_is_not_kept_either(world: World, dispatcher: Dispatcher) -> None:
    secret = "s3cret" * 20
    id_ = await world.delivery(await world.trigger(config={"headers": {"Authorization": f"Bearer {secret}"}}))
    world.receiver.answer = lambda received: Answer(
        500, body=f"{'.' * 960}{received.headers['Authorization']}".encode()
    )

    await dispatcher.step()

    (attempt,) = await world.attempts(id_)
    assert attempt["response_excerpt"] == "." * 960 + "***"
