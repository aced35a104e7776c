"""What the registries' own summaries say, bit for bit. Pure: sums come in, the contract's words go out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from msgspec import Struct

MOST_DECIMALS = 18
"""All values are scaled to so many; the contract takes none with more."""

_WORD = 1 << 128


class Entries(Struct, frozen=True):
    """Feedback with the same number of decimals: how many entries, and the sum of their values as they were given."""

    count: int
    total: int


class Summary(Struct, frozen=True):
    """`getSummary` of the reputation registry: the mean is `value` / 10^`decimals`."""

    count: int
    value: int
    decimals: int

    @property
    def score(self) -> Decimal:
        return Decimal((self.value < 0, tuple(map(int, str(abs(self.value)))), -self.decimals))


class ValidationSummary(Struct, frozen=True):
    """`getSummary` of the validation registry."""

    count: int
    average: int


def summarize(feedback: Mapping[int, Entries]) -> Summary:
    """The summary of feedback, put together by its number of decimals (0 to 18).

    The mean is told in the commonest number of decimals, the smaller one on a tie; it is truncated toward zero, and
    wraps where it does not fit an int128.
    """
    count = sum(entries.count for entries in feedback.values())
    if count == 0:
        return Summary(0, 0, 0)
    scaled = sum(entries.total * 10 ** (MOST_DECIMALS - decimals) for decimals, entries in feedback.items())
    commonest = min(feedback, key=lambda decimals: (-feedback[decimals].count, decimals))
    mean = abs(scaled) // (count * 10 ** (MOST_DECIMALS - commonest))
    return Summary(count, _int128(mean if scaled >= 0 else -mean), commonest)


def gather(values: Iterable[tuple[int, int]]) -> dict[int, Entries]:
    """(value, decimals) one by one, put together for `summarize`."""
    found: dict[int, Entries] = {}
    for value, decimals in values:
        before = found.get(decimals, Entries(0, 0))
        found[decimals] = Entries(before.count + 1, before.total + value)
    return found


def summarize_responses(count: int, total: int) -> ValidationSummary:
    """The summary of so many validations, whose last responses come to `total`; its mean is rounded down."""
    return ValidationSummary(count, total // count if count else 0)


def _int128(number: int) -> int:
    """The low 128 bits as a signed number."""
    return (number + _WORD // 2) % _WORD - _WORD // 2
