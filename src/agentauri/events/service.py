"""The door to the log of events."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from agentauri import metrics
from agentauri.database import Transaction
from agentauri.events import listing, reappear, store
from agentauri.events.errors import EventNotFound
from agentauri.events.types import Event, EventFilter, NewEvent, Recorded
from agentauri.types import ChainId, EventId, EventSeq, Page, Paged


class EventService:
    async def record(self, tx: Transaction, chain_id: ChainId, events: Sequence[NewEvent]) -> Recorded:
        """Store the logs of a part of a chain as its canonical ones, in the order given.

        Logs that are stored already are left alone, and those that a reorg took away come back under their old ids;
        so what was fetched may be written again.
        """
        if not events:
            return Recorded()
        blocks = [event.block_number for event in events]
        if await store.is_fresh(tx, chain_id, min(blocks), max(blocks)) and await store.insert(tx, events):
            recorded = Recorded(inserted=len(events))
        else:
            recorded = await self._reconcile(tx, chain_id, events)
        tx.on_commit(lambda: metrics.EVENTS_INGESTED.labels(str(chain_id), "chain").inc(recorded.inserted))
        return recorded

    async def _reconcile(self, tx: Transaction, chain_id: ChainId, events: Sequence[NewEvent]) -> Recorded:
        plan = reappear.plan(events, await store.related(tx, chain_id, events))
        if plan.moved:
            await store.move(tx, [(row.seq, log) for row, log in plan.moved])
        if plan.reborn:
            await store.revive(tx, [(row.seq, log) for row, log in plan.reborn])
        if plan.new:
            await store.insert(tx, plan.new)
        return Recorded(
            inserted=len(plan.new), reinstated=len(plan.moved) + len(plan.reborn), unchanged=len(plan.unchanged)
        )

    async def retract_above(self, tx: Transaction, chain_id: ChainId, block_number: int) -> int:
        """Mark what our indexer wrote of a chain above a block as no longer on it; how many events that were.

        Events by other writers are theirs to retract: their logs would not be fetched again.
        """
        return await store.retract_above(tx, chain_id, block_number)

    async def by_seqs(self, tx: Transaction, seqs: Collection[EventSeq]) -> dict[EventSeq, Event]:
        return await store.by_seqs(tx, seqs)

    async def get(self, tx: Transaction, event_id: EventId) -> Event:
        """Raises: EventNotFound."""
        event = await store.by_id(tx, event_id)
        if event is None:
            raise EventNotFound
        return event

    async def search(self, tx: Transaction, wanted: EventFilter, page: Page) -> Paged[Event]:
        """One page of the events that fit; the total is counted up to 10,000.

        Sorted by arrival it ends before the first number that an open transaction may still fill.

        Raises:
            Invalid: the cursor belongs to another list.
            SearchTooSlow: they were not found in time.
        """
        seqs, total, next_cursor = await listing.page_of(tx, wanted, page)
        found = await store.by_seqs(tx, seqs)
        return Paged(
            data=[found[seq] for seq in seqs],
            total=min(total, listing.COUNTED),
            has_more=next_cursor is not None,
            next_cursor=next_cursor,
            total_is_exact=total <= listing.COUNTED,
        )
