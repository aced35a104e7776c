"""One event that very many triggers match: every one of them is served once, whoever dies meanwhile."""

from __future__ import annotations

import signal

import pytest

from chaos.world import SECONDS, World
from support.processes import Child
from triggers.making import make_triggers

ORGANIZATIONS = 10
AT_ONCE = 50_000  # matches that one transaction takes
ROOM = {"MAX_QUEUE_DEPTH": "100000", "CRITICAL_QUEUE_DEPTH": "200000"}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("triggers", "dies_at"),
    [
        (150, "evaluator.matched"),
        (10_000, "evaluator.matched"),
        pytest.param(60_000, "evaluator.committed", marks=pytest.mark.soak),
    ],
)
async def test_an_event_for_very_many_triggers_reaches_each_of_them_once(
    world: World, triggers: int, dies_at: str
) -> None:
    async with world.app.database.transaction() as tx:
        await make_triggers(tx, triggers)
    await world.happen(2)
    first = await world.start("evaluator", AGENTAURI_CRASH_AT=dies_at, **ROOM)
    assert await first.ended(SECONDS) == -signal.SIGKILL
    assert [AT_ONCE <= number < triggers for number in await made(world)] == ([True] if triggers > AT_ONCE else [])

    second = await world.start("evaluator", **ROOM)
    await world.until(lambda: is_evaluated(world), "both events", SECONDS * 5)

    ours = {"event-1": len(due(world, "event-1")), "event-2": len(due(world, "event-2"))}
    assert sorted(await made(world)) == sorted(triggers + number for number in ours.values())
    assert await world.fetch("SELECT DISTINCT evaluations FROM processed_events") == [(1,)]
    await world.until(lambda: len(warned(second)) == len(ours), "warnings")
    assert set(warned(second)) == set(ours)
    assert warned(first) == []
    if triggers < AT_ONCE:
        front = await world.redis.lrange("action_jobs", 0, ORGANIZATIONS - 1)
        assert len({str(id_)[15:18] for id_ in front}) == ORGANIZATIONS


def warned(process: Child) -> list[object]:
    return [line["event_id"] for line in process.lines() if line.get("code") == "TRIGGER_COUNT_EXCEEDED"]


def due(world: World, event_id: str) -> list[str]:
    return [path for event, path in world.due if event == event_id]


async def made(world: World) -> list[int]:
    """How many deliveries the events have; none is there twice, since a trigger of these has one action and version."""
    rows = await world.fetch(
        """SELECT count(*), count(DISTINCT (trigger_id, action_id)) FROM deliveries GROUP BY event_seq"""
    )
    assert all(number == distinct for number, distinct in rows)
    return [int(number) for number, _ in rows]


async def is_evaluated(world: World) -> bool:
    return (await world.left()).processed == 2
