"""Workers start sink first, stop source first, and come back after a crash."""

import asyncio
from contextlib import suppress

import pytest

from agentauri import supervisor
from agentauri.metrics import REGISTRY
from agentauri.supervisor import Supervisor, Wake, Worker, wait_until


def recording(name: str, story: list[str], grace: float = 5.0) -> Worker:
    async def run(stopping: asyncio.Event) -> None:
        story.append(f"{name} up")
        await stopping.wait()
        story.append(f"{name} down")

    return Worker(name, run, grace)


async def test_the_pipeline_starts_at_the_sink_and_stops_at_the_source() -> None:
    story: list[str] = []
    running = Supervisor([recording("sink", story), recording("source", story)], total_grace=10)

    running.start()
    await asyncio.sleep(0)
    await running.stop()

    assert story == ["sink up", "source up", "source down", "sink down"]


async def test_a_worker_that_outstays_its_grace_is_cancelled() -> None:
    async def stubborn(_: asyncio.Event) -> None:
        await asyncio.Event().wait()

    running = Supervisor([Worker("stubborn", stubborn, 0.01)], total_grace=10)
    running.start()

    await running.stop()

    assert running.failed is None


async def test_a_crashed_worker_is_restarted_and_logged(
    monkeypatch: pytest.MonkeyPatch, log_lines: list[dict[str, object]]
) -> None:
    monkeypatch.setattr(supervisor, "RESTART_FIRST", 0.0)
    again = asyncio.Event()
    runs = 0

    async def crash_once(stopping: asyncio.Event) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise ValueError("a bug")
        again.set()
        await stopping.wait()

    def counted() -> list[float | None]:
        names = ("agentauri_task_panicked_total", "agentauri_worker_restarts_total")
        return [REGISTRY.get_sample_value(name, {"worker": "clumsy"}) for name in names]

    running = Supervisor([Worker("clumsy", crash_once, 1)], total_grace=10)
    running.start()
    assert counted() == [0, 0]  # there before there is anything to count, so that an alert sees the first one
    await asyncio.wait_for(again.wait(), 10)
    await running.stop()

    assert [line["code"] for line in log_lines if "code" in line] == ["TASK_PANIC"]
    assert running.failed is None
    assert counted() == [1, 1]


async def test_six_crashes_within_a_minute_end_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RESTART_FIRST", 0.0)
    runs = 0

    async def crash(_: asyncio.Event) -> None:
        nonlocal runs
        runs += 1
        raise ValueError("a bug")

    running = Supervisor([Worker("hopeless", crash, 1)], total_grace=10)
    running.start()
    await asyncio.wait_for(running.finished.wait(), 10)

    assert running.failed == "hopeless"
    assert runs == 6


async def test_a_wake_that_comes_early_is_not_lost() -> None:
    wake = Wake()
    wake.set()

    await asyncio.wait_for(wake.wait(asyncio.Event(), 60), 10)


async def test_waiting_ends_when_the_worker_is_to_stop() -> None:
    stopping = asyncio.Event()
    waiting = asyncio.create_task(wait_until(stopping, 60))
    await asyncio.sleep(0)
    stopping.set()

    await asyncio.wait_for(waiting, 10)


async def test_workers_of_one_stage_stop_together() -> None:
    met = asyncio.Barrier(2)
    ended: list[str] = []

    def indexer(name: str) -> Worker:
        async def run(stopping: asyncio.Event) -> None:
            await stopping.wait()
            await met.wait()  # never, if the other one is told only after this one has ended
            ended.append(name)

        return Worker(name, run, 0.2)

    running = Supervisor([indexer("indexer:1"), indexer("indexer:10")], total_grace=10)
    running.start()
    await running.stop()

    assert sorted(ended) == ["indexer:1", "indexer:10"]


async def test_a_total_that_is_used_up_ends_the_stop_and_cancel_ends_the_rest() -> None:
    async def stubborn(_: asyncio.Event) -> None:
        await asyncio.Event().wait()

    running = Supervisor([Worker("sink", stubborn, 60), Worker("source", stubborn, 60)], total_grace=0.01)
    running.start()

    await running.stop()
    await asyncio.wait_for(running.cancel(), 10)


async def test_a_worker_that_swallows_a_cancellation_is_cancelled_again() -> None:
    async def swallowing(_: asyncio.Event) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    running = Supervisor([Worker("swallowing", swallowing, 60)], total_grace=10)
    running.start()
    await asyncio.sleep(0)

    assert await asyncio.wait_for(running.cancel(), 10) == frozenset()


async def test_a_worker_that_cannot_be_stopped_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "CANCELLATION_SECONDS", 0.001)
    enough = asyncio.Event()

    async def stubborn(_: asyncio.Event) -> None:
        while not enough.is_set():
            with suppress(asyncio.CancelledError):
                await enough.wait()

    running = Supervisor([Worker("stubborn", stubborn, 60)], total_grace=10)
    running.start()
    await asyncio.sleep(0)

    assert await running.cancel() == {"stubborn"}
    enough.set()
