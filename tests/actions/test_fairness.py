"""Nobody blocks a stranger: neither a backlog nor endpoints that never answer keep another tenant's delivery."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from agentauri.actions import DeliveryService, Dispatcher, Queue, connect_redis
from agentauri.actions.errors import RedisUnavailable
from agentauri.types import TriggerId

from .conftest import MakeDispatcher, World

HANGING, OF_EACH, BACKLOG = 20, 30, 300


@pytest.fixture(params=["redis", "direct"])
async def dispatcher(
    request: pytest.FixtureRequest, world: World, queue: Queue, make_dispatcher: MakeDispatcher
) -> AsyncIterator[Dispatcher]:
    if request.param == "redis":
        yield make_dispatcher()
        return
    async with aclosing(connect_redis("redis://127.0.0.1:1/0")) as client, aclosing(Queue(client)) as lost:
        with pytest.raises(RedisUnavailable):
            await lost.depth()
        world.deliveries = DeliveryService(lost)
        yield make_dispatcher(queue=lost)


@pytest.fixture
def hanging() -> Iterator[tuple[list[str], ExitStack]]:
    """URLs of endpoints that take connections and never say a word, until they are closed."""
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512)) for _ in range(HANGING)]
        yield [f"http://127.0.0.1:{server.getsockname()[1]}/" for server in servers], stack


async def test_hanging_endpoints_and_a_backlog_keep_no_other_tenants_delivery(
    world: World, dispatcher: Dispatcher, hanging: tuple[list[str], ExitStack]
) -> None:
    urls, endpoints = hanging
    for number, url in enumerate(urls):
        organization = ("busy", "other")[number % 2]
        await many(world, await world.trigger(organization_id=organization, config={"url": url}), OF_EACH)
    await many(world, await world.trigger(organization_id="busy"), BACKLOG)

    async with working(dispatcher):
        await world.receiver.wait_for(BACKLOG)
        for number in range(3):
            await many(world, await world.trigger(organization_id=f"quiet-{number}"), 1)
            await world.receiver.wait_for(BACKLOG + 1 + number)

        assert await failed(world) == 0  # all of them still hang
        endpoints.close()


async def test_the_latest_of_a_quiet_tenant_goes_before_the_backlog_of_another(
    world: World, dispatcher: Dispatcher
) -> None:
    await many(world, await world.trigger(organization_id="busy"), 2500)
    await many(world, await world.trigger(organization_id="quiet", config={"url": f"{world.receiver.url}/quiet"}), 1)

    await dispatcher.step()

    assert "/quiet" in [request.path for request in world.receiver.requests]
    assert len(world.receiver.requests) < 300


async def many(world: World, trigger: TriggerId, count: int) -> None:
    """Deliveries of one trigger, committed together and due for a while, each later than the one before."""
    draft = await world.draft(trigger)
    drafts = [
        replace(
            draft,
            event_id=f"{trigger}-{number}",
            event_created_at=datetime.now(UTC) + timedelta(milliseconds=number),
        )
        for number in range(count)
    ]
    async with world.database.transaction() as tx:
        await world.deliveries.create(tx, drafts)


async def failed(world: World) -> int:
    async with world.database.transaction() as tx:
        number: int = await tx.fetchval("SELECT count(*) FROM attempts WHERE outcome <> 'delivered'")
    return number


@asynccontextmanager
async def working(dispatcher: Dispatcher) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    running = asyncio.create_task(dispatcher.run(stopping))
    try:
        yield
    finally:
        stopping.set()
        await running
