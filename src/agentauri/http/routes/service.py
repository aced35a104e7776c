"""Routes about the service itself."""

from __future__ import annotations

import hmac
import ipaddress

from litestar import Response, get
from litestar.params import FromPath
from litestar.types import HTTPScope
from msgspec import Struct
from prometheus_client import generate_latest

from agentauri import metrics
from agentauri.accounts import InvalidToken
from agentauri.doctor import Report
from agentauri.errors import NotFound, Unauthenticated
from agentauri.http import errors
from agentauri.http.auth import OPEN
from agentauri.http.call import Call
from agentauri.http.errors import ProblemType
from agentauri.http.exchange import Exchange, header
from agentauri.http.health import Alive, Health, Ready
from agentauri.http.metering import FREE

METRICS_TYPE = "text/plain; version=0.0.4"
"""Litestar adds the charset."""


class Welcome(Struct, frozen=True, kw_only=True):
    name: str
    version: str
    docs: str | None
    openapi: str
    health: str


class ProblemTypes(Struct, frozen=True):
    data: list[ProblemType]


@get("/", access=OPEN)
async def welcome(request: Call) -> Welcome:
    """What this is, and where to go on."""
    return Welcome(
        name="AgentAuri",
        version=request.services.version,
        docs="/api-docs/" if request.services.server.api_docs else None,
        openapi="/api/v1/openapi.json",
        health="/api/v1/health",
    )


@get(["/health", "/api/v1/health"], access=OPEN, cost=FREE)
async def health(request: Call) -> Health:
    """Whether the service works; 503 when the database does not answer."""
    return await request.desk.checkup.health()


@get(["/health/live", "/api/v1/health/live"], access=OPEN, cost=FREE)
async def live() -> Alive:
    """That the process runs. Nothing else is asked."""
    return Alive()


@get(["/health/ready", "/api/v1/health/ready"], access=OPEN, cost=FREE)
async def ready(request: Call) -> Ready:
    """Whether this process can take requests, part by part."""
    return await request.desk.checkup.readiness()


@get(
    "/metrics", access=OPEN, cost=FREE, media_type=METRICS_TYPE, also=(401, 404), credentials=[{}, {"metricsToken": []}]
)
async def prometheus(request: Call) -> Response[bytes]:
    """All metrics in Prometheus' text form."""
    _require_metrics_reader(request)
    return Response(generate_latest(metrics.REGISTRY), media_type=METRICS_TYPE)


@get(
    ["/health/doctor", "/api/v1/health/doctor"],
    access=OPEN,
    cost=FREE,
    also=(401, 404),
    credentials=[{}, {"metricsToken": []}],
)
async def doctor(request: Call) -> Report:
    """Every check of `agentauri doctor`, as it prints them with --json. Kept for 10 s; nothing is mended."""
    _require_metrics_reader(request)
    return await request.desk.examination.get()


@get("/api/v1/openapi.json", access=OPEN, cost=FREE)
async def openapi(request: Call) -> Response[str]:
    """This interface, described for programs."""
    return Response(await request.desk.document(), media_type="application/json")


@get("/problems", access=OPEN, cost=FREE)
async def problems() -> ProblemTypes:
    """Every type of problem that an answer may name."""
    return ProblemTypes(errors.catalogue())


@get("/problems/{slug:str}", access=OPEN, cost=FREE)
async def problem(slug: FromPath[str]) -> ProblemType:
    """One type of problem."""
    for known in errors.catalogue():
        if known.slug == slug:
            return known
    raise NotFound("There is no such type of problem.")


def _require_metrics_reader(request: Call) -> None:
    """Who knows METRICS_TOKEN. Without one: everybody in development, our own network else, never through a proxy."""
    services = request.services
    if services.server.metrics_token is not None:
        given = header(request.scope, b"authorization")
        if given is None:
            raise Unauthenticated("Authentication required")
        expected = f"Bearer {services.server.metrics_token.reveal()}"
        if not hmac.compare_digest(given.encode(), expected.encode()):
            raise InvalidToken
    elif services.environment == "production" and not _comes_from_inside(request.scope):
        raise NotFound("There is nothing at this address.")


def _comes_from_inside(scope: HTTPScope) -> bool:
    if any(name in (b"forwarded", b"x-real-ip") or name.startswith(b"x-forwarded-") for name, _ in scope["headers"]):
        return False
    try:
        peer = ipaddress.ip_address(Exchange.of(scope).client)
    except ValueError:
        return False
    return peer.is_private or peer.is_loopback


routes = [welcome, health, live, ready, prometheus, doctor, openapi, problems, problem]
probes = [live, ready, prometheus]
