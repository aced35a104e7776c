"""What an operator has at hand: the running product, its log, its commands, and a trigger with a receiver."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from support.console import MakeTrigger
from support.receiver import Receiver


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
