"""Triggers that remember, on a real evaluator: what they match, what they keep, and what their messages can tell."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from itertools import permutations
from typing import Any

import msgspec
import pytest

from agentauri.database import Database
from agentauri.triggers import Evaluator
from triggers.conftest import MakeEvaluator
from triggers.making import (
    CHAIN,
    Leaf,
    LogLines,
    agent,
    average,
    coded,
    field,
    finish,
    insert_events,
    limit,
    make_trigger,
    matches,
    window,
)

NOON = 1_700_000_000


async def rows(database: Database, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
    async with database.transaction() as tx:
        return [tuple(row) for row in await tx.fetch(sql, *arguments)]


async def states(database: Database) -> dict[tuple[str, int, str], Any]:
    found = await rows(database, "SELECT trigger_id, leaf_id, scope_key, state FROM trigger_state")
    return {(row[0], row[1], row[2]): msgspec.json.decode(row[3]) for row in found}


async def scores(database: Database, evaluator: Evaluator, *values: float | None, **columns: Any) -> list[int]:
    """One event of agent 1 for each, evaluated one by one; those that matched anything, by their place."""
    seqs = []
    for value in values:
        async with database.transaction() as tx:
            score = None if value is None else Decimal(str(value))
            seqs += await insert_events(tx, 1, **{"timestamp": NOON} | columns, score=score)
        await finish(evaluator)
    async with database.transaction() as tx:
        matched = {seq for seq, _ in await matches(tx, seqs)}
    return [place for place, seq in enumerate(seqs) if seq in matched]


async def test_an_average_fires_when_it_passes_its_threshold(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [average(80) | {"operator": "<", "id": 3}], trigger_id="t")

    assert await scores(database, evaluator, 85, 90, 40, 100) == [2]
    [state] = (await states(database)).values()
    assert state == {"ema": pytest.approx(81.64162283996994, abs=1e-12), "count": 4, "last_updated": NOON}


async def test_an_event_without_a_score_changes_no_average(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [average(0)], trigger_id="t")

    assert await scores(database, evaluator, 85, None) == [0]
    [state] = (await states(database)).values()
    assert state["count"] == 1


async def test_a_match_tells_what_was_remembered_before_and_after(database: Database, evaluator: Evaluator) -> None:
    condition = [average(1) | {"id": 3}, window("sum", 1) | {"id": 5}]
    async with database.transaction() as tx:
        await make_trigger(tx, condition, trigger_id="t")

    await scores(database, evaluator, 50, 100.5)

    contexts = [
        msgspec.json.decode(row[0]) for row in await rows(database, "SELECT context FROM deliveries ORDER BY id")
    ]
    assert sorted(contexts, key=str) == sorted(
        [
            {
                "leaves": {
                    "3": {"ema": 50.0, "count": 1, "before": None},
                    "5": {"sum": 50, "count": 1, "before": {"sum": 0, "count": 0}},
                }
            },
            {
                "leaves": {
                    "3": {"ema": pytest.approx(59.18181818181818), "count": 2, "before": {"ema": 50.0, "count": 1}},
                    "5": {"sum": 150.5, "count": 2, "before": {"sum": 50, "count": 1}},
                }
            },
        ],
        key=str,
    )


async def test_a_limit_that_begins_anew_fires_once_for_so_many(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [limit(2, reset_on_trigger=True)], trigger_id="t")

    assert await scores(database, evaluator, *[1] * 8) == [2, 5]
    counts = await rows(database, "SELECT count(*) FROM window_samples GROUP BY consumed_by ORDER BY 1")
    assert counts == [(2,), (3,), (3,)]


async def test_a_window_counts_only_where_its_condition_holds(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [window("count", 1, where=field("score", "lt", 50))], trigger_id="t")

    assert await scores(database, evaluator, 10, 90, 20, 90, 30) == [2, 4]


@pytest.mark.parametrize("kind", ["count", "sum", "avg", "min", "max"])
async def test_what_leaves_a_window_counts_no_more(database: Database, evaluator: Evaluator, kind: str) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [window(kind, 0, window="45s")], trigger_id="t")

    for at, score in ((0, 10), (30, 20), (60, "-5.5"), (50, 1)):  # the last one is late
        await scores(database, evaluator, float(score), timestamp=NOON + at)

    told = [
        (shown := msgspec.json.decode(row[0])["leaves"].popitem()[1]).get(kind, shown["count"])
        for row in await rows(
            database, "SELECT context FROM deliveries d JOIN events e ON e.seq = d.event_seq ORDER BY e.seq"
        )
    ]
    expected = {
        "count": [1, 2, 2, 2], "sum": [10, 30, 14.5, 21], "avg": [10, 15, 7.25, 10.5], "min": [10, 10, 1],
        "max": [10, 20, 20, 20],
    }[kind]  # fmt: skip
    assert told == ([10, 10, 1] if kind == "min" else expected)


ORDERS = [
    list(order) for order in permutations([agent(1), average(60) | {"id": 11}, limit(2, scope="agent") | {"id": 12}])
]


@pytest.mark.parametrize("condition", [*ORDERS, [{"all": ORDERS[0]}], [{"any": [ORDERS[1], ORDERS[1][0]]}]])
async def test_what_is_remembered_does_not_depend_on_the_order_of_siblings(
    database: Database, evaluator: Evaluator, condition: list[Leaf]
) -> None:
    condition = msgspec.json.decode(msgspec.json.encode(condition))
    if "any" in condition[0]:
        condition[0]["any"][1] = field("tag1", "eq", "never")
    async with database.transaction() as tx:
        await make_trigger(tx, condition, trigger_id="t")
        await insert_events(tx, 1, 2, 1, 1, 2, 1, score=Decimal(70), timestamp=NOON)

    await finish(evaluator)

    scope = f'["{CHAIN}","1"]'
    assert await states(database) == {
        ("t", 11, scope): {"ema": 70.0, "count": 4, "last_updated": NOON},
        ("t", 12, scope): {"seconds": 3600, "count": 4},
    }


async def test_evaluators_that_share_a_memory_leave_what_one_would(
    database: Database, make_evaluator: MakeEvaluator
) -> None:
    """Four chains meet in one scope, where each evaluator has a chain of its own."""
    condition = [window("sum", 0, scope="trigger") | {"id": 1}, limit(0) | {"id": 2}]
    chains = range(1, 5)
    async with database.transaction() as tx:
        await make_trigger(
            tx, condition, trigger_id="t", start_blocks='{"1": 0, "2": 0, "3": 0, "4": 0}', cooldown_seconds=60
        )
        for number in range(40):
            for chain in chains:
                await insert_events(tx, 1, chain_id=chain, score=Decimal(number + 1), timestamp=NOON)

    await asyncio.gather(*(finish(make_evaluator(instance=str(chain), max_concurrent_events=7)) for chain in chains))

    total = 4 * sum(range(41))
    found = await states(database)
    assert found["t", 1, "[]"] == {"seconds": 3600, "count": 160, "sum": str(total)}
    assert found["t", 2, "[]"] == {"seconds": 3600, "count": 160}
    assert await rows(database, "SELECT count(*), sum(value) FROM window_samples WHERE leaf_id = 1") == [(160, total)]
    assert await rows(database, "SELECT count(*) FROM deliveries") == [(1,)]
    counts = await rows(database, "SELECT count(*), count(DISTINCT input) FROM state_undo WHERE leaf_id = 0")
    assert counts == [(160, 2)]


async def test_a_cooldown_suppresses_what_comes_too_soon(
    database: Database, evaluator: Evaluator, log_lines: LogLines
) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, trigger_id="t", cooldown_seconds=60)

    fired = []
    for at in (0, 59, 60, 100, 1, -1, 160, 119):
        fired += [at] * len(await scores(database, evaluator, 1, timestamp=NOON + at))

    assert fired == [0, 60, -1, 160]
    assert [line["suppressed"] for line in log_lines if line["event"] == "events.evaluated"] == [0, 1, 0, 1, 1, 0, 0, 1]
    assert await rows(database, "SELECT sum(triggers_matched), sum(actions_enqueued) FROM processed_events") == [(8, 4)]


async def test_each_dedupe_key_has_a_cooldown_of_its_own(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, trigger_id="t", cooldown_seconds=60, dedupe_key="{{ tag1 }} of {{agent_id}}")
        seqs = await insert_events(tx, 1, 2, 1, tag1="a")
        seqs += await insert_events(tx, 1, tag1="b")
    await finish(evaluator)

    async with database.transaction() as tx:
        assert [seq for seq, _ in await matches(tx, seqs)] == [seqs[0], seqs[1], seqs[3]]
    assert {key for _, _, key in await states(database)} == {"a of 1", "a of 2", "b of 1"}


async def test_a_suppressed_match_consumes_nothing(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [limit(1, reset_on_trigger=True) | {"id": 1}], trigger_id="t", cooldown_seconds=60)

    assert await scores(database, evaluator, *[1] * 6) == [1]
    assert (await states(database))["t", 1, "[]"] == {"seconds": 3600, "count": 4}


async def test_an_event_that_is_evaluated_twice_is_taken_in_once(database: Database, evaluator: Evaluator) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [average(1), limit(0)], trigger_id="t", cooldown_seconds=60)
        seqs = await insert_events(tx, 1, 1, 1, score=Decimal(5))
        await tx.run("INSERT INTO event_queue (event_seq, chain_id, kind) VALUES ($1, $2, 'assert')", seqs[0], CHAIN)
    await finish(evaluator)
    before = await states(database), await rows(database, "SELECT * FROM deliveries")
    async with database.transaction() as tx:
        for seq in seqs:
            await tx.run("INSERT INTO event_queue (event_seq, chain_id, kind) VALUES ($1, $2, 'assert')", seq, CHAIN)
    await finish(evaluator)

    assert (await states(database), await rows(database, "SELECT * FROM deliveries")) == before
    assert len(before[1]) == 1
    assert {state["count"] for (_, leaf, _), state in before[0].items() if leaf} == {3}
    async with database.transaction() as tx:
        await tx.run("DELETE FROM state_undo")  # as once their blocks are final
        for seq in seqs:
            await tx.run("INSERT INTO event_queue (event_seq, chain_id, kind) VALUES ($1, $2, 'assert')", seq, CHAIN)
    await finish(evaluator)
    assert await rows(database, "SELECT * FROM deliveries") == before[1]


async def test_a_trigger_that_breaks_on_what_it_remembers_breaks_alone(
    database: Database, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, cooldown_seconds=60, dedupe_key="{{ args.x | number:2 }}", trigger_id="breaks")
        await make_trigger(tx, [limit(0)], trigger_id="works")
        seqs = await insert_events(tx, 1, args='{"x": {"not": "a number"}}')
    monkeypatch.setattr("agentauri.triggers.state.memory.Visit.read", _broken_for("breaks"))

    await finish(evaluator)

    async with database.transaction() as tx:
        assert await matches(tx, seqs) == [(seqs[0], "works")]
        assert await tx.fetchval("SELECT trigger_id FROM event_queue") == "breaks"


def _broken_for(trigger_id: str) -> Any:
    from agentauri.triggers.state.memory import Visit

    read = Visit.read

    def broken(visit: Visit) -> None:
        read(visit)
        if visit.trigger_id == trigger_id:
            visit.error = ValueError("broken")

    return broken


async def test_a_full_window_is_told_of_and_stays_exact(
    database: Database, evaluator: Evaluator, log_lines: LogLines
) -> None:
    async with database.transaction() as tx:
        await make_trigger(tx, [window("sum", 0) | {"id": 1}, window("max", 0) | {"id": 2}], trigger_id="t")
    await scores(database, evaluator, 7)
    scope = f'["{CHAIN}","1"]'
    async with database.transaction() as tx:
        await tx.run(
            """INSERT INTO window_samples (trigger_id, leaf_id, scope_key, event_time, event_seq, value)
               SELECT 't', leaf, $1, $2::bigint - n % 3000 - 1, -n, 1
               FROM generate_series(1, 99998) n, generate_series(1, 2) leaf""",
            scope,
            NOON,
        )
        await tx.run("""UPDATE trigger_state SET state = '{"seconds": 3600, "count": 99999, "sum": "100005"}'
                        WHERE leaf_id = 1""")
        await tx.run("UPDATE trigger_state SET state = state || '{\"count\": 99999}' WHERE leaf_id = 2")

    await scores(database, evaluator, 2, 3, 4)

    found = await states(database)
    assert found["t", 1, scope] == {"seconds": 3600, "count": 99_999, "sum": str(100_005 + 9 - 3)}
    assert found["t", 2, scope]["count"] == 99_999
    assert found["t", 2, scope]["extreme"] == "7"
    assert len(coded(log_lines, "WINDOW_SATURATED")) == 2
