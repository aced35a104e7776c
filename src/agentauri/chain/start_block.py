"""The first block that can hold a registry's log, where nobody has written it down: found by block time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from agentauri.chain import node
from agentauri.chain.errors import NoHistory, ProviderFailed
from agentauri.chain.rpc import Provider
from agentauri.chain.types import Chain, Header


async def find_start(provider: Provider, chain: Chain, head: Header) -> int:
    """Raises: NoHistory, where the provider has forgotten the blocks between which it lies."""

    async def header_at(number: int) -> Header:
        return await old_header(provider, chain, number)

    return await first_block_since(chain.earliest, head, header_at)


async def old_header(provider: Provider, chain: Chain, number: int) -> Header:
    """Raises: NoHistory."""
    try:
        (header,) = await node.headers(provider, [number])
    except ProviderFailed as error:
        if error.held:  # nothing was answered at all
            raise
        header = None
    if header is None:
        raise NoHistory(
            f"{provider.name} does not have block {number}, which is needed to find where to begin; "
            f"set START_BLOCK_{chain.id}, or name a provider that keeps old blocks in RPC_URLS_{chain.id}"
        )
    return header


async def first_block_since(time: int, head: Header, header_at: Callable[[int], Awaitable[Header]]) -> int:
    """The lowest block whose time is at least `time`; the head where all are older."""
    low, high = 0, head.number  # the answer is in low..high
    while low < high:
        middle = (low + high) // 2
        if (await header_at(middle)).time >= time:
            high = middle
        else:
            low = middle + 1
    return low
