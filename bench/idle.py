"""A process that has nothing to do: its processor time and memory, how soon it is ready, and how soon `--help` answers.

All roles, two chains that stand still, a thousand triggers, embedded servers on a data folder that was used before.
Prints a line of JSON for each of the four; where lower is better, the ratio says how many times more we take.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import harness
import node
import scene
from agentauri.app import Stores, assemble
from agentauri.config import RedisConfig, database_config, load
from agentauri.embedded import Embedded
from agentauri.migrations import migrate
from agentauri.types import Secret
from harness import Bench, Peer, Reading, Stage, WrongTotals
from served import Running, free_port, running, serving

CHAINS = (node.CHAIN, 11155111)
LOGS = 100
SETTLED = 10.0  # seconds to come to rest after its start; less where less is watched
BARE_SECONDS = 30.0
BARE = "a bare process: an HTTP server that asks PostgreSQL for 1, and each node for its head, every second"


class _Resting(Bench):
    """What needs an installation of its own, on its own data folder."""

    bare = BARE
    runs = 1

    def start(self, stack: ExitStack) -> None:
        peers = [Peer(stack, node.serve, LOGS, 0, chain) for chain in CHAINS]
        self.nodes = [peer.ask("about")[0] for peer in peers]

    async def prepare(self, stage: Stage) -> None:
        """A data folder that was used before: the schema is there, and so are the triggers."""
        folder = self.folder(stage)
        folder.mkdir()
        folder.chmod(0o755)  # as root, the servers run as somebody else
        servers = Embedded(folder / "data")
        await asyncio.to_thread(servers.__enter__)
        try:
            assert servers.database_url is not None
            assert servers.redis_url is not None
            database = database_config(servers.database_url, (20, 30))
            await migrate(database)
            stores = Stores(database=database, redis=RedisConfig(url=Secret(servers.redis_url)), embedded=None)
            async with assemble(load(self.environment(stage), folder), stores) as application:
                await scene.add_triggers(application, "http://127.0.0.1:9/hook", scene.TRIGGERS)
        finally:
            await asyncio.to_thread(servers.stop)

    def folder(self, stage: Stage) -> Path:
        return stage.folder / self.name

    def environment(self, stage: Stage) -> dict[str, str]:
        settings = {"AGENTAURI_DATA_DIR": str(self.folder(stage) / "data"), "SERVER_PORT": str(free_port())}
        for chain, url in zip(CHAINS, self.nodes, strict=True):
            settings |= {f"RPC_URLS_{chain}": url, f"START_BLOCK_{chain}": "1"}
        return settings

    @asynccontextmanager
    async def product(self, stage: Stage) -> AsyncIterator[Running]:
        async with serving(self.folder(stage), self.environment(stage)) as process:
            yield process

    @asynccontextmanager
    async def least(self, stage: Stage) -> AsyncIterator[Running]:
        port = str(free_port())
        script = str(Path(__file__).with_name("bare.py"))
        command = [sys.executable, script, port, stage.database_url("postgres"), *self.nodes]
        async with running(command, f"http://127.0.0.1:{port}/", stage.folder, {}) as process:
            yield process

    async def watch(self, process: Running, seconds: float) -> float:
        """Let it come to rest first; then its share of a core, in per cent."""
        await asyncio.sleep(min(SETTLED, seconds / 3))
        began, cpu = time.perf_counter(), process.cpu_seconds
        await asyncio.sleep(seconds)
        return (process.cpu_seconds - cpu) / (time.perf_counter() - began) * 100


class Idle(_Resting):
    name = "idle"
    unit = "% of a core"
    what = "processor time of `agentauri serve` with nothing to do, all roles, two chains at rest"
    size = 300  # seconds

    async def measure(self, stage: Stage) -> Reading:
        async with self.product(stage) as process:
            share = await self.watch(process, self.count)
            servers = sum(child.cpu_seconds for child in process.children)
            memory = process.resident_mib
        async with self.least(stage) as process:
            least = await self.watch(process, min(BARE_SECONDS, self.count / 3))
        return Reading(share, least, f"{memory:.0f} MiB at the end; its servers took {servers:.2f} s in all")


class Memory(_Resting):
    name = "memory"
    unit = "MiB"
    what = "resident memory of `agentauri serve` with nothing to do, all roles, two chains, 1,000 triggers"
    size = 60  # seconds

    async def measure(self, stage: Stage) -> Reading:
        async with self.product(stage) as process:
            share = await self.watch(process, self.count)
            memory = process.resident_mib
            servers = sum(child.resident_mib for child in process.children)
        async with self.least(stage) as process:
            least = process.resident_mib
        return Reading(
            memory, least, f"{share:.1f} % of a core; its servers, shared pages counted each time, {servers:.0f} MiB"
        )


class Start(_Resting):
    name = "start"
    unit = "s"
    what = "from exec to the first 200 of /health/ready, all roles, PostgreSQL and Valkey started with it"
    bare = BARE + ", to its first answer, on servers that run"
    size = 1
    runs = 5

    async def measure(self, stage: Stage) -> Reading:
        async with self.product(stage) as process:
            seconds, cpu = process.ready_after, process.cpu_seconds
        async with self.least(stage) as process:
            least = process.ready_after
        return Reading(seconds, least, f"{cpu:.2f} s of it our own processor time")


class Help(Bench):
    name = "help"
    unit = "s"
    what = "`agentauri --help`, median"
    bare = "python -c pass"
    size = 20  # calls

    async def measure(self, _: Stage) -> Reading:
        ours = await self._median("-m", "agentauri", "--help")
        return Reading(ours, await self._median("-c", "pass"), f"{self.count} calls of each")

    async def _median(self, *arguments: str) -> float:
        took = []
        for _ in range(self.count):
            started = time.perf_counter()
            process = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, stdout=asyncio.subprocess.DEVNULL
            )
            if await process.wait() != 0:
                raise WrongTotals(f"{' '.join(arguments)} ended with {process.returncode}")
            took.append(time.perf_counter() - started)
        return statistics.median(took)


if __name__ == "__main__":
    for bench in (Help, Start, Memory, Idle):
        harness.run(bench)
