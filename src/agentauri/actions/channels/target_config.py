"""What the configurations of channels that call a URL have in common: the URL, headers and a time-out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from agentauri.actions.channels.channel import MASK
from agentauri.actions.egress import EgressRefused, Guard, LookUpFailed, Target
from agentauri.actions.fields import Fields
from agentauri.actions.filters import TemplateError
from agentauri.actions.template import HEADER, URL, compile_text
from agentauri.actions.types import Json
from agentauri.errors import FieldError, Invalid
from agentauri.log import get_logger
from agentauri.types import OrganizationId

log = get_logger(__name__)

MAX_TIMEOUT, ACCEPTED_TIMEOUT = 60.0, 300.0
MAX_HEADERS, MAX_HEADER_LENGTH = 20, 1024
SHORTEST_SECRET = 8

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_PLACEHOLDER = re.compile(r"\{\{.*?\}\}")
_HOST_FIRST = re.compile(r"https?://[^/?#{]+[/?#]")
_NOT_YOURS = frozenset({
    "host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "te", "trailer",
    "upgrade", "expect",
})  # fmt: skip
"""Headers that belong to the connection, or that say where the body ends."""


URL_SCHEMA = {"type": "string", "maxLength": 2048, "description": "https, with placeholders but for the host"}
SCHEMA: Json = {
    "headers": {
        "type": "object",
        "maxProperties": MAX_HEADERS,
        "additionalProperties": {"type": "string", "maxLength": MAX_HEADER_LENGTH},
        "description": f"Values are secrets, with placeholders: read back as {MASK}, which keeps what is stored.",
    },
    "timeout_seconds": {"type": "number", "minimum": 1, "maximum": ACCEPTED_TIMEOUT, "description": "60 at most apply"},
    "timeout_ms": {"type": "number", "minimum": 1000, "maximum": ACCEPTED_TIMEOUT * 1000},
}
"""Of what is read here, for a channel's own."""


def read_target(fields: Fields, name: str, url: str, guard: Guard) -> Target | None:
    """None where it is refused."""
    if not url:
        if not fields.refuses(name):
            fields.refuse(name, "is required")
        return None
    try:
        compile_text(url, URL)
        return target_of(url, guard)
    except TemplateError as error:
        fields.refuse(name, f"has {error}")
    except FieldError as error:
        fields.refuse(name, error.message)
    return None


def target_of(url: str, guard: Guard) -> Target:
    """Where a URL leads, whatever its placeholders become.

    Raises:
        FieldError: with an empty field.
    """
    static, found, _ = url.partition("{{")
    if found and not _HOST_FIRST.match(static):
        raise FieldError("", "must name its host without a placeholder")
    return guard.target(_PLACEHOLDER.sub("x", url))


def target_key(url: object, guard: Guard) -> str | None:
    """The target's `key`, None where the URL is none."""
    try:
        return target_of(str(url), guard).key
    except FieldError:
        return None


async def look_up(field: str, target: Target, guard: Guard, organization_id: OrganizationId) -> None:
    """
    Raises:
        Invalid: the target is not to be called. One that does not resolve may do so when it is needed.
    """
    try:
        await guard.addresses(target.host, organization_id)
    except EgressRefused as error:
        raise Invalid.fields(FieldError(field, "names or resolves to an address that is not public")) from error
    except LookUpFailed:
        log.info("action.unresolved", host=target.host)


def read_headers(fields: Fields, ours: tuple[str, ...]) -> dict[str, str | None]:
    """Names and values, None for one that is kept. Names that begin like `ours` are refused."""
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
        elif fault := _header_fault(name.lower(), value, headers, ours):
            fields.refuse(f"headers.{name}", fault)
        else:
            headers[name] = None if value == MASK else value
    return headers


def header_secret(header: str) -> str:
    """The name under which a header's value is kept."""
    return f"headers.{header}"


def secrets_of(url: str, headers: Iterable[str]) -> tuple[str, ...]:
    """What of a request is not to be repeated: values of headers, without their scheme too, and what follows the host.

    Many an endpoint repeats in its answer what it was asked. What is short may well be a word of the answer's own.
    """
    target = url.partition("://")[2].partition("/")[2]
    found = {target, target.partition("?")[2]}
    for value in headers:
        found |= {value, value.rpartition(" ")[2]}
    return tuple(sorted((secret for secret in found if len(secret) >= SHORTEST_SECRET), key=len, reverse=True))


def without(secrets: Iterable[str], said: str) -> str:
    for secret in secrets:
        said = said.replace(secret, MASK)
    return said


def read_timeout(fields: Fields) -> float | None:
    """Seconds, as they will apply."""
    seconds = fields.number("timeout_seconds", 1, ACCEPTED_TIMEOUT)
    milliseconds = fields.number("timeout_ms", 1000, ACCEPTED_TIMEOUT * 1000)
    if seconds is None and milliseconds is not None:
        seconds = milliseconds / 1000
    if seconds is not None and seconds > MAX_TIMEOUT:
        log.warning("action.timeout_cut", asked=seconds, applied=MAX_TIMEOUT)
        return MAX_TIMEOUT
    return seconds


def template_fault(compile_it: Callable[[], object]) -> str | None:
    """What is wrong with a template, as the rest of a sentence about its field."""
    try:
        compile_it()
    except TemplateError as error:
        return f"has {error}" if str(error).startswith(("a ", "an ")) else str(error)
    return None


def _header_fault(lower: str, value: object, others: Mapping[str, object], ours: tuple[str, ...]) -> str | None:
    if lower in _NOT_YOURS or lower.startswith(ours):
        return "is set by us"
    if lower in map(str.lower, others):
        return "appears twice"
    if not isinstance(value, str) or len(value) > MAX_HEADER_LENGTH:
        return f"must be text of at most {MAX_HEADER_LENGTH} characters"
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        return "must not contain control characters"
    return template_fault(partial(compile_text, value, HEADER))
