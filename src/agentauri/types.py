"""The few values that every package speaks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Generic, Literal, NewType, TypeVar
from uuid import UUID

from msgspec import Struct

ChainId = NewType("ChainId", int)
EventSeq = NewType("EventSeq", int)
EventId = NewType("EventId", str)
OrganizationId = NewType("OrganizationId", str)
UserId = NewType("UserId", str)
TriggerId = NewType("TriggerId", str)
ActionId = NewType("ActionId", int)
DeliveryId = NewType("DeliveryId", UUID)
Plan = Literal["free", "starter", "pro", "enterprise"]

S = TypeVar("S")
T = TypeVar("T")


class Secret:
    """A value that must not be printed, logged or sent by accident; `reveal` is the one way in."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class Page(Struct, frozen=True, kw_only=True):
    """Which part of a list is asked for: by `offset`, or after an opaque `cursor`."""

    limit: int = 20
    offset: int = 0
    cursor: str | None = None


class Paged(Struct, Generic[T], frozen=True, kw_only=True):
    """One page. `total` is exact unless `total_is_exact` says otherwise (then it is a floor)."""

    data: list[T]
    total: int
    has_more: bool
    next_cursor: str | None = None
    total_is_exact: bool = True

    def of(self, data: list[S]) -> Paged[S]:
        """The same page, told of by other values."""
        return Paged(
            data=data,
            total=self.total,
            has_more=self.has_more,
            next_cursor=self.next_cursor,
            total_is_exact=self.total_is_exact,
        )


def utc_now() -> datetime:
    """This machine's clock. Due times and leases use the database's clock instead."""
    return datetime.now(UTC)
