"""What every bench shares: servers of its own, runs on equal terms, a report for people, one line for machines.

A bench prepares one database and measures on a fresh copy of it in every run, product defaults and fsync on. The
ceiling is measured in the same run, on the same servers, so that a slow machine lowers both. Counting rows is part of a
run: a figure without its rows is none.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import asyncpg
import msgspec
import redis.asyncio
import uvloop
from msgspec import Struct

from agentauri import log
from agentauri.app import Application, Stores, assemble
from agentauri.config import Config, RedisConfig, database_config, load
from agentauri.database import Database
from agentauri.embedded import DATABASE, Embedded
from agentauri.migrations import migrate
from agentauri.types import Secret

TEMPLATE, COPY = "bench_template", "bench_run"
PATIENCE = 300.0  # seconds after which a run is taken for stuck
LAG_EVERY = 0.01


class WrongTotals(Exception):
    """The rows are not those that the work must have left."""


class Watch(Struct):
    """What one stretch of work took: `cpu` is this process's share of a core, `lag` and `pause` the p99 and the longest
    of how late its loop was, in seconds."""

    seconds: float = 0.0
    cpu: float = 0.0
    lag: float = 0.0
    pause: float = 0.0

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, this process {self.cpu:.0%} of a core, loop lag p99 {self.lag * 1000:.0f} ms"


class Reading(Struct, frozen=True):
    """One run's figure, its ceiling, and what else is worth a look."""

    value: float
    ceiling: float
    note: str


class Bench:
    """One figure. `scale` shrinks its size."""

    name: ClassVar[str]
    unit: ClassVar[str]
    what: ClassVar[str]
    bare: ClassVar[str]
    """What the ceiling is."""
    size: ClassVar[int]
    runs: ClassVar[int] = 5

    def __init__(self, scale: float) -> None:
        self.count = max(1, round(self.size * scale))

    def start(self, stack: ExitStack) -> None:
        """Fork the peers, before anything else runs in this process."""

    async def prepare(self, stage: Stage) -> None:
        """Fill the database of which every run gets a copy."""

    async def measure(self, stage: Stage) -> Reading:
        """One run.

        Raises:
            WrongTotals: its figure counts for nothing.
        """
        raise NotImplementedError


class Stage:
    """The servers, and databases on them."""

    def __init__(self, folder: Path, servers: Embedded) -> None:
        assert servers.database_url is not None
        assert servers.redis_url is not None
        self.folder = folder
        self._database_url = servers.database_url
        self.redis_url = servers.redis_url

    def database_url(self, name: str = COPY) -> str:
        return self._database_url.replace(f"/{DATABASE}?", f"/{name}?")

    def environment(self, name: str = COPY, **settings: str) -> dict[str, str]:
        """The variables of a process on one of the databases; all else is default."""
        return {
            "DATABASE_URL": self.database_url(name),
            "REDIS_URL": self.redis_url,
            "ENVIRONMENT": "development",
            "AGENTAURI_DATA_DIR": str(self.folder / "data"),
            "SERVER_PORT": "0",
            **settings,
        }

    async def version(self) -> str:
        connection = await asyncpg.connect(self.database_url("postgres"))
        try:
            return str(await connection.fetchval("SHOW server_version"))
        finally:
            await connection.close()

    @asynccontextmanager
    async def template(self, fill: Callable[[Stage], Awaitable[None]]) -> AsyncIterator[None]:
        """A migrated database, filled, of which `fresh` makes copies."""
        await self._admin(f"CREATE DATABASE {TEMPLATE}")
        await migrate(database_config(self.database_url(TEMPLATE), (20, 30)))
        await fill(self)
        connection = await asyncpg.connect(self.database_url(TEMPLATE))
        await connection.execute("VACUUM ANALYZE")
        await connection.close()
        try:
            yield
        finally:
            await self._admin(f"DROP DATABASE {TEMPLATE} WITH (FORCE)")

    @asynccontextmanager
    async def fresh(self) -> AsyncIterator[str]:
        """A copy of the template, an empty Valkey, and a checkpoint just made; the copy's URL."""
        await self._admin(f"CREATE DATABASE {COPY} TEMPLATE {TEMPLATE} STRATEGY file_copy")
        try:
            client = redis.asyncio.from_url(self.redis_url)
            await client.flushall()
            await client.aclose()
            await self._admin("CHECKPOINT")
            yield self.database_url()
        finally:
            await self._admin(f"DROP DATABASE {COPY} WITH (FORCE)")

    @asynccontextmanager
    async def application(self, name: str = COPY, **settings: str) -> AsyncIterator[Application]:
        """The product's services, wired as `serve` wires them."""
        config = self.config(name, **settings)
        assert config.database is not None
        redis_config = RedisConfig(url=Secret(self.redis_url))
        async with assemble(config, Stores(database=config.database, redis=redis_config, embedded=None)) as application:
            yield application

    def config(self, name: str = COPY, **settings: str) -> Config:
        return load(self.environment(name, **settings), self.folder)

    async def _admin(self, sql: str) -> None:
        connection = await asyncpg.connect(self.database_url("postgres"))
        try:
            await connection.execute(sql)
        finally:
            await connection.close()


