"""A chain whose finalized blocks changed stops, says so everywhere, and is brought back by one command."""

from __future__ import annotations

import time

import aiohttp
from msgspec.structs import replace

from agentauri import console
from agentauri.types import ChainId, Secret
from chains import logs
from chains.scripted import ScriptedChain, ScriptedNode, transaction
from chaos.world import CHAIN, World, mine

OTHER = 11155111


async def test_a_halted_chain_comes_back_by_a_reset_with_nothing_lost_and_nothing_twice(
    world: World, http: aiohttp.ClientSession
) -> None:
    now = int(time.time())
    chain, other = ScriptedChain(start_time=now), ScriptedChain(OTHER, start_time=now)
    async with ScriptedNode.serve(chain) as node, ScriptedNode.serve(other) as other_node:
        node.finality_depth = 5
        child = await world.start(
            "indexer,evaluator,dispatcher,http",
            **{f"RPC_URLS_{CHAIN}": node.url, f"START_BLOCK_{CHAIN}": "1", "RPC_REQUESTS_PER_SECOND": "1000"},
            **{f"RPC_URLS_{OTHER}": other_node.url, f"START_BLOCK_{OTHER}": "1"},
        )
        known = world.app.known_chains
        known[ChainId(CHAIN)] = replace(known[ChainId(CHAIN)], rpc_urls=(Secret(node.url),))  # as the process has it
        base = f"http://127.0.0.1:{await child.port()}"
        mine(world, chain, 40)
        await world.processed(40)
        await world.until(lambda: not world.missing(), "the deliveries of before")

        for one in chain.fork(20):  # far below what was final; all of it happens again
            chain.mine(one)
        mine(world, chain, 3)

        async def halted() -> bool:
            async with http.get(f"{base}/api/v1/chains/{CHAIN}") as answer:
                return bool((await answer.json())["status"] == "halted")

        await world.until(halted, "the chain to halt")
        other.mine(transaction(logs.registered(1)))
        await world.until(lambda: reaches(world, OTHER, 1), "the other chain to go on")
        async with http.get(f"{base}/api/v1/health/ready") as answer:
            assert answer.status == 200
            assert (await answer.json())["components"][f"indexer:{CHAIN}"] == "degraded"
        async with http.get(f"{base}/metrics") as answer:
            assert f'agentauri_chain_status{{chain="{CHAIN}",status="halted"}} 1.0' in await answer.text()
        (status, *_) = await console.chain_status(world.app, CHAIN)
        assert status.startswith(f"{CHAIN} Base Sepolia: halted (block 40 is no longer")
        (alarm,) = [line for line in child.lines() if line.get("code") == "CHAIN_HALTED_BELOW_FINALIZED"]
        assert alarm["level"] == "CRITICAL"
        assert "chain reset --chain 84532" in str(alarm["remedy"])

        told = await console.reset_chain(world.app, CHAIN, None, dry_run=False)

        assert "none is delivered twice" in told
        await world.until(lambda: reaches(world, CHAIN, 43), "the chain to be read to its head")
        await world.until(lambda: not world.missing(), "every delivery")
        await world.until(world.is_done, "nothing to be left")
    ours = [one for one in world.receiver.requests if f"-{CHAIN}-" in one.headers["x-agentauri-event-id"]]
    assert len(ours) == len(world.due)
    assert await world.fetch("SELECT DISTINCT status FROM deliveries") == [("delivered",)]
    stands = await world.fetch(
        "SELECT count(*) FROM events WHERE chain_id = $1 AND retracted_at IS NULL AND epoch = 0", CHAIN
    )
    assert stands == [(43,)]


async def reaches(world: World, chain_id: int, block: int) -> bool:
    found = await world.fetch(
        "SELECT status FROM checkpoints WHERE chain_id = $1 AND last_block_number >= $2", chain_id, block
    )
    return found == [("live",)]
