"""Events are not processed: what an operator types, and what it shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.console import INSERT, Command, MakeTrigger, grep
from support.processes import Child, until
from support.receiver import Receiver

LISTENING = "Listening for PostgreSQL NOTIFY events on channel 'new_event'"


async def test_the_log_tells_that_the_listener_listens_and_that_it_does_so_again(
    serve: Callable[..., Child], agentauri: Command
) -> None:
    child = serve()
    await child.logged(code="LISTENER_STARTED")
    assert LISTENING in grep(child, "LISTENER")

    await agentauri(
        "psql", "-c", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query ILIKE 'listen%'",
    )  # fmt: skip

    await until(lambda: grep(child, "Listening").count(LISTENING) == 2, 20, "the listener to be back")
    assert "LISTENER_TRANSIENT_ERROR" in grep(child, "LISTENER")


async def test_the_notify_trigger_can_be_seen_disabled_and_enabled_without_a_restart(
    serve: Callable[..., Child], agentauri: Command, make_trigger: MakeTrigger, receiver: Receiver
) -> None:
    port = await serve().port()
    await make_trigger(port)
    look = "SELECT tgname, tgenabled FROM pg_trigger WHERE tgname = 'notify_new_event_trigger';"

    assert "notify_new_event_trigger | O" in await agentauri("psql", "-c", look)
    assert "notify_new_event" in await agentauri("psql", "-c", r"\df notify_new_event")
    await agentauri("psql", "-c", "ALTER TABLE events DISABLE TRIGGER notify_new_event_trigger;")
    await agentauri("psql", "-c", INSERT.format(id="unannounced"))
    await receiver.wait_for(1)
    await agentauri("psql", "-c", "ALTER TABLE events ENABLE TRIGGER notify_new_event_trigger;")
    await agentauri("psql", "-c", INSERT.format(id="announced"))
    await receiver.wait_for(2)

    assert "notify_new_event_trigger | O" in await agentauri("psql", "-c", look)


async def test_an_event_that_makes_no_progress_is_told_and_parked_and_comes_back_when_told(
    serve: Callable[..., Child], agentauri: Command, make_trigger: MakeTrigger, receiver: Receiver
) -> None:
    child = serve(EVENT_TIMEOUT_SECONDS="1", EVENT_MAX_ATTEMPTS="1")
    await make_trigger(await child.port())
    await agentauri(
        "psql",
        "-c", "CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF NEW.event_id = 'stuck' THEN PERFORM pg_sleep(20); END IF; RETURN NEW; END $$;",
        "-c", "CREATE TRIGGER stall BEFORE INSERT ON processed_events FOR EACH ROW EXECUTE FUNCTION stall();",
        "-c", INSERT.format(id="stuck"),
    )  # fmt: skip

    await child.logged(code="EVENT_PARKED")
    assert "stuck" in grep(child, "EVENT_PROCESSING_TIMEOUT")
    await agentauri("psql", "-c", "DROP TRIGGER stall ON processed_events;")
    assert await agentauri("events", "retry", "--parked") == "1 queued again.\n"

    await receiver.wait_for(1)


async def test_active_tasks_are_in_the_log_and_never_above_a_hundred(serve: Callable[..., Child]) -> None:
    child = serve()
    line = await child.logged(event="evaluator.stats")

    assert "active_tasks" in grep(child, "active_tasks")
    assert int(str(line["active_tasks"])) <= 100


@pytest.mark.parametrize("count", [12])
async def test_passes_that_fail_ten_times_running_are_told_with_their_cause_and_lose_nothing(
    serve: Callable[..., Child], agentauri: Command, make_trigger: MakeTrigger, receiver: Receiver, count: int
) -> None:
    child = serve(REDIS_URL="redis://127.0.0.1:1/0")
    await make_trigger(await child.port())

    for number in range(count):
        await agentauri("psql", "-c", INSERT.format(id=f"event-{number}"))

    await receiver.wait_for(count)
    assert '"cause":"redis"' in grep(child, "POLLING_FALLBACK_BATCH_ABORTED")
    refused = grep(child, "REDIS_UNAVAILABLE")
    assert "Failed to connect to Redis" in refused
    assert "Connection refused (os error 111)" in refused


async def test_a_high_queue_is_warned_of_stops_the_intake_and_resumes(
    serve: Callable[..., Child], agentauri: Command, make_trigger: MakeTrigger, receiver: Receiver
) -> None:
    evaluating = serve("--only", "evaluator,http", MAX_QUEUE_DEPTH="2", CRITICAL_QUEUE_DEPTH="4")
    await make_trigger(await evaluating.port())
    rows = INSERT.format(id="many").replace("VALUES", "SELECT").replace("('many',", "'many-' || n,")
    await agentauri("psql", "-c", rows.removesuffix(")") + " FROM generate_series(1, 5) AS n")
    await evaluating.logged(code="QUEUE_CRITICAL_DEPTH")
    await agentauri("psql", "-c", INSERT.format(id="waits"))

    assert "CRITICAL_QUEUE_DEPTH reached" in grep(evaluating, "QUEUE_CRITICAL_DEPTH")
    assert "Action workers falling behind" in grep(evaluating, "QUEUE_HIGH_DEPTH")
    assert (await agentauri("redis-cli", "LLEN", "action_jobs")).strip() == "5"
    assert "waits" not in await agentauri("psql", "-c", "SELECT event_id FROM processed_events")
    sending = serve("--only", "dispatcher")
    await receiver.wait_for(6)
    await evaluating.logged(code="QUEUE_NORMAL_DEPTH")

    assert "normal operation resumes" in grep(evaluating, "QUEUE_NORMAL_DEPTH")
    assert not grep(sending, "CRITICAL")
