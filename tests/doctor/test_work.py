"""What holds up the work is found, and the printed fix mends it."""

from __future__ import annotations

from uuid import UUID, uuid4

import msgspec
import redis.asyncio

from agentauri.config import Config
from agentauri.database import Database
from agentauri.doctor import Patient
from support.doctor import Beat, Do, Look
from support.events import insert_by_hand


async def add_delivery(database: Database, status: str = "pending", due: str = "now()", **columns: object) -> UUID:
    delivery_id = uuid4()
    values: dict[str, object] = {
        "id": delivery_id, "organization_id": "o", "trigger_id": "t", "environment": "live", "trigger_version": 1,
        "action_id": 1, "action_type": "webhook", "destination": "hooks.example", "event_seq": 1, "chain_id": 84532,
        "kind": "match", "status": status,
    } | columns  # fmt: skip
    names = ", ".join(values)
    places = ", ".join(f"${place}" for place in range(1, len(values) + 1))
    async with database.transaction() as tx:
        await tx.run(
            f"INSERT INTO deliveries ({names}, due_at, created_at) VALUES ({places}, {due}, now())", *values.values()
        )
    return delivery_id


async def test_without_processes_their_work_and_the_listening_are_missed(look: Look) -> None:
    assert (await look("workers:dispatcher")).result == "fail"
    assert (await look("workers:evaluator")).result == "fail"
    assert "no evaluator is there" in (await look("listener")).finding


async def test_processes_that_beat_are_well_until_they_stop_listening_or_keep_crashing(look: Look, beat: Beat) -> None:
    await beat("dispatcher", "evaluator")
    assert (await look("workers")).result == "ok"
    assert (await look("listener")).result == "ok"


async def test_an_evaluator_that_does_not_listen_is_named(look: Look, beat: Beat) -> None:
    await beat("dispatcher", "evaluator", listener="degraded")

    found = await look("listener")

    assert (found.result, "test-1 does not listen" in found.finding) == ("fail", True)


async def test_workers_that_keep_crashing_are_told_with_their_number(look: Look, beat: Beat) -> None:
    await beat("dispatcher", "evaluator", restarts=6)

    found = await look("workers:test-1")

    assert (found.result, "6 times" in found.finding) == ("warn", True)


async def test_a_heartbeat_of_a_minute_ago_is_none(look: Look, beat: Beat) -> None:
    await beat("dispatcher", "evaluator", age=61)

    assert (await look("workers:dispatcher")).result == "fail"


async def test_a_parked_event_is_told_with_its_reason_and_revived_by_the_printed_command(
    database: Database, look: Look, do: Do
) -> None:
    async with database.transaction() as tx:
        await insert_by_hand(tx, "poison")
        await tx.run("UPDATE event_queue SET parked_at = now(), due_at = now(), attempts = 5, last_error = 'boom'")

    found = await look("parked")
    assert (found.result, "boom" in found.finding) == ("fail", True)
    await do(found.fix)

    assert (await look("parked")).result == "ok"


async def test_events_that_wait_for_a_minute_are_a_backlog(database: Database, look: Look) -> None:
    async with database.transaction() as tx:
        await insert_by_hand(tx, "old", created_at=await tx.fetchval("SELECT now() - interval '2 minutes'"))

    found = await look("backlog")

    assert found.result == "fail"
    assert found.finding.startswith("1 event waiting, the oldest for 12")


async def test_slow_processing_and_events_with_many_matches_are_told_with_figures(
    database: Database, look: Look
) -> None:
    async with database.transaction() as tx:
        await tx.run(
            """INSERT INTO processed_events (event_seq, event_id, processing_duration_ms, triggers_matched,
                                             processor_instance)
               VALUES (1, 'a', 1500, 101, 'x'), (2, 'b', 2500, 1, 'x')"""
        )

    slow, many = await look("processing_time"), await look("trigger_count")

    assert (slow.result, slow.finding.startswith("2000 ms on average over 2 events")) == ("warn", True)
    assert (many.result, "1 event of the last day matched more than 100 triggers, 101" in many.finding) == (
        "warn",
        True,
    )


async def test_a_breaker_that_is_open_is_closed_by_the_printed_statement(
    database: Database, look: Look, do: Do
) -> None:
    async with database.transaction() as tx:
        await tx.run(
            """INSERT INTO circuit_breaker_state (trigger_id, state, failure_count, last_failure_at, last_error,
                                                  updated_at)
               VALUES ('it''s "$(mine)"', 'open', 7, now(), 'HTTP 503', now())"""
        )

    found = await look('breakers:it\'s "$(mine)"')
    assert (found.result, "7 failures" in found.finding, "HTTP 503" in found.finding) == ("warn", True, True)
    await do(found.fix)

    assert (await look("breakers")).result == "ok"


async def test_dead_letters_of_the_day_are_counted_by_reason(database: Database, look: Look) -> None:
    for reason in ("permanent", "permanent", "attempts_exhausted"):
        await add_delivery(database, "dead", reason=reason)
    async with database.transaction() as tx:
        await tx.run("UPDATE deliveries SET finished_at = now()")

    found = await look("dead_letters")

    assert (found.result, "2 × permanent, 1 × attempts_exhausted" in found.finding) == ("warn", True)
    assert (found.fix or "").startswith("agentauri deliveries redeliver --since ")


async def test_a_deep_queue_is_told_and_more_workers_are_advised(
    config: Config, redis_client: redis.asyncio.Redis, patient: Patient, look: Look
) -> None:
    await redis_client.rpush("action_jobs", "a", "b")
    settings = msgspec.structs.replace(config.dispatcher, max_queue_depth=2)

    found = await look("queue_depth", config=msgspec.structs.replace(config, dispatcher=settings))

    assert (found.result, "--scale action-workers=3" in (found.fix or "")) == ("warn", True)


async def test_a_queue_that_somebody_touched_is_made_true_by_the_printed_command(
    redis_client: redis.asyncio.Redis, look: Look, do: Do
) -> None:
    await redis_client.sadd("agentauri:queue:known", "lost")

    found = await look("queue_consistency")
    assert found.result == "fail"
    await do(found.fix)

    assert (await look("queue_consistency")).result == "ok"


async def test_fix_makes_the_queue_true(redis_client: redis.asyncio.Redis, look: Look) -> None:
    await redis_client.sadd("agentauri:queue:known", "lost")

    found = await look("queue_consistency", heal=True)

    assert (found.result, found.fixed) == ("ok", "known ids are 0 now")


async def test_deliveries_that_nobody_claims_are_told(database: Database, look: Look) -> None:
    await add_delivery(database, due="now() - interval '2 minutes'")

    found = await look("queue_consistency")

    assert (found.result, "1 deliver" in found.finding) == ("fail", True)


async def test_a_trigger_that_cannot_run_is_named_and_switched_off_by_the_printed_statement(
    database: Database, look: Look, do: Do
) -> None:
    async with database.transaction() as tx:
        await tx.run(
            """INSERT INTO triggers (id, organization_id, user_id, name, environment, enabled, is_stateful, condition,
                                     circuit_breaker_config, start_seq, start_blocks, invalid_reason)
               VALUES ('broken', 'o', 'u', 'n', 'live', true, false, '{"x": 1}', '{}', 0, '{}', 'no such operator')"""
        )

    found = await look("conditions")
    assert (found.result, "broken: no such operator" in found.finding) == ("fail", True)
    await do(found.fix)

    assert (await look("conditions")).result == "ok"
