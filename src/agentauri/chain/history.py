"""Is the chain still the one we have read? Whom to believe when it seems not, and where the two part."""

from __future__ import annotations

import time
from collections.abc import Sequence

from agentauri.chain import node, store, window
from agentauri.chain.errors import Lagging, RpcError, Untruthful
from agentauri.chain.providers import Providers
from agentauri.chain.rpc import Provider
from agentauri.chain.types import Anchor, Chain, Checkpoint, Header
from agentauri.database import Database
from agentauri.log import Seldom, get_logger

log = get_logger(__name__)

WALK = 64  # anchors asked for at once on the way down
COMPARE_EVERY = 1_000  # blocks between two comparisons of the finalized block


class History:
    def __init__(self, database: Database, chain: Chain, providers: Providers) -> None:
        self._database = database
        self._chain = chain
        self._providers = providers
        self._suspected: tuple[str, float] | None = None
        self._compared: int | None = None
        self._seldom = Seldom()

    def unsuspect(self) -> None:
        """The checkpoint's block is where it should be."""
        self._suspected = None

    async def confirms(self, provider: Provider, checkpoint: Anchor, seen: Header) -> bool:
        """Whether another hash at the checkpoint's height is a reorg: a second provider must say the same, or, with
        none, the same one a block time later.

        Raises:
            Untruthful: a second provider still has our block, so it is `provider` that is off.
        """
        others = self._providers.others(provider)
        if not others:
            now = time.monotonic()
            if self._suspected is None or self._suspected[0] != seen.hash:
                self._suspected = (seen.hash, now)
                return False
            return now - self._suspected[1] >= self._chain.block_time
        for other in self._providers.awake(others):
            try:
                (theirs,) = await node.headers(other, [checkpoint.number])
            except RpcError:
                continue
            if theirs is not None and theirs.hash == seen.hash:
                return True
            if theirs is not None and theirs.hash == checkpoint.hash:
                raise Untruthful(f"{other.name} has another block {checkpoint.number}, the one that we know", lie=False)
        return False

    async def fork(self, provider: Provider, checkpoint: Checkpoint) -> Anchor | None:
        """Where the chain parted from what we have read; None when that is below its finalized block."""
        final = checkpoint.finalized
        if final is None:
            return await self.highest_common(provider, checkpoint.block.number, 0)
        found = await self.highest_common(provider, checkpoint.block.number, final)
        if found is not None or final >= checkpoint.block.number:
            return found
        # Anchors may be sparse there: the finalized block itself is one more.
        (header,) = await node.headers(provider, [final])
        if header is None or header.hash != checkpoint.finalized_hash:
            return None
        return Anchor(header.number, header.hash, header.time, header.parent_hash)

    async def highest_common(self, provider: Provider, most: int, least: int) -> Anchor | None:
        """The highest anchor from `least` to `most` that is still a block of the chain."""
        while most >= least:
            anchors = [anchor for anchor in await self._anchors(most, WALK) if anchor.number >= least]
            if not anchors:
                return None
            headers = await node.headers(provider, [anchor.number for anchor in anchors])
            if None in headers:
                raise Lagging(f"it does not know block {anchors[headers.index(None)].number}")
            found = window.fork_point(anchors, {header.number: header for header in headers if header is not None})
            if found is not None:
                return found
            most = anchors[-1].number - 1
        return None

    async def is_another_chain(self, provider: Provider) -> bool:
        """Whether the first block of a local chain is another one than it was."""
        known = [anchor for anchor in await self._anchors(0, 1) if anchor.number == 0]
        if not self._chain.local or not known:
            return False
        (genesis,) = await node.headers(provider, [0])
        return genesis is not None and genesis.hash != known[0].hash

    async def settled(self) -> bool:
        """Whether nothing that was taken back might be taken for the same when it is read again: a chain that began
        anew may well repeat itself, and that is news."""
        async with self._database.transaction(durable=False) as tx:
            return not await store.has_unsettled(tx, self._chain.id)

    async def agreed(self, provider: Provider, checkpoint: Checkpoint) -> bool:
        """Have a second provider tell the newest final block that we know, every thousand blocks.

        False while all that answer tell another one: then one of them, or we, are on a wrong chain.
        """
        final = checkpoint.block
        if checkpoint.finalized is None or checkpoint.finalized_hash is None:
            return True
        if checkpoint.finalized < final.number:
            final = Anchor(checkpoint.finalized, checkpoint.finalized_hash, 0)
        if self._compared is not None and final.number < self._compared + COMPARE_EVERY:
            return True
        theirs = await self._tell(self._providers.awake(self._providers.others(provider)), final)
        if not theirs:
            return True  # nobody to ask, or nobody knows; tried again at the next step
        if final.hash in theirs:
            self._compared = final.number
            self._seldom.over("disagreement")
            return True
        if self._seldom.due("disagreement"):
            log.critical(
                "rpc.disagreement",
                code="RPC_DISAGREEMENT",
                message="Providers disagree on a finalized block; this chain waits until two agree",
                chain_id=self._chain.id,
                block_number=final.number,
                ours=final.hash,
                theirs=theirs,
            )
        return False

    async def _tell(self, providers: Sequence[Provider], anchor: Anchor) -> list[str]:
        hashes = []
        for provider in providers:
            try:
                (header,) = await node.headers(provider, [anchor.number])
            except RpcError:
                continue
            if header is not None:
                hashes.append(header.hash)
        return hashes

    async def _anchors(self, most: int, count: int) -> list[Anchor]:
        async with self._database.transaction(durable=False) as tx:
            return await store.anchors_below(tx, self._chain.id, most, count)
