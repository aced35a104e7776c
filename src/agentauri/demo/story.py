"""What happens in the demo: agents are registered and rated, and every bad rating must come back signed."""

from __future__ import annotations

import asyncio
import base64
import itertools
import random
import time
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
from eth_utils.crypto import keccak
from msgspec import Struct

from agentauri.demo.chain import Account, LocalChain, Receipt
from agentauri.demo.endpoint import Endpoint, Message
from agentauri.demo.product import Product
from agentauri.demo.screen import BOLD, Screen

THRESHOLD = 60
PATIENCE_SECONDS = 30.0
RECORDED_SECONDS = 5.0
NAMES = ("Ada", "Bertha", "Ceres", "Daphne", "Enki", "Fides", "Gaia", "Hermes", "Io", "Juno", "Kepler", "Luna")
TAGS = ("starred", "uptime", "successRate", "starred")
REORG_EVERY = 25  # acts


class DemoFailed(Exception):
    """Something that the product promises did not happen."""


class Rating(Struct, frozen=True):
    agent: str
    score: Decimal
    mined_at: float
    receipt: Receipt


class Hops(Struct, frozen=True):
    """Seconds from one station of an event's way to the next."""

    to_event: float
    to_match: float
    to_delivery: float

    @property
    def total(self) -> float:
        return self.to_event + self.to_match + self.to_delivery


