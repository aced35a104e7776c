"""`agentauri serve` as anybody runs it, in a process of its own, and what that process costs."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from harness import PATIENCE, WrongTotals

GLANCE = 0.005


class Running:
    """A process that runs. `ready_after` is how many seconds it took from its start to its first good answer."""

    def __init__(self, pid: int, ready_after: float) -> None:
        self.pid = pid
        self.ready_after = ready_after

    @property
    def cpu_seconds(self) -> float:
        """Processor time of all its threads so far, by the scheduler's own clock: ticks are too coarse here."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    @property
    def resident_mib(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    @property
    def children(self) -> list[Running]:
        """The processes that it started, and those that they did."""
        found = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        ours = [Running(int(pid), 0.0) for pid in found]
        return ours + [theirs for child in ours for theirs in child.children]


@asynccontextmanager
async def running(command: list[str], url: str, folder: Path, environment: Mapping[str, str]) -> AsyncIterator[Running]:
    """The command, once it answers 200 at `url`; ended by SIGTERM on leaving.

    Raises:
        WrongTotals: it never did.
    """
    async with aiohttp.ClientSession() as session:
        with (folder / "serve.log").open("ab") as lines:
            started = time.perf_counter()
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=folder,
                env={"PATH": os.environ["PATH"], **environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=lines,
                stderr=lines,
            )
        try:
            while not await _answers(session, url):
                if process.returncode is not None or time.perf_counter() - started > PATIENCE:
                    raise WrongTotals(f"no answer at {url}; {folder}/serve.log says why")
                await asyncio.sleep(GLANCE)
            yield Running(process.pid, time.perf_counter() - started)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()


@asynccontextmanager
async def serving(folder: Path, environment: Mapping[str, str]) -> AsyncIterator[Running]:
    """The product, all roles, ready."""
    port = environment["SERVER_PORT"]
    command = [sys.executable, "-m", "agentauri", "serve"]
    async with running(command, f"http://127.0.0.1:{port}/health/ready", folder, environment) as process:
        yield process


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
