"""Workers and the one who keeps them running.

A worker is a name, a `run(stopping)` and a grace. The supervisor starts workers top to bottom (sink first) and
stops them bottom to top (source first), so that the pipeline drains downhill. Workers whose names differ only after
a colon, such as the indexers, are one stage and stop together. A worker that raises has a bug: it
is restarted after 0.5 s doubling to 30 s, and one that crashes more than five times within a minute ends the
process, with the others drained.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import groupby

from msgspec import Struct

from agentauri import metrics
from agentauri.log import get_logger

log = get_logger(__name__)

RESTART_FIRST, RESTART_LAST = 0.5, 30.0
CRASHES_ALLOWED, CRASH_WINDOW = 5, 60.0
RESTARTS_REMEMBERED = 1000
CANCELLATIONS, CANCELLATION_SECONDS = 8, 0.25


class Worker(Struct, frozen=True):
    """`run` returns soon after `stopping` is set; after `grace` seconds it is cancelled."""

    name: str
    run: Callable[[asyncio.Event], Awaitable[None]]
    grace: float


class Wake:
    """A hint that there may be work. Hints merge, and one that comes too early is kept."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self, stopping: asyncio.Event, timeout: float) -> None:
        """Return on a hint, on `stopping`, or after `timeout` seconds, whichever comes first."""
        await wait_until(stopping, timeout, self._event)
        self._event.clear()


async def wait_until(stopping: asyncio.Event, timeout: float, *others: asyncio.Event) -> None:
    """Return when `stopping` or any of `others` is set, or after `timeout` seconds."""
    events = (stopping, *others)
    if any(event.is_set() for event in events):
        return
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def wait_for(work: Awaitable[object], stopping: asyncio.Event, timeout: float | None = None) -> None:
    """Wait until `work` is done, but not past `stopping` nor longer than `timeout` seconds: then it is cancelled."""
    waits = [asyncio.ensure_future(work), asyncio.ensure_future(stopping.wait())]
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


class Supervisor:
    """Runs workers until told to stop, or until one of them cannot be kept alive."""

    def __init__(self, workers: Sequence[Worker], *, total_grace: float) -> None:
        self._workers = list(workers)
        self._total_grace = total_grace
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stops: dict[str, asyncio.Event] = {}
        self._crashed: set[str] = set()
        self._restarts: deque[float] = deque(maxlen=RESTARTS_REMEMBERED)
        self.finished = asyncio.Event()
        self.failed: str | None = None

    @property
    def names(self) -> frozenset[str]:
        """Names of all its workers."""
        return frozenset(worker.name for worker in self._workers)

    @property
    def crashed(self) -> frozenset[str]:
        """Names of the workers that are down just now, between a crash and its restart."""
        return frozenset(self._crashed)

    @property
    def restarts(self) -> int:
        """How many times a worker was started again within the last hour."""
        hour_ago = time.monotonic() - 3600
        return sum(at >= hour_ago for at in self._restarts)

    def start(self) -> None:
        for worker in self._workers:
            self._stops[worker.name] = asyncio.Event()
            metrics.TASK_PANICKED.labels(worker.name)  # a counter that is not there yet has not risen, for an alert
            metrics.WORKER_RESTARTS.labels(worker.name)
            self._tasks[worker.name] = asyncio.create_task(self._keep_running(worker), name=worker.name)

    async def stop(self) -> None:
        """Drain: source first, a stage at a time, each worker with its grace. Returns early when all the time is up;
        `cancel` ends what is left then."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._total_grace):
                for _, stage in groupby(reversed(self._workers), key=lambda worker: worker.name.partition(":")[0]):
                    await asyncio.gather(*(self._drain(worker) for worker in stage))

    async def cancel(self) -> frozenset[str]:
        """Stop everything now; the names of those that will not."""
        return await self._cancel(list(self._tasks.values()))

    async def _drain(self, worker: Worker) -> None:
        self._stops[worker.name].set()
        task = self._tasks[worker.name]
        _, late = await asyncio.wait([task], timeout=worker.grace)
        if late:
            log.warning("worker.cancelled", worker=worker.name, grace=worker.grace)
            await self._cancel([task])

    @staticmethod
    async def _cancel(tasks: list[asyncio.Task[None]]) -> frozenset[str]:
        """Cancel, and again: code that we call may swallow one cancellation."""
        for _ in range(CANCELLATIONS):
            tasks = [task for task in tasks if not task.done()]
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=CANCELLATION_SECONDS)
        return frozenset(task.get_name() for task in tasks if not task.done())

    async def _keep_running(self, worker: Worker) -> None:
        stopping = self._stops[worker.name]
        crashes: deque[float] = deque(maxlen=CRASHES_ALLOWED + 1)
        delay = RESTART_FIRST
        while not stopping.is_set():
            started = time.monotonic()
            try:
                await worker.run(stopping)
                return
            except Exception:
                log.exception("worker.crashed", code="TASK_PANIC", worker=worker.name)
                metrics.TASK_PANICKED.labels(worker.name).inc()
            now = time.monotonic()
            crashes.append(now)
            if len(crashes) > CRASHES_ALLOWED and now - crashes[0] <= CRASH_WINDOW:
                self.failed = worker.name
                self.finished.set()
                return
            if now - started > CRASH_WINDOW:
                delay = RESTART_FIRST
            self._crashed.add(worker.name)
            await wait_until(stopping, delay)
            self._crashed.discard(worker.name)
            delay = min(delay * 2, RESTART_LAST)
            self._restarts.append(time.monotonic())
            metrics.WORKER_RESTARTS.labels(worker.name).inc()
            log.warning("worker.restarted", worker=worker.name, crashes=len(crashes))
