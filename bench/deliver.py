"""Webhooks delivered and recorded a second: 60,000 pending ones for one destination."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack

import aiohttp

import harness
import scene
from agentauri.app import Application
from agentauri.config import DispatcherConfig
from evaluate import evaluate_all
from harness import Bench, Reading, Stage, WrongTotals, holds, must_count, until, watched, working
from sink import Got, Receiver

CONCURRENCY = DispatcherConfig().destination_concurrency


class Deliver(Bench):
    name = "deliver"
    unit = "webhooks/s"
    what = "from pending to recorded as delivered, through the dispatcher, to a local receiver that keeps connections"
    bare = f"the same bodies posted by a bare aiohttp loop, {CONCURRENCY} at once"
    size = 60_000

    def start(self, stack: ExitStack) -> None:
        self._sink = Receiver(stack)

    async def prepare(self, stage: Stage) -> None:
        async with stage.application(harness.TEMPLATE) as application:
            await scene.add_triggers(application, self._sink.url, scene.agents(self.count))
            await scene.add_events(application, self.count)
            await evaluate_all(stage, application)

    async def measure(self, stage: Stage) -> Reading:
        self._sink.take()
        async with stage.fresh(), stage.application() as application:
            await _queue_all(application)
            async with working(application.dispatcher.run), watched() as watch:
                await until(
                    lambda: holds(
                        application.database,
                        "SELECT NOT EXISTS (SELECT FROM deliveries WHERE status = 'pending' AND hold IS NULL)",
                    ),
                    every=0.1,
                )
            await must_count(
                application.database,
                self.count,
                "SELECT count(*) FROM deliveries WHERE status = 'delivered' AND attempts = 1",
                "SELECT count(*) FROM attempts WHERE outcome = 'delivered' AND status_code = 204",
            )
        got = self._sink.take()
        if not len(got.ids) == got.requests == self.count:
            raise WrongTotals(f"{got.requests:,} requests for {len(got.ids):,} deliveries of {self.count:,}")
        return Reading(self.count / watch.seconds, await self._bare(got), str(watch))

    async def _bare(self, got: Got) -> float:
        numbers = iter(range(self.count))
        samples = [({name.decode(): value.decode() for name, value in head}, body) for head, body in got.samples]

        async def post() -> None:
            for number in numbers:
                headers, body = samples[number % len(samples)]
                async with session.post(self._sink.url, data=body, headers=headers) as response:
                    await response.read()

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            started = time.perf_counter()
            await asyncio.gather(*(post() for _ in range(CONCURRENCY)))
            seconds = time.perf_counter() - started
        if self._sink.take().requests != self.count:
            raise WrongTotals("the bare loop lost some")
        return self.count / seconds


async def _queue_all(application: Application) -> None:
    async with application.database.transaction() as tx:
        rows = await tx.fetch("SELECT id FROM deliveries ORDER BY id")
    await application.queue.push([row["id"] for row in rows])


if __name__ == "__main__":
    harness.run(Deliver)
