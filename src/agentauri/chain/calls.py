"""What the registries answered as of a block, for whoever wants to know whether what is stored here is true."""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp

from agentauri.chain.errors import NoHistory, RpcError, RpcUnavailable
from agentauri.chain.providers import Providers
from agentauri.chain.rpc import Answer, Call, Provider, read_text
from agentauri.chain.self_check import check_chain_id
from agentauri.chain.types import Chain, Registry
from agentauri.config import RpcConfig


async def call_at(
    chain: Chain,
    session: aiohttp.ClientSession,
    config: RpcConfig,
    block: int,
    calls: Sequence[tuple[Registry, bytes]],
) -> list[bytes | None]:
    """The answers of one provider, None where the contract refuses. Others are asked only when it cannot tell.

    Raises:
        NoHistory: none of them has the state of that block any more.
        RpcUnavailable: none of them answers.
        WrongChain: one serves another chain.
    """
    addresses = {registry: address for address, registry in chain.registries.items()}
    failure: Exception = RpcUnavailable(0.0)
    for provider in Providers.of(chain, session, config) if chain.rpc_urls else ():
        try:
            await check_chain_id(provider, chain)
            return await _ask(provider, block, [(addresses.get(registry), data) for registry, data in calls])
        except NoHistory as error:
            failure = error
        except RpcError:
            continue
    raise failure


async def _ask(provider: Provider, block: int, calls: Sequence[tuple[str | None, bytes]]) -> list[bytes | None]:
    answers = await provider.ask(
        *(
            Call("eth_call", ({"to": address or "0x" + "00" * 20, "data": "0x" + data.hex()}, hex(block)))
            for address, data in calls
        )
    )
    return [_result(provider, block, answer) for answer in answers]


def _result(provider: Provider, block: int, answer: Answer) -> bytes | None:
    if answer.error is None:
        return bytes.fromhex(answer.read(read_text)[2:])
    if "revert" in answer.error.message.lower():
        return None
    raise NoHistory(
        f"{provider.name} cannot tell the state of block {block} ({answer.error.message}): it may keep only the newest "
        "blocks. Name an archive node in RPC_URLS, or try again when the chain is live"
    )
