"""Send slots are shared so that nobody waits for a stranger's endpoint."""

from __future__ import annotations

from agentauri.actions.destinations import FEW, SLOW, Destinations

TARGET = "https://hook.test:443"
ORG = "org-1"
MOST = 256


def entered(destinations: Destinations, target: str, organization_id: str = ORG, **others: bool) -> int:
    """How many find a slot."""
    count = 0
    while destinations.enter(target, organization_id, **others):
        count += 1
    return count


def proven(destinations: Destinations, target: str, organization_id: str = ORG, took: float = 0.01) -> None:
    assert destinations.enter(target, organization_id)
    destinations.leave(target, organization_id, took)


def test_what_waits_comes_as_often_as_those_under_way_end() -> None:
    destinations = Destinations(4, most=100)
    for _ in range(100):
        destinations.enter(TARGET, ORG)
        destinations.leave(TARGET, ORG, 2.0)

    limit = entered(destinations, TARGET)

    assert abs(destinations.interval(TARGET) - 2.0 / limit) < 0.01


def test_a_destination_that_cannot_be_reached_is_asked_by_fewer_at_once_and_by_more_as_it_succeeds() -> None:
    destinations = Destinations(4, most=3)
    destinations.enter(TARGET, ORG)
    destinations.leave(TARGET, ORG, 10.0, "timeout")
    assert entered(destinations, TARGET) == 1

    for _ in range(30):
        destinations.leave(TARGET, ORG, 0.1)
        destinations.enter(TARGET, ORG)

    assert entered(destinations, TARGET) == 2  # beside the one


def test_a_destination_that_never_answered_leaves_half_of_what_is_free_to_the_next() -> None:
    destinations = Destinations(200, most=MOST)

    taken = [entered(destinations, f"https://{number}.test:443", f"org-{number}") for number in range(25)]

    assert taken[0] < MOST / 2
    assert all(taken)


def test_twenty_hanging_destinations_leave_slots_to_one_that_answers() -> None:
    destinations = Destinations(64, most=MOST)
    proven(destinations, TARGET)
    for number in range(20):
        entered(destinations, f"https://{number}.test:443", "org-2")

    assert entered(destinations, TARGET) == FEW


def test_one_that_answers_has_all_it_may_have_while_slots_are_free() -> None:
    destinations = Destinations(64, most=MOST)
    proven(destinations, TARGET)

    assert entered(destinations, TARGET) == 64


def test_slow_destinations_share_a_quarter_while_faster_work_waits() -> None:
    destinations = Destinations(256, most=MOST)
    slow = [f"https://{number}.test:443" for number in range(4)]
    for target in slow:
        for _ in range(20):
            proven(destinations, target, took=3.0)

    assert sum(entered(destinations, target, faster=True) for target in slow) == MOST // 4
    assert sum(entered(destinations, target) for target in slow) == MOST * 3 // 4 - MOST // 4


def test_a_failed_last_attempt_makes_slow_and_a_success_heals() -> None:
    destinations = Destinations(64, most=MOST)
    destinations.enter(TARGET, ORG)
    destinations.leave(TARGET, ORG, 0.01, "status")
    assert destinations.is_slow(TARGET)

    proven(destinations, TARGET)

    assert not destinations.is_slow(TARGET)


def test_a_destination_that_keeps_silent_is_slow_before_its_time_is_up() -> None:
    destinations = Destinations(64, most=MOST)
    destinations.enter(TARGET, ORG)
    assert not destinations.is_slow(TARGET)

    destinations._known[TARGET].waiting_since -= SLOW + 0.1

    assert destinations.is_slow(TARGET)


def test_an_organization_has_half_of_the_slots_while_others_wait() -> None:
    destinations = Destinations(256, most=MOST)
    proven(destinations, TARGET)

    assert entered(destinations, TARGET, others=True) == MOST // 2
    assert destinations.enter(TARGET, "org-2", others=True)
    assert destinations.enter(TARGET, ORG)  # nobody waits any more


def test_slots_that_were_not_used_are_free_again() -> None:
    destinations = Destinations(1, most=MOST)
    for _ in range(3):
        assert destinations.enter(TARGET, ORG)
        destinations.unused(TARGET, ORG)

    assert destinations.enter(TARGET, ORG)
