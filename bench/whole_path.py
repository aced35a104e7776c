"""The whole path: logs of a node become recorded webhooks, a thousand triggers, one match for each log.

Everything runs in one `agentauri serve`; the node and the receiver are processes of their own. First two fifths of the
logs are there at once, and the figure says how many a second become webhooks. Then the chain grows at a steady pace,
and the note says how much was under way meanwhile: a backlog that settles is one that is kept up with.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import ExitStack

import aiohttp
import asyncpg
import msgspec
from msgspec import Struct

import harness
import node
import scene
from agentauri.app import Application
from harness import PATIENCE, Bench, Peer, Reading, Stage, WrongTotals, must_count, until
from served import Running, free_port, serving
from sink import Got, Receiver

RANGE = 2_000
POSTING = 64
PACE = 2_000  # logs a second, where the machine can do that
BLOCKS_A_LOG = 2
EVERY = 0.25
GLIDE = 0.8
"""Where it cannot, this part of what it could."""


class WholePath(Bench):
    name = "whole_path"
    unit = "webhooks/s"
    what = "from logs of a node to webhooks received and recorded, through one `agentauri serve` with all roles"
    bare = (
        f"the same logs fetched, a bare row copied for each, the same bodies posted by bare aiohttp, {POSTING} at once"
    )
    size = 100_000
    runs = 3

    def start(self, stack: ExitStack) -> None:
        self._flood = max(1, self.count * 2 // 5)
        self._sink = Receiver(stack)
        self._node = Peer(stack, node.serve, self.count, scene.agents(self.count))

    async def prepare(self, stage: Stage) -> None:
        async with stage.application(harness.TEMPLATE) as application:
            await scene.add_triggers(application, self._sink.url, scene.agents(self.count))

    async def measure(self, stage: Stage) -> Reading:
        self._sink.take()
        self._node.ask("pace", self._flood * BLOCKS_A_LOG, 0)
        url, *_ = self._node.ask("about")
        settings = {
            f"RPC_URLS_{node.CHAIN}": url,
            f"START_BLOCK_{node.CHAIN}": "1",
            "SERVER_PORT": str(free_port()),
        }
        async with stage.fresh() as database_url, stage.application() as application:
            async with serving(stage.folder, stage.environment(**settings)) as process:
                rate, note = await self._flooded(application, process)
                note += f"; {await self._paced(application, rate)}"
            await must_count(
                application.database,
                self.count,
                "SELECT count(*) FROM events",
                "SELECT count(*) FROM processed_events WHERE triggers_matched = 1",
                "SELECT count(*) FROM deliveries WHERE status = 'delivered'",
            )
            got = self._sink.take()
            if len(got.ids) != self.count:
                raise WrongTotals(f"{got.requests:,} requests for {len(got.ids):,} deliveries of {self.count:,}")
            bare = await self._bare(url, database_url, got)
        return Reading(rate, bare, note)

    async def _flooded(self, application: Application, process: Running) -> tuple[float, str]:
        """Webhooks a second while there is more to do than can be done; what was done before it was ready is not
        counted."""
        began, cpu = time.perf_counter(), process.cpu_seconds
        before = (await _standing(application)).recorded

        async def done() -> bool:
            return (await _standing(application)).recorded == self._flood

        await until(done)
        seconds = time.perf_counter() - began
        share = (process.cpu_seconds - cpu) / seconds
        rate = (self._flood - before) / seconds
        return rate, f"{seconds:.1f} s, its process {share:.0%} of a core, {process.resident_mib:.0f} MiB"

    async def _paced(self, application: Application, rate: float) -> str:
        """How many logs were under way while the chain grew: on it, and not yet recorded as delivered."""
        pace = min(PACE, GLIDE * rate)
        self._node.ask("pace", self._flood * BLOCKS_A_LOG, pace * BLOCKS_A_LOG)
        began = time.perf_counter()
        under_way: list[float] = []
        while (standing := await _standing(application)).recorded < self.count:
            offered = self._flood + pace * (time.perf_counter() - began)
            if offered < self.count:
                under_way.append(offered - standing.recorded)
            elif time.perf_counter() - began > PATIENCE:
                raise WrongTotals(f"stuck with {standing}")
            await asyncio.sleep(EVERY)
        half = len(under_way) // 2
        first, second = under_way[:half] or [0.0], under_way[half:] or [0.0]
        return (
            f"at {pace:,.0f} logs/s for {(self.count - self._flood) / pace:.0f} s under way: median "
            f"{statistics.median(first + second):,.0f}, most {max(first):,.0f} in the first half, {max(second):,.0f} "
            "in the second"
        )

    async def _bare(self, url: str, database_url: str, got: Got) -> float:
        """The same hops without any of our care, one range after the other, of the logs that came at once."""
        samples = [({name.decode(): value.decode() for name, value in head}, body) for head, body in got.samples]
        connection = await asyncpg.connect(database_url)
        await connection.execute("CREATE TABLE bare (number bigint PRIMARY KEY, log jsonb)")
        done = 0
        started = time.perf_counter()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            for first in range(1, self._flood * BLOCKS_A_LOG + 1, RANGE):
                last = min(self._flood * BLOCKS_A_LOG, first + RANGE - 1)
                logs = await _fetch(session, url, first, last)
                rows = [(done + place, msgspec.json.encode(log).decode()) for place, log in enumerate(logs)]
                await connection.copy_records_to_table("bare", records=rows)
                numbers = iter(range(len(logs)))

                async def post() -> None:
                    for number in numbers:  # noqa: B023 (all of them end within the range)
                        headers, body = samples[number % len(samples)]
                        async with session.post(self._sink.url, data=body, headers=headers) as response:
                            await response.read()

                await asyncio.gather(*(post() for _ in range(POSTING)))
                done += len(logs)
        seconds = time.perf_counter() - started
        await connection.close()
        if done != self._flood or self._sink.take().requests != done:
            raise WrongTotals("the bare loop lost some")
        return done / seconds


class Standing(Struct, frozen=True):
    """Logs by where they are. All three counts stay cheap: what is finished is not looked at."""

    indexed: int
    waiting: int
    pending: int

    @property
    def recorded(self) -> int:
        return self.indexed - self.waiting - self.pending


async def _standing(application: Application) -> Standing:
    async with application.database.transaction(durable=False) as tx:
        row = await tx.fetchrow(
            """SELECT (coalesce((SELECT max(last_block_number) FROM checkpoints), 0) + 1) / $1,
                      (SELECT count(*) FROM event_queue),
                      (SELECT count(*) FROM deliveries WHERE status = 'pending' AND hold IS NULL)""",
            BLOCKS_A_LOG,
        )
    assert row is not None
    return Standing(max(0, row[0]), row[1], row[2])


async def _fetch(session: aiohttp.ClientSession, url: str, first: int, last: int) -> list[object]:
    wanted = {"address": node.REGISTRIES, "fromBlock": hex(first), "toBlock": hex(last)}
    call = {"jsonrpc": "2.0", "id": 0, "method": "eth_getLogs", "params": [wanted]}
    async with session.post(url, data=msgspec.json.encode(call)) as response:
        return list(msgspec.json.decode(await response.read())["result"])


if __name__ == "__main__":
    harness.run(WholePath)
