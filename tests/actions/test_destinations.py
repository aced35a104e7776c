"""What finds no room at a destination is brought again when there will be some, not when it is long idle."""

from __future__ import annotations

import pytest

from agentauri.actions.destinations import Destinations

TARGET = "https://hook.test:443"


def test_what_finds_no_room_waits_until_those_under_way_have_made_some() -> None:
    destinations = Destinations(4, most=100)
    for _ in range(100):
        destinations.enter(TARGET)
        destinations.leave(TARGET, 100.0)
    while not (first := destinations.enter(TARGET)):
        pass

    later = [destinations.enter(TARGET) for _ in range(8)]

    assert later == pytest.approx([first * place for place in range(2, 10)], rel=0.01)


def test_a_destination_that_was_given_little_is_not_taken_for_a_slow_one() -> None:
    """Its pace is its own, not that of what came along for it."""
    destinations = Destinations(2, most=100)
    for _ in range(50):
        destinations.enter(TARGET)
        destinations.leave(TARGET, 0.002)  # and between them, nothing for it to do
    while not (wait := destinations.enter(TARGET)):
        pass

    assert wait <= 0.002


def test_a_destination_that_cannot_be_reached_is_asked_by_fewer_at_once_and_by_more_as_it_succeeds() -> None:
    destinations = Destinations(4, most=3)
    destinations.enter(TARGET)
    destinations.leave(TARGET, 10.0, "timeout")
    assert [destinations.enter(TARGET) > 0 for _ in range(2)] == [False, True]

    for _ in range(20):
        destinations.leave(TARGET, 0.1)
        destinations.enter(TARGET)

    assert [destinations.enter(TARGET) > 0 for _ in range(3)] == [False, False, True]
