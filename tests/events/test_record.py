"""Logs that are stored, fetched again, moved by a reorg, or back after a long absence."""

from __future__ import annotations

import random
from decimal import Decimal

import msgspec
import pytest
from msgspec import structs

from agentauri.database import Transaction
from agentauri.events import EventFilter, EventQueue, EventService, NewEvent, Recorded
from agentauri.types import EventId, Page
from support.events import CHAIN, insert_by_hand, make_log, record

events = EventService()


async def stored(tx: Transaction) -> list[tuple[str, int, str, int, int, str]]:
    rows = await tx.fetch(
        """SELECT id, block_number, block_hash, log_index, epoch,
                  CASE WHEN retracted_at IS NULL THEN 'living' WHEN settled_at IS NULL THEN 'retracted'
                       ELSE 'settled' END
           FROM events ORDER BY seq"""
    )
    return [tuple(row) for row in rows]


async def kinds(tx: Transaction) -> list[str]:
    """What has been queued since the last look."""
    rows = await tx.fetch("DELETE FROM event_queue RETURNING position, kind")
    return [row["kind"] for row in sorted(rows, key=lambda row: row["position"])]


async def settle(tx: Transaction) -> None:
    await EventQueue("test").mark_settled(tx, [row["seq"] for row in await tx.fetch("SELECT seq FROM events")])
    await kinds(tx)


def event_id(transaction: str, log_index: int) -> str:
    return f"reputation-{CHAIN}-{transaction}-{log_index}"


def told(done: Recorded) -> Recorded:
    """The counts alone. What was inserted or came back has entered, or was
    canonical before, in another block."""
    assert len(done.entered) + done.displaced == done.inserted + done.reinstated
    return structs.replace(done, entered=(), displaced=0)


async def test_an_event_is_read_as_it_was_written(tx: Transaction) -> None:
    log = make_log(
        agent_id=2**256 - 1,
        value_raw=-(10**38),
        value_decimals=18,
        score=Decimal("-100000000000000000000.5"),
        feedback_index=2**64 - 1,
        tag1="é🙂",
        args={"agentId": str(2**256 - 1), "tags": ["a"]},
        topics=bytes(range(256)),
        data=b"",
    )
    await record(tx, log)
    event = await events.get(tx, log.id)

    written = msgspec.structs.asdict(log)
    assert {name: value for name, value in event.fields().items() if name in written} == written
    assert (event.origin, event.epoch, event.retracted_at, event.settled_at) == ("chain", 0, None, None)


async def test_logs_get_numbers_in_the_order_given(tx: Transaction) -> None:
    logs = [make_log(f"0xt{i}", i) for i in range(50)]
    assert told(await events.record(tx, CHAIN, logs)) == Recorded(inserted=50)
    assert [row[0] for row in await stored(tx)] == [log.id for log in logs]


async def test_logs_that_are_fetched_again_change_nothing(tx: Transaction) -> None:
    logs = [make_log("0xt1", 0), make_log("0xt1", 1), make_log("0xt2", 2)]
    await record(tx, *logs)
    before = await tx.fetch("SELECT * FROM events")
    await kinds(tx)

    assert told(await events.record(tx, CHAIN, [*logs, make_log("0xt3", 3)])) == Recorded(unchanged=3, inserted=1)
    assert (await tx.fetch("SELECT * FROM events ORDER BY seq"))[:3] == before
    assert await kinds(tx) == ["assert"]


async def test_a_moved_transaction_keeps_its_events_identity(tx: Transaction) -> None:
    await record(tx, make_log("0xt1", 4, block=10))
    before = await events.get(tx, EventId(event_id("0xt1", 4)))
    assert await events.retract_above(tx, CHAIN, 9) == 1
    await kinds(tx)

    moved = make_log("0xt1", 7, block=11, fork="b", transaction_index=3)
    assert told(await events.record(tx, CHAIN, [moved])) == Recorded(reinstated=1)

    assert await stored(tx) == [(event_id("0xt1", 4), 11, "0x11b", 7, 0, "living")]
    after = await events.get(tx, before.id)
    assert (after.seq, after.created_at, after.timestamp) == (before.seq, before.created_at, moved.timestamp)
    assert await kinds(tx) == ["assert"]


