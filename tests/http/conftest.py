"""The application on real services, and ways to talk to it: in process, or over a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import aiohttp
import pytest
from msgspec import structs

from agentauri.accounts import SYSTEM, KeyDraft
from agentauri.app import Application, Stores, assemble
from agentauri.config import Config, DatabaseConfig, RedisConfig, ServerConfig
from agentauri.doctor import Report, examine
from agentauri.http import ComponentState, HttpServer, create_app
from agentauri.http.exchange import Layer
from agentauri.types import Plan, Secret

Serve = Callable[[Layer], Awaitable[str]]


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Api:
    """One application, asked in process. `states` and `draining` are what it is told of its process; bodies of
    a `silent` caller never come."""

    def __init__(self, house: Application) -> None:
        self.house = house
        self.states: dict[str, ComponentState] = {"database": "ok", "migrations": "ok", "redis": "ok"}
        self.draining = False
        self.peer = "127.0.0.1"
        self.silent = False
        self.app = self.make_app()

    def make_app(
        self, server: ServerConfig | None = None, environment: Any = "development", *, probes_only: bool = False
    ) -> Layer:
        house = self.house
        services = house.services(components=self._components, examine=self._examine, stopping=lambda: self.draining)
        return create_app(
            structs.replace(services, server=server or house.config.server, environment=environment, version="0.0.0"),
            probes_only=probes_only,
        )

    async def _components(self) -> Mapping[str, ComponentState]:
        return self.states

    async def _examine(self) -> Report:
        settings = self.house.config
        assert settings.database is not None
        assert settings.redis is not None
        return await examine(self.house.patient(Stores(settings.database, settings.redis, None)))

    async def ask(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        json: Any = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = {"host": "test", **(headers or {})}
        if key is not None:
            sent["X-API-Key"] = key
        if json is not None:
            body = _encode(json)
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
            sent["Content-Length"] = str(len(body))
        return await self._call(method, path, sent, body or b"")

    async def _call(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        parts = urlsplit(path)
        scope: Any = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": parts.path,
            "raw_path": quote(parts.path).encode(),
            "query_string": quote(parts.query, safe="=&%:+").encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
            "client": (self.peer, 4711),
            "server": ("test", 80),
            "state": {},
        }
        incoming = [{"type": "http.request", "body": body, "more_body": False}]
        started: dict[str, Any] = {}
        received = b""

        async def receive() -> Any:
            if self.silent:
                await asyncio.Event().wait()
            return incoming.pop() if incoming else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            nonlocal received
            if message["type"] == "http.response.start":
                started.update(message)
            else:
                received += message.get("body", b"")

        await self.app(scope, receive, send)
        given = {bytes(name).decode().title(): value.decode() for name, value in started["headers"]}
        return Answer(started["status"], given, received)


def _encode(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture
async def house(config: Config, database_settings: DatabaseConfig, redis_url: str) -> AsyncIterator[Application]:
    """Every service of a process, on this test's servers."""
    stores = Stores(database_settings, RedisConfig(url=Secret(redis_url)), None)
    async with assemble(config, stores) as application:
        yield application


@pytest.fixture
def api(house: Application) -> Api:
    return Api(house)


@pytest.fixture
def make_key(house: Application) -> Callable[..., Awaitable[str]]:
    """A key of an organization, `acme` on the largest plan unless named, with all permissions but admin."""

    async def make(organization: str = "acme", plan: Plan = "enterprise", **changes: Any) -> str:
        async with house.database.transaction() as tx:
            owner = await house.organizations.find_or_create(tx, organization)
            await house.organizations.set_plan(tx, SYSTEM, owner, plan)
            values: dict[str, Any] = {"name": "k", "created_by": owner.owner_id}
            values |= {"permissions": ("read", "write", "delete"), **changes}
            return (await house.api_keys.create(tx, owner.id, KeyDraft(**values))).secret.reveal()

    return make


@pytest.fixture
async def key(make_key: Callable[..., Awaitable[str]]) -> str:
    return await make_key()


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serve an application until the test ends; its base URL."""
    stopping, running = asyncio.Event(), []

    async def start(app: Layer) -> str:
        server = HttpServer(app, ServerConfig(port=0))
        running.append(asyncio.create_task(server.run(stopping)))
        return f"http://127.0.0.1:{server.port}"

    yield start
    stopping.set()
    await asyncio.gather(*running)


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def send_raw() -> Callable[[str, bytes], Awaitable[bytes]]:
    """Send bytes as they are; all that comes back until the server hangs up."""

    async def talk(url: str, data: bytes) -> bytes:
        host, _, port = url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(data)
        try:
            return await reader.read()
        finally:
            writer.close()

    return talk
