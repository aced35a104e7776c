"""Tells people how a chain does: status and lag as metrics, and the alarms that must not be missed."""

from __future__ import annotations

import time
from collections.abc import Iterable

from agentauri import metrics
from agentauri.chain.rpc import Provider
from agentauri.chain.types import STATUSES, Chain, Status
from agentauri.log import Seldom, get_logger

log = get_logger(__name__)


class Watch:
    def __init__(self, chain: Chain, *, stall: float) -> None:
        self._chain = chain
        self._stall = stall
        self._seldom = Seldom()
        self._stalls = Seldom(stall)
        self._progressed = time.monotonic()
        self._head: int | None = None
        self._indexed: int | None = None
        for counter in (metrics.CHAIN_REORGS, metrics.CONTRACT_UPGRADES):
            counter.labels(str(chain.id))  # a counter that is not there has not risen, either

    def at(self, indexed: int, head: int | None, status: Status) -> None:
        """Where the chain is, after a step that went well or not."""
        if indexed != self._indexed or head is None or head <= indexed:
            self._progressed = time.monotonic()
            self._stalls.over("stalled")
        self._indexed, self._head = indexed, head
        label = str(self._chain.id)
        metrics.CHAIN_INDEXED.labels(label).set(indexed)
        if head is not None:
            metrics.CHAIN_HEAD.labels(label).set(head)
            metrics.CHAIN_LAG.labels(label).set(max(0, head - indexed))
        for one in STATUSES:
            metrics.CHAIN_STATUS.labels(label, one).set(one == status)
        if time.monotonic() - self._progressed >= self._stall and self._stalls.due("stalled"):
            log.warning(
                "chain.stalled",
                code="CHAIN_STALLED",
                message=f"Latest indexed block: {indexed}, Current chain block: {head}, Indexer appears stuck",
                chain_id=self._chain.id,
                status=status,
            )

    def standby(self) -> None:
        """Another process indexes the chain, and what we knew of it is no longer so."""
        self._indexed = self._head = None
        self._progressed = time.monotonic()
        label = str(self._chain.id)
        for gauge in (metrics.CHAIN_INDEXED, metrics.CHAIN_HEAD, metrics.CHAIN_LAG):
            gauge.remove(label)
        for one in STATUSES:
            metrics.CHAIN_STATUS.remove(label, one)

    def reorged(self, depth: int, fork: int, events: int, provider: str) -> None:
        metrics.CHAIN_REORGS.labels(str(self._chain.id)).inc()
        metrics.CHAIN_REORG_DEPTH.labels(str(self._chain.id)).set(depth)
        log.warning(
            "chain.reorged", chain_id=self._chain.id, depth=depth, fork_block=fork, retracted=events, provider=provider
        )

    def unavailable(self, providers: Iterable[Provider]) -> None:
        if self._seldom.due("unavailable"):
            log.error(
                "rpc.unavailable",
                code="RPC_UNAVAILABLE",
                message=f"No RPC provider of chain {self._chain.id} answers; check RPC_URLS_{self._chain.id}",
                chain_id=self._chain.id,
                errors={provider.name: provider.health.last_error for provider in providers},
            )

    def available(self) -> None:
        if self._seldom.over("unavailable"):
            log.info("rpc.available", chain_id=self._chain.id)

    def halted(self, reason: str | None) -> None:
        if self._seldom.due("halted"):
            log.critical(
                "chain.halted",
                code="CHAIN_HALTED_BELOW_FINALIZED",
                message=reason or "The chain changed below its finalized block",
                chain_id=self._chain.id,
                remedy=f"look into it, then: agentauri chain reset --chain {self._chain.id}",
            )
