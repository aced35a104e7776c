"""A chain made up beforehand and the node that serves it, so that answering costs little while others are measured.

Every second block holds one transaction of one of the registries' callers. What these do, and how often, is the usual
mix: people register agents, clients rate them, owners change what their agents say of themselves.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import sha256
from typing import Any

import msgspec
from aiohttp import web
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from harness import Orders

CHAIN = 84532
IDENTITY = "0x8004a818bfb912233c491871b3d84c89a494bd9e"
REPUTATION = "0x8004b663056a597dffe9eccc1965a193b7388713"
VALIDATION = "0x8004cb1bf31daf7788923b405b754f57aceb4272"
REGISTRIES = [IDENTITY, REPUTATION, VALIDATION]
GET_VERSION = "0x0d8e6e2c"
START = 1_770_000_000
SECONDS = 2
AHEAD = 3_600
"""Seconds that a chain of ratings alone is ahead of now, so that triggers made before it is read see all of it."""
VARIANTS = 64
NOBODY = "0x" + "00" * 32

Log = tuple[str, tuple[str, ...], str]
"""Address, topics, data."""


@cache
def _topic(text: str) -> str:
    return "0x" + keccak(text=text).hex()


def _word(number: int) -> str:
    return f"0x{number:064x}"


def _data(types: str, *values: object) -> str:
    return "0x" + encode(types.split(","), values).hex()


class _Mix:
    """Transactions by weight; their data is encoded once for each of a few variants, their topics each time."""

    def __init__(self) -> None:
        self._random = random.Random(8004)
        self._agents = 0
        tags = ("starred", "reachable", "uptime", "successRate", "responseTime", "ownerVerified")
        links = [f"ipfs://bafybeig{sha256(b'%d' % number).hexdigest()[:51]}" for number in range(VARIANTS)]
        sites = [f"https://agents.example/{number}/a2a.json" for number in range(VARIANTS)]
        self._tags = [_topic(tags[number % len(tags)]) for number in range(VARIANTS)]
        self._uris = [_data("string", site) for site in sites]
        self._wallets = [_data("string,bytes", "agentWallet", sha256(link.encode()).digest()[:20]) for link in links]
        self._metadata = [_data("string,bytes", "did", link.encode()) for link in links]
        self._feedback = [
            _data(
                "uint64,int128,uint8,string,string,string,string,bytes32",
                1 + number, 5_000 + 61 * number, 2, tags[number % len(tags)], "month", sites[number], links[number],
                sha256(links[number].encode()).digest(),
            )
            for number in range(VARIANTS)
        ]  # fmt: skip
        self._responses = [_data("uint64,string,bytes32", 1, link, bytes(32)) for link in links]
        self._requests = [_data("string", link) for link in links]
        self._verdicts = [
            _data("uint8,string,bytes32,string", number, link, bytes(32), "tee") for number, link in enumerate(links)
        ]
        weights: dict[Callable[[int], list[Log]], int] = {
            self._register: 30, self._rate: 55, self._move: 6, self._describe: 3, self._revoke: 2, self._respond: 2,
            self._validate: 1, self._transfer: 1, self._surprise: 1,
        }  # fmt: skip
        self._kinds, self._weights = list(weights), list(weights.values())

    def transactions(self) -> Iterator[list[Log]]:
        yield self._register(0)
        while True:
            for kind in self._random.choices(self._kinds, self._weights, k=1000):
                yield kind(self._random.randrange(VARIANTS))

    def ratings(self, agents: int) -> Iterator[list[Log]]:
        """Nothing but feedback, about so many agents in turn."""
        while True:
            for agent in range(agents):
                yield self._rate(self._random.randrange(VARIANTS), _word(agent))

    def _agent(self) -> str:
        return _word(self._random.randrange(self._agents))

    def _person(self) -> str:
        return _word(0x8004 << 140 | self._random.randrange(5_000))

    def _register(self, variant: int) -> list[Log]:
        agent, owner = _word(self._agents), self._person()
        self._agents += 1
        registered = (_topic("Registered(uint256,string,address)"), agent, owner)
        return [
            (IDENTITY, (_topic("Transfer(address,address,uint256)"), NOBODY, owner, agent), "0x"),
            (IDENTITY, (_topic("MetadataUpdate(uint256)"),), agent),
            (IDENTITY, registered, self._uris[variant]),
            self._set(agent, "agentWallet", self._wallets[variant]),
        ]

    def _set(self, agent: str, key: str, data: str) -> Log:
        return (IDENTITY, (_topic("MetadataSet(uint256,string,string,bytes)"), agent, _topic(key)), data)

    def _rate(self, variant: int, agent: str = "") -> list[Log]:
        kind = "NewFeedback(uint256,address,uint64,int128,uint8,string,string,string,string,string,bytes32)"
        topics = (_topic(kind), agent or self._agent(), self._person(), self._tags[variant])
        return [(REPUTATION, topics, self._feedback[variant])]

    def _move(self, variant: int) -> list[Log]:
        agent = self._agent()
        topics = (_topic("URIUpdated(uint256,string,address)"), agent, self._person())
        return [(IDENTITY, (_topic("MetadataUpdate(uint256)"),), agent), (IDENTITY, topics, self._uris[variant])]

    def _describe(self, variant: int) -> list[Log]:
        return [self._set(self._agent(), "did", self._metadata[variant])]

    def _revoke(self, _: int) -> list[Log]:
        kind = "FeedbackRevoked(uint256,address,uint64)"
        return [(REPUTATION, (_topic(kind), self._agent(), self._person(), _word(1)), "0x")]

    def _respond(self, variant: int) -> list[Log]:
        kind = "ResponseAppended(uint256,address,uint64,address,string,bytes32)"
        topics = (_topic(kind), self._agent(), self._person(), self._person())
        return [(REPUTATION, topics, self._responses[variant])]

    def _validate(self, variant: int) -> list[Log]:
        agent, validator, request = self._agent(), self._person(), _word(self._random.getrandbits(256))
        asked = (_topic("ValidationRequest(address,uint256,string,bytes32)"), validator, agent, request)
        kind = "ValidationResponse(address,uint256,bytes32,uint8,string,bytes32,string)"
        answered = (_topic(kind), validator, agent, request)
        return [(VALIDATION, asked, self._requests[variant]), (VALIDATION, answered, self._verdicts[variant])]

    def _transfer(self, _: int) -> list[Log]:
        kind = "Transfer(address,address,uint256)"
        return [(IDENTITY, (_topic(kind), self._person(), self._person(), self._agent()), "0x")]

    def _surprise(self, variant: int) -> list[Log]:
        """What no registry logs today, and is kept raw."""
        return [(REPUTATION, (_topic("Surprise(uint256)"),), _word(variant))]


class _Chain:
    """So many logs in blocks of the past. With `agents`, ratings of those alone, and blocks of the time to come."""

    def __init__(self, count: int, agents: int = 0) -> None:
        self.blocks: list[bytes] = [b""]
        """Each block's logs as they go over the wire."""
        self.decodable = 0
        self._begin = int(time.time()) + AHEAD if agents else START
        self._paced: tuple[int, float, float] | None = None
        transactions = _Mix().ratings(agents) if agents else _Mix().transactions()
        while count:
            logs = next(transactions)[:count]
            count -= len(logs)
            self.decodable += sum(not topics[0].startswith(_topic("Surprise(uint256)")) for _, topics, _ in logs)
            number = len(self.blocks)
            transaction = "0x" + sha256(b"%d" % number).hexdigest()
            when = self._begin + SECONDS * number
            self.blocks.append(
                b",".join(_wire(number, when, transaction, place, log) for place, log in enumerate(logs))
            )
            self.blocks.append(b"")

    @property
    def head(self) -> int:
        """Its newest block; of a chain that grows, the newest one by now."""
        last = len(self.blocks) - 1
        if self._paced is None:
            return last
        first, rate, since = self._paced
        return min(last, first + int(rate * (time.monotonic() - since)))

    def pace(self, head: int, rate: float) -> None:
        """From now on end at block `head`, and grow by so many blocks a second."""
        self._paced = (head, rate, time.monotonic())

    def header(self, number: int) -> bytes:
        return msgspec.json.encode(
            {
                "number": hex(number),
                "hash": _word(number + 1),
                "parentHash": _word(number),
                "timestamp": hex(self._begin + SECONDS * number),
            }
        )

    def logs(self, first: int, last: int) -> bytes:
        return b"[" + b",".join([logs for logs in self.blocks[first : last + 1] if logs]) + b"]"


