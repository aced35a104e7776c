"""Templates: `{{ name | filter:argument }}` in text, or in the strings of a JSON document.

A template is compiled when it is written, where an unknown name or filter is refused with its position, and rendered in
one pass: a value is never expanded again. How values and the template's own text are escaped is the sink's matter, and
nothing in a template can switch it off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from html import escape as escape_html
from urllib.parse import quote

import msgspec
from msgspec import Struct

from agentauri.actions.filters import Encoded, Filter, TemplateError, make_filter, plain, text

MAX_LENGTH = 16 * 1024
EXACT_INTEGER = 2**53

EVENT_NAMES = frozenset({
    "seq", "id", "chain_id", "block_number", "block_hash", "transaction_hash", "transaction_index", "log_index",
    "registry", "event_type", "timestamp", "contract_address", "agent_id", "owner", "token_uri", "metadata_key",
    "metadata_value", "client_address", "feedback_index", "tag1", "tag2", "tag", "endpoint", "file_uri",
    "file_hash", "responder", "response", "response_uri", "response_hash", "validator_address", "request_uri",
    "request_hash", "value_raw", "value_decimals", "score", "args", "topics", "data", "origin", "epoch",
    "retracted_at", "settled_at", "created_at",
})  # fmt: skip
ALIASES = {"agent_uri": "token_uri", "feedback_uri": "file_uri", "feedback_hash": "file_hash", "value": "score"}
DELIVERY_NAMES = frozenset({
    "event_id", "chain_name", "explorer_url", "trigger_id", "trigger_name", "organization_id", "delivery_id",
    "correlation_id", "kind", "matched_at",
})  # fmt: skip
NAMES = EVENT_NAMES | ALIASES.keys() | DELIVERY_NAMES
_DOTTED = re.compile(r"args\.\w{1,64}|context\.\w{1,64}|context\.leaves\.\d{1,9}\.\w{1,64}", re.ASCII)
_OPEN = re.compile(r"\{\{|\}\}")

Values = Mapping[str, object]
Escape = Callable[[str], str]


class Sink(Struct, frozen=True):
    """Where the text ends up: `value` escapes what is filled in, `static` what the template's author wrote."""

    value: Escape
    static: Escape = lambda written: written


def _url(value: str) -> str:
    return value if isinstance(value, Encoded) else quote(value, safe="")


def _json_string(value: str) -> str:
    return msgspec.json.encode(str(value))[1:-1].decode()


TEXT = Sink(value=lambda value: value)
URL = Sink(value=_url)
HEADER = Sink(value=lambda value: value if value.isprintable() else re.sub(r"[\r\n\0]", "", value))
JSON_STRING = Sink(value=_json_string)
HTML = Sink(value=escape_html)


class Placeholder(Struct, frozen=True):
    name: str
    filters: tuple[Filter, ...] = ()

    def value(self, values: Values) -> object:
        found = lookup(self.name, values)
        for apply in self.filters:
            found = apply(found)
        return found


class Template(Struct, frozen=True):
    """Compiled text: escaped static pieces and placeholders, in order."""

    parts: tuple[str | Placeholder, ...]
    escape: Escape

    def render(self, values: Values) -> str:
        escape = self.escape
        return "".join([part if isinstance(part, str) else escape(text(part.value(values))) for part in self.parts])

    @property
    def fixed(self) -> bool:
        """It has no placeholder."""
        return all(isinstance(part, str) for part in self.parts)

    @property
    def whole(self) -> Placeholder | None:
        """The placeholder, where the template is exactly one and nothing else."""
        match self.parts:
            case (Placeholder() as only,):
                return only
        return None


def compile_text(source: str, sink: Sink) -> Template:
    """
    Raises:
        TemplateError: too long, unbalanced braces, an unknown name or filter; names the character.
    """
    if len(source.encode()) > MAX_LENGTH:
        raise TemplateError("is longer than 16 KiB")
    return Template(
        tuple(part if isinstance(part, Placeholder) else sink.static(part) for part in _parse(source)), sink.value
    )


def _parse(source: str) -> Iterator[str | Placeholder]:
    position = 0
    while mark := _OPEN.search(source, position):
        start = mark.start()
        end = source.find("}}", start)
        if mark[0] == "}}":  # closing braces that close nothing are ordinary text
            yield source[position : mark.end()]
            position = mark.end()
            continue
        if end < 0:
            raise TemplateError("a placeholder is not closed", start)
        if start > position:
            yield source[position:start]
        yield _placeholder(source[start + 2 : end], start)
        position = end + 2
    if position < len(source):
        yield source[position:]


def _placeholder(inner: str, start: int) -> Placeholder:
    name, *filters = (piece.strip() for piece in inner.split("|"))
    if name not in NAMES and not _DOTTED.fullmatch(name):
        raise TemplateError("an unknown name", start)
    made = []
    for piece in filters:
        called, colon, argument = piece.partition(":")
        made.append(make_filter(called.strip(), argument.strip() if colon else None, start))
    return Placeholder(ALIASES.get(name, name), tuple(made))


def lookup(name: str, values: Values) -> object:
    if "." not in name:
        return values.get(name)
    first, _, rest = name.partition(".")
    document = values.get(first)
    if not isinstance(document, Mapping):
        return None
    if first == "args":
        return document.get(rest)
    leaves = document.get("leaves")
    if not isinstance(leaves, Mapping):
        return None
    if rest.startswith("leaves."):
        _, leaf, key = rest.split(".")
        state = leaves.get(leaf)
        return state.get(key) if isinstance(state, Mapping) else None
    return next((state[rest] for state in leaves.values() if isinstance(state, Mapping) and rest in state), None)


class JsonTemplate(Struct, frozen=True):
    """A compiled JSON document. A string that is exactly one placeholder takes on the value's JSON type; every other
    string stays a string, and what was not a placeholder is never read as JSON again."""

    document: object

    def render(self, values: Values) -> bytes:
        return _encoder.encode(_filled(self.document, values))


_encoder = msgspec.json.Encoder(decimal_format="number")


def compile_json(document: object) -> JsonTemplate:
    """
    Raises:
        TemplateError: see `compile_text`; positions count within the string at fault.
    """
    if len(_encoder.encode(document)) > MAX_LENGTH:
        raise TemplateError("is longer than 16 KiB")
    return JsonTemplate(_compiled(document))


def _compiled(node: object) -> object:
    if isinstance(node, str):
        template = compile_text(node, TEXT)
        return node if template.fixed else template
    if isinstance(node, Mapping):
        return {key: _compiled(value) for key, value in node.items()}
    if isinstance(node, Sequence):
        return [_compiled(value) for value in node]
    return node


def _filled(node: object, values: Values) -> object:
    if isinstance(node, Template):
        whole = node.whole
        return node.render(values) if whole is None else json_value(whole.value(values))
    if isinstance(node, dict):
        return {key: _filled(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, values) for value in node]
    return node


def json_value(value: object) -> object:
    """The value as JSON can hold it without loss: integers that a double would round become text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Decimal):
        written = plain(value)
        return json_value(int(written)) if "." not in written else Decimal(written)
    if isinstance(value, int):
        return int(value) if -EXACT_INTEGER <= value <= EXACT_INTEGER else str(value)
    if isinstance(value, float | dict | list):
        return value
    return str(text(value))
