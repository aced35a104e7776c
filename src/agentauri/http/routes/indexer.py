"""Routes about how far everything is indexed, under their own address and under the one that they had before."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from litestar import get
from msgspec import Struct

from agentauri.chain import ChainStatus, EventCount
from agentauri.http.auth import ANY
from agentauri.http.call import Call

SYNCED_SECONDS = 300
SCHEMA = "public"
"""Where the tables are."""


class ChainSync(Struct, frozen=True, kw_only=True):
    """`current_block` is the last one that was read, whether there was anything in it or not."""

    chain: str
    chain_id: int
    current_block: int | None
    latest_block: int | None
    lag_blocks: int | None
    is_synced: bool
    last_sync_at: datetime | None


class IndexerStatus(Struct, frozen=True, kw_only=True):
    """`healthy`: every enabled chain is synced; `initializing`: none is enabled, or none has been read."""

    status: Literal["initializing", "partial", "healthy"]
    schema: str
    namespace: str
    chains: list[ChainSync]
    total_events: int
    last_activity_at: datetime | None


class EventCounts(Struct, frozen=True, kw_only=True):
    """`total_types` is how many different events there are."""

    events: list[EventCount]
    total_types: int


@get("/indexer/status", access=ANY)
async def indexer_status(request: Call) -> IndexerStatus:
    """How far every enabled chain is indexed."""
    return await _status(request)


@get("/ponder/status", access=ANY)
async def ponder_status(request: Call) -> IndexerStatus:
    """The same as /indexer/status, under its former address."""
    return await _status(request)


@get("/indexer/events", access=ANY, cost=2)
async def indexer_events(request: Call) -> EventCounts:
    """How many events of each kind there are on each chain."""
    return await _events(request)


@get("/ponder/events", access=ANY, cost=2)
async def ponder_events(request: Call) -> EventCounts:
    """The same as /indexer/events, under its former address."""
    return await _events(request)


async def _status(request: Call) -> IndexerStatus:
    chains = await request.desk.chains.get()
    enabled = [chain for chain in chains if chain.enabled]
    synced = [_synced(chain) for chain in enabled]
    status: Literal["initializing", "partial", "healthy"] = "partial"
    if all(chain.indexed_block is None for chain in enabled):
        status = "initializing"
    elif all(synced):
        status = "healthy"
    return IndexerStatus(
        status=status,
        schema=SCHEMA,
        namespace="agentauri",
        chains=[
            ChainSync(
                chain=chain.name,
                chain_id=chain.chain_id,
                current_block=chain.indexed_block,
                latest_block=chain.latest_block,
                lag_blocks=chain.lag_blocks,
                is_synced=is_synced,
                last_sync_at=chain.last_sync_at,
            )
            for chain, is_synced in zip(enabled, synced, strict=True)
        ],
        total_events=sum(chain.total_events for chain in chains),
        last_activity_at=max((chain.last_event_at for chain in chains if chain.last_event_at), default=None),
    )


async def _events(request: Call) -> EventCounts:
    counts = await request.desk.event_counts.get()
    return EventCounts(events=counts, total_types=len({count.event_name for count in counts}))


def _synced(chain: ChainStatus) -> bool:
    return chain.status == "live" and chain.lag_seconds is not None and chain.lag_seconds < SYNCED_SECONDS


routes = [indexer_status, indexer_events, ponder_status, ponder_events]
