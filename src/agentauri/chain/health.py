"""How well a provider does, and when it may be asked. Pure: time is an argument."""

from __future__ import annotations

WEIGHT = 0.2  # of the newest answer in the averages
FAILURES_BEFORE_REST = 5
SWITCH_GAIN = 1.2
FIRST_REST = 1.0
LONGEST_ASKED = 3600.0
COMMON_LATENCY = 0.05  # seconds added to every latency, so that microseconds do not decide between two good ones


class Health:
    """One provider's record. A rested provider is always admitted again: its next answer decides."""

    def __init__(self, longest_rest: float) -> None:
        self._longest_rest = longest_rest
        self._next_rest = FIRST_REST
        self._success = 1.0
        self.latency: float | None = None
        self.successes = 0
        self.failures = 0
        self.consecutive_failures = 0
        self._in_vain = 0
        self.resting_until = 0.0
        self.last_error: str | None = None

    def score(self, presumed: float = 0.0) -> float:
        """How good it is to ask; `presumed` is the latency of one that was never asked."""
        return self._success / (COMMON_LATENCY + (presumed if self.latency is None else self.latency))

    def is_down(self) -> bool:
        """It failed too often to count as one of the chain's providers until it answers again."""
        return self.consecutive_failures >= FAILURES_BEFORE_REST

    def rests(self, now: float) -> bool:
        return now < self.resting_until

    def answered(self, seconds: float) -> None:
        self.successes += 1
        self.consecutive_failures = 0
        self._next_rest = FIRST_REST
        self._success += WEIGHT * (1.0 - self._success)
        self.latency = seconds if self.latency is None else self.latency + WEIGHT * (seconds - self.latency)

    def failed(self, now: float, error: str) -> None:
        self.failures += 1
        self.consecutive_failures += 1
        self.last_error = error[:200]
        self._success -= WEIGHT * self._success
        if self.is_down():
            self._rest(now, self._longest_rest)

    def in_vain(self, now: float) -> None:
        """A step of the indexer failed with it. These add up until one goes well, whatever it answers in between: a
        provider that serves headers and never logs is as good as down."""
        self._in_vain += 1
        if self._in_vain >= FAILURES_BEFORE_REST:
            self._rest(now, self._longest_rest)

    def of_use(self) -> None:
        """A step went well with it."""
        self._in_vain = 0

    def throttled(self, now: float, error: str, after: float | None) -> float:
        """It was asked too much. Returns how long it rests: as it says, else a second, doubling each time
        it has not answered in between."""
        self.failures += 1
        self.last_error = error[:200]
        rest = self._next_rest if after is None else min(max(after, 0.0), LONGEST_ASKED)
        self._next_rest = min(self._next_rest * 2, self._longest_rest)
        self._rest(now, rest)
        return rest

    def lied(self, now: float, error: str) -> None:
        self.failed(now, error)
        self._rest(now, self._longest_rest)

    def _rest(self, now: float, seconds: float) -> None:
        self.resting_until = max(self.resting_until, now + seconds)
        self._success = 1.0  # its past says nothing about the time after the rest


class Bucket:
    """Paces calls: `rate` a second, a second's worth at once. A larger batch passes whole and is paid off after."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._tokens = rate
        self._at = 0.0

    def wait(self, count: int, now: float) -> float:
        """Take `count`; the seconds to wait before using them."""
        self._tokens = min(self._rate, self._tokens + (now - self._at) * self._rate)
        self._at = now
        short = min(count, self._rate) - self._tokens
        self._tokens -= count
        return max(0.0, short / self._rate)
