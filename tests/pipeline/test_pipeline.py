"""From a log on a chain to a signed request, through the real process and its API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec
import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from standardwebhooks import Webhook, WebhookVerificationError

from agentauri.database import Database
from agentauri.demo import Account, LocalChain, Receipt
from pipeline.expected import COLUMNS, expected_events
from support.processes import Child, until
from support.receiver import Answer, Received, Receiver

SECONDS = 60.0
Serve = Callable[..., Child]
Message = tuple[str, str]
"""Its type and the transaction that it is about."""

CONDITIONS = [
    {"condition_type": "event_type_equals", "value": "NewFeedback"},
    {
        "any": [
            {"condition_type": "score_threshold", "operator": "lt", "value": "60.5"},
            {
                "all": [
                    {"condition_type": "tag_equals", "field": "tag1", "operator": "eq", "value": "uptime"},
                    {"not": {"condition_type": "field", "field": "tag2", "operator": "exists", "value": True}},
                ]
            },
        ]
    },
]


async def everything_happens(chain: LocalChain) -> None:
    """Each of the 17 kinds of event at least once, with values that are hard to carry."""
    owner, other = Account.number(0).address, Account.number(7).address
    agent, _ = await chain.register()
    await chain.register("https://agent.example/1.json", {"name": "Ada ☃".encode(), "raw": b"\xff\x00\xfe"})
    await chain.send(chain.identity_call("setMetadata", agent, "ключ", b""))
    await chain.send(chain.identity_call("setAgentURI", agent, "data:application/json,{}"))
    await chain.send(chain.identity_call("approve", other, agent))
    await chain.send(chain.identity_call("setApprovalForAll", other, True))
    await chain.send(chain.identity_call("transferFrom", owner, other, agent, sender=other))
    await chain.emit(
        chain.identity,
        ([keccak(text="BatchMetadataUpdate(uint256,uint256)")], encode(["uint256", "uint256"], [0, 2**256 - 1])),
        ([keccak(text="EIP712DomainChanged()")], b""),
    )
    await chain.give_feedback(agent, 9977, 2, tag1="uptime", tag2="", endpoint="https://a.example/x", uri="ipfs://Q")
    await chain.give_feedback(agent, -(10**38), 18, tag1=b"\xff\xfe\x00x", tag2="☃" * 100, digest=bytes(range(32)))
    await chain.append_response(agent, 1, "ipfs://answer", responder=other)
    await chain.revoke_feedback(agent, 2)
    request = keccak(text="request")
    await chain.request_validation(agent, "ipfs://request", request, owner=other)
    await chain.respond_validation(request, 100, "ipfs://proof", bytes(range(32)), "soft finality")


async def test_every_log_becomes_an_event_with_the_values_that_the_contract_gave_it(
    chain: LocalChain, serve: Serve, database: Database, http: aiohttp.ClientSession
) -> None:
    await everything_happens(chain)
    child = serve("--only", "indexer,http", **chain.settings)
    await indexed(database, chain)

    expected = await expected_events(chain)
    stored = await rows(database, "SELECT * FROM events ORDER BY block_number, log_index")

    assert [{name: row[name] for name in expected[0]} for row in stored] == expected
    assert {row["event_type"] for row in stored} == set(COLUMNS)
    assert len(COLUMNS) == 17
    async with http.get(f"http://127.0.0.1:{await child.port()}/api/v1/events", params={"limit": 1}) as answer:
        assert (await answer.json())["pagination"]["total"] == len(expected)


class Customer:
    """The endpoint's side: believes only what the stock verifier accepts."""

    def __init__(self, receiver: Receiver) -> None:
        self.secret = ""
        self.refuses = ""  # the transaction whose message it answers with an error
        self._receiver = receiver
        receiver.answer = lambda request: Answer(503 if self.refuses and self.refuses.encode() in request.body else 200)

    async def messages(self, number: int) -> dict[Message, dict[str, Any]]:
        """The bodies so far, once there are so many. None comes twice here."""
        bodies = [self.verified(request) for request in await self._receiver.wait_for(number, SECONDS)]
        found = {(body["type"], body["data"]["event"]["transaction_hash"]): body["data"] for body in bodies}
        assert len(found) == len(bodies)
        return found

    def verified(self, request: Received) -> dict[str, Any]:
        body: dict[str, Any] = Webhook(self.secret).verify(request.body, dict(request.headers))
        with pytest.raises(WebhookVerificationError):
            Webhook(self.secret).verify(request.body + b" ", dict(request.headers))
        return body


