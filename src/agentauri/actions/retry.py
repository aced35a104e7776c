"""When to try again. All of it is pure: time and chance are arguments."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

LONGEST_RETRY_AFTER = 24 * 3600.0
RETRYABLE_STATUS = frozenset({408, 425, 429})


def judge(status: int, expected: Collection[int]) -> Literal["delivered", "retryable", "permanent"]:
    """The verdict on an HTTP status; `expected` replaces the usual 2xx when it lists any."""
    if status in expected if expected else 200 <= status < 300:
        return "delivered"
    if status in RETRYABLE_STATUS or 500 <= status < 600:
        return "retryable"
    return "permanent"


def wait(schedule: Sequence[int], attempt: int, chance: float, at_least: float | None = None) -> float | None:
    """Seconds to wait after the `attempt`-th try of a schedule (from 1), or None when it was the last.

    `chance` in [0, 1) spreads the wait over half to one and a half of its base, so that a thousand failures of one
    outage do not come back as one wave.
    """
    if attempt > len(schedule):
        return None
    seconds = schedule[attempt - 1] * (0.5 + chance)
    return max(seconds, at_least or 0.0)


def retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, at most a day; None when it says nothing we understand."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), LONGEST_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - now).total_seconds(), 0.0), LONGEST_RETRY_AFTER)
