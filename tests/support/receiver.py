"""A real HTTP server that stands in for a customer's endpoint."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiohttp import web
from multidict import CIMultiDictProxy


class Received(NamedTuple):
    method: str
    path: str
    headers: CIMultiDictProxy[str]
    body: bytes


class Answer(NamedTuple):
    status: int = 200
    headers: dict[str, str] | None = None
    body: bytes = b""


class Receiver:
    """`requests` in order of arrival; `answers` are used up first, then `answer` decides (default: 200).

    A handler set as `handle` takes the raw aiohttp request and answers whatever it likes (hangs, floods, resets).
    """

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.answers: deque[Answer] = deque()
        self.answer: Callable[[Received], Answer] = lambda _: Answer()
        self.handle: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
        self.url = ""
        self._arrived = asyncio.Condition()

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Receiver]:
        receiver = cls()
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", receiver._receive)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        receiver.url = f"http://{host}:{port}"
        try:
            yield receiver
        finally:
            await runner.cleanup()

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        received = Received(request.method, request.path_qs, request.headers, await request.read())
        self.requests.append(received)
        async with self._arrived:
            self._arrived.notify_all()
        if self.handle is not None:
            return await self.handle(request)
        answer = self.answers.popleft() if self.answers else self.answer(received)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    async def wait_for(self, count: int, seconds: float = 20.0) -> list[Received]:
        """The requests once there are at least `count`."""
        async with asyncio.timeout(seconds), self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)
        return self.requests
