"""Half an hour of mixed work with a fault every 20 seconds: nothing is lost or doubled, and nothing grows."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from msgspec.structs import replace

from agentauri.config import Config, RedisConfig, database_config
from agentauri.embedded import Embedded
from agentauri.errors import Unavailable
from agentauri.types import Secret
from chains.scripted import ScriptedChain, ScriptedNode
from chaos.servers import OwnPostgres
from chaos.trouble import Trouble
from chaos.world import SECONDS, World, insert, mine
from support.faulty_rpc import FaultyRpc
from support.processes import Child
from support.receiver import Receiver

MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))
FAULT_EVERY_SECONDS = 20.0
EVENTS_A_SECOND = 20
OTHER_CHAIN = 1
GROWTH = 1.10
WORKERS = ("evaluator", "dispatcher", "evaluator,dispatcher", "indexer")
SETTINGS = {
    "WEBHOOK_TIMEOUT_SECONDS": "3",
    "RETRY_SCHEDULE_SECONDS": "1,2,4,8,15,30,60,60,60,60",
    "RPC_REQUESTS_PER_SECOND": "100",
    "START_BLOCK_84532": "1",
}


@pytest.fixture
def postgres() -> Iterator[OwnPostgres]:
    with OwnPostgres.open() as opened:
        yield opened


@pytest.fixture
def valkey(folder: Path) -> Iterator[Embedded]:
    with Embedded(folder, postgres=False) as embedded:
        yield embedded


@pytest.fixture
async def providers() -> AsyncIterator[tuple[ScriptedChain, list[FaultyRpc]]]:
    """A chain behind two providers, each with faults of its own."""
    chain = ScriptedChain(start_time=int(time.time()))
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(ScriptedNode.serve(chain))
        yield chain, [await stack.enter_async_context(FaultyRpc.serve(node.url)) for _ in range(2)]


@pytest.fixture
async def world(
    config: Config,
    postgres: OwnPostgres,
    valkey: Embedded,
    providers: tuple[ScriptedChain, list[FaultyRpc]],
    serve: Callable[..., Child],
    receiver: Receiver,
) -> AsyncIterator[World]:
    assert valkey.redis_url is not None
    url = await postgres.database()
    own = replace(config, database=database_config(url, (20, 30)), redis=RedisConfig(url=Secret(valkey.redis_url)))
    settings = SETTINGS | {
        "DATABASE_URL": url,
        "REDIS_URL": valkey.redis_url,
        "RPC_URLS_84532": ",".join(provider.url for provider in providers[1]),
    }
    async with World.open(own, serve, receiver, settings=settings) as opened:
        yield opened


class Steady:
    """The process that lives through it all, and what it held on to, from warm-up to the end."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.resident: list[int] = []

    async def watch(self) -> None:
        while True:
            pages = int(Path(f"/proc/{self._child.pid}/statm").read_text().split()[1])
            self.resident.append(pages * os.sysconf("SC_PAGE_SIZE"))
            await asyncio.sleep(2)

    def sockets(self) -> int:
        found = 0
        for file in Path(f"/proc/{self._child.pid}/fd").iterdir():
            with suppress(OSError):
                found += str(file.readlink()).startswith("socket:")
        return found

    async def tasks(self) -> int:
        """As it tells itself, within ten seconds."""
        port = await self._child.port()
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
            text = await answer.text()
        [value] = [line.split()[1] for line in text.splitlines() if line.startswith("agentauri_event_loop_tasks ")]
        return int(float(value))

    def growth(self) -> tuple[float, float]:
        """Resident MiB after warm-up, a fifth of the time, and at the end: the median of a tenth of it each."""
        tenth = max(1, len(self.resident) // 10)
        return tuple(
            statistics.median(part) / 2**20 for part in (self.resident[2 * tenth : 3 * tenth], self.resident[-tenth:])
        )  # type: ignore[return-value]  # of two


async def work(world: World, chain: ScriptedChain) -> None:
    """Events of a chain, events by hand, and an API that is asked, all the time."""
    while True:
        mine(world, chain, 1)
        await insert_for_sure(world, EVENTS_A_SECOND - 1)
        await asyncio.sleep(1)


async def insert_for_sure(world: World, number: int) -> None:
    """Over any outage; where the answer to a commit was lost, the rows are there."""
    rows = world.rows(number, OTHER_CHAIN)
    while True:
        try:
            async with world.app.database.transaction() as tx:
                await insert(tx, rows)
        except asyncpg.UniqueViolationError:
            return
        except (Unavailable, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await asyncio.sleep(0.5)
        else:
            return


async def ask(child: Child) -> None:
    port = await child.port()
    async with aiohttp.ClientSession() as session:
        while True:
            for path in ("/health/ready", "/metrics", "/api/v1/events", "/api/v1/openapi.json"):
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(
                        f"http://127.0.0.1:{port}{path}", timeout=aiohttp.ClientTimeout(10)
                    ) as answer:
                        await answer.read()
            await asyncio.sleep(1)


@pytest.mark.soak
@pytest.mark.timeout(MINUTES * 60 + 1200)
async def test_half_an_hour_of_faults_under_mixed_work_loses_doubles_and_leaks_nothing(
    world: World,
    postgres: OwnPostgres,
    valkey: Embedded,
    providers: tuple[ScriptedChain, list[FaultyRpc]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    chain, nodes = providers
    steady_child = await world.start("indexer,evaluator,dispatcher,http")
    steady = Steady(steady_child)
    workers = {await world.start(roles): roles for roles in WORKERS}
    trouble = Trouble(world, postgres, valkey, chain, nodes, workers, seed=8004)
    end = time.monotonic() + MINUTES * 60
    fresh = (steady.sockets(), await steady.tasks())
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one) for one in (work(world, chain), steady.watch(), ask(steady_child))]
        while time.monotonic() < end:
            began = time.monotonic()
            await trouble.next()
            await asyncio.sleep(max(0.0, began + FAULT_EVERY_SECONDS - time.monotonic()))
        for task in running:
            task.cancel()

    await world.until(world.is_done, "everything to be processed and delivered", SECONDS * 10)
    await world.until(lambda: steady.sockets() <= fresh[0] + 10, "connections to be given back", SECONDS * 3)
    after, before = steady.growth()[::-1]
    tasks = await steady.tasks()
    with capsys.disabled():
        print(report(world, trouble, (before, after), (fresh, (steady.sockets(), tasks))))
    await world.stop()
    await world.check(repeats=len(world.receiver.requests))
    assert after <= before * GROWTH
    assert tasks <= fresh[1] + 10
    panics = [line for child in world.children for line in child.lines() if line.get("code") == "TASK_PANIC"]
    assert panics == []


def report(
    world: World, trouble: Trouble, resident: tuple[float, float], held: tuple[tuple[int, int], tuple[int, int]]
) -> str:
    (sockets, tasks), (sockets_after, tasks_after) = held
    faults = "\n".join(f"  {times:3} x {name}" for name, times in sorted(trouble.count.items()))
    return f"""
{MINUTES:g} minutes, {trouble.count.total()} faults:
{faults}
{world.events} events, {len(world.due)} deliveries due, {len(world.missing())} missing, \
{len(world.receiver.requests) - len(world.due)} requests repeated (refused ones among them)
resident {resident[0]:.1f} -> {resident[1]:.1f} MiB ({resident[1] / resident[0] - 1:+.1%}), \
sockets {sockets} -> {sockets_after}, tasks {tasks} -> {tasks_after}
"""
