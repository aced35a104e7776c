"""The write side: the state of agents follows the events, in the transaction that changes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from msgspec.structs import asdict

from agentauri.agents import store
from agentauri.agents.types import Gap, Miscount
from agentauri.database import Transaction
from agentauri.events import NewEvent, Recorded
from agentauri.log import get_logger
from agentauri.types import ChainId, EventSeq

log = get_logger(__name__)

PART = 20_000
"""Events folded in one statement; more of them might not end in time."""


class Projections:
    """What is told of a chain's agents is a function of its canonical events, read in the order of the chain.

    Each method is told what the caller has just done to them, and takes part in its transaction; it takes the chain's
    lock, so one transaction after the other changes a chain's agents.
    """

    async def recorded(
        self, tx: Transaction, chain_id: ChainId, events: Sequence[NewEvent], recorded: Recorded
    ) -> None:
        """Our indexer has recorded these logs of whole blocks, in their order."""
        if not recorded.entered and not recorded.displaced:
            return
        gaps: list[Gap] = []
        for first, last in _blocks(events):
            if recorded.displaced:
                await store.reproject_blocks(tx, chain_id, first, last)
            else:
                gaps += await store.project_blocks(tx, chain_id, first, last)
        await store.count(tx, chain_id, Counter((event.registry, event.event_type) for event in recorded.entered))
        self._report(tx, chain_id, gaps)

    async def retracted(self, tx: Transaction, chain_id: ChainId, above: int) -> None:
        """Our indexer has taken back, in this transaction, what it had recorded above a block."""
        await store.reproject_retracted(tx, chain_id, above)

    async def written(
        self,
        tx: Transaction,
        chain_id: ChainId,
        entered: Collection[EventSeq],
        changed: Collection[EventSeq],
        counts: Mapping[tuple[str, str], int],
    ) -> None:
        """Others have written into `events`: some are new, others were changed, taken back or put back."""
        if changed:
            await store.reproject(tx, chain_id, changed)
        if entered:
            self._report(tx, chain_id, await store.project(tx, chain_id, entered))
        await store.count(tx, chain_id, counts)

    async def chains(self, tx: Transaction) -> list[ChainId]:
        """The chains of which there is anything."""
        return await store.chains(tx)

    async def remake(self, tx: Transaction, chain_id: ChainId, after: int | None = None) -> list[int]:
        """Make the next agents of a chain afresh, those whose ids are above `after`; none are left when it is empty.

        Others may go on writing in between: what they add to agents made afresh, they add to what it would be anyway.
        """
        return await store.refold_next(tx, chain_id, after, PART)

    async def remake_agent(self, tx: Transaction, chain_id: ChainId, agent_id: int) -> None:
        await store.refold_one(tx, chain_id, agent_id)

    async def remake_operators(self, tx: Transaction, chain_id: ChainId) -> None:
        await store.refold_all_operators(tx, chain_id)

    async def recount(self, tx: Transaction, chain_id: ChainId | None = None) -> list[Miscount]:
        """Correct the counters of a chain, or of all; those that were wrong. Nobody has to wait for it."""
        await tx.run("SET LOCAL statement_timeout TO 0")
        wrong = await store.recount(tx, chain_id)

        def tell() -> None:
            for one in wrong:
                log.warning("counters.corrected", **asdict(one))

        if wrong:
            tx.on_commit(tell)
        return wrong

    def _report(self, tx: Transaction, chain_id: ChainId, gaps: Sequence[Gap]) -> None:
        def tell() -> None:
            for gap in gaps[: store.REPORTED_GAPS]:
                log.warning(
                    "feedback.gap",
                    code="FEEDBACK_GAP",
                    chain_id=chain_id,
                    agent_id=str(gap.agent_id),
                    client_address=gap.client_address,
                    missing=str(gap.first) if gap.first == gap.last else f"{gap.first}-{gap.last}",
                )
            if len(gaps) > store.REPORTED_GAPS:
                log.warning("feedback.gaps", code="FEEDBACK_GAP", chain_id=chain_id, message="and more of them")

        if gaps:
            tx.on_commit(tell)


def _blocks(events: Sequence[NewEvent]) -> Iterator[tuple[int, int]]:
    """First and last block of parts of about `PART`, none of which ends inside a block."""
    start = 0
    while start < len(events):
        end = min(start + PART, len(events))
        while end < len(events) and events[end].block_number == events[end - 1].block_number:
            end += 1
        yield events[start].block_number, events[end - 1].block_number
        start = end
