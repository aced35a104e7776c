"""A due delivery becomes a signed request, and what comes back decides what becomes of it."""

from __future__ import annotations

from agentauri.actions import Dispatcher

from .conftest import World


async def test_a_delivery_is_sent_once_and_recorded(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger()
    id_ = await world.delivery(trigger)

    assert await dispatcher.step()
    assert not await dispatcher.step()

    (request,) = world.receiver.requests
    assert (request.method, request.path) == ("POST", "/hook")
    row = await world.row(id_)
    assert (row["status"], row["attempts"], row["leased_until"]) == ("delivered", 1, None)
    (attempt,) = await world.attempts(id_)
    assert (attempt["outcome"], attempt["status_code"], attempt["number"]) == ("delivered", 200, 1)