async def test_equal_logs_of_one_transaction_come_back_in_their_order(tx: Transaction) -> None:
    await record(tx, make_log(log_index=3), make_log(log_index=5), make_log(log_index=9, data=b"other"))
    await events.retract_above(tx, CHAIN, 0)

    logs = [make_log(log_index=index, fork="b", data=data) for index, data in ((5, b"data"), (7, b"data"))]
    assert told(await events.record(tx, CHAIN, logs)) == Recorded(reinstated=2)
    expected = [
        (event_id("0xt1", 3), 10, "0x10b", 5, 0, "living"),
        (event_id("0xt1", 5), 10, "0x10b", 7, 0, "living"),
        (event_id("0xt1", 9), 10, "0x10a", 9, 0, "retracted"),
    ]
    assert await stored(tx) == expected

    # Now two rows sit at places that their ids do not name; fetching once more must not be fooled by that.
    assert told(await events.record(tx, CHAIN, logs)) == Recorded(unchanged=2)
    assert await stored(tx) == expected


async def test_another_log_at_the_place_of_a_retracted_one_gets_an_id_of_its_own(tx: Transaction) -> None:
    await record(tx, make_log(data=b"first"))
    await events.retract_above(tx, CHAIN, 0)
    for fork, data in (("b", b"second"), ("c", b"third")):
        assert told(await events.record(tx, CHAIN, [make_log(fork=fork, data=data)])) == Recorded(inserted=1)
        await events.retract_above(tx, CHAIN, 0)
    assert [row[0] for row in await stored(tx)] == [event_id("0xt1", 0) + suffix for suffix in ("", "-2", "-3")]


async def test_what_comes_back_after_settling_is_the_same_event_in_a_new_epoch(tx: Transaction) -> None:
    await record(tx, make_log(data=b"first", tag1="x"))
    await events.retract_above(tx, CHAIN, 0)
    await settle(tx)

    log = make_log(block=12, fork="b", data=b"second", tag1=None, tag2="y", args={"n": "1"})
    assert told(await events.record(tx, CHAIN, [log])) == Recorded(reinstated=1)

    assert await stored(tx) == [(event_id("0xt1", 0), 12, "0x12b", 0, 1, "living")]
    event = await events.get(tx, log.id)
    assert (event.tag1, event.tag2, event.data, event.args) == (None, "y", b"second", {"n": "1"})
    assert await kinds(tx) == ["assert"]


async def test_a_settled_log_is_known_by_its_id_alone(tx: Transaction) -> None:
    await record(tx, make_log(log_index=0))
    await events.retract_above(tx, CHAIN, 0)
    await settle(tx)

    assert told(await events.record(tx, CHAIN, [make_log(log_index=1, fork="b")])) == Recorded(inserted=1)
    assert [row[5] for row in await stored(tx)] == ["settled", "living"]


async def test_a_living_row_whose_block_changed_is_retracted_and_reinstated_in_place(tx: Transaction) -> None:
    await record(tx, make_log(block=10))
    await kinds(tx)

    assert told(await events.record(tx, CHAIN, [make_log(block=11, fork="b")])) == Recorded(reinstated=1)
    assert await stored(tx) == [(event_id("0xt1", 0), 11, "0x11b", 0, 0, "living")]
    assert await kinds(tx) == ["retract", "assert"]


async def test_an_id_that_somebody_else_took_is_left_to_them(tx: Transaction) -> None:
    await insert_by_hand(tx, event_id("0xt1", 0), transaction_hash="0xelse", block_number=99)

    assert told(await events.record(tx, CHAIN, [make_log(), make_log("0xt2")])) == Recorded(inserted=2)
    assert [row[0] for row in await stored(tx)] == [
        event_id("0xt1", 0), event_id("0xt1", 0) + "-2", event_id("0xt2", 0),
    ]  # fmt: skip


