"""Reading a document that a customer wrote: every fault found is kept with its field, in sentences of our own."""

from __future__ import annotations

import re
from collections.abc import Mapping

from agentauri.errors import FieldError

_NAMEABLE = re.compile(r"[A-Za-z0-9_]{1,64}")


class Fields:
    """A document being read. What is not asked for until `finish` is refused."""

    def __init__(self, document: Mapping[str, object]) -> None:
        self._document = dict(document)
        self.errors: list[FieldError] = []

    def refuse(self, field: str, message: str) -> None:
        self.errors.append(FieldError(field, message))

    def refuses(self, field: str) -> bool:
        return any(error.field == field for error in self.errors)

    def take(self, name: str) -> object:
        """The value, None where it is absent."""
        return self._document.pop(name, None)

    def text(self, name: str, *, default: str = "", longest: int = 2048) -> str:
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, str):
            self.refuse(name, "must be text")
        elif len(value) > longest:
            self.refuse(name, f"must be at most {longest} characters")
        elif "\0" in value:
            self.refuse(name, "must not contain a NUL character")
        else:
            return value
        return default

    def number(self, name: str, low: float, high: float) -> float | None:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.refuse(name, f"must be a number from {low:g} to {high:g}")
            return None
        return value

    def finish(self) -> None:
        """Refuse what nobody asked for."""
        for name in self._document:
            self.refuse(name if _NAMEABLE.fullmatch(name) else "", "is not a known field")
