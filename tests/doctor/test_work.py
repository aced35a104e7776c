"""What holds up the work is found, and the printed fix mends it."""

from __future__ import annotations

import redis.asyncio

from agentauri.database import Database
from support.doctor import Beat, Do, Look


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


async def test_fix_makes_the_queue_true(redis_client: redis.asyncio.Redis, look: Look) -> None:
    await redis_client.sadd("agentauri:queue:known", "lost")

    found = await look("queue_consistency", heal=True)

    assert (found.result, found.fixed) == ("ok", "known ids are 0 now")
