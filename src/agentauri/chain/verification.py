"""The self-check now, at every provider of a chain, with all that it finds. Nothing is stored, nobody is left out."""

from __future__ import annotations

import aiohttp
from msgspec import Struct

from agentauri.chain import node
from agentauri.chain.errors import RpcError, SelfCheckFailed
from agentauri.chain.providers import Providers
from agentauri.chain.rpc import Provider
from agentauri.chain.self_check import Contract, Finding, check_chain_id, inspect, judge
from agentauri.chain.types import Chain
from agentauri.config import RpcConfig


class Verdict(Struct, frozen=True):
    """What one provider showed. Without `contracts` it did not get that far."""

    provider: str
    contracts: list[Contract]
    findings: list[Finding]

    @property
    def refused(self) -> bool:
        return any(finding.refuses for finding in self.findings)

    @property
    def skipped(self) -> list[str]:
        """The registries of which nothing will be indexed for now."""
        return [contract.registry for contract in self.contracts if not contract.exists]


async def verify(chain: Chain, session: aiohttp.ClientSession, config: RpcConfig) -> list[Verdict]:
    """A verdict on each provider, in the order of RPC_URLS."""
    if not chain.enabled:
        return []
    return [await _verify(provider, chain) for provider in Providers.of(chain, session, config)]


async def _verify(provider: Provider, chain: Chain) -> Verdict:
    try:
        await check_chain_id(provider, chain)
        contracts = await inspect(provider, chain)
        findings = [*judge(chain, contracts), *await _judge_tags(provider, chain)]
    except SelfCheckFailed as error:
        return Verdict(provider.name, [], [Finding(error.message, refuses=True)])
    except RpcError as error:
        advice = f"it does not answer ({error.message}); check its URL in RPC_URLS_{chain.id}"
        return Verdict(provider.name, [], [Finding(advice, refuses=True)])
    return Verdict(provider.name, contracts, findings)


async def _judge_tags(provider: Provider, chain: Chain) -> list[Finding]:
    if chain.finality != "tags":
        return []
    look = await node.look(provider, 0, "finalized")
    if look.final["finalized"] is not None:
        return []
    advice = f"set FINALITY_DEPTH_{chain.id} if another depth is right"
    return [Finding(f"it does not answer the tag `finalized`; {chain.finality_depth} blocks count; {advice}", False)]
