"""A node that announces its new blocks, so that the next poll need not wait. A hint, and nothing else: the poll finds
everything without it, and what is announced is looked at with the same doubt as ever."""

from __future__ import annotations

import asyncio
import time

import aiohttp

from agentauri.chain.types import Chain
from agentauri.log import Seldom, get_logger
from agentauri.supervisor import Wake

log = get_logger(__name__)

SUBSCRIBE = '{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"]}'
SHORTEST_GAP = 0.25  # seconds between two hints; some chains make ten blocks a second
FIRST_RETRY, LONGEST_RETRY = 1.0, 60.0
HEARTBEAT = 20.0
MOST_BYTES = 256 * 1024


class HeadFeed:
    def __init__(self, chain: Chain, session: aiohttp.ClientSession, announced: Wake) -> None:
        self._chain = chain
        self._session = session
        self._announced = announced
        self._retry = FIRST_RETRY
        self._hinted = float("-inf")
        self._seldom = Seldom()

    async def run(self) -> None:
        """Listen until cancelled, and connect again whenever that ends."""
        if self._chain.ws_url is None:
            return
        while True:
            fault = "it hung up"
            try:
                await self._listen(self._chain.ws_url.reveal())
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                fault = type(error).__name__  # its text may hold the URL
            if self._seldom.due("lost"):
                log.info("rpc.heads_lost", chain_id=self._chain.id, reason=fault, retry_in=self._retry)
            await asyncio.sleep(self._retry)
            self._retry = min(self._retry * 2, LONGEST_RETRY)

    async def _listen(self, url: str) -> None:
        async with self._session.ws_connect(url, heartbeat=HEARTBEAT, max_msg_size=MOST_BYTES) as socket:
            await socket.send_str(SUBSCRIBE)
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue
                if '"eth_subscription"' not in message.data:
                    if '"error"' in message.data:
                        raise ValueError("it does not announce heads")
                    continue
                self._retry = FIRST_RETRY
                self._seldom.over("lost")
                if time.monotonic() - self._hinted >= SHORTEST_GAP:
                    self._hinted = time.monotonic()
                    self._announced.set()
