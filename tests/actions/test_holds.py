"""A breaker that is open keeps deliveries from going out, and lets them go in order once it may."""

from __future__ import annotations

import asyncio
from typing import Any

from agentauri.actions import Dispatcher, Release
from agentauri.types import DeliveryId, TriggerId
from support.receiver import Answer

from .conftest import MakeDispatcher, World


async def opened(world: World, dispatcher: Dispatcher, **changes: Any) -> TriggerId:
    """A trigger whose breaker one failed delivery has opened."""
    trigger = await world.trigger(**({"breaker": {"failure_threshold": 1}} | changes))
    world.receiver.answers.append(Answer(404))
    await world.delivery(trigger)
    await dispatcher.step()
    world.receiver.requests.clear()
    return trigger


async def probe(world: World) -> None:
    """The recovery timeout is over."""
    await world.sql("UPDATE circuit_breaker_state SET next_probe_at = now() WHERE state = 'open'")


async def holds(world: World, ids: list[DeliveryId]) -> list[str | None]:
    return [(await world.row(id_))["hold"] for id_ in ids]


async def test_an_open_breaker_holds_deliveries_without_counting_an_attempt(
    world: World, dispatcher: Dispatcher, log_lines: list[dict[str, Any]]
) -> None:
    trigger = await opened(world, dispatcher)
    id_ = await world.delivery(trigger)

    await dispatcher.step()

    row = await world.row(id_)
    assert (row["status"], row["hold"], row["attempts"]) == ("pending", "breaker", 0)
    assert world.receiver.requests == []
    assert await world.client.scard("agentauri:queue:known") == 0
    (line,) = [line for line in log_lines if line.get("code") == "CIRCUIT_BREAKER_OPEN"]
    assert line["level"] == "ERROR"
    assert line["message"] == f"Circuit breaker OPEN for trigger {trigger}: skipping trigger (fail-fast)"
    assert line["last_error"] == "the endpoint answered 404"


async def test_skip_mode_gives_deliveries_up(world: World, dispatcher: Dispatcher) -> None:
    trigger = await opened(world, dispatcher, on_open="skip")
    id_ = await world.delivery(trigger)

    await dispatcher.step()

    row = await world.row(id_)
    assert (row["status"], row["reason"], row["hold"]) == ("skipped", "breaker_open", None)


async def test_half_open_lets_exactly_as_many_go_as_configured(
    world: World, make_dispatcher: MakeDispatcher, log_lines: list[dict[str, Any]]
) -> None:
    one, two = make_dispatcher(instance="one"), make_dispatcher(instance="two")
    trigger = await opened(world, one, breaker={"failure_threshold": 1, "half_open_max_calls": 3})
    ids = [await world.delivery(trigger) for _ in range(50)]
    await probe(world)
    await one.tick()
    world.receiver.answer = lambda _: Answer(503)

    await one.take()
    await two.take()
    await one.step()
    await two.step()

    assert len(world.receiver.requests) == 3
    assert [hold for hold in await holds(world, ids) if hold == "breaker"] == ["breaker"] * 47
    assert "Circuit breaker transitioned to HALF_OPEN" in [line.get("message") for line in log_lines]


async def test_a_success_closes_it_and_releases_the_oldest_first(world: World, dispatcher: Dispatcher) -> None:
    trigger = await opened(world, dispatcher)
    ids = [await world.delivery(trigger) for _ in range(5)]
    await dispatcher.step()
    assert await holds(world, ids) == ["breaker"] * 5

    await probe(world)
    assert await dispatcher.tick() == 1
    await dispatcher.step()
    assert [request.headers["webhook-id"] for request in world.receiver.requests] == [f"msg_{ids[0]}"]

    assert await dispatcher.tick() == 4
    assert await world.client.lrange("action_jobs", 0, -1) == [str(id_) for id_ in ids[1:]]
    await dispatcher.step()
    assert [(await world.row(id_))["status"] for id_ in ids] == ["delivered"] * 5


async def test_a_failed_probe_opens_it_again(world: World, dispatcher: Dispatcher) -> None:
    trigger = await opened(world, dispatcher)
    id_ = await world.delivery(trigger)
    await dispatcher.step()
    await probe(world)
    await dispatcher.tick()
    world.receiver.answers.append(Answer(503))

    await dispatcher.step()

    breaker = await world.breaker(trigger)
    assert breaker is not None
    assert breaker["state"] == "open"
    assert (await world.row(id_))["attempts"] == 1


async def test_a_reset_by_hand_in_sql_releases_what_is_held(world: World, dispatcher: Dispatcher) -> None:
    trigger = await opened(world, dispatcher)
    id_ = await world.delivery(trigger)
    await dispatcher.step()

    await world.sql("UPDATE circuit_breaker_state SET state='closed', failure_count=0, success_count=0")
    dispatcher.breaker_changed(f'{{"trigger_id" : "{trigger}", "state" : "closed"}}')
    await dispatcher.tick()
    await dispatcher.step()

    assert (await world.row(id_))["status"] == "delivered"


async def test_a_transition_heard_from_elsewhere_is_logged_once(
    world: World, dispatcher: Dispatcher, log_lines: list[dict[str, Any]]
) -> None:
    trigger = await opened(world, dispatcher)

    dispatcher.breaker_changed(f'{{"trigger_id" : "{trigger}", "state" : "open"}}')
    dispatcher.breaker_changed(f'{{"trigger_id" : "{trigger}", "state" : "closed"}}')
    dispatcher.breaker_changed("nonsense")

    assert [line["code"] for line in log_lines if line["event"] == "breaker.changed"] == [
        "CIRCUIT_BREAKER_OPEN",
        "CIRCUIT_BREAKER_CLOSED",
    ]


