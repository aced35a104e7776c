"""A client that knows one thing: where the service is. All else it reads in the OpenAPI document that this gives it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import aiohttp
from jsonschema import Draft202012Validator, FormatChecker

from support.console import INSERT, Command
from support.processes import Child, until
from support.receiver import Receiver


class Answer:
    """What came back, and where the document says that one can go on with it."""

    def __init__(self, status: int, headers: Mapping[str, str], body: Any, links: Mapping[str, Any]) -> None:
        self.status, self.headers, self.body, self.links = status, headers, body, links
        self.asked: Mapping[str, str] = {}

    def parameters(self, operation_id: str) -> dict[str, str]:
        """Those of the link to this operation, filled in."""
        link = next(link for link in self.links.values() if link["operationId"] == operation_id)
        return {name: self._read(expression) for name, expression in link["parameters"].items()}

    def _read(self, expression: str) -> str:
        if expression.startswith("$request.path."):
            return self.asked[expression.removeprefix("$request.path.")]
        value = self.body
        for part in expression.removeprefix("$response.body#/").split("/"):
            value = value[part]
        return str(value)


class Client:
    """Calls operations by their ids, and checks each answer against what the document says of it."""

    def __init__(self, session: aiohttp.ClientSession, base: str, document: dict[str, Any]) -> None:
        self._session, self._base, self._document = session, base, document
        self._operations = {
            operation["operationId"]: (method, path, operation)
            for path, item in document["paths"].items()
            for method, operation in item.items()
        }

    @classmethod
    async def discover(cls, session: aiohttp.ClientSession, base: str) -> Client:
        async with session.get(base) as welcome, session.get(base + (await welcome.json())["openapi"]) as document:
            return cls(session, base, await document.json())

    async def call(
        self, operation_id: str, body: Any = None, *, token: str = "", key: str = "", **parameters: str
    ) -> Answer:
        method, path, operation = self._operations[operation_id]
        in_path = {name: value for name, value in parameters.items() if f"{{{name}}}" in path}
        place = {one["name"]: one["in"] for one in operation["parameters"]}
        query = {name: value for name, value in parameters.items() if place[name] == "query"}
        headers = {name: value for name, value in parameters.items() if place[name] == "header"}
        headers |= self._credential(operation, token, key)
        async with self._session.request(
            method.upper(), self._base + path.format(**in_path), params=query, json=body, headers=headers
        ) as answered:
            described = operation["responses"][str(answered.status)]
            media = described.get("content", {}).get(answered.content_type)
            told = await answered.json() if media else None
            answer = Answer(answered.status, answered.headers.copy(), told, described.get("links", {}))
            answer.asked = in_path
        if media:
            whole = {**media["schema"], "components": self._document["components"]}
            Draft202012Validator(whole, format_checker=FormatChecker()).validate(told)
        return answer

    def _credential(self, operation: Mapping[str, Any], token: str, key: str) -> dict[str, str]:
        """As the first of the operation's security requirements that can be met asks."""
        schemes = self._document["components"]["securitySchemes"]
        for requirement in operation["security"]:
            for name in requirement:
                if key and schemes[name]["type"] == "apiKey":
                    return {schemes[name]["name"]: key}
                if (token or key) and schemes[name].get("scheme") == "bearer":
                    return {"Authorization": f"Bearer {token or key}"}
        return {}


async def test_a_client_finds_its_way_by_the_document_alone(
    serve: Callable[..., Child], agentauri: Command, receiver: Receiver
) -> None:
    child = serve(RATE_LIMIT_MODE="enforcing", ALLOW_UNPAID_UPGRADES="true")
    async with aiohttp.ClientSession() as session:
        client = await Client.discover(session, f"http://127.0.0.1:{await child.port()}")

        account = {"username": "ada", "email": "ada@example.org", "password": "a key to the analytical engine"}
        registered = await client.call("register", account)
        token = registered.body["token"]
        organization = await client.call("create_organization", {"name": "Engines", "slug": "engines"}, token=token)
        assert organization.body["plan"] == "free"
        wanted = {"name": "first", "environment": "live", "permissions": ["read", "write"]}
        made = await client.call(
            "create_key_of_organization",
            wanted,
            token=token,
            **organization.parameters("create_key_of_organization"),
        )
        first = made.body["key"]

        trigger = await client.call("create_trigger", _trigger(f"{receiver.url}/hook"), key=first)
        assert trigger.headers["X-RateLimit-Limit"] == "50"
        await agentauri("psql", "-c", INSERT.format(id="an-event"))
        await receiver.wait_for(1)

        found = await _patiently(client, "delivered", key=first, trigger_id=trigger.body["id"])
        assert found.body["data"][0]["event_id"] == "an-event"

        key_of = {"key_id": made.body["id"], "X-Organization-ID": organization.body["id"]}
        rotated = await client.call("rotate_key", {"overlap_seconds": 1}, token=token, **key_of)
        assert (await client.call("get_trigger", key=first, **trigger.parameters("get_trigger"))).status == 200
        end = datetime.fromisoformat(rotated.body["old_key_revoked_at"])
        await until(lambda: datetime.now(UTC) > end, 20.0, "the end of the overlap")
        assert (await client.call("list_triggers", key=first)).status == 401

        upgrade = {"plan": "pro", "organization_id": organization.body["id"]}
        assert (await client.call("change_plan", upgrade, token=token)).body["payment"] == "waived"
        seen = await client.call("get_trigger", key=rotated.body["key"], **trigger.parameters("get_trigger"))
        assert (seen.status, seen.headers["X-RateLimit-Limit"]) == (200, "500")


async def _patiently(client: Client, status: str, **asked: str) -> Answer:
    """The list of deliveries once its one has this status; asked for seldom, as each request costs."""
    for _ in range(20):
        found = await client.call("list_deliveries", **asked)
        if [one["status"] for one in found.body["data"]] == [status]:
            return found
        await asyncio.sleep(0.2)
    raise AssertionError(found.body)


def _trigger(url: str) -> dict[str, Any]:
    return {
        "name": "Feedback",
        "registry": "reputation",
        "conditions": [{"condition_type": "event_type_equals", "value": "NewFeedback"}],
        "actions": [{"action_type": "webhook", "config": {"url": url}}],
    }
