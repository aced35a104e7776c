"""An installation on servers of its own, where there is no compose file to speak of."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from chains.scripted import ScriptedChain, ScriptedNode
from support.folders import passing_folder
from support.processes import Child, Nursery
from support.terminal import Terminal, Typed


class Home:
    """One process that does everything, and who types beside it."""

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        self._folder, self._nursery = folder, nursery
        self.served: list[Child] = []
        self._environment = {"PWD": str(folder), "PATH": "/usr/bin:/bin"}

    async def agentauri(self, arguments: Sequence[str]) -> Typed:
        log = self._folder / f"command-{time.monotonic_ns()}.log"
        child = self._nursery.start(list(arguments), self._environment, log)
        if list(arguments) == ["serve"]:  # it would stay in the foreground
            self.served.append(child)
            await child.logged(60, event="process.started")
            return Typed(0, "")
        return Typed(await child.ended(60), log.read_text())


@pytest.mark.soak  # two servers are made and started, twice
async def test_what_has_to_be_taken_up_ends_the_process_and_serves_again(nursery: Nursery) -> None:
    with passing_folder("agentauri-home-") as folder:
        (folder / ".env").write_text(
            f"AGENTAURI_DATA_DIR={folder / 'data'}\nSERVER_PORT=0\nSTART_BLOCK_84532=1\nRPC_REQUESTS_PER_SECOND=1000\n"
        )
        home = Home(folder, nursery)
        terminal = Terminal(folder, {"agentauri": home.agentauri})
        assert (await terminal.type("agentauri serve")).code == 0
        async with ScriptedNode.serve(ScriptedChain(start_time=int(time.time()))) as node:
            looked = await terminal.type("agentauri doctor indexer")
            (fix,) = re.findall(r"fix:  (.+)", looked.output)

            done = await terminal.type(fix, f"{node.url}\n")

            assert done.code == 0, done.output
            first, second = home.served
            assert f"kill {first.pid}; " in fix
            assert (first.exit_code, second.alive) == (0, True)
            after = await terminal.type("agentauri doctor indexer")
            assert "no chain is configured" not in after.output
            second.signal(signal.SIGTERM)
            assert await second.ended(60) == 0
