"""A running installation in the parts of the compose file, and an operator who breaks and mends it at a terminal."""

from __future__ import annotations

import itertools
import os
import re
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec
import yaml

from agentauri.doctor import CheckResult, Report
from agentauri.embedded import Embedded
from support.processes import Child, Nursery, until
from support.receiver import Receiver
from support.terminal import Terminal, Typed

ROOT = Path(__file__).parents[2]
SECONDS = 20.0
STOP_SECONDS = 45.0
"""The longest stop: SHUTDOWN_GRACE_SECONDS and what the end itself takes."""
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
PARTS = ("api-gateway", "event-processor")
"""What runs to begin with; more dispatchers are started where a test is about them."""

EMPTY = """
    DROP FUNCTION IF EXISTS planted CASCADE;
    DELETE FROM attempts; DELETE FROM deliveries; DELETE FROM circuit_breaker_state; DELETE FROM event_queue;
    DELETE FROM processed_events; DELETE FROM auth_failures; DELETE FROM checkpoints; DELETE FROM rpc_providers;
    UPDATE triggers SET enabled = false;
"""
EVENT = (
    "INSERT INTO events (id, chain_id, block_number, block_hash, transaction_hash, log_index, registry, event_type,"
    " agent_id, timestamp, created_at) SELECT 'event-' || n, 84532, 1, '0xb', '0xt', n, 'reputation', 'NewFeedback',"
    " {agent}, 1767225600, now() - interval '{age} seconds' FROM generate_series({first}, {last}) AS n"
)


