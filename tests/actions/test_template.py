from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentauri.actions.filters import TemplateError, UnixTime
from agentauri.actions.template import (
    EVENT_NAMES,
    HEADER,
    HTML,
    JSON_STRING,
    NAMES,
    TEXT,
    URL,
    Sink,
    compile_json,
    compile_text,
)
from agentauri.database import Database

VALUES: dict[str, object] = {
    "score": Decimal(85),
    "agent_id": 42,
    "tag1": "a*b",
    "tag2": None,
    "timestamp": UnixTime(1702425600),
    "owner": "0x1234567890abcdef1234567890abcdef1234abcd",
    "value_raw": 10**38,
    "args": {"agentId": "42", "list": ["a", 2]},
    "context": {"leaves": {"3": {"ema": 81.64, "count": 4}, "7": {"sum": 9}}},
    "matched_at": datetime(2026, 1, 1, 0, 0, 0, 123_000, UTC),
    "data": b"\x01\xff",
}


def text(source: str, sink: Sink = TEXT, **more: object) -> str:
    return compile_text(source, sink).render(VALUES | more)


@pytest.mark.parametrize(
    ("source", "rendered"),
    [
        ("Agent {{agent_id}}: {{ score }}", "Agent 42: 85"),
        ("{{timestamp}}", "2023-12-13 00:00:00 UTC"),
        ("{{timestamp | iso}}", "2023-12-13T00:00:00Z"),
        ("{{timestamp | unix}}", "1702425600"),
        ("{{timestamp | date:%d.%m.%Y}}", "13.12.2023"),
        ("{{tag2}}", "null"),
        ("{{tag2 | default:none}}", "none"),
        ("{{tag2 | upper | default:none}}", "none"),
        ("{{tag1 | upper}}", "A*B"),
        ("{{owner | short}}", "0x1234…abcd"),
        ("{{owner | truncate:5}}", "0x12…"),
        ("{{score | number:2}}", "85.00"),
        ("{{value_raw | scale:38}}", "1"),
        ("{{value_raw}}", "1" + "0" * 38),
        ("{{args.agentId}}", "42"),
        ("{{args.missing}}", "null"),
        ("{{args.list}}", "a,2"),
        ("{{args}}", '{"agentId":"42","list":["a",2]}'),
        ("{{context.ema}} {{context.sum}}", "81.64 9"),
        ("{{context.leaves.3.count}}", "4"),
        ("{{matched_at}}", "2026-01-01T00:00:00.123Z"),
        ("{{data}}", "0x01ff"),
        ("{{tag1 | json}}", '"a*b"'),
        ("a }} b", "a }} b"),
        ("", ""),
    ],
)
def test_a_template_is_filled_in(source: str, rendered: str) -> None:
    assert text(source) == rendered


@pytest.mark.parametrize(
    ("value", "rendered"),
    [
        (Decimal("99.770"), "99.77"),
        (Decimal("1E+3"), "1000"),
        (Decimal("-0.0"), "0"),
        (Decimal("0.000000000000000001"), "0.000000000000000001"),
        (Decimal(f"{10**77}.5"), f"{10**77}.5"),
    ],
)
def test_decimals_are_plain(value: Decimal, rendered: str) -> None:
    assert text("{{score}}", score=value) == rendered


def test_numbers_are_rounded_half_to_even() -> None:
    assert [text("{{score | number:1}}", score=Decimal(number)) for number in ("0.25", "0.35", "-0.25")] == [
        "0.2",
        "0.4",
        "-0.2",
    ]


def test_a_value_is_never_expanded_again() -> None:
    assert text("{{tag1}}", tag1="{{score}}") == "{{score}}"


@pytest.mark.parametrize(
    ("sink", "value", "rendered"),
    [
        (URL, "a*b", "a%2Ab"),
        (URL, "../x?y=1&z#", "..%2Fx%3Fy%3D1%26z%23"),
        (HTML, "a*b", "a*b"),
        (HTML, "<b>'\"&", "&lt;b&gt;&#x27;&quot;&amp;"),
        (HEADER, "a\r\nX-Evil: 1\0", "aX-Evil: 1"),
        (JSON_STRING, '"},{"', '\\"},{\\"'),
        (TEXT, "a*b", "a*b"),
    ],
)
def test_values_are_escaped_for_their_sink(sink: Sink, value: str, rendered: str) -> None:
    assert text("{{tag1}}", sink, tag1=value) == rendered


def test_a_sink_may_escape_what_the_author_wrote_too() -> None:
    markdown = Sink(value=lambda value: value.replace("*", "\\*"), static=lambda written: written.replace("!", "\\!"))

    assert text("Done! {{tag1}}", markdown) == "Done\\! a\\*b"


def test_urlencode_is_text_like_any_other_in_json() -> None:
    assert rendered_json({"a": "{{tag1 | urlencode}}", "b": "{{tag1 | urlencode | json}}"}, tag1="a b") == {
        "a": "a%20b",
        "b": '"a%20b"',
    }
    assert text("{{tag1 | urlencode}}", JSON_STRING, tag1="a b") == "a%20b"


def test_urlencode_in_a_url_encodes_once() -> None:
    assert text("{{tag1 | urlencode}}", URL, tag1="a b") == "a%20b"
    assert text("{{tag1 | urlencode}}", TEXT, tag1="a b") == "a%20b"


