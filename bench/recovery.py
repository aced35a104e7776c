"""How soon work goes on: after Valkey has lost everything, and after a start with a great many events in the queue.

Prints a line of JSON for each of the two; lower is better.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import aiohttp
import asyncpg
import redis.asyncio

import harness
import scene
from agentauri.config import DispatcherConfig
from evaluate import evaluate_all
from harness import Bench, Reading, Stage, WrongTotals, must_count, until, working
from served import free_port, serving
from sink import Receiver

MARK = DispatcherConfig().max_queue_depth - 1
"""So many ids the sweep keeps ready; the rest follows as they are taken."""
PUSHED = 1_000
GLANCE = 0.005


class Restore(Bench):
    name = "restore"
    unit = "s"
    what = "from FLUSHALL just after a sweep, with so many deliveries pending, to Valkey full to the sweep's mark again"
    bare = "as many ids read from PostgreSQL and pushed by a bare loop"
    size = 50_000
    runs = 1

    async def prepare(self, stage: Stage) -> None:
        async with stage.application(harness.TEMPLATE) as application:
            self._port = free_port()
            await scene.add_triggers(application, f"http://127.0.0.1:{self._port}/hook", scene.agents(self.count))
            await scene.add_events(application, self.count)
            await evaluate_all(stage, application)
            async with application.database.transaction() as tx:
                await tx.run("UPDATE deliveries SET due_at = due_at - interval '1 minute'")

    async def measure(self, stage: Stage) -> Reading:
        expected = min(MARK, self.count - 1)  # one is being sent

        async def full() -> bool:
            return await client.llen("action_jobs") >= expected

        client = redis.asyncio.from_url(stage.redis_url)
        async with stage.fresh() as url, _hanging(self._port):
            async with stage.application(MAX_IN_FLIGHT_DELIVERIES="1") as application:
                async with working(application.dispatcher.run):
                    await until(full, every=GLANCE)
                    started = time.perf_counter()
                    await client.flushall()
                    await until(full, every=GLANCE)
                    seconds = time.perf_counter() - started
                await must_count(application.database, self.count, "SELECT count(*) FROM deliveries")
            bare = await _push_bare(url, client, expected)
        await client.aclose()
        return Reading(seconds, bare, f"{expected:,} of {self.count:,} ids")


class Backlog(Bench):
    name = "backlog"
    unit = "s"
    what = "`agentauri serve` started with so many events in the queue: from ready to the first webhook received"
    bare = "the first of them read by bare asyncpg, a body posted by bare aiohttp"
    size = 1_000_000
    runs = 1

    def start(self, stack: ExitStack) -> None:
        self._sink = Receiver(stack)

    async def prepare(self, stage: Stage) -> None:
        async with stage.application(harness.TEMPLATE) as application:
            await scene.add_triggers(application, self._sink.url, scene.agents(self.count))
            await scene.add_events(application, self.count)

    async def measure(self, stage: Stage) -> Reading:
        self._sink.take()
        async with stage.fresh() as url:
            environment = stage.environment(SERVER_PORT=str(free_port()))
            async with serving(stage.folder, environment) as process:
                ready = time.monotonic()
                first = await self._first()
            bare = await self._bare(url)
        return Reading(max(GLANCE, first - ready), bare, f"ready {process.ready_after:.1f} s after its start")

    async def _first(self) -> float:
        deadline = time.monotonic() + harness.PATIENCE
        while time.monotonic() < deadline:
            if ids := self._sink.take().ids:
                return min(ids.values())
            await asyncio.sleep(GLANCE)
        raise WrongTotals("no webhook came")

    async def _bare(self, url: str) -> float:
        started = time.perf_counter()
        connection = await asyncpg.connect(url)
        row = await connection.fetchrow(
            "SELECT e.* FROM event_queue q JOIN events e ON e.seq = q.event_seq ORDER BY q.position LIMIT 1"
        )
        async with aiohttp.ClientSession() as session, session.post(self._sink.url, data=repr(row)) as response:
            await response.read()
        await connection.close()
        return time.perf_counter() - started


@asynccontextmanager
async def _hanging(port: int) -> AsyncIterator[None]:
    """A receiver that never answers, so that what is ready stays ready."""
    leave = asyncio.Event()

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await leave.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", port)
    try:
        yield
    finally:
        leave.set()
        server.close()


async def _push_bare(url: str, client: redis.asyncio.Redis, count: int) -> float:
    await client.flushall()
    connection = await asyncpg.connect(url)
    started = time.perf_counter()
    rows = await connection.fetch(
        "SELECT id FROM deliveries WHERE status = 'pending' AND hold IS NULL ORDER BY due_at, id LIMIT $1", count
    )
    ids = [str(row["id"]) for row in rows]
    for first in range(0, len(ids), PUSHED):
        await client.rpush("action_jobs", *ids[first : first + PUSHED])
    seconds = time.perf_counter() - started
    await connection.close()
    return seconds


if __name__ == "__main__":
    for bench in (Restore, Backlog):
        harness.run(bench)