def _wire(number: int, when: int, transaction: str, place: int, log: Log) -> bytes:
    address, topics, data = log
    return msgspec.json.encode(
        {
            "address": address, "topics": topics, "data": data, "blockNumber": hex(number),
            "blockHash": _word(number + 1), "blockTimestamp": hex(when),
            "transactionHash": transaction, "transactionIndex": "0x0", "logIndex": hex(place), "removed": False,
        }
    )  # fmt: skip


class _Node:
    def __init__(self, chain: _Chain, chain_id: int) -> None:
        self._chain = chain
        self._chain_id = chain_id

    async def receive(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read())
        calls = body if isinstance(body, list) else [body]
        answers = [
            b'{"jsonrpc":"2.0","id":%d,"result":%b}' % (call["id"], self._result(call["method"], call["params"]))
            for call in calls
        ]
        raw = b"[" + b",".join(answers) + b"]" if isinstance(body, list) else answers[0]
        return web.Response(body=raw, content_type="application/json")

    def _result(self, method: str, params: list[Any]) -> bytes:
        chain = self._chain
        match method:
            case "eth_getLogs":
                return chain.logs(int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16))
            case "eth_getBlockByNumber":
                number = self._number(params[0])
                return chain.header(number) if number <= chain.head else b"null"
            case "eth_call" if params[0]["data"] == GET_VERSION:
                return b'"%b"' % _data("string", "2.0.0").encode()
            case "eth_call":
                return b'"%b"' % _data("address", IDENTITY).encode()
            case "eth_chainId":
                return b'"%b"' % hex(self._chain_id).encode()
            case "eth_getCode":
                return b'"0x6001"'
        return b'"%b"' % _word(1).encode()

    def _number(self, block: str) -> int:
        behind = {"latest": 0, "safe": 32, "finalized": 64}
        return max(0, self._chain.head - behind[block]) if block in behind else int(block, 16)


async def serve(orders: Orders, count: int, agents: int = 0, chain_id: int = CHAIN) -> None:
    """A node with so many logs, ratings of so many `agents` alone if there are any.

    Its `about` is its URL, its head, and how many of the logs are events; `pace` lets it grow.
    """
    chain = _Chain(count, agents)
    application = web.Application()
    application.router.add_post("/", _Node(chain, chain_id).receive)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    await orders.obey({"about": lambda: (f"http://{host}:{port}/", chain.head, chain.decodable), "pace": chain.pace})