class Peer:
    """Another process: forked before a loop runs here, and told what to do over a pipe. It ends when we do."""

    def __init__(self, stack: ExitStack, serve: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        self._pipe: Any = ours
        self._process = context.Process(target=_become, args=(serve, ours, theirs, arguments), daemon=True)
        self._process.start()
        theirs.close()
        stack.callback(self._process.join)
        stack.callback(ours.close)

    def ask(self, command: str, *arguments: object) -> Any:
        """The peer's answer. Blocks, so not for while anything is measured."""
        self._pipe.send((command, arguments))
        return self._pipe.recv()


def _become(
    serve: Callable[..., Coroutine[Any, Any, None]], ours: Any, theirs: Any, arguments: tuple[object, ...]
) -> None:
    ours.close()

    async def live() -> None:
        await serve(Orders(theirs), *arguments)
        os._exit(0)  # nothing here needs an orderly end, and closing connections that others hold open may take long

    uvloop.run(live())


class Orders:
    """A peer's end of the pipe."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    async def obey(self, handlers: Mapping[str, Callable[..., Any]]) -> None:
        """Answer each command with what its handler returns, until the other end is closed."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def obey() -> None:
            try:
                command, arguments = self._pipe.recv()
                self._pipe.send(handlers[command](*arguments))
            except (EOFError, OSError):
                loop.remove_reader(self._pipe.fileno())
                ended.set_result(None)

        loop.add_reader(self._pipe.fileno(), obey)
        os.set_blocking(self._pipe.fileno(), True)  # the loop has changed that, and an answer may be long
        await ended


@asynccontextmanager
async def watched() -> AsyncIterator[Watch]:
    """Time what happens inside."""
    watch = Watch()
    lags: list[float] = []
    sampler = asyncio.create_task(_sample(lags))
    started, cpu = time.perf_counter(), time.process_time()
    try:
        yield watch
    finally:
        watch.seconds = time.perf_counter() - started
        watch.cpu = (time.process_time() - cpu) / watch.seconds
        sampler.cancel()
        watch.lag, watch.pause = percentile(lags or [0.0], 99), max(lags, default=0.0)


async def _sample(lags: list[float]) -> None:
    while True:
        started = time.perf_counter()
        await asyncio.sleep(LAG_EVERY)
        lags.append(max(0.0, time.perf_counter() - started - LAG_EVERY))


@asynccontextmanager
async def working(run: Callable[[asyncio.Event], Awaitable[None]]) -> AsyncIterator[None]:
    """Have a worker run meanwhile; it drains on leaving."""
    stopping = asyncio.Event()
    task = asyncio.ensure_future(run(stopping))
    try:
        yield
    finally:
        stopping.set()
        await task


async def until(condition: Callable[[], Awaitable[bool]], every: float = 0.05) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110 (it is about rows, which set no event)
            await asyncio.sleep(every)


async def holds(database: Database, sql: str, *arguments: object) -> bool:
    """What a query for a boolean says, in a transaction that disturbs nobody."""
    async with database.transaction(durable=False) as tx:
        return bool(await tx.fetchval(sql, *arguments))


async def must_count(database: Database, expected: int, *queries: str) -> None:
    """Raises: WrongTotals, unless each query counts so many."""
    async with database.transaction() as tx:
        for sql in queries:
            found = await tx.fetchval(sql)
            if found != expected:
                raise WrongTotals(f"{found:,} instead of {expected:,}: {sql}")


def percentile(values: list[float], percent: int) -> float:
    """Nearest rank, so it is a value that occurred."""
    ranked = sorted(values)
    return ranked[max(0, -(-len(ranked) * percent // 100) - 1)]


def machine(postgres: str) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{_cpu()}, {os.cpu_count()} cores, {memory:.1f} GiB; Python {platform.python_version()}, "
        f"PostgreSQL {postgres}; revision {_revision()}; load {os.getloadavg()[0]:.1f} at the start"
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _revision() -> str:
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="agentauri-bench-"))
    folder.chmod(0o755)  # as root, the servers run as somebody else
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(
    make: Callable[[float], Bench], arguments: Sequence[str] | None = None, servers: Embedded | None = None
) -> None:
    """The command line of a bench. Given no `servers`, it starts some of its own."""
    parser = argparse.ArgumentParser(description=sys.modules[make.__module__].__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the size, and 3 runs at most")
    parser.add_argument("--scale", type=float, help="any part of the size")
    parser.add_argument("--runs", type=int, help="measured runs; more than one come after one to warm up")
    options = parser.parse_args(arguments)
    bench = make(options.scale or (0.1 if options.quick else 1.0))
    runs = options.runs or (min(3, bench.runs) if options.quick else bench.runs)
    try:
        with _folder() as folder, ExitStack() as stack, (folder / "bench.log").open("w") as lines:
            log.configure("json", "info", lines)
            bench.start(stack)
            servers = servers or stack.enter_context(Embedded(folder / "servers"))
            readings = uvloop.run(_measure(bench, Stage(folder, servers), runs))
    except WrongTotals as error:
        print(f"{bench.name}: wrong totals: {error}", file=sys.stderr)
        sys.exit(1)
    _report(bench, readings)


async def _measure(bench: Bench, stage: Stage, runs: int) -> list[Reading]:
    print(f"{bench.name}: {bench.what}")
    print(f"  machine  {machine(await stage.version())}")
    warm_ups = min(1, runs - 1)
    print(f"  size     {bench.count:,}; {warm_ups} warm-up, {runs} measured; ceiling: {bench.bare}", flush=True)
    readings = []
    async with stage.template(bench.prepare):
        for number in range(1 - warm_ups, runs + 1):
            reading = await bench.measure(stage)
            about = f"{_number(reading.value)} {bench.unit}, ceiling {_number(reading.ceiling)}; {reading.note}"
            print(f"  {f'run {number}' if number else 'warm-up':<8} {about}", flush=True)
            if number:
                readings.append(reading)
    return readings


def _report(bench: Bench, readings: list[Reading]) -> None:
    values, ceilings = [one.value for one in readings], [one.ceiling for one in readings]
    value, ceiling = statistics.median(values), statistics.median(ceilings)
    ratio = value / ceiling
    print(f"  figure   {_number(value)} {bench.unit} ({_number(min(values))} to {_number(max(values))})")
    print(f"  ceiling  {_number(ceiling)} {bench.unit} ({_number(min(ceilings))} to {_number(max(ceilings))})")
    print(f"  ratio    {ratio:.2f}; peak memory {_peak():.0f} MiB")
    line = {
        "bench": bench.name,
        "value": _rounded(value),
        "unit": bench.unit,
        "ceiling": _rounded(ceiling),
        "ratio": round(ratio, 3),
    }
    print(msgspec.json.encode(line).decode())


def _rounded(value: float) -> float:
    return round(value, 2 if value >= 1 else 4)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _peak() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
