"""What stands between us and an honest node: a provider that is late, limited, throttled, lying, or dies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

import aiohttp
import msgspec
from aiohttp import web

from chains.scripted import RANGE_DIALECTS, RpcFault

Json = dict[str, Any]
THROTTLE_DIALECTS: dict[str, Callable[[], RpcFault]] = {
    "http_429": lambda: RpcFault(0, "Too Many Requests", 429),
    "hidden_in_a_200": lambda: RpcFault(-32005, "daily request count exceeded, request rate limited"),
    "compute_units": lambda: RpcFault(429, "Your app has exceeded its compute units per second capacity"),
}


class FaultyRpc:
    """One provider of the chain at `upstream`, which may be changed. Its faults are attributes, to be set at any time.

    `ranges` are the blocks whose logs were answered. With `dies_in` it breaks off in the middle of that many requests'
    last answer, and is gone.
    """

    def __init__(self, upstream: str, session: aiohttp.ClientSession) -> None:
        self.upstream = upstream
        self.url = ""
        self.ranges: list[tuple[int, int]] = []
        self.lag = 0
        self.down = False
        self.dies_in: int | None = None
        self.throttled: str | None = None
        self.range_limit: int | None = None
        self.range_dialect = "says_nothing"
        self.chain_id: int | None = None
        self.tamper_logs: Callable[[list[Json]], list[Json]] | None = None
        self._session = session

    @classmethod
    @asynccontextmanager
    async def serve(cls, upstream: str) -> AsyncIterator[Self]:
        async with aiohttp.ClientSession() as session:
            proxy = cls(upstream, session)
            app = web.Application()
            app.router.add_post("/", proxy._receive)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            proxy.url = f"http://{host}:{port}/"
            try:
                yield proxy
            finally:
                await runner.cleanup()

    def heal(self) -> None:
        self.lag, self.down, self.dies_in, self.throttled = 0, False, None, None
        self.range_limit = self.chain_id = self.tamper_logs = None

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        body = msgspec.json.decode(await request.read())
        if self.down:
            return web.Response(status=503, text="down for maintenance")
        calls = body if isinstance(body, list) else [body]
        try:
            answers = await self._answer(calls)
        except RpcFault as fault:
            return web.Response(status=fault.status, text="")
        raw = msgspec.json.encode(answers if isinstance(body, list) else answers[0])
        if self.dies_in is not None:
            self.dies_in -= 1
            if self.dies_in <= 0:
                self.down = True
                return await _break_off(request, raw)
        return web.Response(body=raw, content_type="application/json")

    async def _answer(self, calls: list[Json]) -> list[Json]:
        """Raises: RpcFault, in place of the whole answer."""
        newest = None
        if self.lag:
            (head,) = await self._forward([{"jsonrpc": "2.0", "id": 0, "method": "eth_blockNumber", "params": []}])
            newest = int(head["result"], 16) - self.lag
        found: dict[Any, Json] = {}
        passed = []
        for call in calls:
            own = self._own_answer(call, newest)
            if own is None:
                passed.append(call)
            else:
                found[call["id"]] = {"jsonrpc": "2.0", "id": call["id"], **own}
        for answer in await self._forward(passed):
            found[answer["id"]] = answer
        for call in calls:
            if call["method"] == "eth_getLogs" and "result" in found[call["id"]]:
                wanted = call["params"][0]
                self.ranges.append((int(wanted["fromBlock"], 16), int(wanted["toBlock"], 16)))
                if self.tamper_logs is not None:
                    found[call["id"]]["result"] = self.tamper_logs(found[call["id"]]["result"])
        return [found[call["id"]] for call in calls]

    def _own_answer(self, call: Json, newest: int | None) -> Json | None:
        """What is answered here; None for what the node may answer, the call being cut to what is known here.

        Raises: RpcFault, in place of the whole answer.
        """
        method, params = call["method"], call["params"]
        if self.throttled is not None:
            return _error(THROTTLE_DIALECTS[self.throttled]())
        if method == "eth_chainId" and self.chain_id is not None:
            return {"result": hex(self.chain_id)}
        if method == "eth_getBlockByNumber" and newest is not None:
            if params[0] == "latest":
                params[0] = hex(newest)
            elif params[0].startswith("0x") and int(params[0], 16) > newest:
                return {"result": None}
        if method == "eth_getLogs":
            first, last = int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16)
            if self.range_limit is not None and last - first + 1 > self.range_limit:
                return _error(RANGE_DIALECTS[self.range_dialect](first, self.range_limit))
            if newest is not None and first > newest:
                return {"result": []}
            if newest is not None:
                params[0]["toBlock"] = hex(min(last, newest))
        return None

    async def _forward(self, calls: list[Json]) -> list[Json]:
        if not calls:
            return []
        headers = {"content-type": "application/json"}
        async with self._session.post(self.upstream, data=msgspec.json.encode(calls), headers=headers) as response:
            answers: list[Json] = msgspec.json.decode(await response.read())
        return answers


def _error(fault: RpcFault) -> Json:
    if fault.status != 200:
        raise fault
    return {"error": fault.error}


async def _break_off(request: web.Request, raw: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(raw))})
    await response.prepare(request)
    await response.write(raw[: len(raw) // 2])
    assert request.transport is not None
    request.transport.close()
    return response
