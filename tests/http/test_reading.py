"""Bodies and queries become structs, or refusals that say what to change and repeat nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import pytest
from msgspec import UNSET, Meta, Struct, UnsetType

from agentauri.errors import Invalid
from agentauri.http.errors import Malformed
from agentauri.http.reading import Aliased, parse, read_body, read_query


class Wheel(Struct, forbid_unknown_fields=True, kw_only=True):
    size: Annotated[int, Meta(ge=1, le=30)]
    spokes: list[str] = []


class Car(Struct, forbid_unknown_fields=True, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=5)]
    colour: Literal["red", "blue"] = "red"
    wheels: list[Wheel] = []
    spare: Wheel | None = None
    sold: bool | UnsetType = UNSET
    notes: dict[str, Any] = {}


class Search(Aliased, frozen=True, kw_only=True):
    aliases: ClassVar[Mapping[str, str]] = {"colourName": "colour"}

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    colour: tuple[Literal["red", "blue"], ...] = ()
    sold: bool | None = None
    name: str | None = None


def refusals(body: object) -> dict[str, str]:
    with pytest.raises(Invalid) as refused:
        read_body(body if isinstance(body, bytes) else msgspec.json.encode(body), Car)
    return {error.field: error.message for error in refused.value.errors}


def query_refusals(query: bytes) -> dict[str, str]:
    with pytest.raises(Invalid) as refused:
        read_query(query, Search)
    return {error.field: error.message for error in refused.value.errors}


def test_a_body_becomes_its_struct() -> None:
    car = read_body(b'{"name": "Uno", "wheels": [{"size": 14}], "notes": {"a": [1, null]}}', Car)
    assert (car.name, car.wheels[0].size, car.sold, car.notes) == ("Uno", 14, UNSET, {"a": [1, None]})


def test_every_refused_field_is_named_at_once_with_its_rule() -> None:
    body = {"name": "", "colour": "green", "wheels": [{"size": 14}, {"size": 31, "spokes": ["a", 2]}], "sold": 1}
    assert refusals(body) == {
        "name": "must be text of 1 to 5 characters",
        "colour": "must be one of blue, red",
        "wheels[1].size": "must be a whole number from 1 to 30",
        "wheels[1].spokes[1]": "must be text",
        "sold": "must be true or false",
    }


def test_what_is_missing_and_what_is_too_much_are_named() -> None:
    assert refusals({"spare": {"size": 1, "rim": 2}, "extra": 1}) == {
        "name": "is required",
        "spare.rim": "is not a field of this object",
        "extra": "is not a field of this object",
    }


def test_an_unknown_field_is_named_only_when_its_name_is_plain() -> None:
    assert refusals({"name": "a", "<script>": 1}) == {"": "holds an unknown field"}


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"text"'])
def test_a_body_must_be_an_object(body: bytes) -> None:
    assert refusals(body) == {"": "must be an object"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"name": "a"} {}',
        b'{"name": "a",}',
        b"{'name': 'a'}",
        b'{"name": "\xff"}',
        b'\xef\xbb\xbf{"name": "a"}',
        b'{"name": "a", "name": "b"}',
        b'{"name": "a", "notes": {"x": 1, "x": 1}}',
        b'{"name": "\\ud800"}',
        b'{"name": "a", "notes": {"\\udfff": 1}}',
        b'{"name": NaN}',
        b'{"name": -Infinity}',
        b'{"name": 1e400}',
        b'{"name": 1e-400}',
        b'{"name": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"]" * 100,
    ],
)
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        read_body(body, Car)


def test_json_nests_at_most_32_levels() -> None:
    assert parse(b"[" * 32 + b"]" * 32)
    with pytest.raises(Malformed, match="nests deeper"):
        parse(b"[" * 33 + b"]" * 33)


def test_brackets_in_text_do_not_nest() -> None:
    text = '[{"\\' * 100
    assert parse(msgspec.json.encode([text, [[text]]])) == [text, [[text]]]


def test_a_large_body_full_of_brackets_is_read_in_time_that_grows_with_it() -> None:
    body = b"[" + b",".join([b'{"a":[{}]}'] * 20_000) + b"]"
    started = time.process_time()
    parse(body)
    assert time.process_time() - started < 2  # far from what backtracking would take


def test_nul_and_endless_integers_are_refused_by_path() -> None:
    body = b'{"name": "a\\u0000", "notes": {"n": [1, ' + b"9" * 400 + b'], "k\\u0000": 1}}'
    assert refusals(body) == {
        "name": "must not hold NUL",
        "notes.n[1]": "must have at most 78 digits",
        "notes": "must not hold NUL",
    }


def test_a_surrogate_pair_is_a_character() -> None:
    assert read_body(b'{"name": "\\ud83d\\ude00"}', Car).name == "😀"


def test_a_number_is_a_double_only_where_that_says_the_same() -> None:
    assert parse(b"[99.77, 0.1234567890123456789]") == [99.77, Decimal("0.1234567890123456789")]


def test_no_refusal_repeats_what_was_sent() -> None:
    canary = "canary-4711"
    body = {"name": canary, "colour": canary, "wheels": [{"size": canary, canary: 1}], "spare": canary, "sold": canary}
    assert canary not in repr(refusals(body))


def test_a_query_becomes_its_struct() -> None:
    search = read_query(b"limit=5&colour=red&colourName=blue&sold=true&unknown=1&name=%C3%BC%20x", Search)
    assert search == Search(limit=5, colour=("red", "blue"), sold=True, name="ü x")


def test_refused_parameters_are_named() -> None:
    assert query_refusals(b"limit=-1&colour=red&colour=pink&sold=maybe") == {
        "query.limit": "must be a whole number from 1 to 100",
        "query.colour[1]": "must be one of blue, red",
        "query.sold": "must be true or false",
    }


def test_a_parameter_given_twice_and_nul_are_refused() -> None:
    assert query_refusals(b"limit=1&limit=2&name=%00") == {
        "query.limit": "must be given once",
        "query.name": "must not hold NUL",
    }


def test_a_query_of_endless_parameters_is_malformed() -> None:
    with pytest.raises(Malformed):
        read_query(b"&".join([b"a=1"] * 1000), Search)
