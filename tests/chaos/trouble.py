"""Faults that come over a running installation one after the other, and go again."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import asyncpg
from aiohttp import web
from redis.exceptions import RedisError

from agentauri.embedded import Embedded
from chains.scripted import ScriptedChain
from chaos.servers import OwnPostgres
from chaos.world import SECONDS, World
from support.faulty_rpc import FaultyRpc
from support.processes import Child, until
from support.receiver import Answer

HELD_SECONDS = 6.0
"""How long a fault lasts that does not end by itself."""

Fault = Callable[[], Awaitable[None]]


class Trouble:
    """Everything that may go wrong with `world`. Each fault is over, and its cause mended, when it returns.

    `workers` are the processes that may be killed or stopped, with their roles.
    """

    def __init__(
        self,
        world: World,
        postgres: OwnPostgres,
        valkey: Embedded,
        chain: ScriptedChain,
        providers: list[FaultyRpc],
        workers: dict[Child, str],
        seed: int,
    ) -> None:
        self.count: Counter[str] = Counter()
        self._world, self._postgres, self._valkey = world, postgres, valkey
        self._chain, self._providers, self._workers = chain, providers, workers
        self._dice = random.Random(seed)
        self._pack: list[Fault] = []
        self._faults: tuple[Fault, ...] = (
            self.process_killed, self.process_stands_still, self.process_drained,
            self.redis_flushed, self.redis_key_deleted, self.redis_away, self.redis_out_of_memory,
            self.postgres_restarted, self.postgres_crashed, self.connections_cut, self.listeners_cut,
            self.notify_trigger_disabled, self.long_transaction,
            self.rpc_down, self.rpc_throttled, self.rpc_lags, self.rpc_of_another_chain, self.rpc_dies_mid_answer,
            self.reorg,
            self.endpoint_refuses, self.endpoint_hangs, self.endpoint_resets, self.endpoint_endless,
        )  # fmt: skip

    async def next(self) -> None:
        """One more: every fault comes once, in an order of chance, before any comes again."""
        if not self._pack:
            self._pack = self._dice.sample(self._faults, len(self._faults))
        fault = self._pack.pop()
        self.count[fault.__name__] += 1
        await fault()

    # Processes.

    async def process_killed(self) -> None:
        child, roles = self._dice.choice(list(self._workers.items()))
        child.kill()
        del self._workers[child]
        self._workers[await self._world.start(roles)] = roles

    async def process_stands_still(self) -> None:
        child = self._dice.choice(list(self._workers))
        child.signal(signal.SIGSTOP)
        await asyncio.sleep(HELD_SECONDS * 3)
        child.signal(signal.SIGCONT)

    async def process_drained(self) -> None:
        child, roles = self._dice.choice(list(self._workers.items()))
        child.signal(signal.SIGTERM)
        assert await child.ended(SECONDS) == 0
        del self._workers[child]
        self._workers[await self._world.start(roles)] = roles

    # Redis.

    async def redis_flushed(self) -> None:
        await self._world.redis.flushall()

    async def redis_key_deleted(self) -> None:
        await self._world.redis.delete(self._dice.choice(await self._world.redis.keys() or ["action_jobs"]))

    async def redis_away(self) -> None:
        with suppress(RedisError):
            await self._world.redis.shutdown(nosave=True)
        await asyncio.sleep(HELD_SECONDS)
        await until(lambda: self._valkey.revive() == ["valkey"], SECONDS, "Valkey to be started again")

    async def redis_out_of_memory(self) -> None:
        await self._world.redis.config_set("maxmemory", 1)
        await asyncio.sleep(HELD_SECONDS)
        await self._world.redis.config_set("maxmemory", 0)

    # PostgreSQL.

    async def postgres_restarted(self) -> None:
        await self._postgres_away(signal.SIGINT)

    async def postgres_crashed(self) -> None:
        await self._postgres_away(signal.SIGQUIT)

    async def _postgres_away(self, how: signal.Signals) -> None:
        self._postgres.end(how)
        await self._postgres.ended()
        await asyncio.sleep(HELD_SECONDS)
        await self._postgres.start()
        await self._world.app.database.up()

    async def connections_cut(self) -> None:
        await self._cut("pid <> pg_backend_pid()")

    async def listeners_cut(self) -> None:
        await self._cut("query ILIKE 'LISTEN%'")

    async def _cut(self, which: str) -> None:
        await self._world.fetch(
            f"""SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND backend_type = 'client backend' AND {which}"""
        )

    async def notify_trigger_disabled(self) -> None:
        await self._world.fetch("ALTER TABLE events DISABLE TRIGGER notify_new_event_trigger")
        await asyncio.sleep(HELD_SECONDS)
        await self._world.fetch("ALTER TABLE events ENABLE TRIGGER notify_new_event_trigger")

    async def long_transaction(self) -> None:
        async with self._world.app.database.outside() as connection:
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM events")
            await asyncio.sleep(HELD_SECONDS)
            with suppress(asyncpg.PostgresError):
                await connection.execute("COMMIT")

    # Providers and chain.

    async def rpc_down(self) -> None:
        for provider in self._providers:
            provider.down = True
        await asyncio.sleep(HELD_SECONDS)
        self._heal()

    async def rpc_throttled(self) -> None:
        self._dice.choice(self._providers).throttled = "http_429"
        await asyncio.sleep(HELD_SECONDS)
        self._heal()

    async def rpc_lags(self) -> None:
        self._dice.choice(self._providers).lag = 5
        await asyncio.sleep(HELD_SECONDS)
        self._heal()

    async def rpc_of_another_chain(self) -> None:
        self._dice.choice(self._providers).chain_id = 1
        await asyncio.sleep(HELD_SECONDS)
        self._heal()

    async def rpc_dies_mid_answer(self) -> None:
        self._dice.choice(self._providers).dies_in = 1
        await asyncio.sleep(HELD_SECONDS)
        self._heal()

    def _heal(self) -> None:
        for provider in self._providers:
            provider.heal()

    async def reorg(self) -> None:
        """All transactions come back, each in a block of its own, so that nothing has to be taken back."""
        for moved in self._chain.fork(min(self._dice.randint(1, 5), self._chain.head.number - 1)):
            self._chain.mine(moved)
        self._chain.mine()

    # The endpoint.

    async def endpoint_refuses(self) -> None:
        self._world.receiver.answer = lambda _: Answer(503)
        await asyncio.sleep(HELD_SECONDS)
        self._world.receiver.answer = lambda _: Answer()

    async def endpoint_hangs(self) -> None:
        gone = asyncio.Event()

        async def hang(_: web.Request) -> web.Response:
            await gone.wait()
            return web.Response(status=503)

        await self._endpoint(hang)
        gone.set()

    async def endpoint_resets(self) -> None:
        async def reset(request: web.Request) -> web.Response:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        await self._endpoint(reset)

    async def endpoint_endless(self) -> None:
        async def flood(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(status=500)
            await response.prepare(request)
            with suppress(ConnectionError):
                while True:
                    await response.write(b"x" * 65536)
            return response

        await self._endpoint(flood)

    async def _endpoint(self, handle: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> None:
        self._world.receiver.handle = handle
        await asyncio.sleep(HELD_SECONDS)
        self._world.receiver.handle = None
