"""Events indexed a second: 300,000 logs of the usual mix, from a node in a process of its own, and the state of agents
kept beside them; in the same run without that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import aiohttp
import asyncpg
import msgspec

import harness
import node
from agentauri.agents import Projections
from agentauri.app import Application
from agentauri.events import COLUMNS
from harness import Bench, Peer, Reading, Stage, WrongTotals, holds, must_count, until, watched, working

RANGE = 2_000  # blocks that the bare loop asks for at once


PROJECTED = (
    "SELECT (SELECT count(*) FROM agents) = (SELECT count(DISTINCT agent_id) FROM events)",
    "SELECT (SELECT sum(count) FROM event_counters) = (SELECT count(*) FROM events)",
    """SELECT (SELECT count(*) FROM feedback WHERE NOT incomplete) = (
           SELECT count(DISTINCT (agent_id, client_address, feedback_index)) FROM events
           WHERE event_type = 'NewFeedback')""",
    """SELECT (SELECT sum(responses) FROM validations) = (
           SELECT count(*) FROM events WHERE event_type = 'ValidationResponse')""",
)
"""What the state of agents must come to."""


@contextmanager
def without_projections() -> Iterator[None]:
    """Leave the state of agents alone, to see what it costs."""

    async def nothing(*_: object) -> None: ...

    with patch.object(Projections, "recorded", nothing):
        yield


class Index(Bench):
    name = "index"
    unit = "events/s"
    what = "from eth_getLogs of a local JSON-RPC node to events, agents and checkpoint committed, through the indexer"
    bare = "the same logs fetched and read by msgspec, the same rows copied into a table with a primary key and no more"
    size = 300_000

    def start(self, stack: ExitStack) -> None:
        self._node = Peer(stack, node.serve, self.count)
        self._url, self._head, self._events = self._node.ask("about")

    async def measure(self, stage: Stage) -> Reading:
        with without_projections():
            seconds, _, bare = await self._measure(stage)
        alone = self._events / seconds
        seconds, note, _ = await self._measure(stage, projected=True)
        return Reading(self._events / seconds, self._events / bare, f"{note}; without projections {alone:,.0f}")

    async def _measure(self, stage: Stage, *, projected: bool = False) -> tuple[float, str, float]:
        """Seconds of the indexer, what else is to be told, and seconds of the bare loop."""
        settings = {f"RPC_URLS_{node.CHAIN}": self._url, f"START_BLOCK_{node.CHAIN}": "1"}
        async with stage.fresh() as url, stage.application(**settings) as application:
            seconds, note = await self._index(application)
            for sql in PROJECTED if projected else ():
                if not await holds(application.database, sql):
                    raise WrongTotals(sql)
            await must_count(
                application.database,
                self._events,
                "SELECT count(*) FROM events WHERE origin = 'chain' AND retracted_at IS NULL",
                "SELECT count(*) FROM event_queue WHERE kind = 'assert'",
            )
            await must_count(application.database, self.count - self._events, "SELECT count(*) FROM raw_logs")
            if projected:
                return seconds, note, 0.0
            bare = await self._bare(url)
            await must_count(application.database, self._events, "SELECT count(*) FROM bare")
        return seconds, note, bare

    async def _index(self, application: Application) -> tuple[float, str]:
        [indexer] = application.indexers

        async def indexed() -> bool:
            return await holds(
                application.database,
                "SELECT coalesce(max(last_block_number), 0) >= $1 FROM checkpoints",
                self._head,
            )

        async with working(indexer.run), watched() as watch:
            await until(indexed)
        return watch.seconds, str(watch)

    async def _bare(self, url: str) -> float:
        """Seconds for the same work without any of our care. The next range is fetched while one is copied."""
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE bare (LIKE events, PRIMARY KEY (seq))")
        seconds = 0.0
        async with aiohttp.ClientSession() as session:
            for first in range(1, self._head + 1, RANGE):
                rows = await connection.fetch(
                    "SELECT * FROM events WHERE block_number BETWEEN $1 AND $2 ORDER BY seq", first, first + RANGE - 1
                )
                started = time.perf_counter()
                await asyncio.gather(
                    connection.copy_records_to_table("bare", columns=COLUMNS, records=map(tuple, rows)),
                    _fetch(session, self._url, first),
                )
                seconds += time.perf_counter() - started
        await connection.close()
        return seconds


class _WireLog(msgspec.Struct, rename="camel"):
    address: str
    topics: list[str]
    data: str
    block_number: str
    block_hash: str
    transaction_hash: str
    transaction_index: str
    log_index: str
    block_timestamp: str


class _Answer(msgspec.Struct):
    result: list[_WireLog]


_read = msgspec.json.Decoder(_Answer).decode


async def _fetch(session: aiohttp.ClientSession, url: str, first: int) -> list[tuple[object, ...]]:
    """The logs of a range as the bytes and numbers that they are."""
    wanted = {"address": node.REGISTRIES, "fromBlock": hex(first), "toBlock": hex(first + RANGE - 1)}
    call = {"jsonrpc": "2.0", "id": 0, "method": "eth_getLogs", "params": [wanted]}
    async with session.post(url, data=msgspec.json.encode(call)) as response:
        raw = await response.read()
    return [
        (
            log.address,
            bytes.fromhex("".join(topic[2:] for topic in log.topics)),
            bytes.fromhex(log.data[2:]),
            int(log.block_number, 16),
            int(log.log_index, 16),
        )
        for log in _read(raw).result
    ]


if __name__ == "__main__":
    harness.run(Index)
