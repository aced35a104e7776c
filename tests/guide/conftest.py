"""What an operator has at hand: the running product, its log, its commands, and a trigger with a receiver."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.console import Command, MakeTrigger
from support.processes import Nursery
from support.receiver import Receiver


@pytest.fixture
def agentauri(nursery: Nursery, database_url: str, redis_url: str, tmp_path: Path) -> Command:
    """Run an `agentauri` command on this test's stores; what it printed."""
    count = 0

    async def run(*arguments: str) -> str:
        nonlocal count
        count += 1
        environment = {
            "PATH": "/usr/bin:/bin",
            "PWD": str(tmp_path),
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "ENVIRONMENT": "development",
            "AGENTAURI_DATA_DIR": str(tmp_path / "data"),
            "PAGER": "cat",
        }
        child = nursery.start(list(arguments), environment, tmp_path / f"command-{count}.log")
        code = await child.ended()
        output = child.log.read_text()
        assert code == 0, f"agentauri {' '.join(arguments)} ended with {code}: {output}"
        return output

    return run


@pytest.fixture
async def http(agentauri: Command) -> AsyncIterator[aiohttp.ClientSession]:
    """A session with an API key of this installation."""
    key = (await agentauri("key", "create", "--organization", "acme")).strip()
    async with aiohttp.ClientSession(headers={"X-API-Key": key}) as session:
        yield session


@pytest.fixture
def make_trigger(http: aiohttp.ClientSession, receiver: Receiver) -> MakeTrigger:
    """Create a trigger that posts every feedback to the receiver; its detail."""

    async def make(port: int, **fields: object) -> dict[str, Any]:
        body = {
            "name": "feedback",
            "registry": "reputation",
            "conditions": [{"condition_type": "event_type_equals", "value": "NewFeedback"}],
            "actions": [{"action_type": "webhook", "config": {"url": f"{receiver.url}/hook"}}],
        }
        async with http.post(f"http://127.0.0.1:{port}/api/v1/triggers", json=body | fields) as answer:
            detail: dict[str, Any] = await answer.json()
            assert answer.status == 201, detail
        return detail

    return make
