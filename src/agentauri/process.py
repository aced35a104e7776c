"""The life of one process: it prepares, runs the workers of its roles until told to stop, and drains."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from agentauri import migrations
from agentauri.agents import recounting
from agentauri.app import VERSION, Application, Stores, assemble, schema_fault
from agentauri.config import Config, ConfigError
from agentauri.doctor import examine
from agentauri.errors import Unavailable
from agentauri.events import Listener
from agentauri.http import HttpServer, Services, create_app
from agentauri.janitor import MINUTE, Janitor, Job
from agentauri.log import get_logger
from agentauri.pulse import Pulse
from agentauri.supervisor import Supervisor, Worker, wait_for
from agentauri.types import ChainId

if TYPE_CHECKING:
    from agentauri.http import ComponentState

log = get_logger(__name__)


def serve(config: Config, stores: Stores) -> int:
    """Run until a signal, or until a worker cannot be kept alive; the exit code."""
    return uvloop.run(_serve(config, stores))


async def _serve(config: Config, stores: Stores) -> int:
    async with assemble(config, stores) as application:
        process = Process(application, stores)
        try:
            return await process.run()
        except ConfigError as error:
            log.critical("process.refused", message="; ".join(error.faults))
            return 1


class Process:
    """One running process: prepares, starts, waits, drains."""

    def __init__(self, application: Application, stores: Stores) -> None:
        self._app = application
        self._stores = stores
        self._owns_database = stores.embedded is not None and application.config.database is None
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._prepared = asyncio.Event()
        self._supervisor: Supervisor | None = None
        self._listener: Listener | None = None
        self._upkeep = application.database.limited(1)

    async def run(self) -> int:
        """Prepare, run until told to stop, drain; the exit code.

        HTTP answers from the beginning, and says that we are not ready; the other workers wait for the schema.
        """
        self._handle_signals()
        supervisor = self._supervisor = Supervisor(self._workers(), total_grace=self._app.config.shutdown_grace + 10)
        supervisor.start()
        refused = False
        if await self._prepare():
            self._prepared.set()
            log.info(
                "process.started", version=VERSION, instance=self._app.instance, roles=",".join(self._app.config.roles)
            )
            self._tell_where_chains_come_from()
            await _first(self._stop, supervisor.finished)
        else:
            refused = not self._stop.is_set()
        because = "refused" if refused else f"{supervisor.failed} keeps crashing" if supervisor.failed else "told to"
        log.info("process.draining", because=because)
        self._stop.set()
        await self._drain(supervisor)
        log.info("process.stopped")
        return 1 if supervisor.failed or refused else 0

    async def _drain(self, supervisor: Supervisor) -> None:
        draining = asyncio.create_task(supervisor.stop())
        await wait_for(draining, self._stop_now)
        if self._stop_now.is_set():
            log.warning("process.cancelled", because="told twice")
        if stuck := await supervisor.cancel():
            log.critical("process.stuck", workers=",".join(sorted(stuck)))
            os._exit(1)  # whatever they do, nothing that matters is only in memory; our servers die with us

    def _handle_signals(self) -> None:
        def told() -> None:
            (self._stop_now if self._stop.is_set() else self._stop).set()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, told)

    async def _prepare(self) -> bool:
        """Schema, partitions, first key. False when the start is refused, or ended by a signal."""
        database = self._app.database
        up = asyncio.create_task(database.up())
        told = asyncio.create_task(self._stop.wait())
        await asyncio.wait({up, told}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if not up.done():
            up.cancel()
            return False
        if self._owns_database and not (await migrations.state(database)).ok:
            await migrations.migrate(self._stores.database)
        if fault := await schema_fault(database):
            log.critical("schema.refused", message=fault)
            return False
        async with database.transaction() as tx:
            await migrations.ensure_partitions(tx)
        if self._owns_database:
            await self._first_start()
        return True

    async def _first_start(self) -> None:
        path = self._app.config.data_dir / "first-key"
        async with self._app.database.transaction() as tx:
            key = await self._app.organizations.first_start(tx)
            if key is not None and not sys.stderr.isatty():
                _write_private(path, key.reveal() + "\n")
        if key is None:
            return
        if sys.stderr.isatty():
            print(f"\nYour first API key, shown this once:\n\n    {key.reveal()}\n", file=sys.stderr)
        else:
            log.info("first_key.written", path=str(path))

    def _workers(self) -> list[Worker]:
        """Sink first: they start in this order and stop in reverse."""
        app, roles = self._app, self._app.config.roles
        workers: list[Worker] = []
        wakes = [app.dispatcher.wake] if "dispatcher" in roles else []
        wakes += [app.evaluator.wake] if "evaluator" in roles else []
        listener = Listener(app.database, wakes)
        if "dispatcher" in roles:
            workers.append(Worker("dispatcher", app.dispatcher.run, app.config.shutdown_grace))
            listener.on("breaker_changed", app.dispatcher.breaker_changed)
        if "evaluator" in roles:
            workers.append(Worker("evaluator", app.evaluator.run, 10))
            listener.on("new_event", app.evaluator.heard)
            listener.on("trigger_changed", app.evaluator.configured)
        if wakes:
            self._listener = listener
            workers.append(Worker("listener", listener.run, 2))
        if "indexer" in roles:
            workers += [indexer.worker for indexer in app.indexers]
        workers.append(Worker("janitor", self._janitor().run, 5))
        workers.append(Worker("pulse", self._pulse().run, 2))
        if "http" in roles:
            usage = app.api_keys.usage
            workers.append(Worker("key_usage", lambda stopping: usage.run(self._upkeep, stopping), 2))
        workers = [Worker(worker.name, self._once_prepared(worker), worker.grace) for worker in workers]
        if "http" in roles:
            workers.append(Worker("http", self._http().run, 10))
        elif app.config.server.metrics_port is not None:
            workers.insert(
                0, Worker("metrics", self._probes().run, 2)
            )  # it tells of the others until they have stopped
        return workers

    def _once_prepared(self, worker: Worker) -> Callable[[asyncio.Event], Awaitable[None]]:
        async def run(stopping: asyncio.Event) -> None:
            await _first(self._prepared, stopping)
            if not stopping.is_set():
                await worker.run(stopping)

        return run

    def _janitor(self) -> Janitor:
        more = [recounting(), Job("api_keys", "api_keys", MINUTE, self._app.api_keys.end_due)]
        return Janitor(self._upkeep, self._app.event_queue, self._app.config.retention, more=more)

    def _pulse(self) -> Pulse:
        return Pulse(
            self._upkeep,
            instance=self._app.instance,
            version=VERSION,
            roles=self._app.config.roles,
            states=self.components,
            restarts=lambda: self._supervisor.restarts if self._supervisor else 0,
            embedded=self._stores.embedded,
        )

    def _http(self) -> HttpServer:
        return HttpServer(create_app(self._services()), self._app.config.server)

    def _probes(self) -> HttpServer:
        server = self._app.config.server
        app = create_app(self._services(), probes_only=True)
        return HttpServer(app, server, port=server.metrics_port, variable="METRICS_PORT")

    def _services(self) -> Services:
        return self._app.services(
            components=self.components,
            examine=lambda: examine(self._app.patient(self._stores, served_by=os.getpid())),
            stopping=self._stop.is_set,
        )

    async def components(self) -> Mapping[str, ComponentState]:
        """The state of every part of this process, by name."""
        prepared = self._prepared.is_set()
        states: dict[str, ComponentState] = {"database": "ok", "migrations": "ok" if prepared else "failed"}
        statuses: dict[ChainId, str] = {}
        try:
            async with asyncio.timeout(2.0), self._app.database.transaction(durable=False) as tx:
                if prepared:
                    statuses = {ChainId(s.chain_id): s.status for s in await self._app.chains.status(tx)}
        except (Unavailable, TimeoutError):
            states["database"] = "failed"
        states["redis"] = "degraded" if self._app.queue.away else "ok"
        running = self._supervisor.names if self._supervisor else frozenset()
        crashed = self._supervisor.crashed if self._supervisor else frozenset()
        for name in ("listener", "evaluator", "dispatcher", "janitor"):
            states[name] = "failed" if name in crashed else "ok" if name in running else "off"
        if self._listener is not None and not self._listener.connected and states["listener"] == "ok":
            states["listener"] = "degraded"
        for indexer in self._app.indexers if "indexer" in self._app.config.roles else ():
            name = f"indexer:{indexer.chain.id}"
            well = statuses.get(indexer.chain.id) in ("live", "backfill", "starting", None)
            states[name] = "failed" if name in crashed else "ok" if well else "degraded"
        return states

    def _tell_where_chains_come_from(self) -> None:
        if "indexer" in self._app.config.roles and not self._app.indexers:
            log.warning("chain.none", message="No chain is configured: RPC_URLS_<chain id>=https://… adds one")


async def _first(*events: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _write_private(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
