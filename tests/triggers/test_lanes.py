"""Whose turn it is, and where the next poll begins."""

from __future__ import annotations

from agentauri.events import Lane
from agentauri.triggers.lanes import Lanes
from agentauri.types import ChainId


def lane(chain_id: int, position: int) -> Lane:
    return Lane(ChainId(chain_id), position)


def test_the_chain_after_the_last_one_served_comes_first() -> None:
    lanes = Lanes()
    lanes.found([lane(1, 10), lane(2, 11), lane(3, 12)])
    served = lanes.next()
    assert served is not None
    lanes.served(served, 20, more=False)
    lanes.found([lane(1, 21), lane(2, 11), lane(3, 12)])

    assert [found.chain_id for found in iter(lanes.next, None)] == [2, 3, 1]


def test_a_lane_with_more_queues_up_again() -> None:
    lanes = Lanes()
    lanes.found([lane(1, 10), lane(2, 11)])
    first = lanes.next()
    assert first is not None
    lanes.served(first, 20, more=True)

    assert list(iter(lanes.next, None)) == [lane(2, 11), lane(1, 20)]


def test_the_floor_is_the_lowest_position_that_can_still_wait() -> None:
    lanes = Lanes()
    lanes.found([lane(1, 10), lane(2, 5)])
    assert lanes.floor == 5
    for served in iter(lanes.next, None):
        lanes.served(served, 50, more=False)
    lanes.found([])
    assert lanes.floor == 50
    lanes.back(30)
    assert lanes.floor == 30


def test_a_hinted_chain_is_looked_into_from_the_floor_on() -> None:
    lanes = Lanes()
    lanes.found([lane(1, 10)])
    for served in iter(lanes.next, None):
        lanes.served(served, 20, more=False)
    lanes.found([])
    lanes.hint(ChainId(2))
    lanes.hint(ChainId(2))

    assert list(iter(lanes.next, None)) == [lane(2, 20)]
