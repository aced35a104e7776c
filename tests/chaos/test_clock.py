"""A process whose clock is wrong does everything at the right time all the same: the database's clock decides."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from chaos.world import SECONDS, World
from support import processes
from support.processes import Child, Nursery, nursery, serving

HOUR = 3600
FAILURES = 8  # fewer than open a breaker


@pytest.fixture(scope="module")
def skewed() -> Iterator[Nursery]:
    """Starts processes whose clock can be off."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("a C compiler has to make what shifts the clock of a process on Linux")
    with tempfile.TemporaryDirectory(prefix="agentauri-skew-") as folder:
        library = f"{folder}/skew.so"
        source = Path(processes.__file__).with_name("skew.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-O", "-o", library, str(source)], check=True)
        with nursery(LD_PRELOAD=library) as opened:
            yield opened


@pytest.fixture
def serve(skewed: Nursery, installation: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Child]]:
    yield from serving(skewed, installation, tmp_path)


async def test_processes_whose_clocks_are_an_hour_off_work_as_if_they_were_right(world: World) -> None:
    """First one that is behind, by itself; then another one that is ahead joins it, and is left by it."""
    failures = iter(range(0))

    async def fail_at_first(_: web.Request) -> web.Response:
        return web.Response(status=200 if next(failures, None) is None else 503)

    world.receiver.handle = fail_at_first
    for seconds in (-HOUR, HOUR):
        await world.start(TEST_SKEW_SECONDS=str(seconds), RETRY_SCHEDULE_SECONDS="1,1,1", MAX_CONCURRENT_EVENTS="5")
        failures = iter(range(FAILURES))
        for chain_id in (1, 2, 3, 4):
            await world.happen(20, chain_id=chain_id)
        await world.until(world.is_done, "everything to be delivered at its time")
    world.children[0].signal(signal.SIGTERM)
    assert await world.children[0].ended(SECONDS) == 0
    await world.happen(5)
    await world.finish(repeats=2 * FAILURES)

    told = {round((int(one.headers["webhook-timestamp"]) - time.time()) / HOUR) for one in world.receiver.requests}
    assert told == {-1, 1}  # the clocks were wrong indeed, and both processes have been at work
    assert await world.fetch("SELECT count(*) FROM attempts WHERE outcome = 'retryable'") == [(2 * FAILURES,)]
    off = await world.fetch(
        "SELECT count(*) FROM attempts WHERE started_at NOT BETWEEN now() - interval '10 minutes' AND now()"
    )
    assert off == [(0,)]


@pytest.mark.parametrize("seconds", [-HOUR, HOUR])
async def test_a_clock_that_is_off_is_found_by_the_doctor(
    skewed: Nursery, installation: dict[str, str], tmp_path: Path, seconds: int
) -> None:
    child = skewed.start(
        ["doctor", "clock"], {**installation, "TEST_SKEW_SECONDS": str(seconds)}, tmp_path / "doctor.log"
    )

    assert await child.ended(SECONDS) == 2
    assert f"{HOUR}.0 s between this machine and PostgreSQL" in child.log.read_text()
