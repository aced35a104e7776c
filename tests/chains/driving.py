"""Driving an indexer step by step, and looking at what it stored."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from agentauri.chain import Chain, Indexer, Step
from agentauri.config import RpcConfig
from agentauri.database import Database
from agentauri.types import ChainId
from chains.logs import IDENTITY, REPUTATION, VALIDATION
from chains.scripted import ScriptedChain, ScriptedNode

FAST = RpcConfig(timeout=2, requests_per_second=1_000_000, rest=1, stall=60)
"""Settings under which nothing waits that a test does not want to wait."""

Serve = Callable[[ScriptedChain], Awaitable[ScriptedNode]]
MakeChain = Callable[..., Chain]
Open = Callable[..., Indexer]


def network(**changes: Any) -> Chain:
    """The facts of a test network with the registries of `chains.logs`."""
    usual: dict[str, Any] = {
        "id": ChainId(84532), "name": "Base Sepolia", "class_": "testnet", "block_time": 0.0, "identity": IDENTITY,
        "reputation": REPUTATION, "validation": VALIDATION, "earliest": 0, "start_block": 1, "finality": "tags",
        "finality_depth": 64, "max_range": 10_000, "explorer_url": None,
    }  # fmt: skip
    return Chain(**usual | changes)


async def drain(indexer: Indexer, most: int = 100) -> list[Step]:
    """Step until there is nothing to do; the steps taken."""
    steps: list[Step] = []
    while len(steps) < most:
        steps.append(await indexer.step())
        if steps[-1] is Step.IDLE:
            return steps
        if steps[-1] is Step.DEGRADED:
            await asyncio.sleep(0.05)  # a machine that is busy makes a provider late, and its rest is a second
    raise AssertionError(f"not idle after {most} steps, the last of them {steps[-10:]}")


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds, which it must within ten seconds."""
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to that")


def wake(indexer: Indexer) -> None:
    """End every provider's rest."""
    for provider in indexer._providers:
        provider.health.resting_until = 0.0


async def rows(database: Database, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
    async with database.transaction() as tx:
        return [tuple(row) for row in await tx.fetch(sql, *arguments)]


async def canonical_events(database: Database) -> list[tuple[str, str, int, str]]:
    """Transaction, kind, block and id of every event that stands, in the chain's order."""
    return await rows(
        database,
        """SELECT transaction_hash, event_type, block_number, id FROM events WHERE retracted_at IS NULL
           ORDER BY block_number, log_index""",
    )


async def contents(database: Database, chain_id: int | None = None) -> list[tuple[str, str, bytes, bytes]]:
    """Transaction and content of every log that stands, event or not, in the chain's order."""
    return await rows(
        database,
        """SELECT transaction_hash, contract_address, topics, data FROM (
               SELECT block_number, log_index, transaction_hash, contract_address, topics, data FROM events
               WHERE retracted_at IS NULL AND chain_id = coalesce($1, chain_id)
               UNION ALL
               SELECT block_number, log_index, transaction_hash, address, topics, data FROM raw_logs
               WHERE retracted_at IS NULL AND chain_id = coalesce($1, chain_id)) AS stored
           ORDER BY block_number, log_index""",
        chain_id,
    )


def truth(chain: ScriptedChain) -> list[tuple[str, str, bytes, bytes]]:
    """What `contents` must be when everything of the chain has been read."""
    return [
        (
            transaction_hash,
            log.address,
            bytes.fromhex("".join(topic[2:] for topic in log.topics)),
            bytes.fromhex(log.data[2:]),
        )
        for transaction_hash, log in chain.canonical_logs()
    ]


async def checkpoint(database: Database, chain_id: int = 84532) -> dict[str, Any]:
    async with database.transaction() as tx:
        row = await tx.fetchrow("SELECT * FROM checkpoints WHERE chain_id = $1", chain_id)
    assert row is not None
    return dict(row)
