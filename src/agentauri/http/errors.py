"""From an error to its answer: one table, one shape, whichever layer raised it.

An error that is not ours is a bug: the caller learns nothing but its request id, under which the log has the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import asyncpg
import msgspec
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from msgspec import Struct
from sqlalchemy.exc import DBAPIError

from agentauri.billing import UpgradeUnpaid
from agentauri.errors import (
    AgentAuriError,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    PaymentRequired,
    QuotaExceeded,
    RateLimited,
    Unauthenticated,
    Unavailable,
)

CONTENT_TYPE = b"application/problem+json"
Headers = list[tuple[bytes, bytes]]


class Malformed(AgentAuriError):
    """The request could not be read."""

    code = "malformed_request"


class OrganizationConflict(AgentAuriError):
    code = "organization_conflict"


class MissingScope(Forbidden):
    def __init__(self, scope: str) -> None:
        super().__init__("This credential does not allow that.")
        self.scope = scope


class UsersOnly(Forbidden):
    def __init__(self) -> None:
        super().__init__("This is for a user who is logged in; a key cannot do it.")


class MethodNotAllowed(AgentAuriError):
    code = "method_not_allowed"

    def __init__(self, allow: str) -> None:
        super().__init__("This address does not take that method.")
        self.allow = allow


class RequestTimeout(AgentAuriError):
    code = "request_timeout"


class PayloadTooLarge(AgentAuriError):
    code = "payload_too_large"


class UriTooLong(AgentAuriError):
    code = "uri_too_long"


class UnsupportedMediaType(AgentAuriError):
    code = "unsupported_media_type"


class HeadersTooLarge(AgentAuriError):
    code = "headers_too_large"


class InternalError(AgentAuriError):
    code = "internal_error"


class Unhealthy(Unavailable):
    code = "unhealthy"

    def __init__(self) -> None:
        super().__init__("The database does not answer.")


class NotReady(Unavailable):
    code = "not_ready"

    def __init__(self, failing: list[str], components: Mapping[str, str]) -> None:
        super().__init__("This process cannot serve at the moment.")
        self.failing = failing
        self.components = components


class ClientGone(Exception):
    """The caller hung up before its request was complete."""


class Kind(Struct, frozen=True):
    status: int
    title: str
    description: str


KINDS: Mapping[type[AgentAuriError], Kind] = {
    Malformed: Kind(400, "Malformed request", "The request could not be read. Its syntax has to change."),
    OrganizationConflict: Kind(400, "Organization conflict", "Two places of the request name two organizations."),
    Unauthenticated: Kind(401, "Authentication failed", "The credential is missing, or it is not accepted."),
    PaymentRequired: Kind(402, "Payment required", "The plan or the credit of the organization does not cover this."),
    Forbidden: Kind(403, "Forbidden", "The credential is known, but does not allow this."),
    NotFound: Kind(404, "Not found", "There is no such thing, or it is not this caller's to know about."),
    MethodNotAllowed: Kind(405, "Method not allowed", "The address exists; `Allow` lists the methods that it takes."),
    RequestTimeout: Kind(408, "Request timeout", "The body was not complete in time."),
    Conflict: Kind(409, "Conflict", "The state of the object does not allow this now."),
    PayloadTooLarge: Kind(413, "Payload too large", "The body is larger than 1 MiB."),
    UriTooLong: Kind(414, "URI too long", "The address with its query is longer than 8 KiB."),
    UnsupportedMediaType: Kind(415, "Unsupported media type", "Bodies are JSON in UTF-8, not encoded any further."),
    Invalid: Kind(422, "Validation failed", "The request was read, and a rule refuses it; `errors` names the fields."),
    RateLimited: Kind(429, "Too many requests", "The budget is spent; `Retry-After` says when to come back."),
    HeadersTooLarge: Kind(431, "Headers too large", "The header block is larger than 16 KiB."),
    InternalError: Kind(500, "Internal error", "A bug of ours. The request id finds it in the log."),
    Unavailable: Kind(503, "Unavailable", "Something that this needs is away; the same request may succeed later."),
}
"""Every kind of error, and the status that it becomes. An error has the kind of its nearest base listed here."""

BUSY = (
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
)


class Problem(Struct, kw_only=True):
    """The body of every answer that is not a success. `error` is the stable code to switch on."""

    type: str
    title: str
    status: int
    detail: str
    error: str
    message: str
    request_id: str
    errors: list[dict[str, str]]


def kind_of(error: type[AgentAuriError]) -> Kind:
    return next((KINDS[base] for base in error.__mro__ if base in KINDS), KINDS[InternalError])


def slug_of(error: type[AgentAuriError]) -> str:
    return error.code.replace("_", "-")


def code_of(error: type[AgentAuriError]) -> str:
    """The class's own code, but one for everything that is not there."""
    return NotFound.code if issubclass(error, NotFound) else error.code


