"""A process that stands still for longer than its claims finds, when it goes on, that others have taken over."""

from __future__ import annotations

import signal

from chaos.world import Gate, World

SLOTS = 10


async def test_a_process_that_comes_back_after_its_claims_overwrites_nothing_newer(world: World) -> None:
    gate = Gate(world.receiver)
    await world.happen(40)
    sleeper = await world.start(MAX_IN_FLIGHT_DELIVERIES=str(SLOTS))
    await world.received(SLOTS)
    await world.processed(40)
    sleeper.signal(signal.SIGSTOP)
    gate.open()
    await world.pass_time()

    await world.start("dispatcher")
    await world.until(world.is_done, "the other process to take over")
    newer = await world.fetch("SELECT * FROM deliveries ORDER BY id")
    assert (await outcomes(world))["abandoned"] == SLOTS

    sleeper.signal(signal.SIGCONT)
    await world.until(lambda: told(world), "the late outcomes to be written down")
    assert await world.fetch("SELECT * FROM deliveries ORDER BY id") == newer
    await world.finish(repeats=SLOTS)


async def outcomes(world: World) -> dict[str, int]:
    return dict(await world.fetch("SELECT outcome, count(*) FROM attempts GROUP BY outcome"))


async def told(world: World) -> bool:
    """What became of every try is known by now."""
    return "abandoned" not in await outcomes(world)
