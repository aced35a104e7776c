"""The door to what is known of the chains. Reads checkpoints and providers' records; asks no provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from agentauri.chain import store
from agentauri.chain.errors import ChainNotBegun, ChainNotFound
from agentauri.chain.types import (
    Chain,
    ChainStatus,
    EventCount,
    Finality,
    FinalityView,
    ProviderStatus,
    RegistryAddress,
    ResetPlan,
    Standing,
)
from agentauri.database import Transaction
from agentauri.types import ChainId


class ChainService:
    def __init__(self, chains: Mapping[ChainId, Chain]) -> None:
        self._chains = chains

    async def status(self, tx: Transaction) -> list[ChainStatus]:
        """Every known chain, by id; those without a provider are `disabled`."""
        return await self._status(tx, list(self._chains.values()))

    async def get(self, tx: Transaction, chain_id: ChainId) -> ChainStatus:
        """Raises: ChainNotFound."""
        (status,) = await self._status(tx, [self._known(chain_id)])
        return status

    async def standing(self, tx: Transaction, chain_id: ChainId) -> Standing | None:
        """As of which block the chain is known; None where our indexer has not begun with it."""
        checkpoint = await store.checkpoint(tx, chain_id)
        if checkpoint is None or not checkpoint.begun:
            return None
        block = checkpoint.block
        finality: Finality = "latest"
        if checkpoint.finalized is not None and block.number <= checkpoint.finalized:
            finality = "finalized"
        elif checkpoint.safe is not None and block.number <= checkpoint.safe:
            finality = "safe"
        return Standing(block_number=block.number, block_hash=block.hash, finality=finality)

    async def event_counts(self, tx: Transaction) -> list[EventCount]:
        """How many events of each kind are on each chain."""
        return await store.event_counts(tx)

    async def request_reset(
        self, tx: Transaction, chain_id: ChainId, to_block: int | None = None, *, dry_run: bool = False
    ) -> ResetPlan:
        """Have a chain read again from the last stable checkpoint, or from the last one up to `to_block`.

        Its indexer does it, and asks a provider to confirm the block first, so it may go further back than planned.
        Events that are found again keep their ids, so nothing is delivered twice.

        Raises:
            ChainNotFound: no such chain.
            ChainNotBegun: nothing of it has been read.
        """
        self._known(chain_id)
        checkpoint = await store.checkpoint(tx, chain_id)
        if checkpoint is None or not checkpoint.begun:
            raise ChainNotBegun
        wanted = to_block if to_block is not None else checkpoint.finalized
        most = min(checkpoint.block.number if wanted is None else wanted, checkpoint.block.number)
        anchors = await store.anchors_below(tx, chain_id, most, 1)
        target = anchors[0].number if anchors else max(checkpoint.first_block - 1, 0)
        plan = ResetPlan(
            chain_id=chain_id,
            from_block=checkpoint.block.number,
            to_block=target,
            events=await store.count_events_above(tx, chain_id, target),
        )
        if not dry_run:
            await store.ask_for_reset(tx, chain_id, most)
        return plan

    def _known(self, chain_id: ChainId) -> Chain:
        if chain_id not in self._chains:
            raise ChainNotFound
        return self._chains[chain_id]

    async def _status(self, tx: Transaction, chains: Sequence[Chain]) -> list[ChainStatus]:
        ids = [chain.id for chain in chains]
        rows = await store.overview(tx, ids)
        providers = await store.providers(tx, ids)
        upgrades = await store.first_upgrades(tx, [chain.id for chain in chains if chain.start_block is None])
        events = await store.event_totals(tx, ids)
        return [
            _status(chain, rows.get(chain.id), providers.get(chain.id, []), upgrades, events.get(chain.id, 0))
            for chain in chains
        ]


def _status(
    chain: Chain,
    row: store.Overview | None,
    providers: list[ProviderStatus],
    upgrades: Mapping[tuple[ChainId, str], int],
    events: int,
) -> ChainStatus:
    start_block = row.first_block if row is not None and row.indexed_block is not None else chain.start_block
    lag = None
    if row is not None and row.indexed_block is not None and row.head is not None:
        lag = max(0, row.head - row.indexed_block)
    return ChainStatus(
        chain_id=chain.id,
        name=chain.name,
        class_=chain.class_,
        enabled=chain.enabled,
        registries={
            registry: RegistryAddress(address=address, start_block=upgrades.get((chain.id, registry), start_block))
            for address, registry in chain.registries.items()
        },
        finality=FinalityView(mode=chain.finality, depth=chain.finality_depth if chain.finality == "depth" else None),
        block_time_seconds=chain.block_time,
        status=("starting" if row is None else row.status) if chain.enabled else "disabled",
        status_reason=None if row is None else row.status_reason,
        latest_block=None if row is None else row.head,
        safe_block=None if row is None else row.safe,
        finalized_block=None if row is None else row.finalized,
        indexed_block=None if row is None else row.indexed_block,
        lag_blocks=lag,
        lag_seconds=None if lag is None or row is None else (row.behind_seconds if lag else 0),
        last_sync_at=None if row is None or row.indexed_block is None else row.updated_at,
        last_event_at=None
        if row is None or row.last_event_at is None
        else datetime.fromtimestamp(row.last_event_at, UTC),
        total_events=events,
        providers=providers,
    )
