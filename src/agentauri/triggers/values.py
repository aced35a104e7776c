"""The values of conditions: each is checked for its field and brought into the text that is stored."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NoReturn

import re2
from eth_hash.auto import keccak

from agentauri.errors import FieldError
from agentauri.triggers.fields import ADDRESSES, Field, Kind

MAX_TEXT, MAX_PATTERN, MAX_DIGITS = 1000, 512, 78
MAX_AGENT_ID = 2**256 - 1

EQUALITY = frozenset({"eq", "ne"})
ORDER = frozenset({"lt", "lte", "gt", "gte"})
SETS = frozenset({"in", "not_in"})
TEXT = frozenset({"contains", "starts_with", "ends_with", "regex"})

_DECIMAL = re.compile(r"-?[0-9]{1,78}(\.[0-9]{1,78})?\Z")
_INTEGER = re.compile(r"(0|[1-9][0-9]{0,77})\Z")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}\Z")
_HASH_OR_ADDRESS = re.compile(r"0x([0-9a-fA-F]{40}|[0-9a-fA-F]{64})\Z")


def value_reader(field: Field, operator: str, *, whole: bool) -> Callable[[object], str]:
    """Checks one value for this field and gives its text."""
    if operator == "regex":
        return _pattern
    if field.kind is Kind.NUMBER:
        return whole_number if whole else decimal_text
    if field.open:
        return _scalar
    if field.column in ADDRESSES and (operator in EQUALITY or operator in SETS):
        return _address
    return _text


def decimal_text(value: object) -> str:
    text = _plain(value)
    if text is None or not _DECIMAL.match(text) or sum(map(str.isdigit, text)) > MAX_DIGITS:
        refuse("value", f"must be a decimal number of at most {MAX_DIGITS} digits")
    return text


def whole_number(value: object) -> str:
    text = _plain(value)
    if text is None or not _INTEGER.match(text) or int(text) > MAX_AGENT_ID:
        refuse("value", "must be a whole number from 0 to 2^256-1")
    return text


def _plain(value: object) -> str | None:
    """The text of a JSON number, or of a string that may hold one."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        value = Decimal(repr(value))
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) <= MAX_DIGITS:
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    return str(value) if isinstance(value, int) and abs(value) <= 10**MAX_DIGITS else None


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not storable(value):
        refuse("value", f"must be text of at most {MAX_TEXT} characters")
    return value


def _scalar(value: object) -> str:
    """A value for a field whose type nobody knows beforehand."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return _text(_plain(value) if isinstance(value, int | float | Decimal) else value)


def _address(value: object) -> str:
    text = _text(value)
    digits = text[2:]
    if _ADDRESS.match(text) and digits not in (digits.lower(), digits.upper()):
        mask = keccak(digits.lower().encode()).hex()
        if digits != "".join(c.upper() if m >= "8" else c for c, m in zip(digits.lower(), mask, strict=False)):
            refuse("value", "has the wrong checksum for its mixed case; send it in lower case or correct it")
    return text


def _pattern(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_PATTERN or not storable(value):
        refuse("value", f"must be a pattern of 1 to {MAX_PATTERN} characters")
    try:
        compile_pattern(value, folded=False)
    except re2.error:
        refuse("value", "must be a regular expression in RE2 syntax (no look-around, no back-references)")
    return value


def compile_pattern(pattern: str, *, folded: bool) -> Any:
    """A search of linear time, whatever the pattern."""
    options = re2.Options()
    options.log_errors = False
    options.case_sensitive = not folded
    return re2.compile(pattern, options=options)


def boolean(value: object) -> str:
    if value is None or value is True or value == "true":
        text = "true"
    elif value is False or value == "false":
        text = "false"
    else:
        refuse("value", "must be true or false")
    return text


def open_hex(field: Field, operator: str, values: list[str]) -> bool:
    """Arguments have no declared type; one that is compared with an address or a hash is taken for one."""
    exact = operator in EQUALITY or operator in SETS
    return field.open and exact and all(_HASH_OR_ADDRESS.match(value) for value in values)


def storable(text: str) -> bool:
    """PostgreSQL stores neither NUL nor half of a surrogate pair."""
    if text.isascii():
        return "\x00" not in text
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def refuse(field: str, message: str) -> NoReturn:
    raise FieldError(field, message)
