"""Makes events of logs that were kept raw and that this version understands. Nothing is fetched again.

The events take their logs' places on the chain, so a trigger sees them as it sees what was read late: one that was made
after their block does not fire. Every batch is a transaction of its own that begins by locking the checkpoint, as those
of the indexer do; so it may be done while the chain is followed.
"""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

from agentauri.agents import Projections
from agentauri.chain import raw_store
from agentauri.chain.registries import Decoder
from agentauri.chain.types import Chain, Undecoded
from agentauri.database import Database, Transaction
from agentauri.events import EventService, NewEvent
from agentauri.log import get_logger

log = get_logger(__name__)

BATCH = 500


class Redecoded(Struct, frozen=True):
    """How many raw logs were looked at, and how many of them are events now, or would be."""

    seen: int
    decoded: int


class Redecoder:
    def __init__(self, database: Database, events: EventService, chain: Chain) -> None:
        self._database = database
        self._events = events
        self._projections = Projections()
        self._chain = chain
        self._decoder = Decoder(chain)

    async def run(self, *, dry_run: bool = False) -> Redecoded:
        """Go over the raw logs that stand, in the chain's order. May be repeated at any time."""
        seen = decoded = 0
        after = (-1, -1)
        while True:
            async with self._database.transaction() as tx:
                await raw_store.lock_checkpoint(tx, self._chain.id)
                found = await raw_store.raw_logs_after(tx, self._chain.id, *after, BATCH)
                if not found:
                    break
                pairs = [(raw, self._decoder.decode(raw.log, raw.block_time)) for raw in found]
                events = [(raw.id, event) for raw, event in pairs if not isinstance(event, Undecoded)]
                if events and not dry_run:
                    await self._enter(tx, [event for _, event in events])
                    await raw_store.drop_raw_logs(tx, [id_ for id_, _ in events])
            after = (found[-1].log.block_number, found[-1].log.log_index)
            seen, decoded = seen + len(found), decoded + len(events)
        if decoded and not dry_run:
            log.info("chain.redecoded", chain_id=self._chain.id, seen=seen, decoded=decoded)
        return Redecoded(seen, decoded)

    async def _enter(self, tx: Transaction, events: list[NewEvent]) -> None:
        recorded = await self._events.record(tx, self._chain.id, events)
        entered = await raw_store.seqs_of(tx, self._chain.id, recorded.entered)
        counts = Counter((event.registry, event.event_type) for event in recorded.entered)
        await self._projections.written(tx, self._chain.id, entered, [], counts)
