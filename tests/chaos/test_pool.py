"""HTTP and the pipeline have connections of their own: what one of them waits for does not stop the other."""

from __future__ import annotations

import asyncio

import aiohttp

from chaos.world import SECONDS, World

CONNECTIONS = 14  # the fewest there may be
OF_THE_PIPELINE = 10
SETTINGS = {"DB_MAX_CONNECTIONS": str(CONNECTIONS), "DB_ACQUIRE_TIMEOUT_SECONDS": "1"}


async def test_callers_who_use_up_their_connections_stop_no_event_and_events_no_caller(
    world: World, http: aiohttp.ClientSession
) -> None:
    child = await world.start("evaluator,dispatcher,http", **SETTINGS)
    url = f"http://127.0.0.1:{await child.port()}/api/v1/events"

    async def ask() -> int:
        async with http.get(url) as answer:
            return answer.status

    async with world.app.database.outside() as connection:
        await connection.execute("BEGIN; LOCK TABLE api_keys")
        callers = [asyncio.create_task(ask()) for _ in range(CONNECTIONS)]
        refused = await child.logged(SECONDS, code="DB_POOL_EXHAUSTED")
        waiting = await world.fetch(
            """SELECT pid FROM pg_stat_activity
               WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%WHERE k.key_prefix%'"""
        )  # the callers' question; upkeep has one of its own
        assert len(waiting) <= CONNECTIONS - OF_THE_PIPELINE
        await world.happen(50)
        await world.until(world.is_done, "everything to be delivered")
        await connection.execute("COMMIT")
    assert set(await asyncio.gather(*callers)) <= {200, 503}
    assert "Connection timeout after 1s" in str(refused["message"])

    async with world.app.database.outside() as connection:
        await connection.execute("BEGIN; LOCK TABLE deliveries, attempts")
        await world.happen(20)
        assert {await ask() for _ in range(2 * CONNECTIONS)} == {200}
        await connection.execute("COMMIT")
    await world.finish()
