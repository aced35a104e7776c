from __future__ import annotations

from agentauri.errors import FieldError, Invalid, NotFound, Unavailable


class EventNotFound(NotFound):
    code = "event_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such event.")


class SearchTooSlow(Unavailable):
    """No index helps to find these events in time: the words are too common, or the filters leave too much to read."""

    def __init__(self) -> None:
        super().__init__("The search took too long. Narrow it with a filter, or give rarer words.")


def bad_cursor() -> Invalid:
    """The cursor was altered, or made for another list."""
    return Invalid.fields(FieldError("query.cursor", "must be the next_cursor of a page of this same list"))
