"""The first block that can hold a registry's log, where nobody has written it down: found by block time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from agentauri.chain.types import Header


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
