from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentauri.actions.retry import judge, retry_after, wait
from agentauri.config import RETRY_SCHEDULE

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "expected", "verdict"),
    [
        (200, (), "delivered"),
        (204, (), "delivered"),
        (299, (), "delivered"),
        (200, (202,), "permanent"),
        (404, (404,), "delivered"),
        (503, (503,), "delivered"),
        (301, (), "permanent"),
        (400, (), "permanent"),
        (404, (), "permanent"),
        (408, (), "retryable"),
        (425, (), "retryable"),
        (429, (), "retryable"),
        (500, (), "retryable"),
        (599, (), "retryable"),
        (101, (), "permanent"),
    ],
)
def test_a_status_is_judged(status: int, expected: tuple[int, ...], verdict: str) -> None:
    assert judge(status, expected) == verdict


@given(st.integers(1, 10), st.floats(0, 1, exclude_max=True))
def test_a_wait_is_spread_around_its_base(attempt: int, chance: float) -> None:
    base = RETRY_SCHEDULE[attempt - 1]
    seconds = wait(RETRY_SCHEDULE, attempt, chance)

    assert seconds is not None
    assert base / 2 <= seconds <= 3 * base / 2


def test_the_eleventh_attempt_is_the_last() -> None:
    assert wait(RETRY_SCHEDULE, 10, 0.5) == 43200
    assert wait(RETRY_SCHEDULE, 11, 0.5) is None


def test_what_the_receiver_asks_for_is_the_least() -> None:
    assert wait(RETRY_SCHEDULE, 1, 0.5, at_least=120) == 120
    assert wait(RETRY_SCHEDULE, 5, 0.5, at_least=120) == 1800


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        ("999999999999999999999", 86400),
        ("Thu, 01 Jan 2026 00:02:00 GMT", 120),
        ("Wed, 31 Dec 2025 23:00:00 GMT", 0),
        ("Sat, 01 Jan 2028 00:00:00 GMT", 86400),
        ("-5", None),
        ("soon", None),
        ("٣", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_of_at_most_a_day(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, NOW) == seconds
