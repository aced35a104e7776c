"""A chain whose every block a test decides, and nodes that serve it over real HTTP, well or badly.

`ScriptedChain` is the truth: blocks with consistent hashes, parents and blooms; `fork` drops the newest and what is
mined next takes their place. `ScriptedNode` is one provider's view of it: late, throttled, limited, lying or gone.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, NamedTuple

import msgspec
from aiohttp import web
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from chains.logs import IDENTITY, REPUTATION, VALIDATION, ScriptedLog

Json = dict[str, Any]
NO_TRANSACTION = "0x" + "00" * 32


class Transaction(NamedTuple):
    hash: str
    logs: tuple[ScriptedLog, ...]


class Block(NamedTuple):
    number: int
    hash: str
    parent: str
    time: int
    transactions: tuple[Transaction, ...]
    header: Json
    logs: tuple[tuple[str, Json], ...]  # address and wire form of each log


_numbers = iter(range(1, 1 << 62))


def transaction(*logs: ScriptedLog, name: str | None = None) -> Transaction:
    """A transaction of its own; two of one `name` are the same."""
    name = name or f"#{next(_numbers)}"
    return Transaction("0x" + hashlib.sha256(name.encode()).hexdigest(), logs)


@cache
def _bloom_of(value: str) -> int:
    digest = keccak(hexstr=value)
    bits = 0
    for at in (0, 2, 4):
        bits |= 1 << (int.from_bytes(digest[at : at + 2]) % 2048)
    return bits


class ScriptedChain:
    """Blocks from genesis on. Each has a log index running over its transactions, as real ones do."""

    def __init__(self, chain_id: int = 84532, *, start_time: int = 1_770_000_000, block_time: int = 2) -> None:
        self.chain_id = chain_id
        self.block_time = block_time
        self.salt = 0
        self.blocks: list[Block] = []
        self._start_time = start_time
        self.mine()

    @property
    def head(self) -> Block:
        return self.blocks[-1]

    def mine(self, *transactions: Transaction, count: int = 1) -> Block:
        """Add a block with these transactions, and empty ones until there are `count` new ones."""
        for number in range(count):
            self.blocks.append(self._block(transactions if number == 0 else ()))
        return self.head

    def fork(self, depth: int) -> list[Transaction]:
        """Drop the newest blocks; returns their transactions. Blocks mined from now on have hashes of their own."""
        dropped = [one for block in self.blocks[len(self.blocks) - depth :] for one in block.transactions]
        del self.blocks[len(self.blocks) - depth :]
        self.salt += 1
        return dropped

    def copy(self) -> ScriptedChain:
        """The chain as it is now, for a node that is left behind on it."""
        copied = ScriptedChain(self.chain_id, block_time=self.block_time)
        copied.blocks, copied.salt = list(self.blocks), self.salt + 1_000_000
        return copied

    def canonical_logs(self) -> list[tuple[str, ScriptedLog]]:
        """Transaction and content of every log, in order."""
        return [(one.hash, log) for block in self.blocks for one in block.transactions for log in one.logs]

    def _block(self, transactions: Sequence[Transaction]) -> Block:
        number = len(self.blocks)
        parent = self.blocks[-1].hash if self.blocks else "0x" + "00" * 32
        time = self._start_time + number * self.block_time
        content = f"{self.chain_id} {number} {parent} {time} {self.salt} {[one.hash for one in transactions]}"
        block_hash = "0x" + hashlib.sha256(content.encode()).hexdigest()
        bloom = 0
        logs: list[tuple[str, Json]] = []
        for place, one in enumerate(transactions):
            for log in one.logs:
                for value in (log.address, *log.topics):
                    bloom |= _bloom_of(value)
                wire = {
                    "address": log.address, "topics": log.topics, "data": log.data, "blockNumber": hex(number),
                    "blockHash": block_hash, "blockTimestamp": hex(time), "transactionHash": one.hash,
                    "transactionIndex": hex(place), "logIndex": hex(len(logs)), "removed": False,
                }  # fmt: skip
                logs.append((log.address, wire))
        header = {
            "number": hex(number), "hash": block_hash, "parentHash": parent, "timestamp": hex(time),
            "logsBloom": f"0x{bloom:0512x}",
        }  # fmt: skip
        return Block(number, block_hash, parent, time, tuple(transactions), header, tuple(logs))


class RpcFault(Exception):
    """Answer a call, or with `status` the whole request, with this error."""

    def __init__(self, code: int, message: str, status: int = 200) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message}
        self.status = status


def _offer(first: int, limit: int) -> str:
    return f"[{hex(first)}, {hex(first + limit - 1)}]"


# How six kinds of provider say that a range is too large: from the first block asked for and their limit.
RANGE_DIALECTS: dict[str, Callable[[int, int], RpcFault]] = {
    "offers_a_range": lambda first, limit: RpcFault(
        -32602, "Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range. Based on "
        f"your parameters, this block range should work: {_offer(first, limit)}"),
    "rate_limit_code": lambda first, limit: RpcFault(
        -32005, f"query returned more than 10000 results. Try with this block range {_offer(first, limit)}."),
    "names_its_limit": lambda _, limit: RpcFault(-32614, f"eth_getLogs is limited to a {limit:,} range"),
    "names_it_last": lambda first, limit: RpcFault(
        -32000, f"requested too many blocks from {first} to {first + 5 * limit}, maximum is set to {limit}"),
    "says_nothing": lambda _, __: RpcFault(-32062, "Block range is too large"),
    "http_413": lambda _, __: RpcFault(0, "", 413),
}  # fmt: skip


class ScriptedNode:
    """One provider. Its faults are attributes, to be changed at any time.

    `requests` lists the methods of each HTTP request, `ranges` the blocks whose logs were answered. `on_request` is
    called with the methods before an answer is made. What `instead` returns is sent in the answer's place.
    """

    def __init__(self, chain: ScriptedChain) -> None:
        self.chain = chain
        self.url = ""
        self.requests: list[list[str]] = []
        self.ranges: list[tuple[int, int]] = []
        self.on_request: Callable[[list[str]], None] | None = None
        self.instead: Callable[[web.Request, list[str]], Awaitable[web.StreamResponse | None]] | None = None
        self.lag = 0
        self.down = False
        self.throttled = False
        self.retry_after: str | None = None
        self.delay = 0.0
        self.batch_limit: int | None = None
        self.range_limit: int | None = None
        self.range_dialect = "says_nothing"
        self.chain_id: int | None = None
        self.tags = True
        self.finality_depth = 64
        self.tells_log_times = True
        self.tamper_logs: Callable[[list[Json]], list[Json]] | None = None
        self.tamper_header: Callable[[Json], Json] | None = None
        self.versions: dict[str, str] = dict.fromkeys((IDENTITY, REPUTATION, VALIDATION), "2.0.0")
        self.identity = IDENTITY
        self.oldest = 0  # below it only the first block is known
        self.undeployed: set[str] = set()  # addresses at which not even a proxy stands

    @classmethod
    @asynccontextmanager
    async def serve(cls, chain: ScriptedChain) -> AsyncIterator[ScriptedNode]:
        node = cls(chain)
        app = web.Application()
        app.router.add_post("/", node._receive)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        node.url = f"http://{host}:{port}/"
        try:
            yield node
        finally:
            await runner.cleanup()

    @property
    def blocks(self) -> Sequence[Block]:
        """What this node knows of the chain."""
        return self.chain.blocks[: len(self.chain.blocks) - self.lag] if self.lag else self.chain.blocks

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        body = msgspec.json.decode(await request.read())
        calls = body if isinstance(body, list) else [body]
        methods = [call["method"] for call in calls]
        self.requests.append(methods)
        if self.on_request is not None:
            self.on_request(methods)
        if self.instead is not None and (sent := await self.instead(request, methods)) is not None:
            return sent
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.down:
            return web.Response(status=503, text="down for maintenance")
        if self.throttled:
            headers = {"Retry-After": self.retry_after} if self.retry_after else {}
            return web.Response(status=429, headers=headers, text="Too Many Requests")
        if self.batch_limit is not None and len(calls) > self.batch_limit:
            error = {"code": -32600, "message": f"batch size is too large, maximum {self.batch_limit}"}
            return _json({"jsonrpc": "2.0", "id": None, "error": error})
        try:
            answers = [self._answer(call) for call in calls]
        except RpcFault as fault:
            return web.Response(status=fault.status, text="")
        return _json(answers if isinstance(body, list) else answers[0])

    def _answer(self, call: Json) -> Json:
        try:
            result = getattr(self, call["method"])(*call["params"])
        except RpcFault as fault:
            if fault.status != 200:
                raise
            return {"jsonrpc": "2.0", "id": call["id"], "error": fault.error}
        return {"jsonrpc": "2.0", "id": call["id"], "result": result}

    def implementation(self, address: str) -> str:
        """The address of a registry's code; another one for each version."""
        return "0x" + keccak(text=address + self.versions.get(address, ""))[:20].hex()

    def eth_chainId(self) -> str:  # noqa: N802 (its name on the wire)
        return hex(self.chain.chain_id if self.chain_id is None else self.chain_id)

    def eth_blockNumber(self) -> str:  # noqa: N802
        return hex(len(self.blocks) - 1)

    def eth_getBlockByNumber(self, block: str, _: bool) -> Json | None:  # noqa: N802
        number = self._number(block)
        if not self.oldest <= number < len(self.blocks) and number:
            return None
        header = self.blocks[number].header
        return self.tamper_header(dict(header)) if self.tamper_header else header

    def eth_getLogs(self, wanted: Json) -> list[Json]:  # noqa: N802
        first, last = int(wanted["fromBlock"], 16), int(wanted["toBlock"], 16)
        if self.range_limit is not None and last - first + 1 > self.range_limit:
            raise RANGE_DIALECTS[self.range_dialect](first, self.range_limit)
        self.ranges.append((first, last))
        addresses = {wanted["address"]} if isinstance(wanted["address"], str) else set(wanted["address"])
        found = [
            wire for block in self.blocks[first : last + 1] for address, wire in block.logs if address in addresses
        ]
        if not self.tells_log_times:
            found = [{key: value for key, value in wire.items() if key != "blockTimestamp"} for wire in found]
        return self.tamper_logs([dict(wire) for wire in found]) if self.tamper_logs else found

    def eth_getCode(self, address: str, _: str) -> str:  # noqa: N802
        return "0x6001" if address in self.versions else "0x"

    def eth_getStorageAt(self, address: str, _: str, __: str) -> str:  # noqa: N802
        return "0x" + ("" if address in self.undeployed else self.implementation(address)[2:]).rjust(64, "0")

    def eth_call(self, call: Json, _: str) -> str:
        address, data = call["to"], call["data"]
        if address not in self.versions:
            return "0x"
        if data == "0x0d8e6e2c":
            return "0x" + encode(["string"], [self.versions[address]]).hex()
        if data == "0xbc4d861b" and address != IDENTITY:
            return "0x" + encode(["address"], [self.identity]).hex()
        raise RpcFault(3, "execution reverted")

    def _number(self, block: str) -> int:
        if block == "latest":
            return len(self.blocks) - 1
        if block in ("safe", "finalized"):
            if not self.tags:
                raise RpcFault(-39001, "Unknown block")
            return max(0, len(self.blocks) - 1 - self.finality_depth // (2 if block == "safe" else 1))
        return int(block, 16)


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
