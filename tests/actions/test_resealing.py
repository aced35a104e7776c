"""Another ENCRYPTION_KEY: everything that is sealed goes under it, and the old one can go."""

from __future__ import annotations

from typing import Any

import pytest

from agentauri.actions import ActionService, Dispatcher, Outbound, make_channels
from agentauri.actions import resealing as module
from agentauri.sealing import Sealer

from .conftest import MakeDispatcher, World

OLD, NEW, OTHER = b"k" * 32, b"n" * 32, b"o" * 32


def service(outbound: Outbound, *keys: bytes) -> ActionService:
    return ActionService(Sealer(keys), make_channels(outbound, webhook_timeout=10))


async def reseal(world: World, actions: ActionService) -> tuple[int, list[str]]:
    position: Any = module.START
    changed, unreadable = 0, []
    while position is not None:
        async with world.database.transaction() as tx:
            done = await actions.reseal(tx, position)
        changed, position = changed + done.changed, done.position
        unreadable += done.unreadable
    return changed, unreadable


@pytest.mark.parametrize("batch", [500, 2])
async def test_afterwards_the_first_key_alone_opens_everything(
    world: World, outbound: Outbound, make_dispatcher: MakeDispatcher, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(module, "BATCH", batch)
    triggers = [await world.trigger(config={"headers": {"Authorization": f"Bearer s{n}"}}) for n in range(4)]
    triggers.append(await world.trigger())  # which has no header
    assert await reseal(world, service(outbound, NEW, OLD)) == (9, [])
    assert await reseal(world, service(outbound, NEW, OLD)) == (0, [])

    dispatcher: Dispatcher = make_dispatcher(actions=service(outbound, NEW))
    for trigger in triggers:
        await world.delivery(trigger)
    await dispatcher.step()
    sent = [request.headers.get("Authorization") for request in world.receiver.requests]
    assert sorted(filter(None, sent)) == [f"Bearer s{n}" for n in range(4)]
    assert len(sent) == 5


async def test_what_no_key_opens_is_named_and_left_as_it_is(world: World, outbound: Outbound) -> None:
    trigger = await world.trigger(config={"headers": {"Authorization": "Bearer s"}})
    action = world.action_of[trigger]
    changed, unreadable = await reseal(world, service(outbound, NEW, OTHER))
    assert (changed, len(unreadable)) == (0, 2)
    assert unreadable[0] == f"trigger_actions {action}"
    assert await reseal(world, service(outbound, NEW, OLD)) == (2, [])
