"""The world that chaos comes over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from agentauri.config import Config
from chaos.world import World
from support.processes import Child
from support.receiver import Receiver


@pytest.fixture
async def world(config: Config, serve: Callable[..., Child], receiver: Receiver) -> AsyncIterator[World]:
    async with World.open(config, serve, receiver) as opened:
        yield opened