@pytest.mark.parametrize(
    ("source", "position"),
    [
        ("{{nope}}", 1),
        ("ab {{ nope }}", 4),
        ("{{}}", 1),
        ("{{score", 1),
        ("{{score | nope}}", 1),
        ("{{score | number}}", 1),
        ("{{score | number:x}}", 1),
        ("{{score | number:31}}", 1),
        ("{{score | upper:x}}", 1),
        ("{{score | date:%s}}", 1),
        ("{{args.}}", 1),
        ("{{context.leaves.x.y}}", 1),
        ("{{__class__}}", 1),
    ],
)
def test_what_is_unknown_is_refused_with_its_position(source: str, position: int) -> None:
    with pytest.raises(TemplateError, match=f"at character {position}$"):
        compile_text(source, TEXT)


def test_a_long_template_is_refused() -> None:
    with pytest.raises(TemplateError, match="16 KiB"):
        compile_text("x" * 16_385, TEXT)
    with pytest.raises(TemplateError, match="16 KiB"):
        compile_json({"x": "y" * 16_384})


def rendered_json(document: object, **more: object) -> object:
    return json.loads(compile_json(document).render(VALUES | more))


def test_a_string_that_is_one_placeholder_takes_the_values_type() -> None:
    template = {"s": "{{score}}", "t": "x{{score}}", "z": "007", "n": "12", "l": [1, None, "{{args.list}}"]}

    assert compile_json(template).render(VALUES) == b'{"s":85,"t":"x85","z":"007","n":"12","l":[1,null,["a",2]]}'


@pytest.mark.parametrize(
    ("template", "values", "rendered"),
    [
        ("{{score}}", {"score": Decimal("99.77")}, b"99.77"),
        ("{{score | string}}", {"score": Decimal("99.77")}, b'"99.77"'),
        ("{{value_raw}}", {"value_raw": 2**53}, b"9007199254740992"),
        ("{{value_raw}}", {"value_raw": 2**53 + 1}, b'"9007199254740993"'),
        ("{{score}}", {"score": Decimal(10**38)}, b'"1' + b"0" * 38 + b'"'),
        ("{{tag2}}", {}, b"null"),
        ("{{timestamp}}", {}, b"1702425600"),
        ("{{matched_at}}", {}, b'"2026-01-01T00:00:00.123Z"'),
    ],
)
def test_json_keeps_numbers_that_survive_a_double(template: str, values: dict[str, object], rendered: bytes) -> None:
    assert compile_json(template).render(VALUES | values) == rendered


@given(st.text())
def test_hostile_text_never_breaks_json(value: str) -> None:
    values = {**VALUES, "tag1": value}
    assert json.loads(compile_json({"whole": "{{tag1}}", "part": "<{{tag1}}>"}).render(values)) == {
        "whole": value,
        "part": f"<{value}>",
    }
    assert json.loads('{"t":"' + compile_text("{{tag1}}", JSON_STRING).render(values) + '"}') == {"t": value}


HOSTILE = st.one_of(st.text(), st.text(alphabet="<>&\"'=/\\{}[],:% \r\n\0a"))


class Page(HTMLParser):
    """What a browser would make of it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(HOSTILE)
def test_hostile_text_never_leaves_its_place_in_html(value: str) -> None:
    page = Page()

    page.feed(text("<p title=\"{{tag1}}\" class='{{tag1}}'>{{tag1}}</p>", HTML, tag1=value))
    page.close()

    assert page.tags == [("p", [("title", value), ("class", value)])]
    assert page.text == value


@given(HOSTILE)
def test_hostile_text_never_leaves_its_part_of_a_url_or_a_form(value: str) -> None:
    rendered = text("https://x.example/a/{{tag1}}/b?q={{tag1}}&r=1", URL, tag1=value)

    parts = urlsplit(rendered)
    assert (parts.netloc, parts.fragment, parts.path.count("/")) == ("x.example", "", 3)
    assert parse_qsl(parts.query, keep_blank_values=True) == [("q", value), ("r", "1")]


@given(
    HOSTILE,
    st.sampled_from(["upper", "lower", "short", "truncate:5", "json", "string", "default:x", "urlencode", "number:2"]),
)
def test_no_filter_lets_text_out(value: str, name: str) -> None:
    values = {**VALUES, "tag1": value, "args": {"x": [value]}}

    document = json.loads(compile_json({"a": f"{{{{tag1 | {name}}}}}", "b": f"-{{{{args | {name}}}}}"}).render(values))
    (inner,) = json.loads('["' + compile_text(f"{{{{tag1 | {name}}}}}", JSON_STRING).render(values) + '"]')
    header = compile_text(f"{{{{args.x | {name}}}}}", HEADER).render(values)

    assert list(document) == ["a", "b"]
    assert document["b"].startswith("-")
    assert isinstance(inner, str)
    assert not set("\r\n\0") & set(header)


@given(st.text())
def test_hostile_text_never_leaves_a_header(value: str) -> None:
    rendered = text("{{tag1}}", HEADER, tag1=value)

    assert not set("\r\n\0") & set(rendered)


@given(
    st.sampled_from(
        ["upper", "short", "truncate:3", "number:2", "scale:18", "iso", "unix", "json", "urlencode", "date:%Y"]
    ),
    st.one_of(
        st.none(), st.text(), st.integers(), st.decimals(allow_nan=False, allow_infinity=False, places=5), st.booleans()
    ),
)
def test_every_filter_takes_every_value(name: str, value: object) -> None:
    assert isinstance(text(f"{{{{tag1 | {name}}}}}", tag1=value), str)


async def test_every_column_of_an_event_is_a_name(database: Database) -> None:
    async with database.transaction() as tx:
        columns = await tx.fetch("SELECT column_name FROM information_schema.columns WHERE table_name = 'events'")

    assert {row["column_name"] for row in columns} == EVENT_NAMES
    assert {"agent_uri", "feedback_uri", "feedback_hash", "value", "event_id", "chain_name"} <= NAMES
