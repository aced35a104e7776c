"""What a template can do to a value, and how a value reads as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from urllib.parse import quote

import msgspec

Filter = Callable[[object], object]

_EXACT = Context(prec=200, rounding=ROUND_HALF_EVEN)  # a uint256 has 78 digits; the default context would round it
_DATE_DIRECTIVES = re.compile(r"(?:[^%]|%[YmdHMSyjbBaApIZ%])*")
_encoder = msgspec.json.Encoder(decimal_format="number")


class TemplateError(Exception):
    """A template that is refused. The position counts characters from 1."""

    def __init__(self, message: str, at: int | None = None) -> None:
        super().__init__(message if at is None else f"{message} at character {at + 1}")


class UnixTime(int):
    """Seconds that are a moment: a number in JSON, a date in text."""


class Encoded(str):
    """Text that is percent-encoded already. JSON does not know it: make it `str` first."""

    __slots__ = ()


def text(value: object) -> str:
    """How a value reads: decimals plain, lists comma-separated, objects as JSON, None as `null`."""
    if isinstance(value, str):
        return value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, UnixTime):
        return f"{_moment(value):%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, list | tuple):
        return ",".join(text(item) for item in value)
    if isinstance(value, Mapping):
        return _encoder.encode(value).decode()
    return str(value)


def plain(value: Decimal) -> str:
    """No exponent, no trailing zeros."""
    written = format(value, "f")
    written = written.rstrip("0").rstrip(".") if "." in written else written
    return "0" if written == "-0" else written


def iso(moment: datetime) -> str:
    """RFC 3339 in UTC, with milliseconds where there are any."""
    utc = moment.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds" if utc.microsecond else "seconds").replace("+00:00", "Z")


def make_filter(name: str, argument: str | None, at: int) -> Filter:
    """
    Raises:
        TemplateError: no such filter, or not with this argument.
    """
    if name in _PLAIN:
        if argument is not None:
            raise TemplateError("a filter that takes no argument has one", at)
        return _unless_none(_PLAIN[name])
    if name not in _WITH_ARGUMENT:
        raise TemplateError("an unknown filter", at)
    if argument is None:
        raise TemplateError("a filter misses its argument", at)
    try:
        return _WITH_ARGUMENT[name](argument)
    except ValueError as error:
        raise TemplateError(str(error), at) from error


def _unless_none(apply: Filter) -> Filter:
    return lambda value: None if value is None else apply(value)


def _moment(value: object) -> datetime | None:
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    number = _number(value)
    try:
        return None if number is None else datetime.fromtimestamp(int(number), UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _number(value: object) -> Decimal | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | Decimal):
        return Decimal(value)
    if not isinstance(value, str | float):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number.adjusted()) < 150 else None


def _short(value: object) -> str:
    whole = text(value)
    return whole if len(whole) <= 11 else f"{whole[:6]}…{whole[-4:]}"


def _iso(value: object) -> object:
    moment = _moment(value)
    return value if moment is None else iso(moment)


def _unix(value: object) -> object:
    moment = _moment(value)
    return value if moment is None else int(moment.timestamp())


def _amount(argument: str, low: int, high: int) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", argument) or not low <= int(argument) <= high:
        raise ValueError(f"a filter takes a number from {low} to {high}")
    return int(argument)


def _default(argument: str) -> Filter:
    return lambda value: argument if value is None else value


def _truncate(argument: str) -> Filter:
    length = _amount(argument, 1, 100_000)

    def cut(value: object) -> str:
        whole = text(value)
        return whole if len(whole) <= length else whole[: length - 1] + "…"

    return _unless_none(cut)


def _fixed(argument: str) -> Filter:
    step = Decimal(1).scaleb(-_amount(argument, 0, 30))

    def fix(value: object) -> object:
        number = _number(value)
        return value if number is None else format(number.quantize(step, context=_EXACT), "f")

    return _unless_none(fix)


def _scale(argument: str) -> Filter:
    power = -_amount(argument, 0, 100)

    def shift(value: object) -> object:
        number = _number(value)
        return value if number is None else number.scaleb(power, context=_EXACT)

    return _unless_none(shift)


def _date(argument: str) -> Filter:
    if not argument or not _DATE_DIRECTIVES.fullmatch(argument):
        raise ValueError("a date format takes text and the directives Y m d H M S y j b B a A p I Z")

    def write(value: object) -> object:
        moment = _moment(value)
        return value if moment is None else moment.strftime(argument)

    return _unless_none(write)


_PLAIN: dict[str, Filter] = {
    "upper": lambda value: text(value).upper(),
    "lower": lambda value: text(value).lower(),
    "short": _short,
    "iso": _iso,
    "unix": _unix,
    "json": lambda value: _encoder.encode(_jsonable(value)).decode(),
    "string": lambda value: str(text(value)),
    "urlencode": lambda value: Encoded(quote(text(value), safe="")),
}
_WITH_ARGUMENT: dict[str, Callable[[str], Filter]] = {
    "default": _default,
    "truncate": _truncate,
    "number": _fixed,
    "scale": _scale,
    "date": _date,
}


def _jsonable(value: object) -> object:
    return value if isinstance(value, int | Decimal | float | dict | list) else str(text(value))
