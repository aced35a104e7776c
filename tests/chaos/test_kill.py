"""A process that is killed at any instant loses nothing and doubles nothing; what comes after it only comes later."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

from chains import logs
from chains.scripted import ScriptedChain, ScriptedNode, transaction
from chaos.world import SECONDS, Fact, Gate, Left, World, mine
from support.processes import Child

EVENTS = 40
BATCH = "10"  # events at once, and so several batches
SLOTS = 20  # sends at once
OTHER_CHAIN = 1
PATIENCE = "5"  # seconds for an answer; a claim of the dead lasts half a minute longer


class Hop(NamedTuple):
    """A point to die at, what must be there when the process has died, and whether what was sent may be sent again."""

    point: str
    left: Callable[[Left], bool]
    repeats: bool = False


EVALUATION = [
    Hop("evaluator.taken:2", lambda left: left.processed == 10 and left.known == left.deliveries > 0),
    Hop("evaluator.matched:2", lambda left: left.processed == 10 and left.known == left.deliveries > 0),
    Hop("evaluator.committed:2", lambda left: left.processed == 20 and 0 < left.known < left.deliveries),
    Hop("evaluator.pushed:2", lambda left: left.processed == 20 and left.known == left.deliveries),
]

DISPATCH = [
    Hop("dispatcher.leased", lambda left: left.leased == SLOTS and left.claimed == left.received == 0),
    Hop("dispatcher.claimed", lambda left: left.leased == left.claimed == SLOTS and left.received == 0),
    Hop(
        "dispatcher.sent", lambda left: left.received > 0 and left.attempts == 0 and left.claimed == SLOTS, repeats=True
    ),
    Hop("dispatcher.recorded", lambda left: left.delivered == left.attempts > 0 and left.leased == SLOTS, repeats=True),
    Hop(
        "dispatcher.acked",
        lambda left: left.delivered == left.attempts > 0 and left.known < left.deliveries,
        repeats=True,
    ),
]

FETCH = ["indexer.fetched:2", "indexer.verified:2", "indexer.decoded:2", "indexer.stored:2"]

at_any_size = pytest.mark.parametrize("events", [EVENTS, pytest.param(200, marks=pytest.mark.soak)])


def name_of(hop: Hop) -> str:
    return hop.point.partition(":")[0]


@pytest.mark.parametrize("point", FETCH, ids=lambda point: point.partition(":")[0])
async def test_killed_while_indexing_it_neither_loses_nor_doubles_a_log(world: World, point: str) -> None:
    chain = ScriptedChain(start_time=int(time.time()))
    for number in range(1, EVENTS + 1):
        chain.mine(transaction(logs.feedback(number % 5, number * 37 % 100, tag1=("uptime", "starred")[number % 2])))
    async with ScriptedNode.serve(chain) as node:
        settings = {
            "RPC_URLS_84532": node.url,
            "START_BLOCK_84532": "1",
            "RPC_MAX_RANGE": BATCH,
            "RPC_REQUESTS_PER_SECOND": "1000",
        }
        child = await world.start("indexer", AGENTAURI_CRASH_AT=point, **settings)
        assert await child.ended(SECONDS) == -signal.SIGKILL
        await facts_and_cursor_agree(world, chain)
        _, second = node.ranges[1]
        assert (await cursor(world) == second) if point == "indexer.stored:2" else (await cursor(world) < second)
        expect_logs(world, chain)

        await world.start("indexer,evaluator,dispatcher", **settings)

        await world.finish()
    await facts_and_cursor_agree(world, chain)
    assert await cursor(world) == EVENTS


async def cursor(world: World) -> int:
    return int((await world.fetch("SELECT last_block_number FROM checkpoints"))[0][0])


async def facts_and_cursor_agree(world: World, chain: ScriptedChain) -> None:
    """What is stored are the logs of the blocks up to the checkpoint, no more and no less."""
    stored = await world.fetch(
        "SELECT block_hash, log_index FROM events WHERE retracted_at IS NULL ORDER BY block_number"
    )
    told = [
        (log["blockHash"], int(log["logIndex"], 16))
        for block in chain.blocks[: await cursor(world) + 1]
        for _, log in block.logs
    ]
    assert stored == told


def expect_logs(world: World, chain: ScriptedChain) -> None:
    for number in range(1, EVENTS + 1):
        [(_, log)] = chain.blocks[number].logs
        fact = Fact(number % 5, number * 37 % 100, ("uptime", "starred")[number % 2])
        world.expect(f"reputation-84532-{log['transactionHash']}-0", fact)


@at_any_size
@pytest.mark.parametrize("hop", EVALUATION, ids=name_of)
async def test_killed_while_evaluating_it_neither_loses_nor_doubles_a_match(
    world: World, hop: Hop, events: int
) -> None:
    await world.happen(events)
    child = await world.start("evaluator", AGENTAURI_CRASH_AT=hop.point, MAX_CONCURRENT_EVENTS=BATCH)
    assert await child.ended(SECONDS) == -signal.SIGKILL
    left = await world.left()
    assert hop.left(left), left

    await world.pass_time()
    await world.start()

    await world.finish()


@at_any_size
@pytest.mark.parametrize("hop", DISPATCH, ids=name_of)
async def test_killed_while_delivering_it_repeats_at_most_what_was_under_way(
    world: World, hop: Hop, events: int
) -> None:
    await world.happen(events)
    await world.evaluate()
    child = await world.start("dispatcher", AGENTAURI_CRASH_AT=hop.point, MAX_IN_FLIGHT_DELIVERIES=str(SLOTS))
    assert await child.ended(SECONDS) == -signal.SIGKILL
    left = await world.left()
    assert hop.left(left), left

    await world.pass_time()
    await world.start()

    await world.finish(repeats=left.claimed if hop.repeats else 0)
    abandoned = await world.fetch("SELECT count(*) FROM attempts WHERE outcome = 'abandoned'")
    assert abandoned == [(left.claimed,)]


async def test_500_events_survive_three_kills_at_random(world: World) -> None:
    dice = random.Random(8004)
    claimed = 0
    for _ in range(3):
        child = await world.start(MAX_CONCURRENT_EVENTS=BATCH)
        await world.happen(125)
        await world.received(dice.randint(len(world.receiver.requests), len(world.due) - 1))
        child.kill()
        claimed += (await world.left()).claimed
        await world.pass_time()
    await world.start()
    await world.happen(125)

    await world.finish(repeats=claimed)


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_10000_events_survive_twenty_kills_of_any_role(world: World) -> None:
    """Nothing is aged by hand here: others are at work, and the claims of the dead lapse in their own time."""
    dice = random.Random(20)
    roles = ["evaluator", "evaluator", "dispatcher", "dispatcher"]
    running = [await world.start(role, WEBHOOK_TIMEOUT_SECONDS=PATIENCE) for role in roles]
    claimed = 0
    for _ in range(20):
        await world.happen(500)
        await world.received(dice.randint(len(world.receiver.requests), len(world.receiver.requests) + 500))
        place = dice.randrange(len(roles))
        running[place].kill()
        claimed += await claimed_by(world, running[place])
        running[place] = await world.start(roles[place], WEBHOOK_TIMEOUT_SECONDS=PATIENCE)

    await world.finish(repeats=claimed, seconds=600)


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_a_minute_of_kills_under_load_and_a_dispatcher_that_slept_lose_and_double_nothing(world: World) -> None:
    """Events come from a chain and by hand. The sleeper wakes up when others have done what it had claimed."""
    dice = random.Random(2)
    chain = ScriptedChain(start_time=int(time.time()))
    async with ScriptedNode.serve(chain) as node:
        settings = {
            "RPC_URLS_84532": node.url,
            "START_BLOCK_84532": "1",
            "RPC_REQUESTS_PER_SECOND": "1000",
            "WEBHOOK_TIMEOUT_SECONDS": PATIENCE,
        }
        gate = Gate(world.receiver)
        await world.happen(100, chain_id=OTHER_CHAIN)
        await world.evaluate()
        sleeper = await world.start("dispatcher", MAX_IN_FLIGHT_DELIVERIES=str(SLOTS), **settings)
        await world.received(SLOTS)
        sleeper.signal(signal.SIGSTOP)
        claimed = [id_ for (id_,) in await world.fetch("SELECT id FROM deliveries WHERE leased_until IS NOT NULL")]
        gate.open()

        roles = ["evaluator", "evaluator", "dispatcher", "dispatcher", "indexer,http", "indexer,http"]
        running = [await world.start(role, **settings) for role in roles]
        repeats, kills = len(claimed), 0
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            mine(world, chain, 10)
            await world.happen(dice.randint(50, 150), chain_id=OTHER_CHAIN)
            await asyncio.sleep(dice.uniform(1, 3))
            place = dice.randrange(len(roles))
            running[place].kill()
            kills += 1
            repeats += await claimed_by(world, running[place])
            running[place] = await world.start(roles[place], **settings)

        await world.until(
            lambda: are_delivered(world, claimed), "others to do what the sleeper had claimed", SECONDS * 2
        )
        newer = await world.fetch("SELECT * FROM deliveries WHERE id = ANY($1) ORDER BY id", claimed)
        sleeper.signal(signal.SIGCONT)
        await world.finish(repeats=repeats, seconds=SECONDS * 10)
    assert kills >= 20
    assert await world.fetch("SELECT * FROM deliveries WHERE id = ANY($1) ORDER BY id", claimed) == newer
    assert (
        await world.fetch("SELECT number FROM attempts WHERE outcome = 'abandoned' AND delivery_id = ANY($1)", claimed)
        == []
    )


async def are_delivered(world: World, ids: list[object]) -> bool:
    undone = await world.fetch("SELECT id FROM deliveries WHERE id = ANY($1) AND status <> 'delivered'", ids)
    return undone == []


async def claimed_by(world: World, child: Child) -> int:
    instance = (await child.logged(event="process.started"))["instance"]
    [(number,)] = await world.fetch("SELECT count(*) FROM deliveries WHERE lease_owner = $1", instance)
    return int(number)
