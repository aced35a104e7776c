"""A real MCP server, of the official SDK, that stands in for a customer's."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import mcp_types
import uvicorn
from mcp.server import Server, ServerRequestContext
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Params = mcp_types.CallToolRequestParams
Answer = Callable[[Params], Awaitable[mcp_types.CallToolResult]]


def text_result(text: str, *, is_error: bool = False) -> mcp_types.CallToolResult:
    return mcp_types.CallToolResult(content=[mcp_types.TextContent(text=text)], is_error=is_error)


async def done(_: Params) -> mcp_types.CallToolResult:
    return text_result("done")


class ToolServer:
    """`calls` are what its tool was asked, `asked` the JSON-RPC bodies and `headers` the headers of all POST requests.

    `answer` decides what the tool says. `intercept` may take a whole HTTP request away from the SDK: it answers it and
    returns True.
    """

    def __init__(self) -> None:
        self.calls: list[Params] = []
        self.asked: list[bytes] = []
        self.methods: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Answer = done
        self.intercept: Callable[[bytes, Scope, Send], Awaitable[bool]] | None = None
        self.lose_sessions = 0
        self.url = ""

    @classmethod
    @asynccontextmanager
    async def open(cls, *, json_response: bool = False) -> AsyncIterator[ToolServer]:
        tools = cls()
        server: Server[Any] = Server("tools", on_call_tool=tools._call)
        with socket.create_server(("127.0.0.1", 0)) as bound:
            host, port = bound.getsockname()
            tools.url = f"http://{host}:{port}/mcp"
            app = tools._watched(server.streamable_http_app(json_response=json_response))
            running = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=0))
            running.capture_signals = nullcontext  # type: ignore[method-assign,assignment]  # signals are pytest's
            task = asyncio.create_task(running.serve(sockets=[bound]))
            while not running.started:  # noqa: ASYNC110 (it tells nobody)
                await asyncio.sleep(0.001)
            try:
                yield tools
            finally:
                running.should_exit = True
                await task

    async def _call(self, _: ServerRequestContext[Any], params: Params) -> mcp_types.CallToolResult:
        self.calls.append(params)
        return await self.answer(params)

    def _watched(self, app: ASGIApp) -> ASGIApp:
        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            self.methods.append(scope["method"])
            body = await _body(receive)
            if scope["method"] == "POST":
                self.asked.append(body)
                self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
            if self.intercept is not None and await self.intercept(body, scope, send):
                return
            if self.lose_sessions and b'"tools/call"' in body:
                self.lose_sessions -= 1
                others = [(name, value) for name, value in scope["headers"] if name != b"mcp-session-id"]
                scope = {**scope, "headers": [*others, (b"mcp-session-id", b"0" * 32)]}
            await app(scope, _again(body, receive), send)

        return watched


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _again(body: bytes, receive: Receive) -> Receive:
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def respond(send: Send, status: int, headers: dict[str, str], body: bytes) -> None:
    head = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