async def test_single_attempt_failures_of_many_deliveries_reach_the_threshold(
    world: World, dispatcher: Dispatcher
) -> None:
    trigger = await world.trigger(breaker={"failure_threshold": 4})
    world.receiver.answer = lambda _: Answer(404)
    for _ in range(4):
        await world.delivery(trigger)

    await dispatcher.step()

    breaker = await world.breaker(trigger)
    assert breaker is not None
    assert (breaker["state"], breaker["failure_count"]) == ("open", 4)


async def test_what_is_held_too_long_expires(world: World, dispatcher: Dispatcher) -> None:
    trigger = await opened(world, dispatcher)
    old, young = await world.delivery(trigger), await world.delivery(trigger)
    await dispatcher.step()
    await world.sql("UPDATE deliveries SET due_at = now() - interval '73 hours' WHERE id = $1", old)

    await dispatcher.tidy()

    assert ((await world.row(old))["status"], (await world.row(old))["reason"]) == ("skipped", "expired")
    assert (await world.row(young))["hold"] == "breaker"


async def test_what_is_held_for_a_deleted_trigger_is_given_up(world: World, dispatcher: Dispatcher) -> None:
    trigger = await opened(world, dispatcher)
    id_ = await world.delivery(trigger)
    await dispatcher.step()
    await world.sql("DELETE FROM triggers")

    await dispatcher.tick()
    await dispatcher.step()

    assert (await world.row(id_))["reason"] == "trigger_deleted"


async def test_what_is_held_for_a_disabled_trigger_is_paused(world: World, dispatcher: Dispatcher) -> None:
    trigger = await opened(world, dispatcher)
    id_ = await world.delivery(trigger)
    await dispatcher.step()
    await world.sql("UPDATE triggers SET enabled = false")

    await dispatcher.tick()
    await dispatcher.step()

    assert (await world.row(id_))["hold"] == "paused"
    assert world.receiver.requests == []


async def test_enabling_by_hand_resumes_what_was_paused(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger(enabled=False)
    id_ = await world.delivery(trigger)
    await dispatcher.step()
    assert (await world.row(id_))["hold"] == "paused"

    await dispatcher.tidy()
    assert (await world.row(id_))["hold"] == "paused"
    await world.sql("UPDATE triggers SET enabled = true")
    await dispatcher.tidy()
    await dispatcher.step()

    assert (await world.row(id_))["status"] == "delivered"


async def test_a_trigger_enabled_by_hand_resumes_beside_any_number_of_disabled_ones(
    world: World, dispatcher: Dispatcher
) -> None:
    trigger = await world.trigger()
    id_ = await world.delivery(trigger)
    await world.sql(
        """INSERT INTO triggers (id, organization_id, user_id, name, enabled)
           SELECT 'off-' || n, 'org-1', 'user', 'off', false FROM generate_series(1, 1500) AS n"""
    )
    await world.sql(
        """INSERT INTO deliveries SELECT copy.* FROM deliveries d, triggers t, jsonb_populate_record(
               d, jsonb_build_object('id', gen_random_uuid(), 'trigger_id', t.id)) AS copy WHERE NOT t.enabled"""
    )
    await world.sql("UPDATE deliveries SET hold = 'paused'")

    assert not await dispatcher.tidy()

    assert (await world.row(id_))["hold"] is None
    async with world.database.transaction() as tx:
        assert await world.deliveries.by_hold(tx) == {"paused": 1500}


async def test_upkeep_that_postgres_refuses_ends_no_sends(
    world: World, dispatcher: Dispatcher, log_lines: list[dict[str, Any]]
) -> None:
    await opened(world, dispatcher)
    await probe(world)
    await world.sql("ALTER TABLE circuit_breaker_state ADD CONSTRAINT planted CHECK (state <> 'half_open')")
    stopping = asyncio.Event()
    running = asyncio.create_task(dispatcher.run(stopping))
    await world.delivery(await world.trigger())
    await world.receiver.wait_for(1)

    stopping.set()
    await running

    assert [line["job"] for line in log_lines if line["event"] == "upkeep.failed"] == ["tick"]


async def test_batches_refused_by_open_breakers_alone_are_told(
    world: World, dispatcher: Dispatcher, log_lines: list[dict[str, Any]]
) -> None:
    trigger = await opened(world, dispatcher)
    for _ in range(10):
        await world.delivery(trigger)
        await dispatcher.step()

    (line,) = [line for line in log_lines if line.get("code") == "POLLING_FALLBACK_BATCH_ABORTED"]
    assert (line["level"], line["cause"]) == ("ERROR", "breakers_open")


async def test_what_a_reorg_moved_up_since_it_was_deep_enough_is_not_sent(world: World, dispatcher: Dispatcher) -> None:
    seq = await world.event(block_number=100)
    trigger = await world.trigger()
    release = Release("head", 103, 3)
    moved = await world.delivery(trigger, seq, release=release)
    stands = await world.delivery(trigger, await world.event(block_number=100), release=release)
    await world.sql("UPDATE deliveries SET hold = NULL")
    await world.sql("UPDATE events SET block_number = 101 WHERE seq = $1", seq)
    await world.make_due(moved, stands)
    await dispatcher.sweep()

    await dispatcher.step()

    assert await holds(world, [moved, stands]) == ["depth", None]
    assert len(world.receiver.requests) == 1
