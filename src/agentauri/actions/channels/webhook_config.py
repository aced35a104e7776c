"""A webhook's configuration: what is accepted, and what its body compiles to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from html import escape as escape_html

import msgspec
from msgspec import Struct

from agentauri.actions.channels.channel import MASK
from agentauri.actions.egress import Guard, Target
from agentauri.actions.fields import Fields
from agentauri.actions.filters import TemplateError
from agentauri.actions.template import (
    HEADER,
    JSON_STRING,
    TEXT,
    URL,
    JsonTemplate,
    Sink,
    Template,
    compile_json,
    compile_text,
)
from agentauri.actions.types import Json
from agentauri.errors import FieldError, Invalid
from agentauri.log import get_logger

log = get_logger(__name__)

METHODS = frozenset({"POST", "GET", "PUT", "PATCH", "DELETE"})
MAX_TIMEOUT, ACCEPTED_TIMEOUT = 60.0, 300.0
MAX_HEADERS, MAX_HEADER_LENGTH, MAX_CODES = 20, 1024, 100

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_PLACEHOLDER = re.compile(r"\{\{.*?\}\}")
_HOST_FIRST = re.compile(r"https?://[^/?#{]+[/?#]")
_LIKE_JSON = re.compile(r"\s*(\[|\{(?!\{))")
"""A text may well begin with a placeholder."""
_OURS = ("webhook-", "x-agentauri-")
_NOT_YOURS = frozenset({
    "host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "te", "trailer",
    "upgrade", "expect",
})  # fmt: skip
"""Headers that belong to the connection, or that say where the body ends."""

HTML = Sink(value=lambda value: escape_html(value, quote=True))


class WebhookConfig(Struct, frozen=True, kw_only=True):
    """`public` is what is stored and shown; the headers' values are secrets, None meaning the stored one."""

    target: Target
    headers: dict[str, str | None]
    public: Json


def read(config: Mapping[str, object], guard: Guard) -> WebhookConfig:
    """
    Raises:
        Invalid: with every refused field.
    """
    fields = Fields(config)
    url = fields.text("url", longest=2048)
    target = _target(fields, url, guard)
    public: Json = {"url": url}
    if method := fields.text("method").upper():
        public["method"] = method
        if method not in METHODS:
            fields.refuse("method", "must be POST, GET, PUT, PATCH or DELETE")
    headers = _headers(fields)
    if headers:
        public["headers"] = dict.fromkeys(headers, MASK)
    public |= _body(fields) | _limits(fields)
    fields.finish()
    if fields.errors or target is None:
        raise Invalid.fields(*fields.errors)
    return WebhookConfig(target=target, headers=headers, public=public)


def target_of(url: str, guard: Guard) -> Target:
    """Where a URL leads, whatever its placeholders become.

    Raises:
        FieldError: with an empty field.
    """
    static, found, _ = url.partition("{{")
    if found and not _HOST_FIRST.match(static):
        raise FieldError("", "must name its host without a placeholder")
    return guard.target(_PLACEHOLDER.sub("x", url))


def secret_name(header: str) -> str:
    return f"headers.{header}"


def compile_body(config: Mapping[str, object], content_type: str | None) -> tuple[JsonTemplate | Template | None, str]:
    """The configured body, None where there is none, and the content type that goes with it.

    A text body is escaped for the content type that its owner gave it; JSON is always sent as JSON.
    """
    source = _document(config.get("body_template", config.get("body")))
    if source is None:
        return None, "application/json"
    if not isinstance(source, str):
        return compile_json(source), "application/json"
    content_type = content_type or "text/plain; charset=utf-8"
    return compile_text(source, _sink(content_type.lower())), content_type


def _sink(content_type: str) -> Sink:
    if "json" in content_type:
        return JSON_STRING
    if "x-www-form-urlencoded" in content_type:
        return URL
    return HTML if "html" in content_type or "xml" in content_type else TEXT


