"""The worker that follows one chain: reads what is new, stores it with its checkpoint, takes back what a reorg undoes.

All that it knows of the chain is in PostgreSQL; what it keeps in memory only makes it faster. So a step may be
repeated after a crash at any line, and the checkpoint's compare-and-set makes a second writer harmless.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress

import aiohttp
import asyncpg

from agentauri.chain import node, store
from agentauri.chain.errors import (
    Lagging,
    NoHistory,
    ProviderFailed,
    RangeTooLarge,
    RpcError,
    RpcUnavailable,
    SelfCheckFailed,
    Throttled,
    Untruthful,
    WrongChain,
)
from agentauri.chain.finality import Finality
from agentauri.chain.head_feed import HeadFeed
from agentauri.chain.history import History
from agentauri.chain.inspector import Inspector
from agentauri.chain.locks import ChainLocks
from agentauri.chain.providers import Providers
from agentauri.chain.reader import Batch, Reader
from agentauri.chain.rpc import Provider
from agentauri.chain.start_block import find_start, old_header
from agentauri.chain.types import Anchor, Chain, Checkpoint, Header, Heads, Status, Step
from agentauri.chain.watch import Watch
from agentauri.chain.window import NEAR_HEAD
from agentauri.chain.writer import AnotherWriter, Writer
from agentauri.config import RpcConfig
from agentauri.database import Database, DatabaseBusy, DatabaseUnavailable, PoolExhausted
from agentauri.events import EventService
from agentauri.log import Seldom, get_logger
from agentauri.supervisor import Wake, Worker, wait_for, wait_until

log = get_logger(__name__)

CONNECTIONS = 3  # of the pool, for all indexers of a process together
GRACE = 10.0
STANDBY = 5.0  # seconds between two tries for the chain's lock
REFUSED = 60.0  # seconds until a refused chain is looked at again
HALTED = 5.0  # seconds between two looks for the reset of a halted chain
SHORTEST_POLL, LONGEST_POLL = 1.0, 15.0
HEAD_LASTS = 5.0  # seconds for which a head far away need not be asked for again
REPORT_EVERY = 10.0  # seconds between two writes of the providers' records
LIVE_BLOCKS, LIVE_SECONDS = 100, 300
CONTENTION = (DatabaseBusy, asyncpg.QueryCanceledError)


class Indexer:
    """One chain's worker. `step` is one bounded piece of work; `run` repeats it while the chain's lock is ours."""

    def __init__(
        self,
        database: Database,
        events: EventService,
        chain: Chain,
        providers: Providers,
        config: RpcConfig,
        locks: ChainLocks,
        session: aiohttp.ClientSession,
    ) -> None:
        self.chain = chain
        self._database = database
        self._providers = providers
        self._locks = locks
        self._reader = Reader(chain, providers, quorum=config.quorum)
        self._writer = Writer(database, events, chain)
        self._history = History(database, chain, providers)
        self._inspector = Inspector(database, chain)
        self._watch = Watch(chain, stall=config.stall)
        self._announced = Wake()
        self._head_feed = HeadFeed(chain, session, self._announced)
        self._seldom = Seldom()
        self._avoid: set[str] = set()
        self._rest = 0.0
        self._finality = Finality(chain)
        self._far_head: tuple[float, Heads] | None = None
        self._ahead: tuple[str, Anchor, asyncio.Task[Batch]] | None = None
        self._caught_up: bool | None = None
        self._reported = float("-inf")

    @property
    def worker(self) -> Worker:
        return Worker(f"indexer:{self.chain.id}", self.run, GRACE)

    async def run(self, stopping: asyncio.Event) -> None:
        feed = asyncio.create_task(self._head_feed.run())
        try:
            while not stopping.is_set():
                at_head = False
                try:
                    if await self._locks.take(self.chain.id):
                        step = await self.step(ahead=True)
                        pause, at_head = self.pause_after(step), step in (Step.IDLE, Step.CAUGHT_UP)
                    else:
                        await self._drop_ahead()
                        self._watch.standby()
                        pause = STANDBY
                except DatabaseUnavailable:
                    await wait_for(self._database.up(), stopping)
                    continue
                except PoolExhausted:
                    pause = SHORTEST_POLL
                if pause and at_head:
                    await self._announced.wait(stopping, pause)
                elif pause:
                    await wait_until(stopping, pause)
        finally:
            feed.cancel()
            await asyncio.gather(feed, return_exceptions=True)
            await self._drop_ahead()
            with suppress(DatabaseUnavailable):
                await self._locks.release(self.chain.id)

    async def reset_if_idle(self) -> bool:
        """Do the reset that was asked for, unless another process indexes the chain: that one will do it."""
        if not await self._locks.take(self.chain.id):
            return False
        try:
            for _ in range(2 * len(self._providers)):
                if await self.step() is Step.RESET:
                    return True
            raise RpcUnavailable(0.0)
        finally:
            await self._locks.release(self.chain.id)

    def pause_after(self, step: Step) -> float:
        """Seconds to wait before the next step."""
        poll = min(max(SHORTEST_POLL, self.chain.block_time / 2), LONGEST_POLL)
        match step:
            case Step.ADVANCED | Step.REORGED | Step.RESET:
                return 0.0
            case Step.RETRY:
                return 0.0 if len(self._avoid) < len(self._providers) else poll
            case Step.DEGRADED:
                return min(max(self._rest, 0.1), LONGEST_POLL)
            case Step.REFUSED:
                return REFUSED
            case Step.HALTED:
                return HALTED
            case _:
                return poll

    async def step(self, *, ahead: bool = False) -> Step:
        """Read and store one range, or find out why not. With `ahead` the next one is fetched meanwhile.

        Raises:
            DatabaseUnavailable: nothing is lost; repeat it.
        """
        checkpoint = await self._load()
        if self._caught_up is None:
            self._caught_up = checkpoint.status == "live"
        try:
            result = await self._attempt(checkpoint, ahead=ahead)
        except (AnotherWriter, *CONTENTION) as error:
            log.warning("chain.contended", chain_id=self.chain.id, reason=str(error))
            result = Step.CONTENDED
        if result in (Step.CAUGHT_UP, Step.IDLE, Step.RESET):
            self._caught_up = result is not Step.RESET
        after = await self._load()
        self._watch.at(after.block.number, after.head, after.status)
        await self._report_providers()
        return result

    async def _attempt(self, checkpoint: Checkpoint, *, ahead: bool) -> Step:
        if checkpoint.status == "halted" and checkpoint.reset_to is None:
            self._watch.halted(checkpoint.status_reason)
            return Step.HALTED
        try:
            provider = self._providers.pick(self._avoid)
        except RpcUnavailable as error:
            return await self._degrade(checkpoint, error)
        try:
            result = await self._with(provider, checkpoint, ahead=ahead)
        except SelfCheckFailed as error:
            return await self._refuse(provider, checkpoint, error)
        except RpcError as error:
            self._hold_against(provider, error)
            return Step.RETRY
        self._avoid.clear()
        provider.health.of_use()
        self._watch.available()
        return result

    def _hold_against(self, provider: Provider, error: RpcError) -> None:
        if isinstance(error, RangeTooLarge | Throttled):
            return  # the range has been cut, or the provider rests
        self._avoid.add(provider.name)
        self._far_head = None
        if isinstance(error, Untruthful) and error.lie:
            provider.distrust(error.message)
        elif not error.held:
            provider.blame(error.message)
        if isinstance(error, ProviderFailed | Untruthful):
            provider.health.in_vain(time.monotonic())
        if self._seldom.due((provider.name, type(error))):
            log.info("rpc.refused", chain_id=self.chain.id, provider=provider.name, reason=error.message)

    async def _with(self, provider: Provider, checkpoint: Checkpoint, *, ahead: bool) -> Step:
        await self._inspector.vet(provider)
        await self._vet_others(provider)
        if checkpoint.begun and checkpoint.reset_to is not None:
            return await self._reset(provider, checkpoint, checkpoint.reset_to)
        await self._inspector.look(provider)
        if not checkpoint.begun:
            return await self._begin(provider)
        if not await self._history.agreed(provider, checkpoint):
            self._rest = LONGEST_POLL
            await self._writer.status("degraded", "the providers disagree on a finalized block")
            return Step.DEGRADED
        heads = self._known_heads(checkpoint)
        if heads is None:
            final = self._finality.questions(checkpoint.head)
            look = await node.look(provider, checkpoint.block.number, *final)
            if look.at is None or look.head.number < checkpoint.block.number:
                return await self._behind(provider, checkpoint)
            if look.at.hash != checkpoint.block.hash:
                return await self._mismatch(provider, checkpoint, look.at)
            self._history.unsuspect()
            heads = self._finality.heads(look)
        if heads.head == checkpoint.block.number:
            await self._note(checkpoint, heads)
            return Step.IDLE
        return await self._advance(provider, checkpoint, heads, ahead=ahead)

    async def _vet_others(self, provider: Provider) -> None:
        """Know whose second opinion is worth asking for."""
        for other in self._providers.awake(self._providers):
            if other is not provider:
                with suppress(RpcError, WrongChain):
                    await self._inspector.vet(other)

    async def _begin(self, provider: Provider) -> Step:
        if not await self._history.settled():
            return Step.UNSETTLED
        look = await node.look(provider, 0)
        start = self.chain.start_block
        try:
            if start is None:
                start = await find_start(provider, self.chain, look.head)
            before = max(start - 1, 0)
            if before > look.head.number:
                raise Lagging(f"it does not know block {before}, before which there is nothing to read")
            numbers = {before, 0} if self.chain.local else {before}
            anchors = {number: _anchor(await old_header(provider, self.chain, number)) for number in numbers}
        except NoHistory as error:
            self._inspector.report(provider, error)
            raise
        await self._writer.begin(start, anchors[before], anchors.values(), self._finality.heads(look))
        return Step.ADVANCED

    def _known_heads(self, checkpoint: Checkpoint) -> Heads | None:
        """The head as it was lately, while it is far away: each range checks the checkpoint's block anyway."""
        if self._far_head is None:
            return None
        asked, heads = self._far_head
        far = heads.head - checkpoint.block.number > 2 * NEAR_HEAD
        return heads if far and time.monotonic() - asked < HEAD_LASTS else None

    async def _advance(self, provider: Provider, checkpoint: Checkpoint, heads: Heads, *, ahead: bool) -> Step:
        batch = await self._batch(provider, checkpoint.block, heads.head)
        left = heads.head - batch.last.number
        if ahead and left > NEAR_HEAD:
            task = asyncio.create_task(self._reader.read(provider, batch.last, heads.head))
            self._ahead = (provider.name, batch.last, task)
        await self._writer.add(checkpoint, batch, heads, *self._status(heads, batch.last))
        if self._caught_up:  # what happened before that is history
            self._inspector.administered(batch.events)
        if self._far_head is None or self._far_head[1] is not heads:
            self._far_head = (time.monotonic(), heads)
        return Step.ADVANCED if left > 0 else Step.CAUGHT_UP

    async def _batch(self, provider: Provider, base: Anchor, head: int) -> Batch:
        if self._ahead is not None:
            name, from_block, task = self._ahead
            if name == provider.name and (from_block.number, from_block.hash) == (base.number, base.hash):
                self._ahead = None
                return await task
            await self._drop_ahead()
        return await self._reader.read(provider, base, head)

    async def _drop_ahead(self) -> None:
        if self._ahead is not None:
            task = self._ahead[2]
            self._ahead = None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _note(self, checkpoint: Checkpoint, heads: Heads) -> None:
        status, reason = self._status(heads, checkpoint.block)
        known = (checkpoint.head, checkpoint.status, checkpoint.status_reason)
        news = known != (heads.head, status, reason)
        if news or heads.safe not in (None, checkpoint.safe) or heads.finalized not in (None, checkpoint.finalized):
            await self._writer.note(heads, status, reason)

    def _status(self, heads: Heads, last: Anchor) -> tuple[Status, str | None]:
        if self._inspector.refusal is not None:
            return "degraded", self._inspector.refusal
        live = heads.head - last.number <= LIVE_BLOCKS or heads.time - last.time <= LIVE_SECONDS
        return "live" if live else "backfill", None

    async def _behind(self, provider: Provider, checkpoint: Checkpoint) -> Step:
        if await self._history.is_another_chain(provider):
            return await self._start_over(checkpoint)
        raise Lagging(f"it does not know block {checkpoint.block.number}")

    async def _mismatch(self, provider: Provider, checkpoint: Checkpoint, seen: Header) -> Step:
        if await self._history.is_another_chain(provider):
            return await self._start_over(checkpoint)
        if not await self._history.confirms(provider, checkpoint.block, seen):
            return Step.DOUBTFUL
        fork = await self._history.fork(provider, checkpoint)
        if fork is None:
            reason = (
                f"block {checkpoint.block.number} is no longer {checkpoint.block.hash}, and the chain changed at or "
                f"below its finalized block {checkpoint.finalized}"
            )
            await self._writer.status("halted", reason)
            self._watch.halted(reason)
            return Step.HALTED
        await self._forget_memory()
        count = await self._writer.rewind(checkpoint, fork, reset=False)
        self._watch.reorged(checkpoint.block.number - fork.number, fork.number, count, provider.name)
        return Step.REORGED

    async def _reset(self, provider: Provider, checkpoint: Checkpoint, wanted: int) -> Step:
        look = await node.look(provider, 0)
        to = await self._history.highest_common(provider, min(wanted, checkpoint.block.number, look.head.number), 0)
        if to is None:
            (header,) = await node.headers(provider, [max(checkpoint.first_block - 1, 0)])
            if header is None:
                raise Lagging("it does not know the first block")
            to = _anchor(header)
        await self._forget_memory()
        count = await self._writer.rewind(checkpoint, to, reset=True)
        log.warning(
            "chain.reset", chain_id=self.chain.id, from_block=checkpoint.block.number, to_block=to.number,
            retracted=count, reason="asked for",
        )  # fmt: skip
        return Step.RESET

    async def _start_over(self, checkpoint: Checkpoint) -> Step:
        await self._forget_memory()
        count = await self._writer.forget(checkpoint)
        log.warning(
            "chain.reset", chain_id=self.chain.id, from_block=checkpoint.block.number, to_block=None,
            retracted=count, reason="the first block is another one: this is a new chain",
        )  # fmt: skip
        return Step.RESET

    async def _forget_memory(self) -> None:
        self._far_head = None
        self._history.unsuspect()
        await self._drop_ahead()

    async def _degrade(self, checkpoint: Checkpoint, error: RpcUnavailable) -> Step:
        self._rest = error.after
        self._watch.unavailable(self._providers)
        if checkpoint.status != "degraded":
            await self._writer.status("degraded", self._inspector.refusal or "no RPC provider answers")
        return Step.DEGRADED

    async def _refuse(self, provider: Provider, checkpoint: Checkpoint, error: SelfCheckFailed) -> Step:
        self._avoid.add(provider.name)
        unheard = [other for other in self._providers if other.name not in self._avoid]
        if not self._providers.awake(unheard) and self._inspector.refuse(error):
            self._avoid.clear()
            return Step.RETRY
        if unheard:
            return Step.RETRY
        self._avoid.clear()  # next time all are asked again
        await self._writer.status("degraded" if checkpoint.begun else "starting", error.message)
        return Step.REFUSED

    async def _load(self) -> Checkpoint:
        async with self._database.transaction(durable=False) as tx:
            checkpoint = await store.checkpoint(tx, self.chain.id)
            if checkpoint is None:
                await store.begin(tx, self.chain.id)
                checkpoint = await store.checkpoint(tx, self.chain.id)
        assert checkpoint is not None
        return checkpoint

    async def _report_providers(self) -> None:
        if time.monotonic() - self._reported >= REPORT_EVERY:
            self._reported = time.monotonic()
            async with self._database.transaction(durable=False) as tx:
                await store.save_providers(tx, self.chain.id, self._providers)


def _anchor(header: Header) -> Anchor:
    return Anchor(header.number, header.hash, header.time, header.parent_hash)


def indexers(
    database: Database, events: EventService, chains: Iterable[Chain], session: aiohttp.ClientSession, config: RpcConfig
) -> list[Indexer]:
    """One for each enabled chain. They share a few connections, and one more outside the pool for their locks."""
    share = database.limited(CONNECTIONS)
    locks = ChainLocks(database)
    return [
        Indexer(share, events, chain, Providers.of(chain, session, config), config, locks, session)
        for chain in chains
        if chain.enabled
    ]