def meaning(error: Exception) -> AgentAuriError | None:
    """The error in our own terms; None for a bug."""
    cause: BaseException | None = error.orig if isinstance(error, DBAPIError) else error
    if cause is not None and isinstance(cause.__cause__, asyncpg.PostgresError):
        cause = cause.__cause__  # SQLAlchemy's adapter wraps the driver's error once more
    match cause:
        case AgentAuriError():
            return cause
        case NotFoundException():
            return NotFound("There is nothing at this address.")
        case MethodNotAllowedException():
            return MethodNotAllowed((cause.headers or {}).get("allow", ""))
        case HTTPException() if cause.status_code < 500:
            return Malformed("The request could not be read.")
        case _ if isinstance(cause, BUSY):
            return Unavailable("The database is too busy to answer in time.")
        case _:
            return None


def answer(error: AgentAuriError, request_id: str) -> tuple[int, Headers, bytes]:
    """Status, headers and body."""
    kind = kind_of(type(error))
    refused = error.errors if isinstance(error, Invalid) else ()
    problem = Problem(
        type=f"/problems/{slug_of(type(error))}",
        title=kind.title,
        status=kind.status,
        detail=error.message,
        error=code_of(type(error)),
        message=error.message,
        request_id=request_id,
        errors=[{"field": field.field, "message": field.message} for field in refused],
    )
    members = _members(error)
    body = msgspec.json.encode(msgspec.to_builtins(problem) | members)
    headers = [(b"content-type", CONTENT_TYPE), (b"content-length", b"%d" % len(body))]
    if "retry_after" in members:
        headers.append((b"retry-after", str(members["retry_after"]).encode()))
    if isinstance(error, Unauthenticated):
        presented = "" if error.code == "unauthorized" else ', error="invalid_token"'
        headers.append((b"www-authenticate", f'Bearer realm="agentauri"{presented}'.encode()))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow.encode()))
    if isinstance(error, RequestTimeout | PayloadTooLarge):
        headers.append((b"connection", b"close"))  # what is left of the body is not worth reading
    return kind.status, headers, body


def _members(error: AgentAuriError) -> dict[str, object]:
    """What this error tells beyond the common members."""
    match error:
        case MissingScope():
            return {"required_scope": error.scope}
        case QuotaExceeded():
            quota = {"name": error.name, "limit": error.limit, "used": error.used, "plan": error.plan}
            return {"quota": quota}
        case UpgradeUnpaid():
            return {"checkout": {"available": False, "url": None, "hint": error.hint}}
        case RateLimited():
            return {"retry_after": max(1, math.ceil(error.retry_after))}
        case Unhealthy():
            return {"retry_after": 1, "database": "disconnected"}
        case NotReady():
            return {"retry_after": 1, "failing": error.failing, "components": error.components}
        case Unavailable():
            return {"retry_after": 1}
        case _:
            return {}


class ProblemType(Struct, frozen=True, kw_only=True):
    """One type of problem, as `GET /problems` lists it."""

    slug: str
    title: str
    status: int
    error: str
    description: str


def catalogue() -> list[ProblemType]:
    """Every type of problem that an answer may name, by status."""
    found = {slug_of(error): _describe(error) for error in _all(AgentAuriError) if error is not AgentAuriError}
    return sorted(found.values(), key=lambda problem: (problem.status, problem.slug))


def _all(base: type[AgentAuriError]) -> Iterator[type[AgentAuriError]]:
    yield base
    for error in base.__subclasses__():
        yield from _all(error)


def _describe(error: type[AgentAuriError]) -> ProblemType:
    kind = kind_of(error)
    return ProblemType(
        slug=slug_of(error),
        title=kind.title,
        status=kind.status,
        error=code_of(error),
        description=kind.description,
    )
