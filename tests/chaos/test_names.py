"""A name server that does not answer stops deliveries to the names it should know, and nothing else."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from chaos.world import SECONDS, Rule, World

ADDRESS = "127.0.0.153"
NAMES = 6
LOOKUPS_AT_ONCE = 2  # of one organization
HEADER = 12  # bytes in front of the question


class NameServer(asyncio.DatagramProtocol):
    """Keeps everybody waiting until it is healed; then all names, also those asked for before, are this machine's."""

    def __init__(self) -> None:
        self.asked: set[str] = set()
        self._waiting: list[tuple[bytes, tuple[str, int]]] = []
        self._healed = False
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked.add(_name_in(data))
        if self._healed:
            self._answer(data, addr)
        else:
            self._waiting.append((data, addr))

    def heal(self) -> None:
        self._healed = True
        for data, addr in self._waiting:
            self._answer(data, addr)

    def _answer(self, query: bytes, address: tuple[str, int]) -> None:
        assert self._transport is not None
        question = query[HEADER : query.index(b"\0", HEADER) + 5]
        is_ipv4 = question[-3] == 1
        record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x01\0\x04" + socket.inet_aton("127.0.0.1") if is_ipv4 else b""
        head = query[:2] + b"\x81\x80\0\x01" + (b"\0\x01" if is_ipv4 else b"\0\0") + b"\0\0\0\0"
        self._transport.sendto(head + question + record, address)


def _name_in(query: bytes) -> str:
    labels, at = [], HEADER
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels)


@pytest.fixture
def may_have_its_own() -> None:
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or subprocess.call(["unshare", "--mount", "true"]):
        pytest.skip("only root on Linux may give a process a name server of its own")


@pytest.fixture
async def name_server(may_have_its_own: None) -> AsyncIterator[NameServer]:
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        NameServer, local_addr=(ADDRESS, 53), family=socket.AF_INET
    )
    yield server
    transport.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("patience", ["answers after all", pytest.param("gives up", marks=pytest.mark.soak)])
async def test_a_name_server_that_hangs_delays_only_what_needs_it(
    world: World, name_server: NameServer, tmp_path: Path, patience: str
) -> None:
    port = world.receiver.url.rpartition(":")[2]
    here = {path for rule in world.rules for path in rule.paths}
    for number in range(NAMES):
        rule = Rule((f"/named-{number}",), {"match_all": True}, lambda _: True)
        await world.add(rule, base=f"http://slow-{number}.test:{port}", organization="org-2")
    resolver = tmp_path / "resolv.conf"
    resolver.write_text(f"nameserver {ADDRESS}\noptions timeout:30 attempts:1\n")
    settings = {"TEST_RESOLV_CONF": str(resolver), "RETRY_SCHEDULE_SECONDS": "1,1,1,1,1,1,1,1"}
    await world.happen(20)
    child = await world.start(**settings)

    await world.until(lambda: {path for _, path in world.missing()}.isdisjoint(here), "all with known addresses")
    await world.until(lambda: len(name_server.asked) == LOOKUPS_AT_ONCE, "two questions")
    if patience == "gives up":
        await child.logged(SECONDS, event="delivery.attempted", error_kind="dns")
    assert len(name_server.asked) == LOOKUPS_AT_ONCE
    assert not [one for one in world.receiver.requests if one.path not in here]

    name_server.heal()
    await world.finish(seconds=SECONDS * 3)
    assert len(name_server.asked) == NAMES
