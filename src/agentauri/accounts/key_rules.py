"""What a key's name, end and rate limit may be."""

from __future__ import annotations

from datetime import datetime, timedelta

from agentauri.errors import FieldError, Invalid
from agentauri.types import utc_now

MAX_NAME = 255
LONGEST = timedelta(days=5 * 365 + 2)
"""Five years, with the leap days that may be in them."""


def check(name: str | None, expires_at: datetime | None, override: int | None, highest_override: int) -> None:
    """None is always right: there it is not given, or there is none.

    Raises:
        Invalid: naming every refused field.
    """
    faults = []
    if name is not None and not 1 <= len(name.strip()) <= MAX_NAME:
        faults.append(FieldError("name", f"must be text of 1 to {MAX_NAME} characters"))
    now = utc_now()
    if expires_at is not None and not now < expires_at <= now + LONGEST:
        faults.append(FieldError("expires_at", "must be in the future, and at most 5 years ahead"))
    if override is not None and not 1 <= override <= highest_override:
        faults.append(FieldError("rate_limit_override", f"must be a number from 1 to {highest_override}, the plan's"))
    if faults:
        raise Invalid.fields(*faults)
