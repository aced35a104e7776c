"""The one form of a list, and the parameters that page through it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Generic, Literal, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType

from agentauri.errors import FieldError, Invalid
from agentauri.http.reading import Aliased
from agentauri.types import Page, Paged

T = TypeVar("T")
S = TypeVar("S")

Order = Literal["asc", "desc"]
Offset = Annotated[int, Meta(ge=0, le=100_000)]


class Paging(Aliased, frozen=True, kw_only=True):
    """`page` counts from 1 and stands for an offset."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    offset: Offset | None = None
    page: Annotated[int, Meta(ge=1, le=100_001)] | None = None

    def as_page(self) -> Page:
        """
        Raises:
            Invalid: two of the ways to say where the page begins are used at once.
        """
        cursor = getattr(self, "cursor", None)
        given = {"cursor": cursor, "offset": self.offset, "page": self.page}
        used = [name for name, value in given.items() if value is not None]
        if len(used) > 1:
            raise Invalid.fields(FieldError(f"query.{used[0]}", f"cannot be given together with {used[1]}"))
        offset = self.offset or 0
        if self.page is not None:
            offset = (self.page - 1) * self.limit
        if offset > 100_000:
            raise Invalid.fields(FieldError("query.page", "must not begin beyond the 100000th item"))
        return Page(limit=self.limit, offset=offset, cursor=cursor)


class CursorPaging(Paging, frozen=True, kw_only=True):
    """Also after an opaque `cursor`, which neither repeats nor skips a row that was there throughout."""

    cursor: Annotated[str, Meta(min_length=1, max_length=512)] | None = None


class Pagination(Struct, frozen=True, kw_only=True):
    """`total` is counted up to a bound; `total_is_exact` is false beyond it. No `offset` on a page after a cursor."""

    total: int
    limit: int
    offset: int | None
    has_more: bool
    next_cursor: str | None
    total_is_exact: bool | UnsetType = UNSET


class Listing(Struct, Generic[T], frozen=True, kw_only=True):
    data: list[T]
    pagination: Pagination


def listing(found: Paged[S], page: Page, view: Callable[[S], T]) -> Listing[T]:
    pagination = Pagination(
        total=found.total,
        limit=page.limit,
        offset=page.offset if page.cursor is None else None,
        has_more=found.has_more,
        next_cursor=found.next_cursor,
        total_is_exact=UNSET if found.total_is_exact else False,
    )
    return Listing(data=[view(item) for item in found.data], pagination=pagination)


def part_of(items: Sequence[S], page: Page) -> Paged[S]:
    """One page of what is at hand."""
    end = page.offset + page.limit
    return Paged(data=list(items[page.offset : end]), total=len(items), has_more=end < len(items))


def as_is(item: S) -> S:
    return item


def nothing() -> Paged[T]:
    return Paged(data=[], total=0, has_more=False)
