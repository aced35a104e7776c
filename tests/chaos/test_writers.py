"""Whoever commits an event is served, whether or not anybody hears of it, and however many processes do the work."""

from __future__ import annotations

import signal
import time

from chains.scripted import ScriptedChain, ScriptedNode
from chaos.world import Gate, World, insert, mine

FAST = {"POLL_INTERVAL_MS": "100"}


async def test_without_notifications_the_poll_finds_every_event(world: World) -> None:
    """What the process was not at work on when it came, and what nobody spoke of, is found by the poll alone."""
    await world.fetch("ALTER TABLE events DISABLE TRIGGER notify_new_event_trigger")
    child = await world.start(POLL_INTERVAL_MS="2000")

    for _ in range(2):
        await world.happen_unnoticed()
        await world.processed(world.events)

    await world.finish()
    assert sum(line.get("code") == "LISTENER_STARTED" for line in child.lines()) == 1  # connecting wakes it as well


async def test_an_event_that_was_committed_late_is_found_behind_those_that_overtook_it(world: World) -> None:
    await world.start(**FAST)

    async with world.app.database.transaction() as late:
        await insert(late, world.rows(1))
        await world.happen(30)
        await world.processed(30)

    await world.finish()


async def test_copied_rows_are_events_like_any_other(world: World) -> None:
    await world.start(**FAST)

    async with world.app.database.transaction() as tx:
        await tx.copy(
            "events",
            (
                "id", "chain_id", "block_number", "agent_id", "score", "tag1", "block_hash", "transaction_hash",
                "log_index", "registry", "event_type", "timestamp",
            ),
            [(*row, "0xb", "0xt", 0, "reputation", "NewFeedback", 1_700_000_000) for row in world.rows(60)],
        )  # fmt: skip

    await world.finish()


async def test_two_processes_share_the_work_and_do_nothing_twice(world: World) -> None:
    gate = Gate(world.receiver)
    slots = 10
    settings = {"MAX_IN_FLIGHT_DELIVERIES": str(slots), "MAX_CONCURRENT_EVENTS": "5", "WEBHOOK_TIMEOUT_SECONDS": "60"}
    for chain_id in range(1, 5):
        await world.happen(20, chain_id=chain_id)
    await world.start(**settings)
    await world.start(**settings)

    await world.received(2 * slots)  # and neither can have more than its slots on the way
    gate.open()

    for chain_id in range(1, 5):
        await world.happen(20, chain_id=chain_id)
    await world.finish()
    owners = await world.fetch("SELECT DISTINCT instance FROM attempts")
    assert len(owners) == 2


async def test_when_the_process_that_follows_a_chain_dies_another_one_goes_on_at_its_block(world: World) -> None:
    """The one that stands by tries every five seconds."""
    chain = ScriptedChain(start_time=int(time.time()))
    async with ScriptedNode.serve(chain) as node:
        settings = {"RPC_URLS_84532": node.url, "START_BLOCK_84532": "1", "RPC_REQUESTS_PER_SECOND": "1000"}
        mine(world, chain, 20)
        first = await world.start("indexer,evaluator,dispatcher", **settings)
        await world.processed(20)
        await world.start("indexer,evaluator,dispatcher", **settings)
        mine(world, chain, 20)
        await world.processed(40)

        first.signal(signal.SIGKILL)
        mine(world, chain, 20)

        await world.processed(60)
        await world.pass_time()
        await world.finish(repeats=len(world.due))
    blocks = await world.fetch("SELECT block_number FROM events ORDER BY seq")
    assert blocks == [(number,) for number in range(1, 61)]
