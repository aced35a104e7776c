"""A webhook's configuration: what is accepted, and what its body compiles to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

import msgspec
from msgspec import Struct

from agentauri.actions.channels import target_config
from agentauri.actions.channels.channel import MASK
from agentauri.actions.channels.target_config import read_headers, read_target, read_timeout, template_fault
from agentauri.actions.egress import Guard, Target
from agentauri.actions.fields import Fields
from agentauri.actions.template import (
    HTML,
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
from agentauri.errors import Invalid

METHODS = frozenset({"POST", "PUT", "GET", "PATCH", "DELETE"})
MAX_CODES = 100
OURS = ("webhook-", "x-agentauri-")
"""How the headers begin that we set."""

_LIKE_JSON = re.compile(r"\s*(\[|\{(?!\{))")
"""A text may well begin with a placeholder."""


SCHEMA: Json = {
    "type": "object",
    "required": ["url"],
    "additionalProperties": False,
    "properties": target_config.SCHEMA
    | {
        "url": target_config.URL_SCHEMA,
        "method": {"enum": ["POST", "GET", "PUT", "PATCH", "DELETE"], "default": "POST"},
        "body": {"description": "A JSON document or a text, with placeholders; the event's document where absent."},
        "body_template": {"description": "Another name of body."},
        "expected_status_codes": {
            "type": "array",
            "maxItems": MAX_CODES,
            "items": {"type": "integer", "minimum": 100, "maximum": 599},
            "description": "Any 2xx where empty.",
        },
        "rate_limit_per_second": {"type": "number", "minimum": 0.01, "maximum": 10_000},
    },
}


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
    target = read_target(fields, "url", url, guard)
    public: Json = {"url": url}
    if method := fields.text("method").upper():
        public["method"] = method
        if method not in METHODS:
            fields.refuse("method", "must be POST, GET, PUT, PATCH or DELETE")
    headers = read_headers(fields, OURS)
    if headers:
        public["headers"] = dict.fromkeys(headers, MASK)
    public |= _body(fields) | _limits(fields)
    fields.finish()
    if fields.errors or target is None:
        raise Invalid.fields(*fields.errors)
    return WebhookConfig(target=target, headers=headers, public=public)


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


def _body(fields: Fields) -> Json:
    given = {name: value for name in ("body", "body_template") if (value := fields.take(name)) is not None}
    if len(given) > 1:
        fields.refuse("body_template", "must not be given together with body")
    for name, source in given.items():
        if fault := template_fault(partial(compile_body, given, None)) or _broken_json(source):
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
    seconds = read_timeout(fields)
    if seconds is not None:
        limits["timeout_seconds"] = seconds
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