async def test_other_chains_and_other_writers_are_not_retracted(tx: Transaction) -> None:
    await record(tx, make_log(block=10), make_log("0xt2", block=11))
    await insert_by_hand(tx, "other-chain", chain_id=1, block_number=11)
    await insert_by_hand(tx, "other-writer", block_number=11)

    assert await events.retract_above(tx, CHAIN, 10) == 1
    assert await events.retract_above(tx, CHAIN, 10) == 0
    assert [row[0] for row in await stored(tx) if row[5] == "retracted"] == [event_id("0xt2", 0)]


def random_fork(
    rng: random.Random, below: dict[int, list[str]], name: str
) -> tuple[dict[int, list[str]], list[NewEvent]]:
    """Blocks with transactions on top of those `below`, and the logs of the new blocks.

    A transaction is in one block at most, and always has the same logs, two of them equal.
    """
    free = [f"0xt{n}" for n in range(8) if not any(f"0xt{n}" in block for block in below.values())]
    rng.shuffle(free)
    blocks, logs = dict(below), []
    for number in range(len(below) + 1, 5):
        blocks[number] = [free.pop() for _ in range(min(len(free), rng.randint(0, 3)))]
        contents = [(transaction, data) for transaction in blocks[number] for data in (b"x", b"x", b"y")]
        logs += [
            make_log(transaction, index, number, name, data=data) for index, (transaction, data) in enumerate(contents)
        ]
    return blocks, logs


@pytest.mark.parametrize("settling", [False, True])
async def test_after_any_forks_the_living_rows_are_the_canonical_logs(tx: Transaction, settling: bool) -> None:
    rng = random.Random(8004)
    blocks: dict[int, list[str]] = {}
    ids: dict[int, str] = {}
    for fork in range(60):
        base = min(rng.randrange(4), len(blocks))
        await events.retract_above(tx, CHAIN, base)
        if settling and fork % 3 == 0:
            await settle(tx)
        blocks, logs = random_fork(rng, {n: block for n, block in blocks.items() if n <= base}, f"-{fork}")
        for _ in range(rng.randint(1, 2)):
            await events.record(tx, CHAIN, logs)

        rows = await tx.fetch("SELECT * FROM events WHERE retracted_at IS NULL AND block_number > $1", base)
        names = ("block_number", "block_hash", "log_index", "transaction_hash", "data")
        assert sorted(tuple(row[name] for name in names) for row in rows) == sorted(
            tuple(getattr(log, name) for name in names) for log in logs
        )
        known, ids = ids, {row["seq"]: row["id"] for row in await tx.fetch("SELECT seq, id FROM events")}
        assert ids | known == ids
    assert settling or len(ids) == 8 * 3


async def test_retracted_events_are_listed_on_request_alone(tx: Transaction) -> None:
    await record(tx, make_log())
    await events.retract_above(tx, CHAIN, 0)
    assert (await events.search(tx, EventFilter(), Page())).data == []
    [event] = (await events.search(tx, EventFilter(include_retracted=True), Page())).data
    assert event.retracted_at is not None


async def test_a_long_part_of_a_chain_is_compared_in_smaller_ones_that_end_with_a_block(
    tx: Transaction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentauri.events.service.PART", 4)
    logs = [make_log(f"0xt{block}", place, block=block) for block in range(7) for place in range(3)]
    await record(tx, *logs[:10])
    await events.retract_above(tx, CHAIN, 1)

    assert told(await events.record(tx, CHAIN, logs)) == Recorded(unchanged=6, reinstated=4, inserted=11)

    assert [row[:2] for row in await stored(tx)] == [
        (event_id(f"0xt{block}", place), block) for block in range(7) for place in range(3)
    ]
