"""What the janitor does for the state of agents."""

from __future__ import annotations

from agentauri.agents.projection import Projections
from agentauri.database import Transaction
from agentauri.janitor import DAY, Job


def recounting() -> Job:
    """Correct the counters of events, daily."""

    async def run(tx: Transaction) -> bool:
        await Projections().recount(tx)
        return False

    return Job("counters", "event_counters", DAY, run)
