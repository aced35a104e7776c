"""A chain of its own for every test, with the registries on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agentauri.demo import LocalChain


@pytest.fixture
async def chain() -> AsyncIterator[LocalChain]:
    async with LocalChain.start() as started:
        yield started
