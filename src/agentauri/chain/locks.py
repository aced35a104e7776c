"""One writer per chain: session locks of PostgreSQL, all of a process's on one connection."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from agentauri.database import WEATHER, Connection, Database, DatabaseUnavailable
from agentauri.types import ChainId


class ChainLocks:
    """A lock is gone with its connection; the checkpoint's compare-and-set covers the moment before we notice."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._connection: Connection | None = None
        self._held: set[ChainId] = set()

    async def take(self, chain_id: ChainId) -> bool:
        """Whether the chain is ours now, or still is.

        Raises:
            DatabaseUnavailable: nobody can say.
        """
        async with self._turn:
            connection = await self._connected()
            if chain_id in self._held:
                return True
            if not await _ask(connection, "SELECT pg_try_advisory_lock(hashtextextended($1, 0))", chain_id):
                return False
            self._held.add(chain_id)
            return True

    async def release(self, chain_id: ChainId) -> None:
        """Let another process have the chain. Without a lock left the connection is closed."""
        async with self._turn:
            if chain_id in self._held and len(self._held) > 1 and self._connection is not None:
                await _ask(self._connection, "SELECT pg_advisory_unlock(hashtextextended($1, 0))", chain_id)
            self._held.discard(chain_id)
            if not self._held:
                await self._close()

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            await self._close()
            self._connection = await self._stack.enter_async_context(self._database.outside())
        return self._connection

    async def _close(self) -> None:
        self._held.clear()
        self._connection = None
        await self._stack.aclose()


async def _ask(connection: Connection, sql: str, chain_id: ChainId) -> bool:
    try:
        return bool(await connection.fetchval(sql, f"agentauri.indexer.{chain_id}"))
    except WEATHER as error:
        raise DatabaseUnavailable("The database is away.") from error
