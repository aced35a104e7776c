"""One authenticated read over HTTP, `GET /triggers/{id}`: how much of a bare route's rate it reaches, what the limiter
takes of it, and what a key costs against a token.

Another process asks over 16 connections. Rates are requests per second of this process's own processor time, so that
what else the machine does counts for nothing. The bare route is Litestar's, on the same server: one read by primary key
and one call of the limiter's script, with no layer around it. All variants take turns within a run.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from typing import Any, cast

import aiohttp
from litestar import Litestar, get
from litestar.params import FromPath
from msgspec import structs

import harness
from agentauri.app import Application, Process, Stores
from agentauri.config import RedisConfig, ServerConfig
from agentauri.http import HttpServer, Services, create_app
from agentauri.http.exchange import Layer
from agentauri.http.rate_limit import Budget, RateLimiter
from agentauri.types import Secret
from harness import Bench, Orders, Peer, Reading, Stage, WrongTotals

CONNECTIONS = 16
TURNS = 4


class Api(Bench):
    name = "api"
    unit = "requests/s of a core"
    what = "GET /triggers/{id} with a token, limits in force"
    bare = "a bare Litestar route with one read by primary key and one script call"
    size = 1_600  # of each variant and turn: what the largest plan has in an hour is more

    def start(self, stack: ExitStack) -> None:
        self._caller = Peer(stack, _call)

    async def prepare(self, stage: Stage) -> None:
        """Made by the run itself: a trigger, a user, a key."""

    async def measure(self, stage: Stage) -> Reading:
        async with stage.fresh(), stage.application(RATE_LIMIT_MODE="enforcing") as application:
            services = _services(application, stage)
            unlimited = structs.replace(services, server=structs.replace(services.server, rate_limit_mode="off"))
            limited, free = create_app(services), create_app(unlimited)
            async with _served(_bare(application)) as bare_port, _served(limited) as port, _served(free) as free_port:
                trigger, token, key = await _furnish(application, free_port)
                path, bearer = f"/api/v1/triggers/{trigger}", {"Authorization": f"Bearer {token}"}
                variants: dict[str, tuple[int, str, Mapping[str, str]]] = {
                    "bare": (bare_port, f"/{trigger}", {}),
                    "token": (port, path, bearer),
                    "key": (port, path, {"X-API-Key": key}),
                    "unlimited": (free_port, path, bearer),
                }
                spent = dict.fromkeys(variants, 0.0)
                for _ in range(TURNS):
                    for name, variant in variants.items():
                        await application.redis.flushall()
                        spent[name] += await self._turn(*variant)
        rates = {name: TURNS * self.count / seconds for name, seconds in spent.items()}
        note = (
            f"the limiter takes {1 - rates['token'] / rates['unlimited']:.0%}, "
            f"a key {rates['token'] / rates['key']:.2f} times a token"
        )
        return Reading(rates["token"], rates["bare"], note)

    async def _turn(self, port: int, path: str, headers: Mapping[str, str]) -> float:
        """Processor seconds that so many requests took here."""
        started = time.process_time()
        answered = await asyncio.to_thread(self._caller.ask, "ask", port, path, dict(headers), self.count)
        if answered != self.count:
            raise WrongTotals(f"{answered:,} of {self.count:,} were answered with 200")
        return time.process_time() - started


async def _furnish(application: Application, port: int) -> tuple[str, str, str]:
    """A trigger, and the token and the key of its organization, which has the largest plan."""
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}/api/v1/") as session:

        async def make(path: str, body: object, token: str = "") -> dict[str, Any]:
            async with session.post(path, json=body, headers={"Authorization": f"Bearer {token}"}) as answer:
                made: dict[str, Any] = await answer.json()
                if answer.status != 201:
                    raise WrongTotals(f"{path}: {made}")
                return made

        user = {"username": "bench", "email": "bench@example.org", "password": "correct horse battery 4711"}
        token = (await make("auth/register", user))["token"]
        async with application.database.transaction() as tx:
            await tx.run("UPDATE organizations SET plan = 'enterprise'")
            application.standings.forget_after(tx)
        key = await make("api-keys", {"name": "bench", "environment": "live"}, token)
        trigger = await make("triggers", {"name": "bench"}, token)
    return trigger["id"], token, key["key"]


def _services(application: Application, stage: Stage) -> Services:
    database = application.config.database
    assert database is not None
    process = Process(application, Stores(database, RedisConfig(url=Secret(stage.redis_url)), None))
    return process._services()


def _bare(application: Application) -> Layer:
    limiter = RateLimiter(application.redis)
    budgets = [Budget("agentauri:rl:{bare}", "bare", 1_000_000)]

    @get("/{trigger_id:str}")
    async def read(trigger_id: FromPath[str]) -> dict[str, Any]:
        await limiter.charge(budgets, 1)
        async with application.database.transaction() as tx:
            row = await tx.fetchrow("SELECT id, name, organization_id FROM triggers WHERE id = $1", trigger_id)
        assert row is not None
        return dict(row)

    return cast(Layer, Litestar([read], openapi_config=None, logging_config=None))


@asynccontextmanager
async def _served(app: Layer) -> AsyncIterator[int]:
    server = HttpServer(app, ServerConfig(port=0))
    async with harness.working(server.run):
        yield server.port


async def _call(orders: Orders) -> None:
    await orders.obey({"ask": _ask})


def _ask(port: int, path: str, headers: Mapping[str, str], count: int) -> int:
    """Ask so often, over several connections by turns; how often the answer was 200."""
    lines = [f"GET {path} HTTP/1.1", "Host: bench", *(f"{name}: {value}" for name, value in headers.items())]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode()
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(min(CONNECTIONS, count))
        ]
        for connection in connections:
            connection.sendall(request)
        good, left = 0, count - len(connections)
        for number in range(count):
            connection = connections[number % len(connections)]
            good += _read(connection)
            if left:
                connection.sendall(request)
                left -= 1
    return good


def _read(connection: socket.socket) -> bool:
    """Whether the next answer is a 200."""
    received = b""
    while True:
        head, found, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE) if found else None
        if length and len(body) >= int(length[1]):
            return head.startswith(b"HTTP/1.1 200 ")
        more = connection.recv(65536)
        if not more:
            return False
        received += more


if __name__ == "__main__":
    harness.run(Api)
