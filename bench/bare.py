"""What the least process of the kind costs: an HTTP server, and every second a question to PostgreSQL and each node.

python bare.py PORT DATABASE_URL NODE_URL…
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import asyncpg
from aiohttp import web

EVERY = 1.0
HEAD = {"jsonrpc": "2.0", "id": 0, "method": "eth_getBlockByNumber", "params": ["latest", False]}


async def main(port: int, database_url: str, nodes: list[str]) -> None:
    connection = await asyncpg.connect(database_url)
    async with aiohttp.ClientSession() as session:
        application = web.Application()
        application.router.add_get("/", _answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        while True:
            await connection.fetchval("SELECT 1")
            for node in nodes:
                async with session.post(node, json=HEAD) as response:
                    await response.read()
            await asyncio.sleep(EVERY)


async def _answer(_: web.Request) -> web.Response:
    return web.Response()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
