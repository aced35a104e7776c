"""A chain of our own: a local node with the three registries on it, for the demo, tests and benches.

async with LocalChain.start() as chain:
    agent, _ = await chain.register("https://example.org/agent.json")
    receipt = await chain.give_feedback(agent, 315, 1, tag1="starred")
    await chain.reorg(depth=1)                       # and it never happened
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import coincurve
import msgspec
from eth_utils.crypto import keccak
from msgspec import Struct

from agentauri.demo.anvil import CHAIN_ID, running_anvil
from agentauri.demo.artifacts import Artifact, artifact

GAS = 1_000_000_000  # free, and the node has no limit
ZERO_HASH = bytes(32)


class Reverted(Exception):
    """The contract refused; `data` is what it returned (an encoded `Error(string)` or a custom error)."""

    def __init__(self, message: str, data: bytes = b"") -> None:
        # A custom error is shown with its arguments as bytes after a colon; `data` has them.
        shown = message.partition(":")[0] if message.startswith("custom error") else message
        super().__init__(shown.removeprefix("execution reverted: "))
        self.data = data


class Log(Struct, frozen=True):
    address: str
    topics: tuple[bytes, ...]
    data: bytes
    log_index: int


class Receipt(Struct, frozen=True):
    transaction_hash: str
    block_number: int
    block_hash: str
    sender: str
    contract: str | None
    logs: tuple[Log, ...]


class Call(NamedTuple):
    """A transaction to come: `args` as Python values, `sender` any address, since all are unlocked."""

    address: str
    contract: Artifact
    function: str
    args: tuple[object, ...]
    sender: str

    @property
    def data(self) -> bytes:
        return self.contract.function(self.function, self.args).encode(*self.args)


class Minted(NamedTuple):
    agent_id: int
    receipt: Receipt


class Account(Struct, frozen=True):
    """An address whose key we have."""

    key: bytes
    address: str

    @classmethod
    def number(cls, n: int) -> Account:
        """The n-th of an endless row of accounts, the same in every run."""
        key = keccak(text=f"agentauri local account {n}")
        public = coincurve.PrivateKey(key).public_key.format(compressed=False)
        return cls(key, "0x" + keccak(public[1:])[-20:].hex())

    def sign(self, digest: bytes) -> bytes:
        """r, s, v of 65 bytes, as contracts check them."""
        signature = coincurve.PrivateKey(self.key).sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes([signature[64] + 27])


OWNER = Account.number(0)
CLIENT = Account.number(1)
VALIDATOR = Account.number(2)


class LocalChain:
    """Every call of a story waits until its transaction is in a block; each transaction makes a block of its own."""

    chain_id = CHAIN_ID

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.identity = self.reputation = self.validation = ""
        self._session = session
        self._reorgs = 0

    @classmethod
    @asynccontextmanager
    async def start(cls) -> AsyncIterator[LocalChain]:
        """A fresh chain with the registries deployed the way the real ones were: proxy first, code by upgrade."""
        async with running_anvil() as url, aiohttp.ClientSession() as session:
            chain = cls(url, session)
            await chain.rpc("anvil_setLoggingEnabled", False)
            chain.identity = await chain.deploy_registry("IdentityRegistry")
            chain.reputation = await chain.deploy_registry("ReputationRegistry", chain.identity)
            chain.validation = await chain.deploy_registry("ValidationRegistry", chain.identity)
            yield chain

    @property
    def settings(self) -> dict[str, str]:
        """The environment that makes `agentauri serve` index this chain."""
        return {
            f"RPC_URLS_{CHAIN_ID}": self.url,
            f"START_BLOCK_{CHAIN_ID}": "0",
            f"IDENTITY_ADDRESS_{CHAIN_ID}": self.identity,
            f"REPUTATION_ADDRESS_{CHAIN_ID}": self.reputation,
            f"VALIDATION_ADDRESS_{CHAIN_ID}": self.validation,
        }

    # The story: what people do with the registries.

    async def register(
        self, uri: str | None = None, metadata: Mapping[str, bytes] | None = None, *, owner: str = OWNER.address
    ) -> Minted:
        """Mint an agent to `owner`, in the overload that the arguments ask for."""
        args: tuple[object, ...] = () if uri is None else (uri,)
        if metadata is not None:
            args = (uri or "", list(metadata.items()))
        receipt = await self.send(self.identity_call("register", *args, sender=owner))
        minted = next(log for log in receipt.logs if log.topics[0] == TRANSFER)
        return Minted(int.from_bytes(minted.topics[3], "big"), receipt)

    async def give_feedback(
        self,
        agent_id: int,
        value: int,
        decimals: int = 0,
        *,
        tag1: str | bytes = "",
        tag2: str | bytes = "",
        endpoint: str = "",
        uri: str = "",
        digest: bytes = ZERO_HASH,
        client: str = CLIENT.address,
    ) -> Receipt:
        args = (agent_id, value, decimals, tag1, tag2, endpoint, uri, digest)
        return await self.send(self.reputation_call("giveFeedback", *args, sender=client))

    async def revoke_feedback(self, agent_id: int, index: int, *, client: str = CLIENT.address) -> Receipt:
        return await self.send(self.reputation_call("revokeFeedback", agent_id, index, sender=client))

    async def append_response(
        self,
        agent_id: int,
        index: int,
        uri: str,
        digest: bytes = ZERO_HASH,
        *,
        client: str = CLIENT.address,
        responder: str = OWNER.address,
    ) -> Receipt:
        args = (agent_id, client, index, uri, digest)
        return await self.send(self.reputation_call("appendResponse", *args, sender=responder))

    async def request_validation(
        self,
        agent_id: int,
        uri: str,
        request_hash: bytes,
        *,
        validator: str = VALIDATOR.address,
        owner: str = OWNER.address,
    ) -> Receipt:
        args = (validator, agent_id, uri, request_hash)
        return await self.send(self.validation_call("validationRequest", *args, sender=owner))

    async def respond_validation(
        self,
        request_hash: bytes,
        response: int,
        uri: str = "",
        digest: bytes = ZERO_HASH,
        tag: str = "",
        *,
        validator: str = VALIDATOR.address,
    ) -> Receipt:
        args = (request_hash, response, uri, digest, tag)
        return await self.send(self.validation_call("validationResponse", *args, sender=validator))

    # Calls to the registries, to be sent, read or bundled.

    def identity_call(self, function: str, *args: object, sender: str = OWNER.address) -> Call:
        return Call(self.identity, artifact("IdentityRegistry"), function, args, sender)

    def reputation_call(self, function: str, *args: object, sender: str = CLIENT.address) -> Call:
        return Call(self.reputation, artifact("ReputationRegistry"), function, args, sender)

    def validation_call(self, function: str, *args: object, sender: str = VALIDATOR.address) -> Call:
        return Call(self.validation, artifact("ValidationRegistry"), function, args, sender)

    async def send(self, call: Call) -> Receipt:
        """Mine this call in a block of its own. Raises: `Reverted`."""
        return await self._mined(_transaction(call.sender, call.address, call.data))

    async def send_together(self, calls: Sequence[Call]) -> list[Receipt]:
        """Mine all of them in one block, in this order for each sender."""
        await self.rpc("evm_setAutomine", False)
        try:
            hashes = [
                await self.rpc("eth_sendTransaction", _transaction(call.sender, call.address, call.data))
                for call in calls
            ]
            await self.mine()
        finally:
            await self.rpc("evm_setAutomine", True)
        return [_receipt(await self.rpc("eth_getTransactionReceipt", each)) for each in hashes]

    async def read(self, call: Call) -> tuple[Any, ...]:
        """What the function returns at the head. Raises: `Reverted`."""
        answer = await self.rpc("eth_call", _transaction(call.sender, call.address, call.data), "latest")
        return call.contract.function(call.function, call.args).decode(bytes.fromhex(answer[2:]))

    async def deploy(self, name: str, *args: object) -> str:
        """The address of a new contract."""
        receipt = await self._mined(_transaction(OWNER.address, None, artifact(name).creation(*args)))
        assert receipt.contract is not None
        return receipt.contract

    async def deploy_registry(self, name: str, *initial: object) -> str:
        """The address of a new proxy that was born with the placeholder and upgraded to the real code."""
        born = artifact("Placeholder").function("initialize", (OWNER.address,)).encode(OWNER.address)
        proxy = await self.deploy("Proxy", await self.deploy("Placeholder"), born)
        code = artifact(name)
        setup = code.function("initialize", initial).encode(*initial)
        upgrade = (await self.deploy(name), setup)
        await self.send(Call(proxy, code, "upgradeToAndCall", upgrade, OWNER.address))
        return proxy

    async def emit(self, address: str, *logs: tuple[Sequence[bytes], bytes]) -> Receipt:
        """Make the contract at `address` emit any (topics, data), in one transaction."""
        code = await self.rpc("eth_getCode", address, "latest")
        await self.rpc("anvil_setCode", address, "0x" + artifact("EventEmitter").deployed.hex())
        try:
            return await self.send(Call(address, artifact("EventEmitter"), "emitLogs", (list(logs),), OWNER.address))
        finally:
            await self.rpc("anvil_setCode", address, code)

    # Time: blocks, forks and going back.

    async def head(self) -> int:
        return int(await self.rpc("eth_blockNumber"), 16)

    async def mine(self, blocks: int = 1) -> None:
        """Blocks without transactions (or with those that wait)."""
        await self.rpc("anvil_mine", hex(blocks))

    async def reorg(self, depth: int, keep: Mapping[str, int] | None = None) -> None:
        """Replace the newest `depth` blocks by as many others. What was in them never happened, except that the
        transaction of each hash in `keep` is mined again, in the new block of that position (0 is the first)."""
        kept = []
        for transaction_hash, position in (keep or {}).items():
            transaction = await self.rpc("eth_getTransactionByHash", transaction_hash)
            fields = ("from", "to", "gas", "gasPrice", "nonce", "input", "value")
            kept.append([{name: transaction[name] for name in fields}, position])
        # Another miner: a block is a new one even where its content stays.
        self._reorgs += 1
        await self.rpc("anvil_setCoinbase", f"0x{self._reorgs:040x}")
        await self.rpc("anvil_reorg", depth, kept)

    async def rollback(self, depth: int) -> None:
        """Cut the newest `depth` blocks off; the head is lower afterwards."""
        await self.rpc("anvil_rollback", depth)

    async def snapshot(self) -> str:
        return str(await self.rpc("evm_snapshot"))

    async def revert(self, snapshot: str) -> None:
        """Go back to a snapshot, which is used up by it."""
        await self.rpc("evm_revert", snapshot)

    async def rpc(self, method: str, *params: object) -> Any:
        """One JSON-RPC call. Raises: `Reverted` for a refusal by a contract, RuntimeError for one by the node."""
        body = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        headers = {"content-type": "application/json"}
        async with self._session.post(self.url, data=body, headers=headers) as response:
            answer = msgspec.json.decode(await response.read())
        if error := answer.get("error"):
            data = error.get("data")
            if error["code"] == 3:
                raise Reverted(error["message"], bytes.fromhex(data[2:]) if data else b"")
            raise RuntimeError(f"{method}: {error['message']}")
        return answer["result"]

    async def _mined(self, transaction: dict[str, str]) -> Receipt:
        raw = await self.rpc("eth_sendTransactionSync", transaction)
        if raw["status"] != "0x1":
            await self.rpc("eth_call", transaction, hex(int(raw["blockNumber"], 16) - 1))  # tells the reason
            raise Reverted("the transaction failed, and its repetition did not")
        return _receipt(raw)


TRANSFER = keccak(text="Transfer(address,address,uint256)")


def _transaction(sender: str, to: str | None, data: bytes) -> dict[str, str]:
    transaction = {"from": sender, "gas": hex(GAS), "gasPrice": "0x0", "data": "0x" + data.hex()}
    return transaction if to is None else {**transaction, "to": to}


def _receipt(raw: dict[str, Any]) -> Receipt:
    return Receipt(
        transaction_hash=raw["transactionHash"],
        block_number=int(raw["blockNumber"], 16),
        block_hash=raw["blockHash"],
        sender=raw["from"],
        contract=raw.get("contractAddress"),
        logs=tuple(
            Log(
                address=log["address"],
                topics=tuple(bytes.fromhex(topic[2:]) for topic in log["topics"]),
                data=bytes.fromhex(log["data"][2:]),
                log_index=int(log["logIndex"], 16),
            )
            for log in raw["logs"]
        ),
    )
