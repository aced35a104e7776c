"""What the OpenAPI document says beyond what types can: bodies are closed, the forms that services ask of their fields,
and where a thing that was made can be used next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from agentauri.accounts import EMAIL_LENGTH, USERNAME

SCHEMAS = "#/components/schemas/"

NAME = {"minLength": 1, "maxLength": 255}
CHAIN = {"minimum": 1, "maximum": 2**53 - 1}
ACCOUNT: Mapping[str, Mapping[str, Any]] = {
    "username": {"pattern": f"^{USERNAME.pattern}$"},
    "email": {"maxLength": EMAIL_LENGTH, "pattern": r"^[^@\s]+@[^@\s]+$"},
    "name": {"minLength": 1, "maxLength": 100, "pattern": r"\S"},
}
PASSWORD = {"minLength": 12, "maxLength": 128}
DEPTH = {"type": "object", "properties": {"confirmations": {"type": "integer", "minimum": 1, "maximum": 10_000}},
         "required": ["confirmations"], "additionalProperties": False}  # fmt: skip
TRIGGER: Mapping[str, Mapping[str, Any]] = {
    "name": NAME,
    "description": {"maxLength": 1000},
    "chain_id": CHAIN,
    "cooldown_seconds": {"minimum": 0, "maximum": 2_592_000},
    "fire_at": {"oneOf": [{"type": "string", "enum": ["seen", "safe", "finalized"]}, DEPTH]},
}
ACTION: Mapping[str, Mapping[str, Any]] = {
    "action_type": {"enum": ["webhook", "rest", "telegram", "mcp"]},
    "priority": {"minimum": -32768, "maximum": 32767},
}
FORMS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "Register": {**ACCOUNT, "password": PASSWORD},
    "Me": {**ACCOUNT, "avatar": {"maxLength": 2048, "pattern": r"^https://\S+$"}},
    "NewPassword": {"new_password": PASSWORD},
    "TriggerDraft": TRIGGER,
    "TriggerPatch": TRIGGER,
    "ActionDraft": ACTION,
    "ActionPatch": ACTION,
    "BreakerPatch": {
        "failure_threshold": {"minimum": 1, "maximum": 1000},
        "recovery_timeout_seconds": {"minimum": 1, "maximum": 604_800},
        "half_open_max_calls": {"minimum": 1, "maximum": 10},
    },
    "FollowDraft": {"chain_id": CHAIN, "actions": {"minItems": 1}},
    "FollowPatch": {"actions": {"minItems": 1}},
}
"""What the services check of fields that have a plain type."""

MADE: Mapping[str, str] = {
    "create_trigger": "trigger_id",
    "add_condition": "condition_id",
    "add_action": "action_id",
    "create_organization": "organization_id",
    "create_key": "key_id",
    "rotate_key": "key_id",
    "send_test": "delivery_id",
    "redeliver": "delivery_id",
}
"""The operations that answer with a thing of its own `id`, and the parameter by which others take that."""
FOLLOW = {"agent_id": "$request.path.agent_id", "chain_id": "$request.body#/chain_id"}

Operation = tuple[str, str, dict[str, Any]]
"""Its path, its method and what is said of it."""


def close_bodies(document: dict[str, Any]) -> None:
    """Unknown fields of a body are refused, and a PUT takes null for what is to stay."""
    schemas = document["components"]["schemas"]
    for name, forms in FORMS.items():
        for field, form in forms.items():
            _shape(schemas[name]["properties"][field], form)
    for _, method, operation in _operations(document):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            for name in list(_named(content, schemas)):
                if "properties" in schemas[name]:
                    schemas[name].setdefault("additionalProperties", False)
            if method == "put":
                name = content["schema"]["$ref"].removeprefix(SCHEMAS)
                schemas[f"{name}WithNulls"] = _nullable(schemas[name])
                content["schema"] = {"$ref": f"{SCHEMAS}{name}WithNulls"}


def link(document: dict[str, Any]) -> None:
    """Tell with each operation that makes something which others take it, and how."""
    operations = {operation["operationId"]: (path, operation) for path, _, operation in _operations(document)}
    for source, made in MADE.items():
        path, maker = operations[source]
        known = {name: f"$request.path.{name}" for name in _path_parameters(path)} | {made: "$response.body#/id"}
        targets = {
            target: {name: known[name] for name in _path_parameters(other)}
            for target, (other, _) in operations.items()
            if made in _path_parameters(other) and _path_parameters(other) <= known.keys()
        }
        _add_links(maker, targets)
    _, maker = operations["follow_agent"]
    _add_links(maker, dict.fromkeys(("get_follow", "patch_follow", "put_follow", "unfollow_agent"), FOLLOW))


def _add_links(maker: dict[str, Any], targets: Mapping[str, Mapping[str, str]]) -> None:
    success = next(answer for status, answer in maker["responses"].items() if status.startswith("2"))
    success["links"] = {
        target: {"operationId": target, "parameters": dict(parameters)} for target, parameters in targets.items()
    }


def _operations(document: dict[str, Any]) -> Iterator[Operation]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def _path_parameters(path: str) -> set[str]:
    return {part[1:-1] for part in path.split("/") if part.startswith("{")}


def _shape(schema: dict[str, Any], form: Mapping[str, Any]) -> None:
    if "oneOf" in form:
        schema.update(form)
        return
    for branch in schema.get("oneOf", [schema]):
        if branch.get("type") != "null":
            branch.update(form)


def _named(part: Any, schemas: Mapping[str, Any], seen: frozenset[str] = frozenset()) -> Iterator[str]:
    """The names of the schemas that a part of the document leads to."""
    if isinstance(part, list):
        for item in part:
            yield from _named(item, schemas, seen)
    elif isinstance(part, dict):
        name = str(part.get("$ref", "")).removeprefix(SCHEMAS)
        if name in schemas and name not in seen:
            yield name
            yield from _named(schemas[name], schemas, seen | {name})
        for item in part.values():
            yield from _named(item, schemas, seen)


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    copied = deepcopy(schema)
    for name, field in copied["properties"].items():
        null = "null" in field.get("type", ()) or {"type": "null"} in field.get("oneOf", ())
        if field and not null and name not in copied.get("required", ()):
            copied["properties"][name] = {"oneOf": [*field.get("oneOf", [field]), {"type": "null"}]}
    return copied
