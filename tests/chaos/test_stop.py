"""A process that is told to stop finishes what it has begun, gives back the rest, and ends well."""

from __future__ import annotations

import asyncio
import signal

import asyncpg
import pytest
from aiohttp import web

from chaos.world import SECONDS, Gate, World

SLOTS = 10
SETTINGS = {"MAX_IN_FLIGHT_DELIVERIES": str(SLOTS), "WEBHOOK_TIMEOUT_SECONDS": "60"}


async def test_a_stop_under_load_finishes_what_is_being_sent_and_gives_back_the_rest(world: World) -> None:
    async def slowly(_: web.Request) -> web.Response:
        await asyncio.sleep(0.3)
        return web.Response()

    world.receiver.handle = slowly
    await world.happen(100)
    child = await world.start("indexer,evaluator,dispatcher,http", **SETTINGS)
    await world.received(SLOTS)

    child.signal(signal.SIGTERM)
    assert await child.ended(SECONDS) == 0

    left = await world.left()
    assert SLOTS <= left.delivered == left.received < len(world.due)
    assert left.claimed == left.leased == 0
    world.receiver.handle = None
    await world.start()
    await world.finish()


async def test_a_second_signal_ends_it_at_once_and_still_loses_nothing(world: World) -> None:
    gate = Gate(world.receiver)
    await world.happen(40)
    child = await world.start(**SETTINGS)
    await world.received(SLOTS)

    child.signal(signal.SIGTERM)
    await child.logged(SECONDS, event="process.draining")
    child.signal(signal.SIGTERM)
    assert await child.ended(SECONDS) == 0

    assert await child.logged(SECONDS, event="process.cancelled", because="told twice")
    gate.open()
    await world.pass_time()
    await world.start()
    await world.finish(repeats=SLOTS)


async def test_a_stop_ends_the_source_before_the_sink(world: World) -> None:
    gate = Gate(world.receiver)
    await world.happen(20)
    child = await world.start("indexer,evaluator,dispatcher,http", POLL_INTERVAL_MS="100", **SETTINGS)
    port = await child.port()
    await world.received(SLOTS)
    assert await listeners(world) == 1

    child.signal(signal.SIGTERM)

    await world.until(lambda: is_closed(port), "HTTP to be closed")
    await world.until(lambda: nobody_listens(world), "the listener to have gone")
    await world.happen_unnoticed()  # the evaluator takes nothing any more
    assert child.alive  # and the dispatcher waits for what it sends
    gate.open()
    assert await child.ended(SECONDS) == 0
    left = await world.left()
    assert (left.delivered, left.received, left.claimed) == (SLOTS, SLOTS, 0)
    await world.start()
    await world.finish()


async def is_closed(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def nobody_listens(world: World) -> bool:
    return await listeners(world) == 0


async def listeners(world: World) -> int:
    [(number,)] = await world.fetch(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query ILIKE 'LISTEN%'"
    )
    return int(number)


@pytest.mark.soak
async def test_a_process_whose_workers_cannot_be_kept_alive_ends_with_1(world: World, admin_url: str) -> None:
    """Six crashes within a minute, and the waits between them, take a quarter of that."""
    child = await world.start()
    admin = await asyncpg.connect(admin_url)
    [(name,)] = await world.fetch("SELECT current_database()")

    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)

    assert await child.ended(SECONDS) == 1
    assert await child.logged(event="process.draining")
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await admin.close()
    await world.happen(5)
    await world.start()
    await world.finish()