def _document(source: object) -> object:
    """JSON that was sent as text is JSON all the same."""
    if not isinstance(source, str):
        return source
    try:
        parsed = msgspec.json.decode(source)
    except (msgspec.DecodeError, RecursionError):
        return source
    return parsed if isinstance(parsed, dict | list) else source


def _target(fields: Fields, url: str, guard: Guard) -> Target | None:
    if not url:
        if not fields.errors:
            fields.refuse("url", "is required")
        return None
    try:
        compile_text(url, URL)
        return target_of(url, guard)
    except TemplateError as error:
        fields.refuse("url", f"has {error}")
    except FieldError as error:
        fields.refuse("url", error.message)
    return None


def _headers(fields: Fields) -> dict[str, str | None]:
    given = fields.take("headers")
    headers: dict[str, str | None] = {}
    if given is None:
        return headers
    if not isinstance(given, Mapping) or len(given) > MAX_HEADERS:
        fields.refuse("headers", f"must be an object of at most {MAX_HEADERS} names and values")
        return headers
    for name, value in given.items():
        if not _TOKEN.fullmatch(name):
            fields.refuse("headers", "has a name that is not a header's")
        elif fault := _header_fault(name.lower(), value, headers):
            fields.refuse(f"headers.{name}", fault)
        else:
            headers[name] = None if value == MASK else value
    return headers


def _header_fault(lower: str, value: object, others: Mapping[str, object]) -> str | None:
    if lower in _NOT_YOURS or lower.startswith(_OURS):
        return "is set by us"
    if lower in map(str.lower, others):
        return "appears twice"
    if not isinstance(value, str) or len(value) > MAX_HEADER_LENGTH:
        return f"must be text of at most {MAX_HEADER_LENGTH} characters"
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        return "must not contain control characters"
    return _fault(partial(compile_text, value, HEADER))


def _body(fields: Fields) -> Json:
    given = {name: value for name in ("body", "body_template") if (value := fields.take(name)) is not None}
    if len(given) > 1:
        fields.refuse("body_template", "must not be given together with body")
    for name, source in given.items():
        if fault := _fault(partial(compile_body, given, None)) or _broken_json(source):
            fields.refuse(name, fault)
    return given


def _broken_json(source: object) -> str | None:
    """Text that its receiver will read as JSON, but that we could only fill as text: a value could then add to it."""
    source = _document(source)
    if isinstance(source, str) and _LIKE_JSON.match(source):
        return (
            "begins like JSON and is not JSON: put placeholders in quotes"
            " (a string that is exactly one placeholder keeps the value's type)"
        )
    return None


def _limits(fields: Fields) -> Json:
    limits: Json = {}
    seconds = fields.number("timeout_seconds", 1, ACCEPTED_TIMEOUT)
    milliseconds = fields.number("timeout_ms", 1000, ACCEPTED_TIMEOUT * 1000)
    if seconds is None and milliseconds is not None:
        seconds = milliseconds / 1000
    if seconds is not None:
        if seconds > MAX_TIMEOUT:
            log.warning("action.timeout_cut", asked=seconds, applied=MAX_TIMEOUT)
        limits["timeout_seconds"] = min(seconds, MAX_TIMEOUT)
    codes = fields.take("expected_status_codes")
    if codes is not None:
        if not isinstance(codes, list) or len(codes) > MAX_CODES or not all(map(_is_status, codes)):
            fields.refuse("expected_status_codes", "must be a list of status codes from 100 to 599")
        else:
            limits["expected_status_codes"] = codes
    rate = fields.number("rate_limit_per_second", 0.01, 10_000)
    if rate is not None:
        limits["rate_limit_per_second"] = rate
    return limits


def _is_status(code: object) -> bool:
    return isinstance(code, int) and not isinstance(code, bool) and 100 <= code <= 599


def _fault(compile_it: Callable[[], object]) -> str | None:
    try:
        compile_it()
    except TemplateError as error:
        return f"has {error}" if str(error).startswith(("a ", "an ")) else str(error)
    return None
