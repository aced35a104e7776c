"""A shell in which what the product prints is run as it stands: `agentauri` is ours, `docker` is what a test makes it.

Both names are stand-ins that leave an order in a folder, wait for its being carried out, and end with its exit code.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

STAND_IN = """#!/bin/sh
order=$(mktemp "$ORDERS/XXXXXXXX")
printf '%s\\0' "${0##*/}" "$@" > "$order"
mv "$order" "$order.order"
while [ ! -e "$order.code" ]; do sleep 0.02; done
cat "$order.out"
exit "$(cat "$order.code")"
"""


class Typed(NamedTuple):
    code: int | None
    output: str


Program = Callable[[Sequence[str]], Awaitable[Typed]]


class Terminal:
    """Types lines into `sh` in `folder`; `programs` are the stand-ins by name."""

    def __init__(self, folder: Path, programs: dict[str, Program]) -> None:
        self.folder = folder
        self._programs = programs
        self._bin, self._orders = folder / "bin", folder / "orders"
        self._bin.mkdir()
        self._orders.mkdir()
        for name in programs:
            (self._bin / name).write_text(STAND_IN)
            (self._bin / name).chmod(0o755)

    async def type(self, line: str, answers: str = "", seconds: float = 60.0) -> Typed:
        """Run a line; `answers` is what is typed into it meanwhile."""
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", line,
            cwd=self.folder,
            env={**os.environ, "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}", "ORDERS": str(self._orders)},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        obeying = asyncio.create_task(self._obey())
        try:
            async with asyncio.timeout(seconds):
                output, _ = await process.communicate(answers.encode())
        finally:
            obeying.cancel()
            if process.returncode is None:
                process.kill()
        return Typed(process.returncode, output.decode())

    async def _obey(self) -> None:
        while True:
            for path in sorted(self._orders.glob("*.order")):
                name, *arguments = path.read_text().split("\0")[:-1]
                path.unlink()
                done = await self._programs[name](arguments)
                path.with_suffix(".out").write_text(done.output)
                path.with_suffix(".part").write_text(str(done.code))
                path.with_suffix(".part").rename(path.with_suffix(".code"))
            await asyncio.sleep(0.01)
