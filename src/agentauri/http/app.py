"""The application: routes inside, and around them the layers that every request passes, in this order.

Exchanges        where the request comes from, and a name for it, bound to every log line
SecurityHeaders  fixed on whatever is sent
Cors             which pages of other origins may read it
RateHeaders      where its caller's budget stands
AccessLog        one line and three metrics
Problems         whatever fails below becomes an answer
Limits           sizes and times
Entrance         OPTIONS and HEAD; who asks, for which organization, does her budget cover it, may she
Litestar         finds the handler, reads its input; the handler opens the one transaction
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, NoReturn

import msgspec
from litestar import Litestar, Router
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.plugins import PluginProtocol
from litestar.types import ControllerRouterHandler

from agentauri.http import reading
from agentauri.http.call import Call
from agentauri.http.edge import surround
from agentauri.http.entrance import Entrance, RouteTable
from agentauri.http.exchange import Layer
from agentauri.http.metering import Meter
from agentauri.http.openapi import configuration, describe
from agentauri.http.rate_limit import RateLimiter
from agentauri.http.routes import (
    actions,
    agents,
    api_keys,
    auth,
    billing,
    chains,
    conditions,
    deliveries,
    discovery,
    events,
    follows,
    indexer,
    organizations,
    service,
    testing,
    triggers,
    webhooks,
)
from agentauri.http.routes import docs as documentation
from agentauri.http.services import Desk, Services
from agentauri.http.shared import Shared
from agentauri.types import Secret


def create_app(services: Services, *, probes_only: bool = False) -> Layer:
    """The whole application, ready to be served; or only what watches a process: metrics, liveness, readiness."""
    document = Shared(float("inf"), lambda: asyncio.to_thread(openapi_document))
    desk = Desk(services, document.get)
    litestar = create_litestar(docs=services.server.api_docs, probes_only=probes_only)
    meter = Meter(RateLimiter(services.redis, services.server.rate_limit_mode), services.server)
    return surround(Entrance(litestar, RouteTable(litestar), desk, meter), services.server, meter)


@cache
def create_litestar(*, docs: bool = True, probes_only: bool = False) -> Litestar:
    """The routes alone. They keep nothing: what they work with comes with each request, from its `Desk`. So one will
    do for all the applications of a process, and making it takes a while. Errors leave as they are: `Problems` answers
    for them."""
    return _litestar(service.probes if probes_only else all_routes(docs=docs))


def _litestar(routes: Sequence[ControllerRouterHandler], openapi: OpenAPIConfig | None = None) -> Litestar:
    return _Litestar(
        routes,
        request_class=Call,
        dependencies={"filters": Provide(_read_filters, sync_to_thread=False)},
        exception_handlers={Exception: _pass_on},
        type_encoders={Secret: repr},
        openapi_config=openapi,
        logging_config=None,
    )


def all_routes(*, docs: bool = True) -> list[ControllerRouterHandler]:
    """Every route there is, the page that documents them only if it is wanted."""
    parts = (
        auth, organizations, api_keys, billing, chains, indexer, events, agents, testing, triggers, conditions, actions,
        webhooks, follows, deliveries,
    )  # fmt: skip
    api = Router("/api/v1", route_handlers=[route for part in parts for route in part.routes])
    return [*service.routes, *discovery.routes, *(documentation.routes if docs else ()), api]


class _Litestar(Litestar):
    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        # Litestar's own list imports pydantic wherever it is installed: 0.4 s and 30 MB, for nothing that we use.
        return plugins


@cache
def openapi_document() -> str:
    """The interface as an OpenAPI 3.1 document, in JSON; nothing has to run for it."""
    described = describe(_litestar(all_routes(), configuration(version("agentauri"))))
    return msgspec.json.format(msgspec.json.encode(described), indent=2).decode()


def _read_filters(request: Call) -> Any:
    """The query as the struct that the handler's `filters` asks for."""
    shape = request.route_handler.parsed_fn_signature.parameters["filters"].annotation
    return reading.read_query(request.scope["query_string"], shape)


def _pass_on(_: Any, error: Exception) -> NoReturn:
    raise error