async def test_a_match_is_delivered_signed_before_and_after_a_reorg_and_taken_back_by_it(
    chain: LocalChain, serve: Serve, database: Database, http: aiohttp.ClientSession, receiver: Receiver
) -> None:
    child = serve(**chain.settings, RETRY_SCHEDULE_SECONDS="3600")
    api = f"http://127.0.0.1:{await child.port()}/api/v1"
    customer = Customer(receiver)
    trigger = {
        "name": "Low or unproven",
        "registry": "reputation",
        "on_reorg": "notify",
        "conditions": CONDITIONS,
        "actions": [{"action_type": "webhook", "config": {"url": f"{receiver.url}/hook"}}],
    }
    async with http.post(f"{api}/triggers", json=trigger) as answer:
        assert answer.status == 201
        customer.secret = (await answer.json())["actions"][0]["signing_secret"]

    agent, _ = await chain.register()
    fine, gone, moved, undelivered = await rate(
        chain, agent, (605, 1, "starred"), (-32, 1, "starred"), (95, 0, "uptime"), (604, 1, "uptime")
    )
    customer.refuses = undelivered.transaction_hash
    due = {("event.matched", receipt.transaction_hash) for receipt in (gone, moved, undelivered)}
    messages = await customer.messages(3)
    assert set(messages) == due
    told = messages["event.matched", gone.transaction_hash]
    assert told["event"].items() >= {
        "block_number": gone.block_number, "block_hash": gone.block_hash, "log_index": gone.logs[0].log_index,
        "agent_id": str(agent), "client_address": gone.sender, "value_raw": "-32", "value_decimals": 1,
        "score": "-3.2", "tag1": "starred",
    }.items()  # fmt: skip
    assert await events_of(database, fine) == [(fine.block_number, False)]

    await chain.reorg(3, {moved.transaction_hash: 2})
    await chain.mine(3)  # an event's absence is taken as real two blocks later
    due.add(("event.retracted", gone.transaction_hash))
    messages = await customer.messages(4)
    assert set(messages) == due
    taken_back = messages["event.retracted", gone.transaction_hash]
    assert taken_back["retracts"] == told["delivery_id"] != taken_back["delivery_id"]
    assert taken_back["correlation_id"] == told["correlation_id"]
    (later,) = await rate(chain, agent, (12, 0, ""))
    due.add(("event.matched", later.transaction_hash))
    assert set(await customer.messages(5)) == due

    assert await events_of(database, gone) == [(gone.block_number, True)]
    assert await events_of(database, moved) == [(moved.block_number + 1, False)]
    event_id = f"reputation-{chain.chain_id}-{undelivered.transaction_hash}-{undelivered.logs[0].log_index}"
    async with http.get(f"{api}/deliveries", params={"event_id": event_id}) as answer:
        (delivery,) = (await answer.json())["data"]
    assert (delivery["status"], delivery["reason"], delivery["attempts"]) == ("skipped", "retracted", 1)


async def rate(chain: LocalChain, agent: int, *ratings: tuple[int, int, str]) -> list[Receipt]:
    """Feedback of so much, each by a client of its own and in a block of its own."""
    return [
        await chain.give_feedback(agent, value, decimals, tag1=tag, client=Account.number(100 + place).address)
        for place, (value, decimals, tag) in enumerate(ratings)
    ]


async def events_of(database: Database, receipt: Receipt) -> list[tuple[int, bool]]:
    """Block of each event of a transaction, and whether it was taken back."""
    sql = "SELECT block_number, retracted_at IS NOT NULL AS gone FROM events WHERE transaction_hash = $1"
    return [(row["block_number"], row["gone"]) for row in await rows(database, sql, receipt.transaction_hash)]


async def indexed(database: Database, chain: LocalChain) -> None:
    """Wait until the chain has been read to its head."""
    head = await chain.head()

    async def there() -> bool:
        sql = "SELECT last_block_number AS block FROM checkpoints WHERE last_block_number >= $1"
        return bool(await rows(database, sql, head))

    await until(there, SECONDS, f"block {head} to be indexed")


async def rows(database: Database, sql: str, *arguments: object) -> list[dict[str, Any]]:
    """Rows by column, `args` decoded."""
    async with database.transaction() as tx:
        found = [dict(row) for row in await tx.fetch(sql, *arguments)]
    return [row | {"args": msgspec.json.decode(row["args"])} if "args" in row else row for row in found]
