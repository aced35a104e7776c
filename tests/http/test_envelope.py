"""Every status that is no success, provoked once: one envelope, all headers, and nothing of what was sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from litestar.types import HTTPScope, Receive, Send
from msgspec.structs import replace
from redis.asyncio import Redis

from agentauri.config import database_config
from agentauri.database import Database
from agentauri.http.edge import surround
from agentauri.http.exchange import Layer
from agentauri.http.metering import Meter
from agentauri.http.rate_limit import RateLimiter

from .conftest import Answer, Api

MakeKey = Callable[..., Awaitable[str]]

CANARY = "canary-4711"
ORIGIN = "https://app.example.org"
SENT = {"Origin": ORIGIN, "User-Agent": CANARY, "X-Request-ID": "envelope-test.1"}
SECURITY = (
    "Content-Security-Policy", "X-Content-Type-Options", "X-Frame-Options", "X-Xss-Protection", "Referrer-Policy",
    "Permissions-Policy", "Cross-Origin-Opener-Policy", "Cross-Origin-Embedder-Policy", "Cross-Origin-Resource-Policy",
    "X-Permitted-Cross-Domain-Policies", "Strict-Transport-Security", "X-Ratelimit-Limit", "X-Ratelimit-Remaining",
    "X-Ratelimit-Window", "X-Ratelimit-Reset", "Ratelimit-Policy", "Ratelimit",
)  # fmt: skip
TRIGGERS = "/api/v1/triggers"


class Provocation:
    """Asks for trouble; every word that it sends holds the canary."""

    def __init__(self, api: Api, key: str, admin: str, reader: str) -> None:
        self.api, self.key, self.admin, self.reader = api, key, admin, reader

    async def ask(self, method: str, path: str, key: str | None = None, **asked: Any) -> Answer:
        headers = SENT | asked.pop("headers", {})
        return await self.api.ask(method, path, key=key, headers=headers, **asked)

    async def e400(self) -> Answer:
        return await self.ask("POST", TRIGGERS, self.key, body=f'{{"name": "{CANARY}'.encode())

    async def e401(self) -> Answer:
        return await self.ask("POST", TRIGGERS, CANARY, json={"name": CANARY})

    async def e402(self) -> Answer:
        async with self.api.house.database.transaction() as tx:
            await tx.run("UPDATE organizations SET plan = 'free' WHERE slug = 'acme'")
            self.api.house.standings.forget_after(tx)
        return await self.ask("POST", "/api/v1/billing/upgrade", self.admin, json={"plan": "pro"})

    async def e403(self) -> Answer:
        return await self.ask("POST", TRIGGERS, self.reader, json={"name": CANARY})

    async def e404(self) -> Answer:
        return await self.ask("PATCH", f"{TRIGGERS}/{CANARY}", self.key, json={"name": CANARY})

    async def e405(self) -> Answer:
        return await self.ask("DELETE", f"/api/v1/events?x={CANARY}")

    async def e408(self) -> Answer:
        async def reads(scope: HTTPScope, receive: Receive, send: Send) -> None:
            await receive()

        self.around(reads, body_seconds=0.01)
        self.api.silent = True
        try:
            return await self.ask("POST", f"/{CANARY}", body=CANARY.encode())
        finally:
            self.api.silent = False

    async def e409(self) -> Answer:
        body = {"username": "grace", "email": "grace@example.org", "password": f"{CANARY} {CANARY}"}
        await self.ask("POST", "/api/v1/auth/register", json=body)
        return await self.ask("POST", "/api/v1/auth/register", json=body | {"email": "other@example.org"})

    async def e413(self) -> Answer:
        return await self.ask("POST", TRIGGERS, self.key, body=CANARY.encode() * 100_000)

    async def e414(self) -> Answer:
        return await self.ask("GET", f"{TRIGGERS}?{CANARY * 1000}", self.key)

    async def e415(self) -> Answer:
        return await self.ask("POST", TRIGGERS, self.key, body=CANARY.encode(), headers={"Content-Type": "text/plain"})

    async def e422(self) -> Answer:
        return await self.ask("POST", TRIGGERS, self.key, json={"name": "t", "registry": CANARY, CANARY: CANARY})

    async def e429(self) -> Answer:
        server = replace(self.api.house.config.server, rate_limit_mode="enforcing", cors_origins=(ORIGIN,))
        self.api.app = self.api.make_app(replace(server, enable_hsts=True))
        for _ in range(10):
            await self.ask("GET", f"/{CANARY}")
        return await self.ask("GET", f"/{CANARY}")

    async def e431(self) -> Answer:
        return await self.ask("GET", TRIGGERS, self.key, headers={"X-Long": CANARY * 2000})

    async def e500(self) -> Answer:
        async def breaks(scope: HTTPScope, receive: Receive, send: Send) -> None:
            raise RuntimeError("something of ours")

        self.around(breaks)
        return await self.ask("POST", f"/{CANARY}", json={"name": CANARY})

    async def e503(self) -> Answer:
        async with Database.open(database_config("postgresql://postgres@127.0.0.1:1/nothing", (14, 1))) as away:
            kept, self.api.house.http_database = self.api.house.http_database, away
            self.api.app = self.api.make_app(hardened(self.api))
            self.api.house.http_database = kept
            return await self.ask("POST", TRIGGERS, "sk_live_" + CANARY.ljust(43, "x"), json={"name": CANARY})

    def around(self, app: Layer, **seconds: float) -> None:
        server = hardened(self.api)
        self.api.app = surround(app, server, Meter(RateLimiter(Redis(), "off"), server), **seconds)


def hardened(api: Api) -> Any:
    return replace(api.house.config.server, enable_hsts=True, cors_origins=(ORIGIN,), allow_unpaid_upgrades=False)


@pytest.fixture
async def provocation(api: Api, make_key: MakeKey) -> Provocation:
    api.app = api.make_app(hardened(api))
    everything = ("read", "write", "delete", "admin")
    admin = await make_key(key_type="admin", permissions=everything, scopes=("admin:all",))
    return Provocation(api, await make_key(), admin, await make_key(permissions=("read",)))


async def test_every_refusal_has_the_one_envelope_and_every_header(
    provocation: Provocation, log_lines: list[dict[str, object]]
) -> None:
    statuses = (400, 401, 402, 403, 404, 405, 408, 409, 413, 414, 415, 422, 429, 431, 500, 503)
    for status in statuses:
        provocation.api.app = provocation.api.make_app(hardened(provocation.api))
        answer: Answer = await getattr(provocation, f"e{status}")()
        problem = answer.json()

        assert answer.status == status, answer.body
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert problem["status"] == status
        assert problem["message"] == problem["detail"]
        assert problem["title"]
        assert problem["type"].startswith("/problems/")
        assert problem["request_id"] == answer.headers["X-Request-Id"] == "envelope-test.1"
        assert isinstance(problem["errors"], list)
        assert [name for name in SECURITY if name not in answer.headers] == []
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert answer.headers["Vary"] == "Origin"
        assert ("Retry-After" in answer.headers) == (status in (429, 503))
        assert ("Www-Authenticate" in answer.headers) == (status == 401)
        assert ("Allow" in answer.headers) == (status == 405)
        assert CANARY.encode() not in answer.body, status
    assert {line["status"] for line in log_lines if line["event"] == "http.answered"} >= set(statuses)
    assert CANARY not in repr(log_lines)
