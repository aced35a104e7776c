"""Latency through the whole process: from the commit of an event, 50 a second for a minute, to its webhook received."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager

import aiohttp
import asyncpg
import msgspec

import harness
import scene
from agentauri.database import Database
from harness import Bench, Orders, Peer, Reading, Stage, WrongTotals, holds, must_count, percentile, until
from sink import Got, Receiver

RATE = 50
BODY = bytes(1_500)
BARE_SHARE = 5
"""The bare loop gets a fifth of the events: its p99 settles sooner."""
READY = 0.5  # seconds for a process to come to rest after its start
LATE = 20.0  # seconds to wait for the last of them


class Latency(Bench):
    name = "latency"
    unit = "ms p99"
    what = f"from commit to webhook received, {RATE} events/s, through `agentauri serve`"
    bare = "a bare row and NOTIFY, heard by a bare LISTEN, posted by bare aiohttp"
    size = 60 * RATE

    def start(self, stack: ExitStack) -> None:
        self._sink = Receiver(stack, kept=self.count)
        self._relay = Peer(stack, _relay, self._sink.url)

    async def prepare(self, stage: Stage) -> None:
        async with stage.application(harness.TEMPLATE) as application:
            await scene.add_triggers(application, self._sink.url, scene.agents(self.count))

    async def measure(self, stage: Stage) -> Reading:
        self._sink.take()
        async with stage.fresh() as url:
            async with stage.application() as application, _serving(stage, application.database):
                events = list(scene.feedback(0, self.count, scene.agents(self.count)))

                async def commit(number: int) -> str:
                    async with application.database.transaction() as tx:
                        await application.events.record(tx, scene.CHAIN, [events[number]])
                    return events[number].id

                commits = await _steadily(self.count, commit)
                await _settled(application.database)
                await must_count(
                    application.database, self.count, "SELECT count(*) FROM deliveries WHERE status = 'delivered'"
                )
            got = self._sink.take()
            found = _latencies(commits, got)
            bare = await self._bare(url)
        note = f"p50 {statistics.median(found):.1f}, max {max(found):.1f}; bare p50 {statistics.median(bare):.1f}"
        return Reading(percentile(found, 99), percentile(bare, 99), note)

    async def _bare(self, url: str) -> list[float]:
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE bare (id bigint PRIMARY KEY)")
        self._relay.ask("start", url)
        await asyncio.sleep(READY)
        count = max(1, self.count // BARE_SHARE)

        async def commit(number: int) -> str:
            async with connection.transaction():
                await connection.execute("INSERT INTO bare VALUES ($1)", number)
                await connection.execute("SELECT pg_notify('bare', $1)", str(number))
            return str(number)

        commits = await _steadily(count, commit)
        await asyncio.sleep(READY)
        await connection.close()
        self._relay.ask("stop")
        got = self._sink.take()
        if len(got.ids) != count:
            raise WrongTotals(f"the bare loop brought {len(got.ids):,} of {count:,}")
        return [(got.ids[name.encode()] - at) * 1000 for name, at in commits.items()]


async def _steadily(count: int, commit: Callable[[int], Awaitable[str]]) -> dict[str, float]:
    """Commit at an even pace; when each was committed, by the name that `commit` gives it."""
    commits = {}
    started = time.monotonic()
    for number in range(count):
        await asyncio.sleep(max(0.0, started + number / RATE - time.monotonic()))
        name = await commit(number)
        commits[name] = time.monotonic()
    return commits


class _Event(msgspec.Struct):
    id: str


class _Data(msgspec.Struct):
    event: _Event


class _Webhook(msgspec.Struct):
    data: _Data


def _latencies(commits: dict[str, float], got: Got) -> list[float]:
    """Milliseconds from each event's commit to its webhook.

    Raises:
        WrongTotals: one is missing, or came twice.
    """
    read = msgspec.json.Decoder(_Webhook).decode
    arrived = {read(body).data.event.id: got.ids[dict(headers)[b"webhook-id"]] for headers, body in got.samples}
    if not len(arrived) == got.requests == len(commits):
        raise WrongTotals(f"{got.requests:,} requests about {len(arrived):,} events of {len(commits):,}")
    return [(arrived[name] - at) * 1000 for name, at in commits.items()]


async def _settled(database: Database) -> None:
    """Until everything is recorded, or patience ends; the counting tells."""
    open_work = """SELECT NOT EXISTS (SELECT FROM event_queue)
                   AND NOT EXISTS (SELECT FROM deliveries WHERE status = 'pending')"""
    async with asyncio.timeout(LATE):
        await until(lambda: holds(database, open_work), every=0.1)


@asynccontextmanager
async def _serving(stage: Stage, database: Database) -> AsyncIterator[None]:
    """The product in a process of its own, all roles, ready."""
    with (stage.folder / "serve.log").open("wb") as lines:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agentauri", "serve"),
            cwd=stage.folder,
            env=stage.environment(PATH=os.environ["PATH"]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=lines,
            stderr=lines,
        )
    try:
        # Its heartbeat is there once its workers run.
        await until(lambda: holds(database, "SELECT EXISTS (SELECT FROM process_heartbeats)"), every=0.05)
        await asyncio.sleep(READY)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


async def _relay(orders: Orders, target: str) -> None:
    """The bare hops, in a process of their own: each notification becomes a request."""
    running: list[asyncio.Task[None]] = []

    async def relay(url: str) -> None:
        heard: asyncio.Queue[str] = asyncio.Queue()
        connection = await asyncpg.connect(url)
        await connection.add_listener("bare", lambda *said: heard.put_nowait(str(said[3])))
        try:
            async with aiohttp.ClientSession() as session:
                while True:
                    headers = {"webhook-id": await heard.get(), "Content-Type": "application/json"}
                    async with session.post(target, data=BODY, headers=headers) as response:
                        await response.read()
        finally:
            connection.terminate()

    def start(url: str) -> None:
        running.append(asyncio.create_task(relay(url)))

    def stop() -> None:
        running.pop().cancel()

    await orders.obey({"start": start, "stop": stop})


if __name__ == "__main__":
    harness.run(Latency)
