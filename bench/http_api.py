"""The HTTP side: what an authenticated read costs, what of that is the limiter's, what a key costs against a token, and
what a storm of logins does to everybody else.

The read is `GET /triggers/{id}`, asked by another process over 16 connections. Rates are requests per second of this
process's own processor time, so that what else the machine does counts for nothing; the variants of a figure take turns
within a run. The bare route is Litestar's, on the same server: one Core read by primary key and one call of the
limiter's script, with no layer around it.

Not `http.py`: this folder comes first on the path of what runs here, and would hide the library's package of that name.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from typing import Any, NamedTuple, NoReturn, cast

import aiohttp
import sqlalchemy as sa
from litestar import Litestar, get
from litestar.params import FromPath
from msgspec import structs

import harness
from agentauri.app import Application
from agentauri.config import ServerConfig
from agentauri.http import ComponentState, HttpServer, create_app
from agentauri.http.exchange import Layer
from agentauri.http.rate_limit import Budget, RateLimiter
from harness import Bench, Orders, Peer, Reading, Stage, WrongTotals

CONNECTIONS = 16
TURNS = 4
STORM = 64
EVERY = 0.1
"""Seconds between two requests of one who has nothing to do with the storm."""
PASSWORD = "correct horse battery 4711"

Call = tuple[int, str, Mapping[str, str]]
"""Port, path and headers."""


class House(NamedTuple):
    """The product's HTTP side with and without the limiter, a bare route, and a trigger with who may read it."""

    application: Application
    limited: int
    unlimited: int
    bare: int
    trigger: str
    bearer: Mapping[str, str]
    key: Mapping[str, str]

    @property
    def path(self) -> str:
        return f"/api/v1/triggers/{self.trigger}"


class _Reads(Bench):
    """Two ways to ask for the same trigger, measured by turns."""

    unit = "requests/s of a core"
    what = "GET /triggers/{id} with a token, limits in force"
    size = 1_600  # of each variant and turn: what the largest plan has in an hour is more

    def start(self, stack: ExitStack) -> None:
        self._caller = Peer(stack, _call)

    async def measure(self, stage: Stage) -> Reading:
        async with _house(stage) as house:
            variants = self.variants(house)
            spent = [0.0, 0.0]
            for _ in range(TURNS):
                for place, variant in enumerate(variants):
                    await house.application.redis.flushall()
                    spent[place] += await self._turn(*variant)
        value, ceiling = (TURNS * self.count / seconds for seconds in spent)
        return Reading(value, ceiling, self.note(value, ceiling))

    def variants(self, house: House) -> tuple[Call, Call]:
        """What the figure is about, and its ceiling."""
        raise NotImplementedError

    def note(self, value: float, ceiling: float) -> str:
        return f"{1e6 / value:,.0f} us a request, {1e6 / ceiling:,.0f} at the ceiling"

    async def _turn(self, port: int, path: str, headers: Mapping[str, str]) -> float:
        """Processor seconds that so many requests took here."""
        started = time.process_time()
        answered = await asyncio.to_thread(self._caller.ask, "ask", port, path, dict(headers), self.count)
        if answered != self.count:
            raise WrongTotals(f"{answered:,} of {self.count:,} were answered with 200")
        return time.process_time() - started


class Read(_Reads):
    name = "http_read"
    bare = "a bare Litestar route with one Core read by primary key and one script call"

    def variants(self, house: House) -> tuple[Call, Call]:
        return (house.limited, house.path, house.bearer), (house.bare, f"/{house.trigger}", {})


class Limiter(_Reads):
    name = "http_limiter"
    bare = "the same with RATE_LIMIT_MODE=off"

    def variants(self, house: House) -> tuple[Call, Call]:
        return (house.limited, house.path, house.bearer), (house.unlimited, house.path, house.bearer)

    def note(self, value: float, ceiling: float) -> str:
        return f"the limiter takes {1 - value / ceiling:.0%}"


