"""A process that is killed at any instant loses nothing and doubles nothing; what comes after it only comes later."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from typing import NamedTuple

import pytest

from chaos.world import SECONDS, Left, World
from support.processes import until

EVENTS = 40
BATCH = "10"  # events at once, and so several batches
SLOTS = 20  # sends at once


class Hop(NamedTuple):
    """A point to die at, and what must be there when the process has died."""

    point: str
    left: Callable[[Left], bool]


EVALUATION = [
    Hop("evaluator.taken:2", lambda left: left.processed == 10 and left.known == left.deliveries > 0),
    Hop("evaluator.matched:2", lambda left: left.processed == 10 and left.known == left.deliveries > 0),
    Hop("evaluator.committed:2", lambda left: left.processed == 20 and 0 < left.known < left.deliveries),
    Hop("evaluator.pushed:2", lambda left: left.processed == 20 and left.known == left.deliveries),
]

DISPATCH = [
    Hop("dispatcher.leased", lambda left: left.leased == SLOTS and left.claimed == left.received == 0),
    Hop("dispatcher.claimed", lambda left: left.leased == left.claimed == SLOTS and left.received == 0),
    Hop("dispatcher.sent", lambda left: left.received > 0 and left.attempts == 0 and left.claimed == SLOTS),
    Hop("dispatcher.recorded", lambda left: left.delivered == left.attempts > 0 and left.leased == SLOTS),
    Hop("dispatcher.acked", lambda left: left.delivered == left.attempts > 0 and left.leased < SLOTS),
]


def name_of(hop: Hop) -> str:
    return hop.point.partition(":")[0]


@pytest.mark.parametrize("hop", EVALUATION, ids=name_of)
async def test_killed_while_evaluating_it_neither_loses_nor_doubles_a_match(world: World, hop: Hop) -> None:
    await world.happen(EVENTS)
    child = await world.start("evaluator", AGENTAURI_CRASH_AT=hop.point, MAX_CONCURRENT_EVENTS=BATCH)
    assert await child.ended(SECONDS) == -signal.SIGKILL
    left = await world.left()
    assert hop.left(left), left

    await world.pass_time()
    await world.start()

    await world.finish()


@pytest.mark.parametrize("hop", DISPATCH, ids=name_of)
async def test_killed_while_delivering_it_repeats_at_most_what_was_under_way(world: World, hop: Hop) -> None:
    await world.happen(EVENTS)
    await world.evaluate()
    child = await world.start("dispatcher", AGENTAURI_CRASH_AT=hop.point, MAX_IN_FLIGHT_DELIVERIES=str(SLOTS))
    assert await child.ended(SECONDS) == -signal.SIGKILL
    left = await world.left()
    assert hop.left(left), left

    await world.pass_time()
    await world.start()

    unrecorded = left.received - left.attempts
    await world.finish(repeats=unrecorded)
    abandoned = await world.fetch("SELECT count(*) FROM attempts WHERE outcome = 'abandoned'")
    assert abandoned == [(left.claimed,)]


async def test_500_events_survive_three_kills_at_random(world: World) -> None:
    dice = random.Random(8004)
    repeats = 0
    await world.start()
    for moment in sorted(dice.sample(range(20, 800), 3)):
        await world.happen(125)
        child = world.children[-1]
        await until(lambda moment=moment: len(world.receiver.requests) >= moment, SECONDS, f"{moment} requests")  # type: ignore[misc]
        child.kill()
        left = await world.left()
        repeats += left.received - left.attempts
        await world.pass_time()
        await world.start()
    await world.happen(125)

    await world.finish(repeats=repeats)
