"""One face for two chains on which the same story can happen: the scripted one, and a real node (anvil).

The real one runs no registries: at their addresses stands a contract that logs whatever it is told, so that a
transaction logs on both the very same bytes. A transaction has a sender of its own, which is what lets it be mined
again, anywhere in a fork.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from io import BytesIO
from typing import Any, Protocol, Self

import aiohttp
import msgspec

from agentauri.demo.anvil import running_anvil
from agentauri.demo.artifacts import artifact
from chains.logs import IDENTITY, REPUTATION, VALIDATION
from chains.scripted import ScriptedChain, ScriptedNode, Transaction

FINALITY = 80  # blocks below the head, on both
REGISTRIES = (IDENTITY, REPUTATION, VALIDATION)
_SENDER_OF_CALLS = "0x" + "99" * 20
_OPTIONS = ("--no-mining", "--order", "fifo", "--slots-in-an-epoch", str(FINALITY // 2))


class ChainUnderTest(Protocol):
    """A chain that begins with an empty block 1. `url` is an honest node of it."""

    url: str

    @property
    def head(self) -> int:
        """The height of the newest block."""

    async def mine(self, *transactions: Transaction, count: int = 1) -> None:
        """Add a block with these transactions, and empty ones until there are `count` new ones."""

    async def fork(self, depth: int) -> list[Transaction]:
        """Drop the newest blocks; returns their transactions. What is mined from now on are other blocks."""

    async def branch(self) -> Self:
        """Another chain with all blocks of this one, which goes its own way from here."""

    def hash_of(self, transaction: Transaction) -> str:
        """The hash of a transaction that was mined once."""


Start = Callable[[AsyncExitStack, int], Awaitable[ChainUnderTest]]


class Scripted:
    def __init__(self, stack: AsyncExitStack, chain: ScriptedChain, node: ScriptedNode) -> None:
        self._stack = stack
        self._chain = chain
        self.url = node.url

    @classmethod
    async def start(cls, stack: AsyncExitStack, chain_id: int) -> Self:
        chain = ScriptedChain(chain_id)
        chain.mine()
        return await cls._serve(stack, chain)

    @classmethod
    async def _serve(cls, stack: AsyncExitStack, chain: ScriptedChain) -> Self:
        node = await stack.enter_async_context(ScriptedNode.serve(chain))
        node.finality_depth = FINALITY
        return cls(stack, chain, node)

    @property
    def head(self) -> int:
        return self._chain.head.number

    async def mine(self, *transactions: Transaction, count: int = 1) -> None:
        self._chain.mine(*transactions, count=count)

    async def fork(self, depth: int) -> list[Transaction]:
        return self._chain.fork(depth)

    async def branch(self) -> Self:
        return await self._serve(self._stack, self._chain.copy())

    def hash_of(self, transaction: Transaction) -> str:
        return transaction.hash


class Anvil:
    def __init__(self, stack: AsyncExitStack, chain_id: int, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._stack = stack
        self._chain_id = chain_id
        self._session = session
        self._blocks: list[tuple[Transaction, ...]] = [()]
        self._hashes: dict[str, str] = {}
        self._miner = 0

    @classmethod
    async def start(cls, stack: AsyncExitStack, chain_id: int) -> Self:
        chain = await cls._run(stack, chain_id)
        await chain._install()
        await chain.mine()
        return chain

    @classmethod
    async def _run(cls, stack: AsyncExitStack, chain_id: int) -> Self:
        url = await stack.enter_async_context(running_anvil(*_OPTIONS, chain_id=chain_id))
        chain = cls(stack, chain_id, url, await stack.enter_async_context(aiohttp.ClientSession()))
        await chain._rpc("anvil_setLoggingEnabled", False)
        await chain._rpc("anvil_setBlockTimestampInterval", 2)
        return chain

    @property
    def head(self) -> int:
        return len(self._blocks) - 1

    async def mine(self, *transactions: Transaction, count: int = 1) -> None:
        for one in transactions:
            self._hashes[one.hash] = await self._rpc("eth_sendTransaction", _transaction(one))
        await self._rpc("evm_mine")
        if count > 1:
            await self._rpc("anvil_mine", hex(count - 1))
        self._blocks += [transactions, *[()] * (count - 1)]

    async def fork(self, depth: int) -> list[Transaction]:
        # Another miner: a block is another one even where its content stays.
        await self._next_miner()
        await self._rpc("anvil_rollback", depth)
        await self._install()  # a branch has the blocks of the past, and not their states
        dropped = [one for block in self._blocks[len(self._blocks) - depth :] for one in block]
        del self._blocks[len(self._blocks) - depth :]
        return dropped

    async def branch(self) -> Self:
        other = await self._run(self._stack, self._chain_id)
        await other._rpc("anvil_loadState", await self._rpc("anvil_dumpState", True))
        other._blocks, other._hashes, other._miner = list(self._blocks), dict(self._hashes), self._miner + 1_000_000
        return other

    def hash_of(self, transaction: Transaction) -> str:
        return self._hashes[transaction.hash]

    async def _install(self) -> None:
        emitter = "0x" + artifact("EventEmitter").deployed.hex()
        for address in REGISTRIES:
            await self._rpc("anvil_setCode", address, emitter)
        await self._rpc("anvil_setCode", _SENDER_OF_CALLS, "0x" + artifact("Puppet").deployed.hex())

    async def _next_miner(self) -> None:
        self._miner += 1
        await self._rpc("anvil_setCoinbase", f"0x{self._miner:040x}")

    async def _rpc(self, method: str, *params: object) -> Any:
        body = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        sent = BytesIO(body)  # the state of a long chain is large, and aiohttp warns of sending so much at once
        async with self._session.post(self.url, data=sent, headers={"content-type": "application/json"}) as response:
            answer = msgspec.json.decode(await response.read())
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]


def _transaction(one: Transaction) -> dict[str, str]:
    """What makes the registries log this, in order."""
    emitter = artifact("EventEmitter").function("emitLogs", ([],))
    calls = [
        (log.address, emitter.encode([([_bytes(topic) for topic in log.topics], _bytes(log.data))])) for log in one.logs
    ]
    run = artifact("Puppet").function("run", (calls,)).encode(calls)
    return {
        "from": "0x" + one.hash[-40:], "to": _SENDER_OF_CALLS, "nonce": "0x0", "gas": hex(50_000_000),
        "gasPrice": "0x0", "data": "0x" + run.hex(),
    }  # fmt: skip


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])


CHAINS: dict[str, Start] = {"scripted": Scripted.start, "anvil": Anvil.start}
