"""The OpenAPI document: what Litestar reads off the handlers and structs, completed by what the layers around them do.

Litestar knows paths, bodies and results. Who may call, what the query may hold and which problems may come back follow
from the route's access word, its `filters` and the layers that every request passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from types import NoneType, UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.routes import HTTPRoute
from litestar.types import Method
from litestar.types.internal_types import PathParameterDefinition
from msgspec import Struct

from agentauri.actions import CONFIG_SCHEMAS
from agentauri.http.auth import ANY, CREDENTIALS, KNOWN, OPEN, OPTIONAL, USER, WITHOUT_SCOPE
from agentauri.http.contract import close_bodies, link
from agentauri.http.errors import CONTENT_TYPE, Problem

DESCRIPTION = "Watches the ERC-8004 agent registries and turns what happens there into signed webhooks."

ALWAYS = (400, 405, 408, 414, 429, 431, 500, 503)
WITH_CREDENTIAL, WITH_RIGHTS, WITH_BODY, WITH_INPUT = (401, 404), (403,), (413, 415), (422,)
"""Whoever presents a credential may name an organization, and it may not be hers."""

SECURITY: Mapping[str, Sequence[Mapping[str, list[str]]]] = {
    OPEN: [],
    CREDENTIALS: [],
    OPTIONAL: [{}, {"bearer": []}],
    ANY: [{}, {"apiKey": []}, {"bearer": []}],
    KNOWN: [{"apiKey": []}, {"bearer": []}],
    USER: [{"bearer": []}],
}
"""What each access word asks for; a scope as KNOWN does."""

SCHEMES = {
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "A key, sk_live_… or sk_test_…"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "An access token of /auth/login, or the same key."},
    "metricsToken": {"type": "http", "scheme": "bearer", "description": "METRICS_TOKEN, where one is set."},
}

WHICH_ORGANIZATION = {
    "name": "X-Organization-ID",
    "in": "header",
    "required": False,
    "description": "The organization that is meant; a user's personal one without it. A key always means its own.",
    "schema": {"type": "string", "format": "uuid"},
}

EXAMPLES: Mapping[str, object] = {
    "create_trigger": {
        "name": "My agent was rated badly",
        "registry": "reputation",
        "conditions": [
            {"condition_type": "agent_id_equals", "value": "42"},
            {
                "any": [
                    {"condition_type": "score_threshold", "operator": "<", "value": "60"},
                    {"condition_type": "field", "field": "tag1", "operator": "in", "value": ["fraud", "downtime"]},
                ]
            },
        ],
        "actions": [{"action_type": "webhook", "config": {"url": "https://example.org/hooks/agentauri"}}],
    },
    "configure_breaker": {"failure_threshold": 5, "recovery_timeout_seconds": 120},
    "patch_trigger": {"enabled": False},
    "add_condition": {"condition_type": "score_threshold", "operator": "<", "value": "60"},
    "add_action": {"action_type": "webhook", "config": {"url": "https://example.org/hooks/agentauri"}},
    "replay": {"since": "2026-01-31T12:00:00Z", "dry_run": True},
    "rotate_secret": {"overlap_seconds": 86400},
    "ask_reputation": {"clients": ["0x1a642f0e3c3af545e7acbd38b07251b3990914f1"], "tag1": "uptime"},
    "follow_agent": {
        "chain_id": 8453,
        "actions": [{"action_type": "webhook", "config": {"url": "https://example.org/hooks/agentauri"}}],
    },
}


def configuration(version: str) -> OpenAPIConfig:
    return OpenAPIConfig(
        "AgentAuri", version, description=DESCRIPTION, operation_id_creator=_operation_id, use_handler_docstrings=True
    )


def describe(litestar: Litestar) -> dict[str, Any]:
    """The document of an application that was made with this `configuration`."""
    document = litestar.openapi_schema.to_schema()
    components = document["components"]
    components["securitySchemes"] = SCHEMES
    components["schemas"] |= msgspec.json.schema_components([Problem])[1]
    _describe_actions(components["schemas"])
    for path, method, handler in _handlers(litestar):
        _complete(document["paths"][path][method], path, handler)
    close_bodies(document)
    link(document)
    whole = document["paths"]["/api/v1/openapi.json"]["get"]["responses"]["200"]["content"]
    whole["application/json"]["schema"] = {"type": "object"}  # sent as the text that it is made as, once
    # Litestar calls a list of X by the whole path of its type.
    text = re.sub(rb"Listing_[\w.]*?(\w+)_(?=\W)", rb"\1List", msgspec.json.encode(document))
    return cast(dict[str, Any], msgspec.json.decode(text))


def _describe_actions(schemas: dict[str, Any]) -> None:
    """What an action's `config` may hold is its channel's to say; which one follows from `action_type`."""
    schemas |= CONFIG_SCHEMAS
    shapes = [{"$ref": f"#/components/schemas/{name}"} for name in CONFIG_SCHEMAS]
    schemas["ActionDraft"]["properties"]["config"] = {"anyOf": shapes, "description": "As the action_type asks."}


def _operation_id(handler: HTTPRouteHandler, _: Method, path: list[str | PathParameterDefinition]) -> str:
    """The handler's name; what is served under several addresses has it under the shortest one below /api/v1."""
    if len(handler.paths) == 1:
        return handler.handler_name
    if path[:1] != ["api"]:
        return f"{handler.handler_name}_at_root"
    if "organizations" in path:
        return f"{handler.handler_name}_of_organization"
    return f"{handler.handler_name}_again" if path[-1] == "regenerate" else handler.handler_name


