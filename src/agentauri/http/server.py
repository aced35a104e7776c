"""The listening end: our own socket, and uvicorn on it as one worker among others.

The socket is bound when the server is made, before any worker runs, so that a port in use is told at once and by name.
Signals stay with the process; uvicorn hears of a stop through `stopping` alone.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from agentauri.config import ConfigError, ServerConfig
from agentauri.http.exchange import Layer
from agentauri.log import get_logger

log = get_logger(__name__)

BACKLOG = 2048
DRAIN_SECONDS = 8
HEAD_BYTES, HEAD_SECONDS = 64 * 1024, 10.0
"""Of request line and headers together. Up to here `Limits` answers properly; beyond it the connection ends."""


class HttpServer:
    """Serves until told to stop, then lets requests in flight finish. `port` is the one really bound; another than the
    server's usual one may be asked for, with the variable that names it."""

    def __init__(
        self, app: Layer, config: ServerConfig, *, port: int | None = None, variable: str = "SERVER_PORT"
    ) -> None:
        self._app = app
        self._config = config
        self._variable = variable
        self._socket: socket.socket | None = bind(config.host, config.port if port is None else port, variable)
        self.port: int = self._socket.getsockname()[1]

    async def run(self, stopping: asyncio.Event) -> None:
        listening = self._socket or bind(self._config.host, self.port, self._variable)
        self._socket = None  # uvicorn closes it
        server = _Server(
            uvicorn.Config(
                self._app,
                http=_Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            )
        )
        serving = asyncio.create_task(server.serve(sockets=[listening]), name="uvicorn")
        stopped = asyncio.create_task(stopping.wait())
        log.info("http.listening", host=self._config.host, port=self.port)
        try:
            await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            server.should_exit = True
            await serving


def bind(host: str, port: int, variable: str) -> socket.socket:
    """
    Raises:
        ConfigError: the address cannot be had, with the variable to change.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        listening = socket.socket(family, kind)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
            listening.setblocking(False)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise ConfigError([_why_not(host, port, variable, error)]) from error
    return listening


def _why_not(host: str, port: int, variable: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{variable}: {port} is in use on {host}; stop what listens there, or name another port"
    if error.errno == errno.EACCES:
        return f"{variable}: {port} may only be used by root; name a port from 1024 on"
    return f"SERVER_HOST: {host} is no address of this machine ({error.strerror}); name one that is, or 0.0.0.0"


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(HttpToolsProtocol):
    """Ends connections whose head does not end: too long, or too long in coming."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES:
            self.transport.close()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
