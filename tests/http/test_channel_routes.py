"""Telegram and MCP actions over HTTP: taken, refused where they are wrong, shown without their secrets, described."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from agentauri.http import openapi_document

from .conftest import Api

TOKEN = "123456789:AAE-b0tsecret_b0tsecret_b0tsecret12"  # not a bot's
CONFIGS: dict[str, dict[str, Any]] = {
    "webhook": {"url": "https://127.0.0.1/hook", "headers": {"X-Key": "k3y-s3cret"}, "timeout_seconds": 5},
    "telegram": {"chat_id": -100200300, "message_template": "*{{agent_id}}*!", "bot_token": TOKEN},
    "mcp": {
        "server_url": "https://127.0.0.1/mcp",
        "tool_name": "note",
        "arguments_template": {"agent": "{{agent_id}}"},
        "auth_token": "t0ken-s3cret",
    },
}
NAMES = {"webhook": "WebhookConfig", "telegram": "TelegramConfig", "mcp": "McpConfig"}


def a_trigger(**configs: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "Rated badly",
        "registry": "reputation",
        "match_all": True,
        "actions": [{"action_type": kind, "config": config} for kind, config in configs.items()],
    }


async def test_every_channel_is_taken_and_shows_no_secret(api: Api, key: str) -> None:
    answer = await api.ask("POST", "/api/v1/triggers", key=key, json=a_trigger(**CONFIGS))

    assert answer.status == 201, answer.body
    shown = {action["action_type"]: action for action in answer.json()["actions"]}
    assert shown["telegram"]["config"] == CONFIGS["telegram"] | {"bot_token": "***"}
    assert shown["telegram"]["destination"] == "***0300"
    assert shown["mcp"]["config"] == CONFIGS["mcp"] | {"auth_token": "***"}
    assert shown["mcp"]["destination"] == "127.0.0.1"
    assert [kind for kind, action in shown.items() if "signing_secret" in action] == ["webhook"]
    assert [secret for secret in (TOKEN, "t0ken-s3cret", "k3y-s3cret") if secret.encode() in answer.body] == []


@pytest.mark.parametrize(
    ("kind", "change", "field", "told"),
    [
        ("telegram", {"message_template": "ab *c"}, "message_template", "at character 4"),
        ("telegram", {"message_template": "{{nope}}"}, "message_template", "at character 1"),
        ("telegram", {"bot_token": None}, "bot_token", "is required"),
        ("mcp", {"arguments_template": {"a": "x {{nope}}"}}, "arguments_template", "at character 3"),
        ("mcp", {"server_url": "ftp://127.0.0.1/"}, "server_url", "https"),
        ("mcp", {"nonsense": 1}, "nonsense", "is not a known field"),
    ],
)
async def test_a_refusal_names_the_field(
    api: Api, key: str, kind: str, change: dict[str, Any], field: str, told: str
) -> None:
    body = a_trigger(**{kind: CONFIGS[kind] | change})

    answer = await api.ask("POST", "/api/v1/triggers", key=key, json=body)

    assert answer.status == 422
    (fault,) = answer.json()["errors"]
    assert fault["field"] == f"actions[0].config.{field}"
    assert told in fault["message"]


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_the_description_says_what_a_configuration_holds(kind: str) -> None:
    schemas = json.loads(openapi_document())["components"]["schemas"]
    validator = Draft202012Validator(schemas[NAMES[kind]])

    assert {"$ref": f"#/components/schemas/{NAMES[kind]}"} in schemas["ActionDraft"]["properties"]["config"]["anyOf"]
    assert validator.is_valid(CONFIGS[kind])
    assert not validator.is_valid(CONFIGS[kind] | {"nonsense": 1})
    assert not validator.is_valid({})
