from __future__ import annotations

from agentauri.errors import FieldError, Invalid, NotFound, Unavailable


class EventNotFound(NotFound):
    code = "event_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such event.")


class SearchTooSlow(Unavailable):
    """The words are too common for a search to end in time."""

    def __init__(self) -> None:
        super().__init__("The search took too long. Give rarer words, or narrow it with a filter.")


def bad_cursor() -> Invalid:
    """The cursor was altered, or made for another list."""
    return Invalid.fields(FieldError("query.cursor", "must be the next_cursor of a page of this same list"))