class Key(_Reads):
    name = "http_key"
    what = "GET /triggers/{id} with an API key, limits in force"
    bare = "the same with a token"

    def variants(self, house: House) -> tuple[Call, Call]:
        return (house.limited, house.path, house.key), (house.limited, house.path, house.bearer)

    def note(self, value: float, ceiling: float) -> str:
        return f"a request with a key takes {ceiling / value:.2f} times one with a token"


class Storm(Bench):
    name = "http_storm"
    unit = "ms"
    what = f"p99 of other routes while {STORM} connections log in without a pause"
    bare = "p99 of the same requests, nobody logging in"
    size = 20  # seconds
    runs = 3

    def start(self, stack: ExitStack) -> None:
        self._caller, self._crowd = Peer(stack, _call), Peer(stack, _call)

    async def measure(self, stage: Stage) -> Reading:
        async with _house(stage) as house:
            names = await _crowd(house.application)
            calls = [
                (house.limited, house.path, house.bearer),
                (house.limited, "/api/v1/triggers", house.key),
                (house.limited, "/api/v1/auth/me", house.bearer),
                (house.limited, "/api/v1/health", {}),
            ]
            alone = await asyncio.to_thread(self._caller.ask, "sample", calls, self.count / 4)
            until = time.time() + self.count + 1
            storm = asyncio.create_task(asyncio.to_thread(self._crowd.ask, "storm", house.limited, names, until))
            async with harness.watched() as watch:
                took = await asyncio.to_thread(self._caller.ask, "sample", calls, self.count)
            logins = await storm
        note = (
            f"{len(took):,} requests, p50 {harness.percentile(took, 50):.1f} ms, longest {max(took):.0f}; "
            f"{logins / (self.count + 1):.0f} logins/s; the loop's longest pause {watch.pause * 1000:.0f} ms"
        )
        return Reading(harness.percentile(took, 99), harness.percentile(alone, 99), note)


@asynccontextmanager
async def _house(stage: Stage) -> AsyncIterator[House]:
    settings = {"RATE_LIMIT_MODE": "enforcing", "AUTH_RATE_LIMIT_PER_HOUR": "1000000"}
    async with stage.fresh(), stage.application(**settings) as application:
        services = application.services(components=_nothing, examine=_nobody, stopping=lambda: False)
        free = structs.replace(services, server=structs.replace(services.server, rate_limit_mode="off"))
        apps = create_app(services), create_app(free), _bare(application)
        async with _served(apps[0]) as limited, _served(apps[1]) as unlimited, _served(apps[2]) as bare:
            trigger, token, key = await _furnish(application, unlimited)
            bearer, with_key = {"Authorization": f"Bearer {token}"}, {"X-API-Key": key}
            yield House(application, limited, unlimited, bare, trigger, bearer, with_key)


async def _furnish(application: Application, port: int) -> tuple[str, str, str]:
    """A trigger, and the token and the key of its organization, which has the largest plan."""
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}/api/v1/") as session:

        async def make(path: str, body: object, token: str = "") -> dict[str, Any]:
            async with session.post(path, json=body, headers={"Authorization": f"Bearer {token}"}) as answer:
                made: dict[str, Any] = await answer.json()
                if answer.status != 201:
                    raise WrongTotals(f"{path}: {made}")
                return made

        user = {"username": "bench", "email": "bench@example.org", "password": PASSWORD}
        token = (await make("auth/register", user))["token"]
        async with application.database.transaction() as tx:
            await tx.run("UPDATE organizations SET plan = 'enterprise'")
            application.standings.forget_after(tx)
        key = await make("api-keys", {"name": "bench", "environment": "live"}, token)
        condition = {"condition_type": "score_threshold", "field": "score", "operator": "<", "value": "60"}
        action = {"action_type": "rest", "config": {"url": "https://example.org/hook"}}
        body = {"name": "bench", "registry": "reputation", "conditions": [condition], "actions": [action]}
        trigger = await make("triggers", body, token)
    return trigger["id"], token, key["key"]


