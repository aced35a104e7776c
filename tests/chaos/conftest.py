"""The world that chaos comes over."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from agentauri.config import Config
from chaos.world import World
from support.processes import Child
from support.receiver import Receiver


@pytest.fixture
async def world(config: Config, serve: Callable[..., Child], receiver: Receiver) -> AsyncIterator[World]:
    async with World.open(config, serve, receiver) as opened:
        yield opened


@pytest.fixture
def folder() -> Iterator[Path]:
    """For servers of the test's own, which may have to run as somebody to whom pytest's folders are closed."""
    path = Path(tempfile.mkdtemp(prefix="agentauri-chaos-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)
