"""How far a chain is final: by the node's own word while that can be believed, else by depth."""

from __future__ import annotations

import time

from agentauri.chain.node import Look
from agentauri.chain.types import Chain, Header, Heads
from agentauri.log import get_logger

log = get_logger(__name__)

ASK_EVERY = 5.0  # seconds, or a block time if that is longer
ASK_TAGS_AGAIN = 600.0  # seconds until a node that could not say is asked once more
STANDS_STILL = 86_400  # seconds that the final block may be older than the head: rollups prove for hours, not for days


class Finality:
    """Which blocks to ask for along with the head, and what the answers come to.

    The tags are tested again and again, from the first look on: one that does not answer, or names a block that has
    been left behind, gives way to the depth, and is believed again when it moves.
    """

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._by_tags = chain.finality == "tags"
        self._asked = float("-inf")
        self._tags_asked = float("-inf")

    def questions(self, head: int | None) -> tuple[int | str, ...]:
        """The blocks to ask for now, by tag or number; none while the last answer is fresh."""
        now = time.monotonic()
        if now - self._asked < max(self._chain.block_time, ASK_EVERY):
            return ()
        self._asked = now
        deep = (head or 0) - self._chain.finality_depth
        wanted: tuple[int | str, ...] = () if self._by_tags or deep <= 0 else (deep,)
        again = self._chain.finality == "tags" and now - self._tags_asked >= ASK_TAGS_AGAIN
        if self._by_tags or again:
            self._tags_asked = now
            wanted = ("finalized", "safe", *wanted)
        return wanted

    def heads(self, look: Look) -> Heads:
        if "finalized" in look.final:
            self._judge(look.head, look.final["finalized"])
        if self._by_tags:
            final, safe = look.final.get("finalized"), look.final.get("safe")
        else:
            final, safe = next((header for at, header in look.final.items() if isinstance(at, int)), None), None
        if final is not None and not 0 < final.number <= look.head.number:
            final = None
        return Heads(
            head=look.head.number,
            time=look.head.time,
            safe=safe.number if safe and safe.number <= look.head.number else None,
            finalized=final.number if final else None,
            finalized_hash=final.hash if final else None,
        )

    def _judge(self, head: Header, final: Header | None) -> None:
        fault = None
        if head.number >= self._chain.finality_depth:  # a chain that young may have no final block
            if final is None or final.number == 0:
                fault = "the node does not answer the tag"
            elif head.time - final.time > STANDS_STILL:
                fault = "the tag stands still"
        elif final is None:
            fault = "the node does not answer the tag"
        if self._by_tags == (fault is None):
            return
        self._by_tags = fault is None
        self._asked = float("-inf")  # the other way is asked at once
        if fault is None:
            log.info("chain.finality_by_tags", chain_id=self._chain.id)
        else:
            log.warning(
                "chain.finality_by_depth", chain_id=self._chain.id, depth=self._chain.finality_depth, reason=fault
            )
