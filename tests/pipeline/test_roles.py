"""Roles in processes of their own, on one PostgreSQL and one Valkey."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import aiohttp

from agentauri.database import Database
from agentauri.demo import LocalChain
from pipeline.test_pipeline import SECONDS, indexed
from support.processes import Child, until
from support.receiver import Receiver

Serve = Callable[..., Child]


class Part:
    """A process, and what it tells of itself."""

    def __init__(self, child: Child, port: int, session: aiohttp.ClientSession) -> None:
        self.child = child
        self.url = f"http://127.0.0.1:{port}"
        self._session = session

    async def get(self, path: str) -> tuple[int, str]:
        async with self._session.get(self.url + path) as answer:
            return answer.status, await answer.text()

    async def components(self) -> dict[str, str]:
        """Once it is ready."""

        async def ready() -> bool:
            return (await self.get("/health/ready"))[0] == 200

        await until(ready, SECONDS, f"readiness of {self.url}")
        async with self._session.get(f"{self.url}/health/ready") as answer:
            found: dict[str, str] = (await answer.json())["components"]
        return found

    async def counted(self, sample: str, at_least: int) -> None:
        async def there() -> bool:
            _, text = await self.get("/metrics")
            values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(sample)]
            return bool(values) and float(values[0]) >= at_least

        await until(there, SECONDS, f"{sample} at {self.url}")


async def test_three_processes_do_together_what_one_does_and_each_tells_of_its_part(
    chain: LocalChain, serve: Serve, database: Database, http: aiohttp.ClientSession, receiver: Receiver
) -> None:
    web = serve("--only", "http")
    work = serve("--only", "indexer,evaluator", METRICS_PORT="0", **chain.settings)
    send = serve("--only", "dispatcher", METRICS_PORT="0")
    parts = [Part(child, await child.port(), http) for child in (web, work, send)]
    of_web, of_work, of_send = [await part.components() for part in parts]
    await indexed(database, chain)
    await rate_one(chain, http, parts[0].url, receiver)

    shown = ("listener", "evaluator", "dispatcher", f"indexer:{chain.chain_id}")
    assert [of_web.get(name) for name in shown] == ["off", "off", "off", None]
    assert of_work["evaluator"] == of_work[shown[3]] == "ok"
    assert of_work["dispatcher"] == "off"
    assert [of_send.get(name) for name in shown[1:]] == ["off", "ok", None]
    await parts[1].counted("agentauri_events_processed_total", 1)
    await parts[1].counted('agentauri_chain_status{chain="31337",status="live"}', 1)
    await parts[2].counted('agentauri_deliveries_finished_total{channel="webhook",status="delivered"}', 1)
    assert [(await part.get("/api/v1/triggers"))[0] for part in parts] == [200, 404, 404]
    await until(lambda: beats(database), SECONDS, "a heartbeat of every role")

    for part in parts:
        part.child.signal(signal.SIGTERM)
    assert [await part.child.ended(SECONDS) for part in parts] == [0, 0, 0]


async def rate_one(chain: LocalChain, http: aiohttp.ClientSession, url: str, receiver: Receiver) -> None:
    """Make a trigger at this process, and something that it must tell."""
    trigger: dict[str, Any] = {
        "name": "All",
        "registry": "reputation",
        "conditions": [{"condition_type": "event_type_equals", "value": "NewFeedback"}],
        "actions": [{"action_type": "webhook", "config": {"url": f"{receiver.url}/hook"}}],
    }
    async with http.post(f"{url}/api/v1/triggers", json=trigger) as answer:
        assert answer.status == 201
    agent, _ = await chain.register()
    await chain.give_feedback(agent, 87)
    await receiver.wait_for(1, SECONDS)


async def beats(database: Database) -> bool:
    """Each role has a heartbeat, and those of different processes are different instances."""
    async with database.transaction() as tx:
        rows = await tx.fetch("SELECT role, instance FROM process_heartbeats ORDER BY role")
    roles = [row["role"] for row in rows]
    return roles == ["dispatcher", "evaluator", "http", "indexer"] and len({row["instance"] for row in rows}) == 3