class Story:
    """Tells it, and keeps the books: which messages are due, which came, and what was wrong with them."""

    def __init__(self, chain: LocalChain, product: Product, endpoint: Endpoint, screen: Screen) -> None:
        self._chain, self._product, self._endpoint, self._screen = chain, product, endpoint, screen
        self._ids: dict[str, int] = {}  # of agents, by name
        self._ratings: dict[str, Rating] = {}  # those that stand, by transaction
        self._due: set[str] = set()  # transactions whose match has not come yet
        self._gone: dict[str, float] = {}  # transactions that a reorg took, until their retraction comes: since when
        self._delivered: dict[str, str] = {}  # delivery ids by transaction
        self._retracted: list[float] = []  # seconds from reorg to retraction
        self._hops: list[Hops] = []
        self._repeats = 0
        self._problems: list[str] = []
        self.trigger_id = ""
        self._numbers = itertools.count(100)

    async def set_trigger(self) -> None:
        """Make the trigger over HTTP, as a user would."""
        trigger = await self._product.post(
            "/triggers",
            {
                "name": "Bad rating",
                "registry": "reputation",
                "chain_id": self._chain.chain_id,
                "on_reorg": "notify",
                "conditions": [
                    {"condition_type": "event_type_equals", "operator": "eq", "value": "NewFeedback"},
                    {"condition_type": "score_threshold", "operator": "lt", "value": THRESHOLD},
                ],
                "actions": [{"action_type": "webhook", "config": {"url": self._endpoint.url}}],
            },
        )
        self._endpoint.secret = trigger["actions"][0]["signing_secret"]
        self.trigger_id = str(trigger["id"])
        self._screen.fact("trigger", f"NewFeedback with score < {THRESHOLD} posts to {self._endpoint.url}")

    async def tell_once(self) -> None:
        """The fixed script. Raises: `DemoFailed` when anything is missing at its end."""
        await self._register("Ada")
        await self._register("Bertha")
        await self._rate("Ada", 87)
        await self._rate("Bertha", 315, 1)
        await self._rate("Ada", -32, 1, tag="tradingYield")
        await self._answer("Ada")
        await self._validate("Bertha")
        await self._rate("Bertha", 9977, 2, tag="uptime")
        await self._all_delivered()
        await self._take_back(await self._rate("Ada", 12))
        await self._rate("Bertha", 5)
        await self._all_delivered()
        await self._check_books()

    async def tell_on(self) -> None:
        """Go on until cancelled: somebody does something about every second, and now and then the chain forks."""
        for name in NAMES[:3]:
            await self._register(name)
        acts = itertools.count(1)
        while True:
            await self._listen(random.uniform(0.3, 1.4))  # noqa: S311 (nothing is secret here)
            if next(acts) % REORG_EVERY == REORG_EVERY // 3:
                await self._all_delivered()
                await self._take_back(await self._rate(self._some_agent(), 7))
            else:
                await self._do_something()

    def sum_up(self) -> bool:
        """Print the summary; whether nothing went wrong."""
        self._screen.end_status()
        delivered, retracted = len(self._delivered), len(self._retracted)
        self._screen.text()
        self._screen.text("Summary", BOLD)
        self._screen.fact("chain", f"{len(self._ids)} agents registered, {len(self._ratings)} ratings given")
        due = f", {len(self._due)} still on their way" if self._due else ""
        self._screen.fact("webhooks", f"{delivered} delivered and verified{due}, {retracted} retracted and verified")
        if self._repeats:
            self._screen.fact("repeats", f"{self._repeats} with a webhook-id seen before, and dropped for that")
        for name, figures in (
            ("log→event", [hops.to_event for hops in self._hops]),
            ("event→match", [hops.to_match for hops in self._hops]),
            ("match→hook", [hops.to_delivery for hops in self._hops]),
            ("in all", [hops.total for hops in self._hops]),
            ("reorg→hook", self._retracted),
        ):
            if figures:
                self._screen.fact(name, f"median {_ms(_quantile(figures, 0.5))}, worst {_ms(max(figures))}")
        for problem in (*self._problems, *(f"a request was refused: {why}" for why in self._endpoint.refused)):
            self._screen.line("problem", problem)
        return not self._problems and not self._endpoint.refused

    # Acts: each one is a transaction on the chain.

    async def _register(self, name: str) -> None:
        document = {
            "type": "https://eips.ethereum.org/EIPS/eip-8004#registration-v1",
            "name": name,
            "description": f"{name} answers questions in the AgentAuri demo.",
            "services": [],
        }
        uri = "data:application/json;base64," + base64.b64encode(msgspec.json.encode(document)).decode()
        agent_id, receipt = await self._chain.register(uri, {"language": b"en"})
        self._ids[name] = agent_id
        self._say("registered", f"agent {agent_id}, {name}", receipt)

    async def _rate(self, name: str, value: int, decimals: int = 0, *, tag: str = "starred") -> Rating:
        client = Account.number(next(self._numbers)).address
        receipt = await self._chain.give_feedback(self._ids[name], value, decimals, tag1=tag, client=client)
        rating = Rating(name, Decimal(value).scaleb(-decimals), time.time(), receipt)
        self._ratings[receipt.transaction_hash] = rating
        if rating.score < THRESHOLD:
            self._due.add(receipt.transaction_hash)
        self._say("feedback", f"{name} was rated {rating.score} ({tag}) by {client[:6]}…{client[-4:]}", receipt)
        return rating

    async def _answer(self, name: str) -> None:
        """The agent's owner answers its newest rating."""
        rating = next((each for each in reversed(self._ratings.values()) if each.agent == name), None)
        if rating is None:
            return
        receipt = await self._chain.append_response(
            self._ids[name], 1, "ipfs://bafyanswer", client=rating.receipt.sender
        )
        self._say("answered", f"{name} answered the rating of {rating.score}", receipt)

    async def _validate(self, name: str) -> None:
        request_hash = keccak(text=f"request {next(self._numbers)}")
        await self._chain.request_validation(self._ids[name], "ipfs://bafyrequest", request_hash)
        receipt = await self._chain.respond_validation(request_hash, 100, "ipfs://bafyproof", tag="hard finality")
        self._say("validated", f"{name} was validated with 100", receipt)

    async def _take_back(self, rating: Rating) -> None:
        """Let the rating be delivered, then fork it away and wait for word of it."""
        await self._all_delivered()
        head = await self._chain.head()
        depth = head - rating.receipt.block_number + 1
        self._gone[rating.receipt.transaction_hash] = time.time()
        await self._chain.reorg(depth)
        await self._chain.mine(3)  # the product waits for two blocks on top, since the transaction might come back
        blocks = f"block {head}" if depth == 1 else f"blocks {rating.receipt.block_number} to {head}"
        self._screen.line("reorg", f"{blocks} replaced: {rating.agent} was never rated {rating.score}")
        await self._until(lambda: not self._gone, "the retraction of a delivered event")

    async def _do_something(self) -> None:
        act = random.choices(("rate", "register", "answer", "validate"), (12, 2, 2, 2))[0]  # noqa: S311
        name = self._some_agent()
        if act == "register" and len(self._ids) < len(NAMES):
            await self._register(NAMES[len(self._ids)])
        elif act == "answer":
            await self._answer(name)
        elif act == "validate":
            await self._validate(name)
        else:
            value = int(random.triangular(5, 100, 90) * 10)  # noqa: S311
            await self._rate(name, value, 1, tag=random.choice(TAGS))  # noqa: S311

    def _some_agent(self) -> str:
        return random.choice(list(self._ids))  # noqa: S311

    # What comes back.

    async def _listen(self, seconds: float) -> None:
        """Take in what arrives within `seconds`."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._screen.status(self._standing())
            try:
                async with asyncio.timeout(left):
                    message = await self._endpoint.messages.get()
            except TimeoutError:
                break
            await self._take_in(message)
        self._product.check_alive()

    async def _until(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not done():
            if time.monotonic() > deadline:
                raise DemoFailed(f"{what} did not come within {PATIENCE_SECONDS:.0f} s; see {self._product.log}")
            await self._listen(0.2)

    async def _all_delivered(self) -> None:
        await self._until(lambda: not self._due, "a webhook")

    async def _take_in(self, message: Message) -> None:
        if message.repeat:
            self._repeats += 1
            return
        data = message.body["data"]
        transaction_hash = data["event"]["transaction_hash"]
        rating = self._ratings.get(transaction_hash)
        if message.body["type"] == "event.matched" and rating and transaction_hash in self._due:
            self._due.discard(transaction_hash)
            self._delivered[transaction_hash] = data["delivery_id"]
            await self._show_way(message, rating)
        elif message.body["type"] == "event.retracted" and rating and transaction_hash in self._gone:
            took = message.received_at - self._gone.pop(transaction_hash)
            self._retracted.append(took)
            del self._ratings[transaction_hash]
            if data.get("retracts") != self._delivered[transaction_hash]:
                self._problems.append(f"a retraction names {data.get('retracts')}, which is not what it takes back")
            text = f"signed retraction verified: {rating.agent}'s {rating.score} is taken back"
            self._screen.line("retraction", text, f"{_ms(took)} after the reorg")
        else:
            self._problems.append(f"{message.body['type']} for transaction {transaction_hash} was not due")

    async def _show_way(self, message: Message, rating: Rating) -> None:
        data = message.body["data"]
        event = await self._product.get(f"/events/{data['event']['id']}")
        stored, matched = _seconds(event["ingested_at"]), _seconds(message.body["timestamp"])
        hops = Hops(stored - rating.mined_at, matched - stored, message.received_at - matched)
        self._hops.append(hops)
        show = self._screen.line
        show(
            "event", f"{data['event']['event_type']} of {rating.agent} stored", f"{_ms(hops.to_event)} after its block"
        )
        show("match", f"{data['event']['score']} is below {THRESHOLD}", f"{_ms(hops.to_match)} later")
        text = f"signed delivery verified: {message.id[:16]}…"
        show("delivered", text, f"{_ms(hops.to_delivery)} later, {_ms(hops.total)} in all")

    async def _check_books(self) -> None:
        """Ask the product for its own account, and compare it with the chain and with what we received."""
        deadline = time.monotonic() + RECORDED_SECONDS
        while True:  # a webhook is here before the product has written down that it is
            deliveries: list[dict[str, Any]] = (await self._product.get("/deliveries", limit=100))["data"]
            unfinished = [delivery["id"] for delivery in deliveries if delivery["status"] != "delivered"]
            if not unfinished or time.monotonic() > deadline:
                break
            await self._listen(0.2)
        kinds = [delivery["kind"] for delivery in deliveries]
        if unfinished or kinds.count("match") != len(self._delivered):
            raise DemoFailed(f"{len(self._delivered)} matches were due, and the product lists {kinds} ({unfinished})")
        registries = [self._chain.identity, self._chain.reputation, self._chain.validation]
        logs = await self._chain.rpc("eth_getLogs", {"address": registries, "fromBlock": "0x0"})
        events = await self._product.get("/events", chain_id=self._chain.chain_id, limit=1)
        if events["pagination"]["total"] != len(logs):
            raise DemoFailed(f"the chain holds {len(logs)} logs, the product {events['pagination']['total']} events")
        self._screen.line(
            "checked", f"all {len(logs)} logs of the chain are events, all {len(kinds)} deliveries arrived"
        )

    def _say(self, kind: str, text: str, receipt: Receipt) -> None:
        self._screen.line(kind, text, f"block {receipt.block_number}")

    def _standing(self) -> str:
        return (
            f"  {len(self._ids)} agents · {len(self._ratings)} ratings · {len(self._delivered)} delivered and verified"
            f" · {len(self._retracted)} retracted · Ctrl-C ends"
        )


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _quantile(figures: list[float], part: float) -> float:
    return sorted(figures)[int(part * (len(figures) - 1))]
