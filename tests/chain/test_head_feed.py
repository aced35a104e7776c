"""Heads that a node announces end the wait for the next poll. Nothing depends on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from agentauri.chain import Chain, indexers
from agentauri.chain.head_feed import HeadFeed
from agentauri.database import Database
from agentauri.demo import LocalChain
from agentauri.events import EventService
from agentauri.supervisor import Wake
from agentauri.types import Secret
from chains.driving import FAST, network, rows, until
from support import processes

NEVER = asyncio.Event()


@asynccontextmanager
async def following(chain: Chain, session: aiohttp.ClientSession) -> AsyncIterator[tuple[HeadFeed, Wake]]:
    announced = Wake()
    feed = HeadFeed(chain, session, announced)
    feed._retry = 0.01
    task = asyncio.create_task(feed.run())
    try:
        yield feed, announced
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_new_block_is_announced(session: aiohttp.ClientSession) -> None:
    async with LocalChain.start() as chain:
        socket = Secret(chain.url.replace("http", "ws"))
        async with following(network(ws_url=socket), session) as (_, announced):
            async with asyncio.timeout(10):
                while not announced._event.is_set():  # it may not have subscribed yet
                    await chain.mine()
                    await asyncio.sleep(0.01)


class Socket:
    """A server that announces a head to whoever subscribes, and hangs up on all but the last of them."""

    def __init__(self, hangs_up: int, answer: str) -> None:
        self.subscriptions = 0
        self._hangs_up = hangs_up
        self._answer = answer

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Secret]:
        app = web.Application()
        app.router.add_get("/", self._receive)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        try:
            yield Secret(f"ws://{host}:{port}/?key=planted")
        finally:
            await runner.cleanup()

    async def _receive(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        assert "newHeads" in (await socket.receive()).data
        self.subscriptions += 1
        if self.subscriptions > self._hangs_up:
            await socket.send_str(self._answer)
            await socket.receive()
        return socket


HEAD = '{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"0x1","result":{}}}'
REFUSAL = '{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no such method"}}'


async def test_a_feed_that_hangs_up_is_connected_to_again(session: aiohttp.ClientSession) -> None:
    server = Socket(2, HEAD)
    async with server.serve() as url, following(network(ws_url=url), session) as (_, announced):
        await asyncio.wait_for(announced.wait(NEVER, 10), 10)

    assert server.subscriptions == 3


async def test_a_node_that_refuses_is_asked_less_and_less_and_its_url_is_not_told(
    session: aiohttp.ClientSession, log_lines: list[dict[str, object]]
) -> None:
    server = Socket(0, REFUSAL)
    async with server.serve() as url, following(network(ws_url=url), session) as (feed, announced):
        await until(lambda: server.subscriptions >= 3)
        assert feed._retry >= 0.04
        assert not announced._event.is_set()

    (line,) = [line for line in log_lines if line["event"] == "rpc.heads_lost"]
    assert "planted" not in str(line)


async def test_an_indexer_that_waits_for_its_next_poll_is_woken(
    database: Database, session: aiohttp.ClientSession
) -> None:
    """The poll alone would come after fifteen seconds, and we give up after ten."""
    async with LocalChain.start() as anvil:
        facts = network(
            id=anvil.chain_id, class_="local", block_time=60.0, start_block=0, finality="depth",
            rpc_urls=(Secret(anvil.url),), ws_url=Secret(anvil.url.replace("http", "ws")),
            identity=anvil.identity, reputation=anvil.reputation, validation=anvil.validation,
        )  # fmt: skip
        (indexer,) = indexers(database, EventService(), [facts], session, FAST)
        stopping = asyncio.Event()
        task = asyncio.create_task(indexer.run(stopping))
        await reaches(database, await anvil.head())
        agent, receipt = await anvil.register()

        await reaches(database, receipt.block_number)

        assert await rows(database, "SELECT DISTINCT agent_id FROM events WHERE agent_id IS NOT NULL") == [(agent,)]
        stopping.set()
        await task


async def reaches(database: Database, block: int) -> None:
    async def there() -> bool:
        return bool(await rows(database, "SELECT FROM checkpoints WHERE last_block_number >= $1", block))

    await processes.until(there, 10, f"block {block} to be indexed")
