"""A long, made-up recording of registry logs, served over JSON-RPC as fast as aiohttp can: a load for the indexer.

    python -m chains.recorded --logs 300000

prints the URL on its first line and serves until it is killed. The mix is that of a busy network: every tenth
transaction registers an agent (four logs), the others rate one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import click
import msgspec
from aiohttp import web

from chains import logs
from chains.logs import IDENTITY, ScriptedLog

LOGS_PER_BLOCK = 8
BLOCK_TIME = 2
START_TIME = 1_770_000_000
NO_BLOOM = "0x" + "00" * 256
TAGS = ("starred", "uptime", "successRate", "responseTime", "reachable", "revenues", "tradingYield")


class Recording(NamedTuple):
    """`headers` and `bundles` (the logs, comma-separated) by block number."""

    headers: list[bytes]
    bundles: list[bytes]
    logs: int


def _templates() -> tuple[list[ScriptedLog], list[list[ScriptedLog]]]:
    """Logs of one registration, and of feedback with various tags, all for agent 7, which is then exchanged."""
    registration = [
        logs.transfer(7),
        logs.emit(IDENTITY, "MetadataUpdate(uint256 _tokenId)", _tokenId=7),
        logs.registered(7, "https://agents.example/" + "a" * 40 + ".json"),
        logs.metadata_set(7),
    ]
    feedback = [
        [logs.feedback(7, 9_000 + number, 2, index=number + 1, client=logs.account(1_000 + number), tag1=tag,
                       tag2="day", uri="ipfs://bafkreib" + "q" * 51)]
        for tag in TAGS
        for number in range(20)
    ]  # fmt: skip
    return registration, feedback


def record(count: int) -> Recording:
    """Exactly `count` logs."""
    registration, feedback = _templates()
    headers, bundles = [], []
    parent, agent, made, number = "0x" + "00" * 32, 0, 0, 0
    while made < count or number == 0:
        block_hash = "0x" + hashlib.sha256(f"block {number}".encode()).hexdigest()
        time = hex(START_TIME + number * BLOCK_TIME)
        bundle: list[bytes] = []
        while number > 0 and len(bundle) < LOGS_PER_BLOCK and made < count:
            agent += 1
            transaction = "0x" + hashlib.sha256(f"transaction {agent}".encode()).hexdigest()
            parts = registration if agent % 10 == 1 else feedback[agent % len(feedback)]
            for log in parts[: count - made]:
                bundle.append(_wire(log, agent // 3, number, block_hash, time, transaction, len(bundle)))
                made += 1
        headers.append(
            msgspec.json.encode(
                {"number": hex(number), "hash": block_hash, "parentHash": parent, "timestamp": time,
                 "logsBloom": NO_BLOOM}
            )
        )  # fmt: skip
        bundles.append(b",".join(bundle))
        parent = block_hash
        number += 1
    return Recording(headers, bundles, made)


_SEVEN, _PLACE = f"{7:064x}", "0x" + f"{7:064x}"


def _wire(log: ScriptedLog, agent: int, number: int, block_hash: str, time: str, transaction: str, index: int) -> bytes:
    topics = [f"0x{agent:064x}" if topic == _PLACE else topic for topic in log.topics]
    data = f"0x{agent:064x}" if log.data == _PLACE else log.data
    return msgspec.json.encode(
        {"address": log.address, "topics": topics, "data": data, "blockNumber": hex(number), "blockHash": block_hash,
         "blockTimestamp": time, "transactionHash": transaction, "transactionIndex": hex(index),
         "logIndex": hex(index), "removed": False}
    )  # fmt: skip


class RecordedNode:
    """Serves a recording; its newest block is final."""

    def __init__(self, recording: Recording, chain_id: int) -> None:
        self._recording = recording
        self._chain_id = chain_id

    async def answer(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read())
        calls = body if isinstance(body, list) else [body]
        answers = [
            b'{"jsonrpc":"2.0","id":%d,"result":%b}' % (call["id"], self._result(call["method"], call["params"]))
            for call in calls
        ]
        joined = b"[" + b",".join(answers) + b"]" if isinstance(body, list) else answers[0]
        return web.Response(body=joined, content_type="application/json")

    def _result(self, method: str, params: Sequence[Any]) -> bytes:
        last = len(self._recording.headers) - 1
        if method == "eth_getBlockByNumber":
            number = last if params[0] in ("latest", "safe", "finalized") else int(params[0], 16)
            return self._recording.headers[number] if number <= last else b"null"
        if method == "eth_getLogs":
            first, end = int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16) + 1
            return b"[" + b",".join(bundle for bundle in self._recording.bundles[first:end] if bundle) + b"]"
        return b'"%s"' % hex(self._chain_id).encode() if method == "eth_chainId" else b'"0x"'


async def serve(recording: Recording, chain_id: int) -> str:
    """Start serving in this loop; the URL."""
    app = web.Application()
    app.router.add_post("/", RecordedNode(recording, chain_id).answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    return f"http://{host}:{port}/"


@click.command()
@click.option("--logs", "count", type=int, default=300_000)
@click.option("--chain-id", type=int, default=31337)
def main(count: int, chain_id: int) -> None:
    async def run() -> None:
        click.echo(await serve(record(count), chain_id))
        await asyncio.Event().wait()

    asyncio.run(run())


if __name__ == "__main__":
    main()
