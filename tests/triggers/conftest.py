"""An evaluator on real stores, driven step by step."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio
from msgspec.structs import replace

from agentauri.actions import ActionService, DeliveryService, Guard, Outbound, Queue, make_channels
from agentauri.breaker import BreakerService
from agentauri.config import EvaluatorConfig
from agentauri.database import Database
from agentauri.events import EventQueue
from agentauri.sealing import Sealer
from agentauri.triggers import Catalog, Evaluator, TriggerService
from agentauri.types import ChainId

MakeEvaluator = Callable[..., Evaluator]
DELIVERIES_DAYS = 30
EXTERNAL, FINAL_AFTER = 84532, 5
"""A chain, and the depth at which its blocks are final while nobody indexes it."""


async def always_open() -> bool:
    return True


@pytest.fixture
async def actions() -> AsyncIterator[ActionService]:
    async with Outbound.open(Guard(allow_insecure=True, blocked_ports=frozenset({25}))) as outbound:
        yield ActionService(Sealer((b"k" * 32,)), make_channels(outbound, webhook_timeout=10.0))


@pytest.fixture
async def deliveries(redis_client: redis.asyncio.Redis) -> AsyncIterator[DeliveryService]:
    queue = Queue(redis_client)
    yield DeliveryService(queue)
    await queue.aclose()


@pytest.fixture
def service(actions: ActionService, deliveries: DeliveryService) -> TriggerService:
    return TriggerService(actions, deliveries, BreakerService(), {1, 84532})


@pytest.fixture
def make_evaluator(database: Database, deliveries: DeliveryService, actions: ActionService) -> MakeEvaluator:
    """An evaluator of one more process."""

    def make(
        *,
        gate: Callable[[], Awaitable[bool]] = always_open,
        catalog: Catalog | None = None,
        instance: str = "test",
        **settings: Any,
    ) -> Evaluator:
        return Evaluator(
            database,
            EventQueue(instance),
            deliveries,
            catalog or Catalog(database, actions),
            gate,
            replace(EvaluatorConfig(), **settings),
            DELIVERIES_DAYS,
            {ChainId(EXTERNAL): FINAL_AFTER},
        )

    return make


@pytest.fixture
def catalog(database: Database, actions: ActionService) -> Catalog:
    return Catalog(database, actions)


@pytest.fixture
def evaluator(make_evaluator: MakeEvaluator, catalog: Catalog) -> Evaluator:
    return make_evaluator(catalog=catalog)
