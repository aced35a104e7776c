"""The breaker's rules as pure functions: a breaker and the time in, a breaker out."""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec.structs import replace

from agentauri.breaker.types import Breaker, BreakerConfig

SLOT_LIFETIME = timedelta(seconds=120)
"""A half-open slot without an outcome is taken back after this; no claim lasts longer than 90 s."""

ERROR_LENGTH = 500


def free_slots(breaker: Breaker, config: BreakerConfig) -> int | None:
    """How many sends it would let go now; None means any number."""
    match breaker.state:
        case "closed":
            return None
        case "open":
            return 0
        case "half_open":
            # Where SQL by hand has lowered the maximum, the successes so far suffice, but only the next one says so.
            calls = max(config.half_open_max_calls, breaker.success_count + 1)
            return max(0, calls - breaker.half_open_admitted)


def admit(breaker: Breaker, config: BreakerConfig, wanted: int, now: datetime) -> tuple[Breaker, int]:
    """Let up to `wanted` sends go; the breaker remembers those it lets go while half open."""
    free = free_slots(breaker, config)
    if free is None:
        return breaker, wanted
    go = min(free, wanted)
    if go == 0:
        return breaker, 0
    return replace(breaker, half_open_admitted=breaker.half_open_admitted + go, half_open_at=now), go


def succeeded(breaker: Breaker, config: BreakerConfig) -> Breaker:
    match breaker.state:
        case "closed":
            return replace(breaker, failure_count=0) if breaker.failure_count else breaker
        case "open":
            return breaker
        case "half_open":
            successes = breaker.success_count + 1
            if successes >= config.half_open_max_calls:
                return closed(breaker)
            return replace(breaker, success_count=successes)


def failed(breaker: Breaker, config: BreakerConfig, error: str | None, now: datetime) -> Breaker:
    """One more failure; sends that began before it opened only count."""
    told = replace(
        breaker,
        failure_count=breaker.failure_count + 1,
        last_failure_at=now,
        last_error=error[:ERROR_LENGTH] if error else error,
    )
    opens = breaker.state == "half_open" or (
        breaker.state == "closed" and told.failure_count >= config.failure_threshold
    )
    if not opens:
        return told
    return replace(
        told,
        state="open",
        success_count=0,
        opened_at=now,
        next_probe_at=now + timedelta(seconds=config.recovery_timeout_seconds),
        half_open_admitted=0,
        half_open_at=None,
    )


def undecided(breaker: Breaker) -> Breaker:
    """A send that proves nothing gives its half-open slot back."""
    if breaker.state != "half_open" or breaker.half_open_admitted <= breaker.success_count:
        return breaker
    return replace(breaker, half_open_admitted=breaker.half_open_admitted - 1)


def tick(breaker: Breaker, now: datetime) -> Breaker:
    """What time alone changes: an open breaker that may probe, a slot whose sender is gone."""
    if breaker.state == "open" and (breaker.next_probe_at is None or breaker.next_probe_at <= now):
        return replace(
            breaker, state="half_open", success_count=0, next_probe_at=None, half_open_admitted=0, half_open_at=now
        )
    if (
        breaker.state == "half_open"
        and breaker.half_open_admitted > breaker.success_count
        and (breaker.half_open_at is None or breaker.half_open_at + SLOT_LIFETIME <= now)
    ):
        return replace(breaker, half_open_admitted=breaker.success_count)
    return breaker


def closed(breaker: Breaker) -> Breaker:
    """Closed, all counters at 0; when it last failed and why stays readable."""
    return Breaker(
        trigger_id=breaker.trigger_id, last_failure_at=breaker.last_failure_at, last_error=breaker.last_error
    )


def reconfigured(breaker: Breaker, config: BreakerConfig) -> Breaker:
    """A new timeout moves the probe of a breaker that is open now; half open, the successes so far may now suffice."""
    if breaker.state == "half_open" and breaker.success_count >= config.half_open_max_calls:
        return closed(breaker)
    if breaker.state != "open" or breaker.opened_at is None:
        return breaker
    return replace(breaker, next_probe_at=breaker.opened_at + timedelta(seconds=config.recovery_timeout_seconds))
