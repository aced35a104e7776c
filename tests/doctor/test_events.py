"""Events that are not processed, fail, pile up or are slow: found in a running installation, and mended as printed."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from doctor.house import House
from support.processes import until
from support.receiver import Receiver


async def test_events_that_wait_for_an_evaluator_that_is_gone_go_on_when_it_is_started(
    house: House, receiver: Receiver
) -> None:
    await house.make_trigger(receiver)
    await house.stop("event-processor")
    await house.happen(2, age=120)

    found = await house.doctor("listener", "workers", "backlog")
    assert "no evaluator is there" in found["listener"].finding
    assert found["workers:evaluator"].result == found["workers:dispatcher"].result == "fail"
    assert found["backlog"].finding.startswith("2 events waiting, the oldest for 12")
    assert found["backlog"].fix == found["workers:evaluator"].fix == "docker compose restart event-processor"
    await house.mend("listener")

    await receiver.wait_for(2)
    await until(lambda: nothing_waits(house), 10, "the backlog to be gone")
    assert {one.result for one in (await house.doctor("listener", "workers", "backlog")).values()} == {"ok"}


async def nothing_waits(house: House) -> bool:
    return (await house.doctor("backlog"))["backlog"].finding.startswith("0 events")


async def test_events_that_no_trigger_of_the_database_announces_are_announced_again(
    house: House, receiver: Receiver
) -> None:
    await house.make_trigger(receiver)
    await house.sql("ALTER TABLE events DISABLE TRIGGER queue_new_event_trigger")
    await house.happen()

    found = await house.mend("event_trigger")

    assert "queue_new_event_trigger" in found.finding
    assert receiver.requests == []
    await house.happen()
    await receiver.wait_for(1)


@pytest.mark.soak
async def test_triggers_that_were_dropped_are_made_again(house: House, receiver: Receiver) -> None:
    await house.make_trigger(receiver)
    await house.sql("DROP FUNCTION queue_event_change CASCADE")

    assert (await house.mend("event_trigger")).fix == "agentauri migrate"

    await house.happen()
    await receiver.wait_for(1)


async def test_an_event_that_failed_and_was_set_aside_is_evaluated_again(house: House, receiver: Receiver) -> None:
    await house.make_trigger(receiver)
    await house.sql(
        """CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN RAISE EXCEPTION 'out of luck'; END $$;
           CREATE TRIGGER planted BEFORE INSERT ON processed_events FOR EACH ROW EXECUTE FUNCTION planted()"""
    )
    await house.happen()

    async def parked() -> bool:
        return (await house.doctor("parked"))["parked"].result == "fail"

    await until(parked, 20, "the event to be set aside")
    await house.sql("DROP FUNCTION planted CASCADE")  # luck has turned, and nobody looks at the event any more
    found = await house.mend("parked")

    assert "out of luck" in found.finding
    assert found.fix == "agentauri events retry --parked"
    await receiver.wait_for(1)


async def test_a_deep_queue_drains_when_there_are_more_workers(house: House, receiver: Receiver) -> None:
    await house.stand(MAX_QUEUE_DEPTH="3", MAX_IN_FLIGHT_DELIVERIES="1")
    answer = asyncio.Event()
    waiting = iter([answer])

    async def hang_once(_: web.Request) -> web.Response:
        if (turn := next(waiting, None)) is not None:
            await turn.wait()
        return web.Response()

    receiver.handle = hang_once
    await house.make_trigger(receiver)
    await house.happen(8)
    await receiver.wait_for(1)

    async def deep() -> bool:
        return (await house.doctor("queue_depth"))["queue_depth"].result == "warn"

    await until(deep, 20, "the queue to be deep")
    found = await house.mend("queue_depth")

    assert found.fix == "docker compose up -d --scale action-workers=3"
    await receiver.wait_for(8)
    answer.set()


async def test_evaluation_that_something_slows_down_is_quick_again_without_it(house: House, receiver: Receiver) -> None:
    await house.make_trigger(receiver)
    await house.sql(
        """CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN PERFORM pg_sleep(1.1); RETURN NEW; END $$;
           CREATE TRIGGER planted BEFORE INSERT ON deliveries FOR EACH ROW EXECUTE FUNCTION planted()"""
    )
    await house.happen()
    await receiver.wait_for(1)

    looked = await house.doctor("processing_time", "foreign_triggers")
    assert looked["processing_time"].result == "warn", looked
    assert looked["foreign_triggers:planted"].fix == looked["processing_time"].fix
    await house.mend("foreign_triggers:planted")

    await house.happen(9)  # each quick now, so that the hour's average falls
    await receiver.wait_for(10)
    assert (await house.doctor("processing_time"))["processing_time"].result == "ok"


async def test_a_trigger_that_was_spoilt_by_hand_is_named_and_switched_off(house: House, receiver: Receiver) -> None:
    trigger_id = await house.make_trigger(receiver)
    await house.sql(f"""UPDATE triggers SET condition = '{{"x": 1}}' WHERE id = '{trigger_id}'""")
    await house.stop("event-processor")
    await house.start("event-processor")

    async def named() -> bool:
        return (await house.doctor("conditions"))["conditions"].result == "fail"

    await until(named, 20, "the evaluator to say that it cannot run")
    assert trigger_id in (await house.mend("conditions")).finding


async def test_an_event_that_many_triggers_match_is_told_with_their_number(house: House, receiver: Receiver) -> None:
    await house.stand(TRIGGER_COUNT_WARNING="1")
    for _ in range(2):
        await house.make_trigger(receiver)
    await house.happen()
    await receiver.wait_for(2)

    found = (await house.doctor("trigger_count"))["trigger_count"]

    assert (found.result, "matched more than 1 triggers, 2 at most" in found.finding) == ("warn", True)
    assert "trigger_id" in await house.typed(str(found.fix))
