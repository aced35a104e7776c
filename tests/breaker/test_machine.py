"""The breaker's rules, time as an argument."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from agentauri.breaker import Breaker, BreakerConfig, machine
from agentauri.types import TriggerId

CONFIG = BreakerConfig(failure_threshold=3, recovery_timeout_seconds=60, half_open_max_calls=1)
T = datetime(2026, 1, 1, tzinfo=UTC)


def after(seconds: int) -> datetime:
    return T + timedelta(seconds=seconds)


def told(breaker: Breaker, outcomes: str, config: BreakerConfig = CONFIG, at: datetime = T) -> Breaker:
    for outcome in outcomes:
        breaker = machine.succeeded(breaker, config) if outcome == "S" else machine.failed(breaker, config, "503", at)
    return breaker


def a_breaker() -> Breaker:
    return Breaker(trigger_id=TriggerId("t"))


def test_a_success_forgives_failures() -> None:
    breaker = told(a_breaker(), "FFSFF")

    assert (breaker.state, breaker.failure_count) == ("closed", 2)


def test_the_whole_cycle() -> None:
    opened = told(a_breaker(), "FFF")
    assert (opened.state, opened.opened_at, opened.next_probe_at) == ("open", T, after(60))
    assert machine.admit(opened, CONFIG, 1, after(59)) == (opened, 0)
    assert machine.tick(opened, after(59)) is opened

    probing = machine.tick(opened, after(60))
    assert probing.state == "half_open"
    probing, go = machine.admit(probing, CONFIG, 2, after(60))
    assert go == 1
    assert machine.admit(probing, CONFIG, 1, after(60)) == (probing, 0)

    again = told(probing, "F", at=after(60))
    assert (again.state, again.next_probe_at) == ("open", after(120))

    closed = told(machine.tick(again, after(120)), "S")
    assert (closed.state, closed.failure_count, closed.success_count) == ("closed", 0, 0)


def test_half_open_needs_as_many_successes_as_calls() -> None:
    config = BreakerConfig(failure_threshold=1, half_open_max_calls=3)
    probing, go = machine.admit(machine.tick(told(a_breaker(), "F", config), after(60)), config, 50, after(60))
    assert go == 3

    assert told(probing, "SS", config).state == "half_open"
    assert told(probing, "SSS", config).state == "closed"


def test_failures_of_sends_begun_before_it_opened_only_count() -> None:
    opened = told(a_breaker(), "FFF")

    later = told(opened, "FF", at=after(5))

    assert (later.failure_count, later.next_probe_at) == (5, opened.next_probe_at)
    assert told(opened, "S") is opened


def test_a_slot_whose_sender_died_is_free_again_after_two_minutes() -> None:
    probing, _ = machine.admit(machine.tick(told(a_breaker(), "FFF"), after(60)), CONFIG, 1, after(60))

    assert machine.tick(probing, after(179)) is probing
    assert machine.admit(machine.tick(probing, after(180)), CONFIG, 1, after(180))[1] == 1


def test_an_outcome_that_proves_nothing_gives_its_slot_back() -> None:
    probing, _ = machine.admit(machine.tick(told(a_breaker(), "FFF"), after(60)), CONFIG, 1, after(60))

    assert machine.admit(machine.undecided(probing), CONFIG, 1, after(61))[1] == 1
    assert machine.undecided(a_breaker()) == a_breaker()


def test_another_timeout_moves_the_probe_of_an_open_breaker() -> None:
    opened = told(a_breaker(), "FFF")

    moved = machine.reconfigured(opened, BreakerConfig(recovery_timeout_seconds=5))

    assert moved.next_probe_at == after(5)
    assert machine.reconfigured(a_breaker(), CONFIG) == a_breaker()


def half_open(config: BreakerConfig, successes: int) -> Breaker:
    """With as many sends let go as have succeeded."""
    probing = machine.tick(told(a_breaker(), "F", config), after(60))
    return told(machine.admit(probing, config, successes, after(60))[0], "S" * successes, config)


def test_a_lower_maximum_that_is_reached_already_closes_it() -> None:
    probing = half_open(BreakerConfig(failure_threshold=1, half_open_max_calls=10), 5)

    assert machine.reconfigured(probing, BreakerConfig(half_open_max_calls=3)).state == "closed"
    assert machine.reconfigured(probing, BreakerConfig(half_open_max_calls=6)) is probing


def test_a_maximum_that_was_lowered_by_hand_is_reached_by_the_next_success() -> None:
    probing = half_open(BreakerConfig(failure_threshold=1, half_open_max_calls=10), 5)
    lower = BreakerConfig(half_open_max_calls=3)

    probing, go = machine.admit(probing, lower, 7, after(61))

    assert go == 1
    assert machine.free_slots(probing, lower) == 0
    assert told(probing, "S", lower).state == "closed"


def test_the_last_error_is_cut() -> None:
    assert len(machine.failed(a_breaker(), CONFIG, "x" * 2000, T).last_error or "") == 500


@given(st.integers(1, 5), st.integers(1, 4), st.lists(st.sampled_from(["S", "F", "A", "U", "T"]), max_size=60))
def test_it_never_lets_more_go_than_it_may(threshold: int, calls: int, steps: list[str]) -> None:
    config = BreakerConfig(failure_threshold=threshold, recovery_timeout_seconds=10, half_open_max_calls=calls)
    breaker, now = a_breaker(), T
    for step in steps:
        if step == "A":
            breaker, go = machine.admit(breaker, config, 7, now)
            assert go <= {"closed": 7, "open": 0, "half_open": calls}[breaker.state]
        elif step == "U":
            breaker = machine.undecided(breaker)
        elif step == "T":
            now += timedelta(seconds=7)
            breaker = machine.tick(breaker, now)
        else:
            breaker = told(breaker, step, config, now)
        assert 0 <= breaker.half_open_admitted <= calls
        assert breaker.success_count < calls
        assert (breaker.state == "open") == (breaker.next_probe_at is not None)
