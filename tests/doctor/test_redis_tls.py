"""Redis by TLS and with a password: what the URL says, who is trusted, and the words in which a refusal is told.

The Valkey that comes with us speaks no TLS by itself: what it says goes through an end of TLS in front of it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

from agentauri import certificates
from agentauri.types import Secret
from support.doctor import Look

HOST = "127.0.0.1"


class Front(NamedTuple):
    port: int
    password: str
    root: Path

    def url(self, *, password: str | None = None, root: Path | None = None) -> Secret:
        return Secret(
            f"rediss://default:{password or self.password}@{HOST}:{self.port}/0?ssl_ca_certs={root or self.root}"
        )


@pytest.fixture
async def front(redis_url: str, tmp_path: Path) -> AsyncIterator[Front]:
    root, server_certificate, key = certificates.generate(tmp_path / "certs", [HOST])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_certificate, key)
    parts = urlsplit(redis_url)
    connections: set[asyncio.Task[None]] = set()

    async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
        sink.close()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(unquote(parts.path))
        await asyncio.gather(pipe(reader, back), pipe(there, writer))

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.create_task(pass_on(reader, writer)))

    server = await asyncio.start_server(begin, HOST, 0, ssl=context)
    async with server:
        yield Front(server.sockets[0].getsockname()[1], str(parts.password), root)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def test_a_redis_that_shows_the_certificate_of_its_name_and_takes_our_password_is_well(
    front: Front, look: Look
) -> None:
    assert (await look("redis", redis_url=front.url())).finding == "PONG"
    assert (await look("queue_depth", redis_url=front.url())).result == "ok"


async def test_a_root_that_did_not_sign_is_told_in_the_words_of_tls(front: Front, look: Look, tmp_path: Path) -> None:
    (other, *_) = certificates.generate(tmp_path / "other", [HOST])

    found = await look("redis", redis_url=front.url(root=other))

    assert found.result == "fail"
    assert "certificate verify failed" in found.finding


async def test_a_password_that_is_wrong_is_told_in_the_servers_words(front: Front, look: Look) -> None:
    found = await look("redis", redis_url=front.url(password="wrong"))

    assert found.result == "fail"
    assert "invalid username-password pair" in found.finding
    assert "wrong@" not in found.finding
