"""Which deliveries have waited long enough for their events to be deep in their chains, asked as cheaply as may be.

While nothing waits, a look is one read of the checkpoints. Deliveries are only looked at on chains that have moved, or
on which something was evaluated, since they were last looked at; and now and then on all, in case somebody else held
one in between.
"""

from __future__ import annotations

from collections.abc import Mapping

from agentauri.actions import DeliveryService
from agentauri.database import Transaction
from agentauri.events import Reached, depths
from agentauri.types import ChainId


class Tide:
    """What one process knows of the chains. `finality` has the depth at which a block counts as final on a chain that
    nobody indexes."""

    def __init__(self, deliveries: DeliveryService, finality: Mapping[ChainId, int]) -> None:
        self._deliveries = deliveries
        self._finality = finality
        self._seen: dict[ChainId, Reached] = {}
        self._touched: set[ChainId] = set()

    def touched(self, chain_id: ChainId) -> None:
        """Something was evaluated there, which may wait for what is reached already."""
        self._touched.add(chain_id)

    async def reached(self, tx: Transaction, chain_id: ChainId) -> Reached:
        """How far one chain has got."""
        return (await depths(tx, [chain_id], self._finality))[chain_id]

    async def risen(self, tx: Transaction, *, everywhere: bool) -> list[ChainId]:
        """The chains on which something may be let go. They are named again until that is `done`."""
        if everywhere:
            self._touched.update(await self._deliveries.waiting_chains(tx))
        reached = await depths(tx, self._touched, self._finality)
        news = {
            chain_id: blocks
            for chain_id, blocks in reached.items()
            if chain_id in self._touched or blocks != self._seen.get(chain_id)
        }
        self._seen = reached
        self._touched = set(await self._deliveries.deep_chains(tx, news))
        return sorted(self._touched)

    def done(self, chain_id: ChainId) -> None:
        """Everything that was deep enough there has been let go."""
        self._touched.discard(chain_id)
