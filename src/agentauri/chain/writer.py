"""The two ways a chain's stored facts change: a range is added, or everything above a block is taken back.

Each is one transaction, with the checkpoint's compare-and-set first: of two writers one finds that the other was here,
and nothing of its own remains.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from agentauri import metrics
from agentauri.agents import Projections
from agentauri.chain import store
from agentauri.chain.reader import Batch
from agentauri.chain.types import NO_BLOCK, Anchor, Chain, Checkpoint, Heads, Status
from agentauri.database import Database, Transaction
from agentauri.events import EventService, Recorded
from agentauri.faults import reach
from agentauri.log import Seldom, get_logger

log = get_logger(__name__)

LOOK_BACK = 10_000  # blocks; what was thinned out before the process began is not looked at again


class AnotherWriter(Exception):
    """The checkpoint is not where we left it."""


class Writer:
    def __init__(self, database: Database, events: EventService, chain: Chain) -> None:
        self._database = database
        self._events = events
        self._projections = Projections()
        self._chain = chain
        self._pruned = NO_BLOCK
        self._seldom = Seldom()

    async def begin(self, start_block: int, base: Anchor, anchors: Iterable[Anchor], heads: Heads) -> None:
        """Place the checkpoint of a chain that has none on `base`, before `start_block`; remember the anchors."""
        nowhere = Anchor(NO_BLOCK, "", 0)
        async with self._database.transaction() as tx:
            await self._move(tx, nowhere, base)
            await store.set_first_block(tx, self._chain.id, start_block)
            await store.add_anchors(tx, self._chain.id, anchors)
            await self._set_heads(tx, heads)
        log.info("chain.started", chain_id=self._chain.id, first_block=start_block, head=heads.head)

    async def add(self, checkpoint: Checkpoint, batch: Batch, heads: Heads, status: Status, reason: str | None) -> None:
        """Transaction A: the range's events, what follows of agents, raw logs, anchors, and the checkpoint after it.

        Raises:
            AnotherWriter: nothing was written.
        """
        started = time.monotonic()
        async with self._database.transaction() as tx:
            await self._move(tx, checkpoint.block, batch.last)
            recorded = await self._events.record(tx, self._chain.id, batch.events)
            await self._projections.recorded(tx, self._chain.id, batch.events, recorded)
            for event in batch.events:
                if event.event_type == "Upgraded":
                    await store.mark_upgraded(tx, self._chain.id, event.registry, event.timestamp)
            await store.add_raw_logs(tx, self._chain.id, batch.raw)
            await store.drop_anchors_above(tx, self._chain.id, checkpoint.block.number)  # there are none, or stray ones
            await store.append_anchors(tx, self._chain.id, batch.anchors)
            await self._set_heads(tx, heads)
            await store.set_status(tx, self._chain.id, status, reason)
            pruned = await self._prune(tx, checkpoint, heads)
        reach("indexer.stored")
        self._pruned = pruned
        self._tell(checkpoint, batch, heads, recorded, time.monotonic() - started)

    async def rewind(self, checkpoint: Checkpoint, to: Anchor, *, reset: bool) -> int:
        """Transaction R: take back what lies above `to`, where reading goes on. Returns how many events that were.

        With `reset` it was asked for, and finality above `to` is forgotten.

        Raises:
            AnotherWriter: nothing was written.
        """
        async with self._unhurried() as tx:
            await self._move(tx, checkpoint.block, to)
            count = await self._events.retract_above(tx, self._chain.id, to.number)
            await self._projections.retracted(tx, self._chain.id, to.number)
            await store.retract_raw_logs_above(tx, self._chain.id, to.number)
            await store.drop_anchors_above(tx, self._chain.id, to.number)
            if reset:
                await store.set_status(tx, self._chain.id, "backfill", None)
                await store.add_anchors(tx, self._chain.id, [to])
                await store.finish_reset(tx, self._chain.id, to)
        self._pruned = min(self._pruned, to.number)
        return count

    async def forget(self, checkpoint: Checkpoint) -> int:
        """Take back everything: the chain is another one now. It starts afresh when all of this is settled, which
        nothing delays while its checkpoint has not begun."""
        async with self._unhurried() as tx:
            await self._move(tx, checkpoint.block, Anchor(NO_BLOCK, "", 0))
            count = await self._events.retract_above(tx, self._chain.id, NO_BLOCK)
            await self._projections.retracted(tx, self._chain.id, NO_BLOCK)
            await store.retract_raw_logs_above(tx, self._chain.id, NO_BLOCK)
            await store.drop_anchors_above(tx, self._chain.id, NO_BLOCK)
            await store.forget_heads(tx, self._chain.id)
            await store.set_status(tx, self._chain.id, "starting", None)
        self._pruned = NO_BLOCK
        return count

    async def note(self, heads: Heads, status: Status, reason: str | None) -> None:
        """Nothing new but the head, its finality or our status."""
        async with self._database.transaction() as tx:
            await self._set_heads(tx, heads)
            await store.set_status(tx, self._chain.id, status, reason)

    async def status(self, status: Status, reason: str | None) -> None:
        async with self._database.transaction() as tx:
            await store.set_status(tx, self._chain.id, status, reason)

    @asynccontextmanager
    async def _unhurried(self) -> AsyncIterator[Transaction]:
        """A transaction without a deadline: what is taken back has no largest size, and half of it is no use."""
        async with self._database.transaction() as tx:
            await tx.run("SET LOCAL statement_timeout TO 0")
            yield tx

    async def _move(self, tx: Transaction, old: Anchor, new: Anchor) -> None:
        if not await store.move_checkpoint(tx, self._chain.id, old, new):
            raise AnotherWriter("the checkpoint was moved by another writer")

    async def _set_heads(self, tx: Transaction, heads: Heads) -> None:
        await store.set_heads(tx, self._chain.id, heads.head, heads.safe, heads.finalized, heads.finalized_hash)

    async def _prune(self, tx: Transaction, checkpoint: Checkpoint, heads: Heads) -> int:
        final = min(heads.finalized or 0, checkpoint.block.number)
        since = max(self._pruned, final - LOOK_BACK)
        if final < since + store.SPARSE:
            return self._pruned
        return await store.prune_anchors(tx, self._chain.id, final, since)

    def _tell(self, checkpoint: Checkpoint, batch: Batch, heads: Heads, recorded: Recorded, seconds: float) -> None:
        kinds: dict[tuple[str, str, str], int] = {}
        for found, _, why in batch.raw:
            metrics.LOGS_UNDECODED.labels(self._chain.id, why.reason).inc()
            kind = (self._chain.registries[found.address], "0x" + found.topics[:32].hex(), why.reason)
            kinds[kind] = kinds.get(kind, 0) + 1
            if kinds[kind] == 1 and self._seldom.due(kind):
                (log.error if why.alarming else log.warning)(
                    "chain.log_undecoded",
                    chain_id=self._chain.id,
                    registry=kind[0],
                    topic0=kind[1],
                    reason=why.reason,
                    detail=why.detail,
                    block_number=found.block_number,
                    transaction_hash=found.transaction_hash,
                    log_index=found.log_index,
                )
        tell = log.info if batch.events or batch.raw or self._seldom.due("indexed") else log.debug
        tell(
            "chain.indexed",
            chain_id=self._chain.id,
            from_block=checkpoint.block.number + 1,
            to_block=batch.last.number,
            head=heads.head,
            events=recorded.inserted,
            reinstated=recorded.reinstated,
            raw=len(batch.raw),
            provider=batch.provider,
            stored_ms=round(seconds * 1000, 1),
        )
