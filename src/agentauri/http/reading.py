"""From bytes and query strings to structs, with refusals in our own words.

The decoder's messages quote what was sent, so none is passed on: the rule that a refused field breaks is read off the
field's type. All refused fields are named at once. What the syntax itself gets wrong is `Malformed`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import cache
from typing import Any, ClassVar, NoReturn, TypeVar, get_type_hints
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct
from msgspec import inspect as shapes

from agentauri.errors import FieldError, Invalid
from agentauri.http.errors import Malformed

T = TypeVar("T", bound=Struct)

MAX_DEPTH = 32
MAX_DIGITS = 78
"""Those of 2^256 - 1."""
LARGEST_EXPONENT = 308
MAX_PARAMETERS = 500

REFUSALS = (msgspec.ValidationError, ValueError)
"""The second for Unix seconds beyond the year 9999, which the decoder lets through to the calendar."""

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_BRACES = bytes.maketrans(b"{}", b"[]")
_SUSPECT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])|[0-9]{%d}" % (MAX_DIGITS + 1))
_NAMEABLE = re.compile(r"[A-Za-z0-9_]{1,64}")
_INNER_PATH = re.compile(r" - at `\$(.*)`$")


class Aliased(Struct, frozen=True):
    """A query whose parameters go by other names, too."""

    aliases: ClassVar[Mapping[str, str]] = {}


def read_body(body: bytes, shape: type[T]) -> T:
    """
    Raises:
        Malformed: not JSON, a name given twice, or nested too deep.
        Invalid: fields of it are refused.
    """
    return fit(parse(body), shape)


def read_query(query: bytes, shape: type[T]) -> T:
    """Parameters as the struct's fields; unknown ones are ignored, a list is a parameter given several times.

    Raises:
        Malformed: it cannot be split into parameters.
        Invalid: parameters are refused.
    """
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError as error:
        raise Malformed("The query has too many parameters.") from error
    given: dict[str, list[str]] = {}
    aliases = shape.aliases if issubclass(shape, Aliased) else {}
    for name, value in pairs:
        given.setdefault(aliases.get(name, name), []).append(value)
    raw: dict[str, object] = {}
    refused = []
    for field in _fields(shape):
        values = given.get(field.encode_name, [])
        if any("\0" in value for value in values):
            refused.append(FieldError(field.encode_name, "must not hold NUL"))
        elif _takes_list(field.type):
            raw |= {field.encode_name: values} if values else {}
        elif len(values) > 1:
            refused.append(FieldError(field.encode_name, "must be given once"))
        elif values and values[0].lower() == "null" and not _takes_text(field.type):
            refused.append(FieldError(field.encode_name, _rule(_without_null(field.type))))  # the decoder would take it
        elif values:
            raw[field.encode_name] = values[0]
    if refused:
        raise Invalid.fields(*(error.under("query") for error in refused))
    return fit(raw, shape, strict=False, prefix="query")


def parse(body: bytes) -> object:
    """JSON as plain values."""
    if _too_deep(body):
        raise Malformed(f"The JSON nests deeper than {MAX_DEPTH} levels, or its brackets do not match.")
    try:
        value = _decoder.decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise Malformed("The body is not well-formed JSON in UTF-8.") from error
    if _SUSPECT.search(body) and (refused := list(_unfit(value, ""))):
        raise Invalid.fields(*refused)
    return value


def fit(raw: object, shape: type[T], *, strict: bool = True, prefix: str = "") -> T:
    """Plain values as a struct."""
    try:
        return msgspec.convert(raw, shape, strict=strict)
    except REFUSALS:
        refused = list(_refusals(raw, shape, strict=strict))
    raise Invalid.fields(*(error.under(prefix) if prefix else error for error in refused))


def _too_deep(body: bytes) -> bool:
    """Looked at before the decoder runs: each pass takes the innermost level away."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", body).translate(_BRACES, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name is given twice")
    return value


def _number(text: str) -> float | Decimal:
    """The double where it says what was sent, else the decimal itself."""
    number, exact = float(text), Decimal(text)
    if not math.isfinite(number) or abs(exact.adjusted()) > LARGEST_EXPONENT:
        raise ValueError("out of range")
    return number if Decimal(repr(number)) == exact else exact


def _refuse(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_number, parse_constant=_refuse)


def _unfit(value: object, path: str) -> Iterator[FieldError]:
    """What JSON can say and we do not take: NUL, integers beyond any of the chain's; half a character is no text."""
    match value:
        case str():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise Malformed("The body holds an unpaired surrogate.") from error
            if "\0" in value:
                yield FieldError(path, "must not hold NUL")
        case int() if abs(value) >= 10**MAX_DIGITS:
            yield FieldError(path, f"must have at most {MAX_DIGITS} digits")
        case dict():
            for name, item in value.items():
                inner = f"{path}.{name}" if path else name
                yield from _unfit(name, path)
                yield from _unfit(item, inner if _NAMEABLE.fullmatch(name) else path)
        case list():
            for place, item in enumerate(value):
                yield from _unfit(item, f"{path}[{place}]")


def _refusals(raw: object, shape: type[Struct], *, strict: bool) -> Iterator[FieldError]:
    """Why `raw` is not a `shape`, field by field."""
    if not isinstance(raw, dict):
        yield FieldError("", "must be an object")
        return
    fields = _fields(shape)
    types = get_type_hints(shape, include_extras=True)
    names = {field.encode_name for field in fields}
    for name in raw.keys() - names:
        known = isinstance(name, str) and _NAMEABLE.fullmatch(name)
        yield FieldError(name if known else "", "is not a field of this object" if known else "holds an unknown field")
    for field in fields:
        if field.encode_name not in raw:
            if field.required:
                yield FieldError(field.encode_name, "is required")
            continue
        value = raw[field.encode_name]
        try:
            msgspec.convert(value, types[field.name], strict=strict)
        except REFUSALS as error:
            for refusal in _refusals_within(value, field.type, str(error), strict=strict):
                yield refusal.under(field.encode_name)


def _refusals_within(value: object, shape: shapes.Type, message: str, *, strict: bool) -> Iterator[FieldError]:
    """Why the value of one field is refused; `message` is the decoder's, of which only the path is used."""
    match _without_null(shape):
        case shapes.StructType(cls=inner):
            yield from _refusals(value, inner, strict=strict)
        case (
            shapes.ListType(item_type=shapes.StructType(cls=inner))
            | shapes.VarTupleType(item_type=shapes.StructType(cls=inner))
        ) if isinstance(value, list):
            for place, item in enumerate(value):
                for refusal in _refusals(item, inner, strict=strict):
                    yield refusal.under(f"[{place}]")
        case plain:
            inner_path = _INNER_PATH.search(message)
            yield FieldError(inner_path[1].lstrip(".") if inner_path else "", _rule(plain, inside=bool(inner_path)))


def _rule(shape: shapes.Type, *, inside: bool = False) -> str:
    """The rule that a type stands for; of its items when the refused value is one of them."""
    match shape:
        case shapes.ListType() | shapes.VarTupleType() | shapes.SetType() if inside:
            return _rule(shape.item_type)
        case shapes.IntType():
            return f"must be a whole number{_bounds(shape.ge, shape.le, 'from')}"
        case shapes.FloatType():
            return f"must be a number{_bounds(shape.ge, shape.le, 'from')}"
        case shapes.StrType():
            form = " of the documented form" if shape.pattern else ""
            length = _bounds(shape.min_length, shape.max_length)
            return f"must be text{form}{length and length + ' characters'}"
        case shapes.BoolType():
            return "must be true or false"
        case shapes.LiteralType():
            return f"must be one of {', '.join(map(str, shape.values))}"
        case shapes.EnumType():
            return f"must be one of {', '.join(str(member.value) for member in shape.cls)}"
        case shapes.DateTimeType():
            return "must be a time with its zone, such as 2026-01-31T12:00:00Z, or Unix seconds"
        case shapes.ListType() | shapes.VarTupleType() | shapes.SetType():
            return f"must be a list{_bounds(shape.min_length, shape.max_length)}"
        case shapes.DictType() | shapes.StructType():
            return "must be an object"
        case shapes.UnionType():
            rules = [_rule(kind).removeprefix("must be ") for kind in shape.types if not _is_null(kind)]
            return f"must be {' or '.join(rules)}"
        case _:
            return "is not of the documented form"


def _bounds(low: float | None, high: float | None, between: str = "of") -> str:
    match low, high:
        case None, None:
            return ""
        case _, None:
            return f" of at least {low}"
        case None, _:
            return f" of at most {high}"
        case _:
            return f" {between} {low} to {high}"


@cache
def _fields(shape: type[Struct]) -> tuple[shapes.Field, ...]:
    described = shapes.type_info(shape)
    assert isinstance(described, shapes.StructType)
    return described.fields


def _is_null(shape: shapes.Type) -> bool:
    return isinstance(shape, shapes.NoneType)


def _without_null(shape: shapes.Type) -> shapes.Type:
    if not isinstance(shape, shapes.UnionType):
        return shape
    kinds = [kind for kind in shape.types if not _is_null(kind)]
    return kinds[0] if len(kinds) == 1 else shape


def _takes_text(shape: shapes.Type) -> bool:
    return isinstance(_without_null(shape), shapes.StrType)


def _takes_list(shape: shapes.Type) -> bool:
    return isinstance(_without_null(shape), shapes.ListType | shapes.VarTupleType)
