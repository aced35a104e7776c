"""Sees to it that a chain's providers and registries are what we think: when to look again, and what to say of it."""

from __future__ import annotations

import time
from collections.abc import Iterable

from agentauri import metrics
from agentauri.chain import store
from agentauri.chain.errors import NoHistory, SelfCheckFailed, WrongChain
from agentauri.chain.rpc import Provider
from agentauri.chain.self_check import Contract, check_chain_id, inspect, judge
from agentauri.chain.types import Chain
from agentauri.database import Database
from agentauri.events import NewEvent
from agentauri.log import get_logger

log = get_logger(__name__)

DAILY = 86_400.0
NOBODY = "0x" + "00" * 20  # whom a new contract is taken over from
REFUSED = 60.0  # seconds until a running chain that is refused is looked at again


class Inspector:
    """`refusal` is what was wrong at the newest looks, by the word of all providers; None while all is well enough."""

    def __init__(self, database: Database, chain: Chain) -> None:
        self._database = database
        self._chain = chain
        self._contracts: dict[str, Contract] = {}
        self._next = 0.0
        self._warned: frozenset[str] = frozenset()
        self.refusal: str | None = None
        self.passed = False

    async def vet(self, provider: Provider) -> None:
        """Ask a provider once which chain it serves.

        Raises:
            WrongChain: not ours. It is told, and the provider rests.
        """
        if provider.vetted:
            return
        try:
            await check_chain_id(provider, self._chain)
        except WrongChain as error:
            self.report(provider, error)
            provider.distrust(error.message)
            raise
        provider.vetted = True

    async def look(self, provider: Provider) -> None:
        """Look at the registries when it is time to.

        Raises:
            SelfCheckFailed: they are not the right ones, as this provider shows them. Before they ever were, it rests.
        """
        if time.monotonic() < self._next:
            return
        contracts = await inspect(provider, self._chain)
        async with self._database.transaction() as tx:
            await store.save_contracts(tx, self._chain.id, contracts)
        self._contracts = {contract.registry: contract for contract in contracts}
        findings = judge(self._chain, contracts)
        refusals = [finding.message for finding in findings if finding.refuses]
        self._warn(frozenset(finding.message for finding in findings if not finding.refuses))
        if refusals:
            error = SelfCheckFailed("; ".join(refusals))
            self.report(provider, error)
            if not self.passed:
                provider.distrust(error.message)
            raise error
        self.refusal = None
        self.passed = True
        self._next = time.monotonic() + DAILY

    def refuse(self, error: SelfCheckFailed) -> bool:
        """No other provider can be asked. Whether the chain goes on all the same, since it was the right one before."""
        if not self.passed or isinstance(error, WrongChain | NoHistory):
            return False
        self.refusal = error.message
        self._next = time.monotonic() + REFUSED
        return True

    def report(self, provider: Provider, error: SelfCheckFailed) -> None:
        log.error(
            "chain.refused",
            code="CHAIN_SELF_CHECK_FAILED",
            message=error.message,
            chain_id=self._chain.id,
            provider=provider.name,
        )

    def administered(self, events: Iterable[NewEvent]) -> None:
        """Tell of what the registries' owner has done, and look again after an upgrade."""
        for event in events:
            if event.event_type == "Upgraded" and event.registry in self._contracts:
                self._upgraded(event, self._contracts[event.registry])
            elif event.event_type == "OwnershipTransferred" and event.args["previousOwner"] != NOBODY:
                log.critical(
                    "chain.ownership_transferred",
                    message=f"The {event.registry} registry, and with it the say over its code, has a new owner",
                    chain_id=self._chain.id,
                    registry=event.registry,
                    previous_owner=event.args["previousOwner"],
                    new_owner=event.args["newOwner"],
                    transaction_hash=event.transaction_hash,
                )

    def _upgraded(self, event: NewEvent, known: Contract) -> None:
        self._next = 0.0
        tell = log.info
        if known.implementation:  # else it is the first one of a new proxy
            tell = log.critical
            metrics.CONTRACT_UPGRADES.labels(str(self._chain.id)).inc()
        tell(
            "chain.contract_upgraded",
            code="CONTRACT_UPGRADED",
            message=f"The {event.registry} registry has new code; the self-check runs again",
            chain_id=self._chain.id,
            registry=event.registry,
            implementation=event.args["implementation"],
            block_number=event.block_number,
            transaction_hash=event.transaction_hash,
        )

    def _warn(self, messages: frozenset[str]) -> None:
        for message in sorted(messages - self._warned):
            log.warning("chain.self_check", message=message, chain_id=self._chain.id)
        self._warned = messages