def _handlers(litestar: Litestar) -> Iterator[tuple[str, str, HTTPRouteHandler]]:
    for route in litestar.routes:
        if not isinstance(route, HTTPRoute):
            continue
        for handler in route.route_handlers:
            if handler.resolve_include_in_schema():
                for method in handler.http_methods:
                    yield route.path_format, method.lower(), handler


def _complete(operation: dict[str, Any], path: str, handler: HTTPRouteHandler) -> None:
    access = handler.opt["access"]
    operation["summary"] = operation.pop("description").partition("\n")[0]
    parameters = operation.setdefault("parameters", [])
    if (filters := handler.parsed_fn_signature.parameters.get("filters")) is not None:
        parameters += _query_parameters(filters.annotation)
    operation["security"] = handler.opt.get("credentials", SECURITY.get(access, SECURITY[KNOWN]))
    if access not in WITHOUT_SCOPE:
        operation["x-required-scope"] = access
        if "{organization_id}" not in path:
            parameters.append(WHICH_ORGANIZATION)
    if path.startswith("/api/"):
        operation["tags"] = [path.split("/")[3].partition(".")[0]]
    if (example := EXAMPLES.get(handler.handler_name)) is not None:
        operation["requestBody"]["content"]["application/json"]["example"] = example
    if (body := handler.parsed_fn_signature.parameters.get("data")) is not None and body.has_default:
        operation["requestBody"]["required"] = False
    statuses = {*ALWAYS, *handler.opt.get("also", ())}
    statuses |= set(WITH_CREDENTIAL if access not in (OPEN, OPTIONAL, CREDENTIALS) else ())
    statuses |= set(WITH_RIGHTS if access not in WITHOUT_SCOPE or access == USER else ())
    statuses |= set(WITH_BODY if "requestBody" in operation else ())
    statuses |= set(WITH_INPUT if parameters or "requestBody" in operation else ())
    statuses |= {404} if "{" in path else set()
    operation["responses"] |= {str(status): _problem(status) for status in sorted(statuses)}


def _query_parameters(shape: type[Struct]) -> Iterator[dict[str, Any]]:
    hints = get_type_hints(shape, include_extras=True)
    for field in msgspec.structs.fields(shape):
        schema = msgspec.json.schema(_present(hints[field.name]))
        if field.default not in (None, (), msgspec.NODEFAULT):
            schema["default"] = field.default
        yield {"name": field.encode_name, "in": "query", "required": False, "schema": schema}


def _present(hint: Any) -> Any:
    """The type of a parameter that is given: without the None that stands for its absence."""
    if get_origin(hint) not in (Union, UnionType):
        return hint
    return Union[tuple(kind for kind in get_args(hint) if kind is not NoneType)]  # noqa: UP007 (built at run time)


def _problem(status: int) -> Mapping[str, Any]:
    content = {CONTENT_TYPE.decode(): {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": HTTPStatus(status).phrase, "content": content}