async def _crowd(application: Application) -> list[str]:
    """As many users as log in at once, all with the same password: nobody's tries count against another's."""
    async with application.database.transaction() as tx:
        rows = await tx.fetch(
            """INSERT INTO users (id, username, email, password_hash)
               SELECT 'crowd-' || number, 'crowd-' || number, 'crowd-' || number || '@example.org', password_hash
               FROM users, generate_series(1, $1::int) AS number WHERE username = 'bench' RETURNING username""",
            STORM,
        )
    return [row["username"] for row in rows]


async def _nothing() -> Mapping[str, ComponentState]:
    return {}


async def _nobody() -> NoReturn:
    raise NotImplementedError


def _bare(application: Application) -> Layer:
    limiter = RateLimiter(application.redis)
    budgets = [Budget("agentauri:rl:{bare}", "bare", 1_000_000)]
    names = ("id", "organization_id", "user_id", "name", "environment", "registry", "enabled", "version", "created_at")
    triggers = sa.table("triggers", *(sa.column(name) for name in names))

    @get("/{trigger_id:str}")
    async def read(trigger_id: FromPath[str]) -> dict[str, Any]:
        await limiter.charge(budgets, 1)
        async with application.database.reading() as tx:
            row = (await tx.execute(sa.select(triggers).where(triggers.c.id == trigger_id))).one()
        return dict(row._mapping)

    return cast(Layer, Litestar([read], openapi_config=None, logging_config=None))


@asynccontextmanager
async def _served(app: Layer) -> AsyncIterator[int]:
    server = HttpServer(app, ServerConfig(port=0))
    async with harness.working(server.run):
        yield server.port


async def _call(orders: Orders) -> None:
    await orders.obey({"ask": _ask, "sample": _sample, "storm": _storm})


def _ask(port: int, path: str, headers: Mapping[str, str], count: int) -> int:
    """Ask so often, over several connections by turns; how often the answer was 200."""
    request = _request("GET", path, headers)
    with ExitStack() as stack:
        connections = [_connect(stack, port) for _ in range(min(CONNECTIONS, count))]
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


def _sample(calls: list[Call], seconds: float) -> list[float]:
    """Callers who have nothing to do with each other, one for each call, ask at a steady pace; how many milliseconds
    after its time each request was answered."""
    until = time.perf_counter() + seconds
    with ThreadPoolExecutor(len(calls)) as callers:
        return [took for each in callers.map(_paced, calls, [until] * len(calls)) for took in each]


def _paced(call: Call, until: float) -> list[float]:
    took: list[float] = []
    port, path, headers = call
    request, due = _request("GET", path, headers), time.perf_counter()
    with ExitStack() as stack:
        connection = _connect(stack, port)
        while due < until:
            time.sleep(max(0.0, due - time.perf_counter()))
            connection.sendall(request)
            if not _read(connection):
                raise WrongTotals(f"{path} was not answered with 200")
            took.append((time.perf_counter() - due) * 1000)
            due += EVERY
    return took


def _storm(port: int, names: list[str], until: float) -> int:
    """Have each of them log in again and again until that time; how many logins there were."""
    with ExitStack() as stack:
        lines = []
        for name in names:
            body = f'{{"username": "{name}", "password": "{PASSWORD}"}}'.encode()
            lines.append((_connect(stack, port), _request("POST", "/api/v1/auth/login", {}, body)))
        for connection, request in lines:
            connection.sendall(request)
        done = 0
        while True:
            for connection, request in lines:
                if not _read(connection):
                    raise WrongTotals("a login was not answered with 200")
                done += 1
                if time.time() >= until:
                    return done
                connection.sendall(request)


def _connect(stack: ExitStack, port: int) -> socket.socket:
    return stack.enter_context(socket.create_connection(("127.0.0.1", port)))


def _request(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", *(f"{name}: {value}" for name, value in headers.items())]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


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
    for bench in (Read, Limiter, Key, Storm):
        harness.run(bench)
