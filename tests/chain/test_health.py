from __future__ import annotations

from agentauri.chain.health import Bucket, Health

REST = 60.0


def test_five_failures_in_a_row_rest_a_provider_and_then_one_answer_decides() -> None:
    health = Health(REST)
    for _ in range(4):
        health.failed(0.0, "no")
    assert not health.rests(0.0)

    health.failed(0.0, "no")

    assert health.rests(59.0)
    assert health.is_down()
    assert not health.rests(60.0)
    health.failed(60.0, "no")
    assert health.rests(119.0)
    health.answered(0.1)
    assert not health.is_down()
    health.failed(120.0, "no")
    assert not health.rests(120.0)


def test_a_throttled_provider_rests_longer_each_time_until_it_answers() -> None:
    health = Health(REST)

    rests = [health.throttled(0.0, "slow down", None) for _ in range(8)]

    assert rests == [1, 2, 4, 8, 16, 32, 60, 60]
    health.answered(0.1)
    assert health.throttled(0.0, "slow down", None) == 1


def test_a_throttled_provider_is_taken_at_its_word() -> None:
    health = Health(REST)

    assert health.throttled(0.0, "slow down", 90.0) == 90.0
    assert health.rests(89.0)
    assert not health.is_down()


def test_a_liar_rests_at_once() -> None:
    health = Health(REST)

    health.lied(0.0, "a foreign log")

    assert health.rests(59.0)


def test_one_that_fails_or_is_slow_scores_less() -> None:
    good, slow, failing = Health(REST), Health(REST), Health(REST)
    good.answered(0.1)
    slow.answered(0.5)
    failing.answered(0.1)
    failing.failed(0.0, "no")

    assert good.score() > failing.score() > slow.score()


def test_what_happened_before_a_rest_is_forgiven() -> None:
    health = Health(REST)
    health.answered(0.1)
    before = health.score()

    for _ in range(5):
        health.failed(0.0, "no")

    assert health.score() == before


def test_calls_are_paced_after_the_first_second_of_them() -> None:
    bucket = Bucket(10.0)

    assert bucket.wait(10, 0.0) == 0.0
    assert bucket.wait(1, 0.0) == 0.1
    assert bucket.wait(1, 0.2) == 0.0


def test_a_batch_larger_than_the_rate_passes_and_is_paid_off_after() -> None:
    bucket = Bucket(10.0)

    assert bucket.wait(30, 0.0) == 0.0
    assert bucket.wait(1, 0.0) == 2.1


def test_five_steps_that_failed_rest_a_provider_whatever_else_it_answers() -> None:
    health = Health(REST)
    for _ in range(5):
        assert not health.rests(0.0)
        health.answered(0.1)
        health.in_vain(0.0)

    assert health.rests(59.0)
    health.answered(0.1)
    health.in_vain(60.0)
    assert health.rests(119.0)
    health.of_use()
    health.in_vain(120.0)
    assert not health.rests(120.0)
