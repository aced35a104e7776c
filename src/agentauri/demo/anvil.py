"""The local node: where its binary is, and a process of it that dies with us."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from agentauri.embedded import die_with

CHAIN_ID = 31337
START_SECONDS = 20.0
CHECKOUT = Path(__file__).parents[3]


class AnvilMissing(Exception):
    """No local node on this machine; the message says how to get one."""


def find_anvil() -> Path:
    """The node's binary: AGENTAURI_ANVIL, else `node_modules` of the working folder or the checkout, else PATH.

    The npm package holds a plain binary, so Node is only needed to install it, not here.
    """
    if configured := os.environ.get("AGENTAURI_ANVIL"):
        if not os.access(configured, os.X_OK):
            raise AnvilMissing(f"AGENTAURI_ANVIL: {configured} is not a program")
        return Path(configured)
    for folder in (Path.cwd(), CHECKOUT):
        for binary in sorted(folder.glob(f"node_modules/@foundry-rs/{_package()}/bin/anvil*")):
            return binary
    if found := shutil.which("anvil"):
        return Path(found)
    raise AnvilMissing(
        "No local chain: the program `anvil` was not found. Install it with `npm ci` in a checkout of agentauri or "
        "`npm install @foundry-rs/anvil` in the working folder, or name the binary with AGENTAURI_ANVIL"
    )


def _package() -> str:
    machine = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64"}.get(platform.machine().lower(), "arm64")
    return f"anvil-{sys.platform}-{machine}"


@asynccontextmanager
async def running_anvil(*options: str, chain_id: int = CHAIN_ID) -> AsyncIterator[str]:
    """The URL of a fresh node on a port of 127.0.0.1 that the system chose: gas is free, every sender is unlocked."""
    process = await asyncio.create_subprocess_exec(
        *(str(find_anvil()), "--host", "127.0.0.1", "--port", "0", "--chain-id", str(chain_id), "--accounts", "1"),
        *(
            "--auto-impersonate",
            "--base-fee",
            "0",
            "--no-priority-fee",
            "--disable-block-gas-limit",
            "--color",
            "never",
            *options,
        ),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for us
        preexec_fn=die_with(os.getpid(), signal.SIGKILL),
    )
    drain = None
    try:
        url = await _listening(process)
        drain = asyncio.create_task(_drain(process))  # a full pipe would stop the node
        yield url
    finally:
        if process.returncode is None:
            process.kill()  # it keeps nothing
        await process.wait()
        if drain is not None:
            await drain


async def _listening(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    said: list[str] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(START_SECONDS):
            async for line in process.stdout:
                said.append(line.decode(errors="replace").strip())
                if said[-1].startswith("Listening on "):
                    return f"http://{said[-1].split()[-1]}"
    raise AnvilMissing(f"anvil did not start: {' | '.join(said[-4:]) or 'it said nothing'}")


async def _drain(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    while await process.stdout.read(65536):
        pass
