"""AgentAuri itself, as anybody would run it: `agentauri serve` in a process of its own, spoken to over HTTP alone."""

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
from typing import Any

import aiohttp

from agentauri.embedded import die_with

START_SECONDS, STOP_SECONDS = 60.0, 20.0
# The child gets these of our environment and no setting: a stranger's DATABASE_URL is none of the demo's business.
INHERITED = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ", "VIRTUAL_ENV")
INHERITED_PREFIXES = ("LC_", "PYTHON", "COVERAGE_")
OWN_BINARIES = ("AGENTAURI_PG_BIN", "AGENTAURI_VALKEY_BIN")


class ProductFailed(Exception):
    """It did not start, died, or refused a request of ours."""


class Product:
    """A running `agentauri serve` on embedded servers, and the key that its first start made."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "serve.log"
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self._session: aiohttp.ClientSession

    @classmethod
    @asynccontextmanager
    async def start(cls, folder: Path, settings: Mapping[str, str]) -> AsyncIterator[Product]:
        """Start in `folder` with these settings, and wait until it is ready. Raises: `ProductFailed`."""
        product = cls(folder)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as product._session:
            try:
                await product._start(settings)
                key = (folder / "data" / "first-key").read_text(encoding="utf-8").strip()
                product._session.headers["X-API-Key"] = key
                yield product
            finally:
                await product._stop()

    async def get(self, path: str, **query: str | int) -> Any:
        """The decoded answer of GET /api/v1`path`. Raises: `ProductFailed`."""
        return await self._ask("GET", path, params=query)

    async def post(self, path: str, body: object) -> Any:
        return await self._ask("POST", path, json=body)

    async def metrics(self) -> str:
        """What Prometheus would get. Raises: `ProductFailed`."""
        try:
            async with self._session.get(f"{self.url}/metrics") as response:
                response.raise_for_status()
                return await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ProductFailed(f"GET /metrics: {error!r}") from error

    def check_alive(self) -> None:
        """Raises: `ProductFailed`, with the end of its log, when the process has ended."""
        if self._process is not None and self._process.returncode is not None:
            tail = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-8:]
            shown = "\n  ".join(tail)
            raise ProductFailed(f"agentauri serve ended with {self._process.returncode}; its last lines:\n  {shown}")

    async def _ask(self, method: str, path: str, **options: Any) -> Any:
        self.check_alive()
        try:
            async with self._session.request(method, f"{self.url}/api/v1{path}", **options) as response:
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self.check_alive()
            raise ProductFailed(f"{method} {path}: {error!r}") from error
        if response.status >= 400:
            raise ProductFailed(f"{method} {path} was answered {response.status}: {answer}")
        return answer

    async def _start(self, settings: Mapping[str, str]) -> None:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name in INHERITED or name in OWN_BINARIES or name.startswith(INHERITED_PREFIXES)
        }
        own = {
            "AGENTAURI_DATA_DIR": str(self._folder / "data"),
            "ENVIRONMENT": "development",
            "LOG_FORMAT": "text",
            "RATE_LIMIT_MODE": "off",  # it asks all the time
            "SERVER_PORT": str(self.port),
            "SHUTDOWN_GRACE_SECONDS": "5",
        }
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "agentauri", "serve"),
                cwd=self._folder,  # where no .env of a stranger is read
                env={**inherited, **own, **settings},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we stop it ourselves
                preexec_fn=die_with(os.getpid(), signal.SIGTERM),
            )
        deadline = time.monotonic() + START_SECONDS
        while not await self._ready():
            self.check_alive()
            if time.monotonic() > deadline:
                raise ProductFailed(f"agentauri serve is not ready after {START_SECONDS:.0f} s; see {self.log}")
            await asyncio.sleep(0.05)

    async def _ready(self) -> bool:
        try:
            async with self._session.get(f"{self.url}/health/ready") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def _stop(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
