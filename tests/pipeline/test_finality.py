"""What waits for confirmations on a real node: told once it is deep enough, and never of what a reorg took."""

from __future__ import annotations

import aiohttp

from agentauri.database import Database
from agentauri.demo import LocalChain
from pipeline.test_pipeline import SECONDS, Customer, Serve, indexed, rate
from support.processes import until
from support.receiver import Receiver

CONFIRMATIONS = 4


async def test_nothing_is_told_before_it_is_deep_enough_nor_of_what_was_gone_by_then(
    chain: LocalChain, serve: Serve, database: Database, http: aiohttp.ClientSession, receiver: Receiver
) -> None:
    child = serve(**chain.settings)
    api = f"http://127.0.0.1:{await child.port()}/api/v1"
    customer = Customer(receiver)
    trigger = {
        "name": "Four blocks deep",
        "registry": "reputation",
        "fire_at": {"confirmations": CONFIRMATIONS},
        "conditions": [{"condition_type": "event_type_equals", "value": "NewFeedback"}],
        "actions": [{"action_type": "webhook", "config": {"url": f"{receiver.url}/hook"}}],
    }
    async with http.post(f"{api}/triggers", json=trigger) as answer:
        assert answer.status == 201
        made = await answer.json()
        assert made["fire_at"] == {"confirmations": CONFIRMATIONS}
        customer.secret = made["actions"][0]["signing_secret"]

    async def held(*expected: int) -> None:
        """Wait until what waits for depth does so for these blocks."""

        async def there() -> bool:
            async with http.get(f"{api}/deliveries", params={"hold": "depth"}) as answer:
                data = (await answer.json())["data"]
            assert {one["release_tag"] for one in data} <= {"head"}
            return sorted(one["release_block"] for one in data) == list(expected)

        await until(there, SECONDS, f"deliveries that wait for blocks {expected}")

    agent, _ = await chain.register()
    gone, moved = await rate(chain, agent, (10, 0, "gone"), (20, 0, "moved"))
    await held(gone.block_number + CONFIRMATIONS, moved.block_number + CONFIRMATIONS)

    await chain.reorg(2, {moved.transaction_hash: 0})
    block = moved.block_number - 1
    await chain.mine(CONFIRMATIONS - 2)
    await indexed(database, chain)
    await held(block + CONFIRMATIONS)
    assert await chain.head() == block + CONFIRMATIONS - 1
    assert receiver.requests == []
    await chain.mine(1)

    (message,) = (await customer.messages(1)).values()
    assert message["event"]["transaction_hash"] == moved.transaction_hash
    assert message["event"]["block_number"] == block
    await held()
    assert len(receiver.requests) == 1