class House:
    """`settings` are the lines of `.env`, in which the fixes write too; the parts are started by `docker compose`, whom
    we stand in for."""

    def __init__(
        self,
        folder: Path,
        nursery: Nursery,
        database_url: str,
        valkey: Embedded,
        *,
        seen_as: str | None = None,
        parts: Sequence[str] = PARTS,
        restart_postgres: Callable[[], None] = lambda: None,
    ) -> None:
        """`database_url` is the way that is always open to us; the product goes by `seen_as`, if that is another."""
        assert valkey.redis_url is not None
        self.folder = folder
        self.root = ROOT
        self.database_url = database_url
        self._parts, self._restart_postgres = parts, restart_postgres
        self._nursery = nursery
        self._valkey, self._redis_runs = valkey, True
        self._numbers = itertools.count(1)
        self._settings = {
            "DATABASE_URL": seen_as or database_url,
            "REDIS_URL": valkey.redis_url,
            "ENVIRONMENT": "development",
            "AGENTAURI_DATA_DIR": str(folder / "data"),
            "SERVER_PORT": "0",
            "RETRY_SCHEDULE_SECONDS": "1,1,1,1,1",
            "EVENT_MAX_ATTEMPTS": "1",
        }
        self._as_started: str | None = None
        self.parts: dict[str, list[Child]] = {}
        self.terminal = Terminal(folder, {"agentauri": self.agentauri, "docker": self._docker})
        self.agent = 0
        self.key = ""

    async def stand(self, **settings: str) -> None:
        """Everything up and empty, with these settings; what already runs as wanted goes on."""
        self._start_redis()
        env = "".join(f"{name}={value}\n" for name, value in {**self._settings, **settings}.items())
        (self.folder / ".env").write_text(env)
        running = {part: len(children) for part, children in self.parts.items()}
        if env != self._as_started or running != dict.fromkeys(self._parts, 1) or not self._all_alive():
            for part in list(self.parts):
                await self.stop(part)
        await self.sql(EMPTY)
        for part in self._parts:
            if part not in self.parts:
                await self.start(part)
        self._as_started = env
        self.agent = next(self._numbers)
        if not self.key:
            self.key = (await self.typed("agentauri key create --organization acme")).strip()
            await self.typed("agentauri organization plan acme enterprise")

    def _all_alive(self) -> bool:
        return all(child.alive for children in self.parts.values() for child in children)

    async def start(self, part: str) -> None:
        command = COMPOSE[part]["command"]
        child = self._nursery.start(command, self._environment, self.folder / f"{part}-{next(self._numbers)}.log")
        self.parts.setdefault(part, []).append(child)
        await child.logged(SECONDS, event="http.listening" if part == "api-gateway" else "process.started")

    async def stop(self, part: str) -> None:
        for child in self.parts.pop(part, []):
            child.signal(signal.SIGTERM)
            await child.ended(STOP_SECONDS)
        self._as_started = None

    def close(self) -> None:
        for child in itertools.chain(*self.parts.values()):
            child.kill()

    def stop_redis(self) -> None:
        self._valkey.stop()
        self._redis_runs = False

    def _start_redis(self) -> None:
        if not self._redis_runs:
            self._valkey.__enter__()
            self._redis_runs = True

    async def sql(self, statement: str) -> None:
        """As one transaction, again where PostgreSQL ended it because the running processes hold what it needs."""
        connection = await asyncpg.connect(self.database_url)
        try:
            for _ in range(10):
                with suppress(asyncpg.DeadlockDetectedError):
                    await connection.execute(statement)
                    return
            raise AssertionError("a deadlock, ten times running")
        finally:
            await connection.close()

    async def happen(self, count: int = 1, *, age: int = 0) -> None:
        """Events about this test's agent."""
        first = next(self._numbers) * 1000
        await self.sql(EVENT.format(agent=self.agent, age=age, first=first, last=first + count - 1))

    @property
    def url(self) -> str:
        (child,) = self.parts["api-gateway"]
        (port,) = [line["port"] for line in child.lines() if line.get("event") == "http.listening"]
        return f"http://127.0.0.1:{port}"

    async def make_trigger(self, receiver: Receiver, **fields: Any) -> str:
        """A trigger for whatever happens to this test's agent; its id."""
        body = {
            "name": f"agent {self.agent}",
            "registry": "reputation",
            "conditions": [{"condition_type": "agent_id_equals", "value": str(self.agent)}],
            "actions": [{"action_type": "webhook", "config": {"url": f"{receiver.url}/hook"}}],
        } | fields
        async with self.http() as http, http.post(f"{self.url}/api/v1/triggers", json=body) as answer:
            made = await answer.json()
            assert answer.status == 201, made
            return str(made["id"])

    def http(self, key: str | None = None) -> aiohttp.ClientSession:
        """A session with a key of an organization's."""
        return aiohttp.ClientSession(headers={"X-API-Key": key or self.key})

    # The operator.

    async def doctor(self, *arguments: str) -> dict[str, CheckResult]:
        """What `agentauri doctor` finds, by check."""
        said = await self.agentauri(["doctor", "--json", *arguments])
        start = re.search(r"^\{", said.output, re.MULTILINE)
        assert start is not None, said.output
        report = msgspec.json.decode(said.output[start.start() :], type=Report)
        assert said.code == ("ok", "warn", "fail").index(report.result)
        return {one.check: one for one in report.checks}

    async def typed(self, line: str, answers: str = "") -> str:
        done = await self.terminal.type(line, answers)
        assert done.code == 0, f"{line} ended with {done.code}: {done.output}"
        return done.output

    async def mend(self, check: str, *options: str, answers: str = "") -> CheckResult:
        """See the doctor find it, run the fix as it is printed, see it gone; what was found."""
        name = check.partition(":")[0]
        before = await self.doctor(name, *options)
        assert check in before, before
        found = before[check]
        assert found.result != "ok", found
        assert found.fix is not None
        printed = await self.typed(found.fix, answers)
        looked: dict[str, CheckResult] = {}

        async def well() -> bool:
            looked.clear()
            looked.update(await self.doctor(name, *options))
            return all(one.result == "ok" for key, one in looked.items() if key.partition(":")[0] == name)

        try:
            await until(well, SECONDS, "")
        except AssertionError:
            raise AssertionError(f"{found.fix} printed {printed!r} and left {looked}") from None
        return found

    # Whom the operator's commands reach.

    @property
    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "PWD": str(self.folder), "PAGER": "cat", "LOG_FORMAT": "json"}

    async def agentauri(self, arguments: Sequence[str]) -> Typed:
        log = self.folder / f"command-{next(self._numbers)}.log"
        child = self._nursery.start(list(arguments), self._environment, log)
        return Typed(await child.ended(SECONDS), log.read_text())

    async def _docker(self, arguments: Sequence[str]) -> Typed:
        """The commands of `docker compose` that the doctor prints."""
        match arguments:
            case ["compose", "up", "-d", "redis"]:
                self._start_redis()
            case ["compose", "up", "-d", "--scale", scaled]:
                part, _, number = scaled.partition("=")
                while len(self.parts.get(part, [])) < int(number):
                    await self.start(part)
            case ["compose", "restart", "postgres"]:
                self._restart_postgres()
            case ["compose", "restart" | "up", *parts]:
                for part in [part for part in parts if part != "-d"] or self._parts:
                    assert part in COMPOSE
                    if part in self._parts:  # the others do not run here
                        await self.stop(part)
                        await self.start(part)
            case _:
                return Typed(125, f"no stand-in for docker {' '.join(arguments)}")
        return Typed(0, "")
