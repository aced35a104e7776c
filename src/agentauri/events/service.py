"""The door to the log of events."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from agentauri import metrics
from agentauri.database import Transaction
from agentauri.events import listing, reappear, store
from agentauri.events.errors import EventNotFound
from agentauri.events.samples import SAMPLES, sample_of
from agentauri.events.types import Event, EventFilter, NewEvent, Recorded
from agentauri.types import ChainId, EventId, EventSeq, Page, Paged

PART = 500  # events compared with what is stored at once, so that this does not hold up the loop


class EventService:
    async def record(self, tx: Transaction, chain_id: ChainId, events: Sequence[NewEvent]) -> Recorded:
        """Store the logs of a part of a chain, in its order, as the canonical ones.

        Logs that are stored already are left alone, and those that a reorg took away come back under their old ids;
        so what was fetched may be written again.
        """
        if not events:
            return Recorded()
        fresh = await store.is_fresh(tx, chain_id, events[0].block_number, events[-1].block_number)
        if fresh and await store.insert(tx, events):
            recorded = Recorded(inserted=len(events), entered=events)
        else:
            recorded = Recorded()
            for part in _parts(events):
                recorded += await self._reconcile(tx, chain_id, part)
        tx.on_commit(lambda: metrics.EVENTS_INGESTED.labels(str(chain_id), "chain").inc(recorded.inserted))
        return recorded

    async def _reconcile(self, tx: Transaction, chain_id: ChainId, events: Sequence[NewEvent]) -> Recorded:
        plan = reappear.plan(events, await store.related(tx, chain_id, events))
        # Written in the chain's order, since events are queued as they are written, and evaluated as they are queued.
        for run in plan.in_order():
            if run.moved:
                await store.move(tx, [(row.seq, log) for row, log in run.moved])
            if run.reborn:
                await store.revive(tx, [(row.seq, log) for row, log in run.reborn])
            if run.new:
                await store.insert(tx, run.new)
        entered = [log for row, log in (*plan.moved, *plan.reborn) if row.state != "living"]
        return Recorded(
            inserted=len(plan.new),
            reinstated=len(plan.moved) + len(plan.reborn),
            unchanged=len(plan.unchanged),
            displaced=len(plan.moved) + len(plan.reborn) - len(entered),
            entered=[*entered, *plan.new],
        )

    async def retract_above(self, tx: Transaction, chain_id: ChainId, block_number: int) -> int:
        """Mark what our indexer wrote of a chain above a block as no longer on it; how many events that were.

        Events by other writers are theirs to retract: their logs would not be fetched again.
        """
        return await store.retract_above(tx, chain_id, block_number)

    async def by_seqs(self, tx: Transaction, seqs: Collection[EventSeq]) -> dict[EventSeq, Event]:
        """Events by their numbers; a negative one is a sample's."""
        samples = {seq: SAMPLES[seq] for seq in seqs if seq in SAMPLES}
        if not samples:
            return await store.by_seqs(tx, seqs)
        return samples | await store.by_seqs(tx, [seq for seq in seqs if seq not in samples])

    async def example(self, tx: Transaction, registry: str | None, chain_id: ChainId | None) -> Event:
        """An event to try something on: among the last ones the newest of this registry and chain, where None is any,
        else a sample."""
        seq = await store.newest(tx, registry, chain_id)
        if seq is None:
            return sample_of(registry)
        return (await store.by_seqs(tx, [seq]))[seq]

    def sample(self, registry: str | None) -> Event:
        """An event of this registry that nobody emitted."""
        return sample_of(registry)

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
        keys = await listing.page_of(tx, wanted, page)
        found = await store.by_seqs(tx, [seq for _, seq in keys.data])
        return keys.of([found[seq] for _, seq in keys.data])


def _parts(events: Sequence[NewEvent]) -> Iterator[Sequence[NewEvent]]:
    """Parts of about `PART`, none of which ends inside a block: its logs are told from each other by their places."""
    start = 0
    while start < len(events):
        end = min(start + PART, len(events))
        while end < len(events) and events[end].block_number == events[end - 1].block_number:
            end += 1
        yield events[start:end]
        start = end
