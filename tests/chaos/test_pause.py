"""A process that stands still for longer than its claims finds, when it goes on, that others have taken over."""

from __future__ import annotations

import signal

import pytest

from chaos.world import SECONDS, Gate, World

SLOTS = 10
FEW = 3


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


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_an_evaluator_that_stands_still_within_a_transaction_gives_way_after_a_minute(world: World) -> None:
    """It keeps its chain for itself for as long as PostgreSQL lets a transaction idle. So few events are inserted by a
    statement that is prepared by then: within a COPY the server would wait for the rest of the rows, and for ever."""
    await world.happen(FEW)
    sleeper = await world.start("evaluator")
    await world.processed(FEW)
    async with world.app.database.outside() as connection:
        await connection.execute("BEGIN; LOCK TABLE deliveries IN SHARE ROW EXCLUSIVE MODE")
        await world.happen(FEW)
        await world.until(
            lambda: world.waits_for_a_lock("INSERT INTO deliveries"), "the evaluator to wait for the table"
        )
        sleeper.signal(signal.SIGSTOP)
        await connection.execute("COMMIT")
    await world.start()
    await world.until(world.is_done, "the other process to take over", SECONDS * 2)
    sleeper.signal(signal.SIGCONT)
    await world.happen(20)
    await world.finish()
    assert not [line for line in sleeper.lines() if line.get("code") == "TASK_PANIC"]


async def outcomes(world: World) -> dict[str, int]:
    return dict(await world.fetch("SELECT outcome, count(*) FROM attempts GROUP BY outcome"))


async def told(world: World) -> bool:
    """What became of every try is known by now."""
    return "abandoned" not in await outcomes(world)
