"""A breaker is one for all processes: it opens once, probes once, and closes for everybody."""

from __future__ import annotations

from aiohttp import web

from chaos.world import Gate, World

SLOTS = 10
THRESHOLD = 10  # failures in a row that open a breaker, unless its trigger says otherwise
BROKEN = "/all"


async def test_two_processes_stop_asking_a_broken_endpoint_and_let_one_request_find_out(world: World) -> None:
    async def fail(request: web.Request) -> web.Response:
        return web.Response(status=500 if request.path == BROKEN else 200)

    world.receiver.handle = fail
    await world.happen(50)
    await world.evaluate()
    settings = {
        "MAX_IN_FLIGHT_DELIVERIES": str(SLOTS),
        "RETRY_SCHEDULE_SECONDS": "36000",
        "SWEEP_INTERVAL_SECONDS": "1",
    }
    processes = [await world.start("dispatcher", **settings) for _ in range(2)]

    await world.until(lambda: is_held(world), "the breaker to hold what is left, and all else to be delivered")
    failed = asked(world)
    assert THRESHOLD <= failed < THRESHOLD + 2 * SLOTS

    probe = Gate(world.receiver, status=500)
    await world.fetch("UPDATE circuit_breaker_state SET next_probe_at = now() RETURNING state")
    for process in processes:
        await process.logged(code="CIRCUIT_BREAKER_HALF_OPEN")
    await world.until(lambda: asked(world) > failed, "one request to go out")
    assert asked(world) == failed + 1
    probe.open()
    await world.until(lambda: is_held(world), "the breaker to open again")
    assert asked(world) == failed + 1

    world.receiver.handle = None
    await world.fetch(
        "UPDATE circuit_breaker_state SET state = 'closed', failure_count = 0, success_count = 0 RETURNING state"
    )
    await world.until(lambda: is_released(world), "what was held to be delivered")
    await world.pass_time(36_000 * 2)
    await world.finish(repeats=failed + 1)


def asked(world: World) -> int:
    return sum(request.path == BROKEN for request in world.receiver.requests)


async def is_held(world: World) -> bool:
    """The breaker is open, and nothing moves."""
    states = await world.fetch("SELECT state FROM circuit_breaker_state WHERE state <> 'closed'")
    return states == [("open",)] and await nothing_moves(world)


async def is_released(world: World) -> bool:
    held = await world.fetch("SELECT id FROM deliveries WHERE hold IS NOT NULL")
    return held == [] and await nothing_moves(world)


async def nothing_moves(world: World) -> bool:
    """What is not done is held, or waits for a try that is far away."""
    moving = await world.fetch(
        """SELECT id FROM deliveries WHERE status = 'pending' AND hold IS NULL
           AND (leased_until IS NOT NULL OR due_at < now() + interval '1 hour')"""
    )
    return moving == []
