"""A backtest tells of the same events as live evaluation did, whatever the rule, and so does an explanation."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentauri.actions import ActionService, DeliveryService, Rehearsing
from agentauri.database import Database, Transaction
from agentauri.events import Event, EventService
from agentauri.triggers import Backtested, Backtester, Evaluator, Explainer, Range, Rules, TriggerService, Wanted
from agentauri.triggers.conditions import Stateful, parse
from agentauri.triggers.state.folding import Window
from agentauri.triggers.state.programs import Input
from agentauri.triggers.state.rehearsal import WindowMemory
from agentauri.types import EventSeq, OrganizationId, TriggerId
from triggers.making import (
    absence,
    agent,
    average,
    field,
    finish,
    insert_events,
    limit,
    make_event,
    make_trigger,
    sequence,
    window,
)
from triggers.test_naive import CLIENT, OTHER, SAME_CLIENT
from triggers.test_naive import Rules as RandomRules

NOON = 1_700_000_000
ORGANIZATION = OrganizationId("org-1")
_chains = count(700_000)


class Lab:
    """One chain, an evaluator that sees it live, and those who look at it afterwards."""

    def __init__(
        self, database: Database, evaluator: Evaluator, rules: Rules, triggers: TriggerService, told: DeliveryService
    ) -> None:
        self.database, self.evaluator, self.rules = database, evaluator, rules
        self.explainer = Explainer(triggers, told, rules)
        self.backtester = Backtester(rules, EventService(), seconds=math.inf)
        self.chain_id = next(_chains)
        self.time = NOON

    async def make(self, condition: object, **columns: Any) -> TriggerId:
        async with self.database.transaction() as tx:
            return await make_trigger(tx, condition, chain_id=self.chain_id, start_blocks="{}", **columns)

    async def pass_to(self, time: int) -> None:
        """The chain is read up to a block of that time, and what is due is told."""
        async with self.database.transaction() as tx:
            await tx.run(
                """INSERT INTO checkpoints (chain_id, last_block_number, last_block_hash, last_block_time, first_block,
                                            status) VALUES ($1, 1, '0xc', $2, 0, 'live')
                   ON CONFLICT (chain_id) DO UPDATE SET last_block_time = $2, updated_at = now()""",
                self.chain_id,
                time,
            )
        await finish(self.evaluator)
        await self.evaluator.chores()

    async def happen(self, after: int, agent_id: int | None = 1, *, alone: bool = False, **columns: Any) -> None:
        """An event, so many seconds after the last one; where it is `alone`, what is due before it is told first."""
        self.time += after
        if alone:
            await self.pass_to(self.time)
        async with self.database.transaction() as tx:
            values: dict[str, Any] = {"timestamp": self.time, "chain_id": self.chain_id} | columns
            if agent_id is None:
                values["agent_id"] = None
            await insert_events(tx, agent_id or 0, **values)

    async def told(self, tx: Transaction, trigger_id: TriggerId) -> set[EventSeq]:
        """The events of which it told live."""
        rows = await tx.fetch("SELECT event_seq FROM deliveries WHERE trigger_id = $1", trigger_id)
        return {row["event_seq"] for row in rows}

    async def backtest(self, tx: Transaction, trigger_id: TriggerId, **range_: Any) -> Backtested:
        rule = await self.explainer.rule(tx, ORGANIZATION, trigger_id)
        wanted = Range(chain_id=self.chain_id, **range_)
        return await self.backtester.run(
            tx, ORGANIZATION, Wanted(rule=rule, saved=None, range=wanted, max_events=10_000, sample=100)
        )

    async def events(self, tx: Transaction) -> list[Event]:
        rows = await tx.fetch("SELECT seq FROM events WHERE chain_id = $1 ORDER BY seq", self.chain_id)
        return list((await EventService().by_seqs(tx, [row["seq"] for row in rows])).values())


MakeLab = Callable[[], Lab]


@pytest.fixture
def make_lab(
    database: Database,
    make_evaluator: Callable[..., Evaluator],
    actions: ActionService,
    service: TriggerService,
    deliveries: DeliveryService,
) -> MakeLab:
    evaluator = make_evaluator()
    rules = Rules(actions, Rehearsing(actions, {}))
    return lambda: Lab(database, evaluator, rules, service, deliveries)


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    return make_lab()


BEGINS, ENDS = field("tag1", "in", ["a", "ab"]), field("tag2", "exists", True)
LIKELY: list[tuple[list[Any], int]] = [
    ([limit(1, scope="agent", reset_on_trigger=True)], 0),
    ([limit(0)], 30),
    ([limit(0, scope="agent")], 30),
    ([sequence(BEGINS, ENDS, "60s")], 0),
    ([window("min", "0", operator="<", window="25s")], 0),
    ([average("1", window_size=3)], 0),
]
"""Rules that tell of something in most histories; of those drawn many are silent."""


async def compare(lab: Lab, seed: int, number: int) -> None:
    """Random rules meet a random history live; afterwards each is tested on it, and explained for some events."""
    rng = random.Random(seed)
    drawn = RandomRules(rng)
    rules = LIKELY + [(drawn.rule(), rng.choice((0, 0, 30))) for _ in range(number - len(LIKELY))]
    made = [(await lab.make(parse(rule, known={}).document, cooldown_seconds=cooldown), rule)
            for rule, cooldown in rules]  # fmt: skip
    waits = "'absence'" in str(made)
    for _ in range(rng.randint(4, 14)):
        raw = rng.choice((1, -3, 7, None))
        await lab.happen(
            rng.choice((0, 0, 1, 6, 13, 40)), rng.choice((1, 1, 2, None)), alone=waits,
            tag1=rng.choice(("a", "b", "ab", "", None)), tag2=rng.choice(("a", "c", None)), value_raw=raw,
            score=raw, feedback_index=rng.choice((1, 2, None)),
            client_address=rng.choice((CLIENT, SAME_CLIENT, OTHER, None)), args=rng.choice(("{}", '{"x": "cab"}')),
        )  # fmt: skip
        if waits or rng.random() < 0.5:
            await finish(lab.evaluator)
    await lab.pass_to(lab.time + 1000)
    async with lab.database.transaction() as tx:
        events = await lab.events(tx)
        for trigger_id, rule in made:
            told = await lab.told(tx, trigger_id)
            ids = {event.id for event in events if event.seq in told}
            tested = await lab.backtest(tx, trigger_id)
            assert {one.event_id for one in tested.sample} == ids, (seed, rule)
            assert tested.deliveries == len(ids), (seed, rule)
            for event in events if (rule, 0) in LIKELY or (rule, 30) in LIKELY else [rng.choice(events)]:
                await explained_alike(lab, tx, trigger_id, event, told, (seed, rule))
        await tx.run("DELETE FROM triggers")


async def explained_alike(
    lab: Lab, tx: Transaction, trigger_id: TriggerId, event: Event, told: set[EventSeq], about: object
) -> None:
    found = await lab.explainer.explain(tx, ORGANIZATION, trigger_id, event, 1000)
    quiet = any(gate.gate == "cooldown" and gate.passed is False for gate in found.explanation.gates)
    assert (found.matched and not quiet) is (event.seq in told), about
    assert found.basis == ("recorded" if event.seq in told else "recomputed"), about


CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=4, deadline=None, derandomize=True, database=None, suppress_health_check=CHECKS)
@given(seed=st.integers(0, 2**63))
async def test_a_backtest_and_explanations_say_what_live_evaluation_said(make_lab: MakeLab, seed: int) -> None:
    await compare(make_lab(), seed, number=12)


PARTS, HISTORIES, RULES = 4, 125, 200
"""A rule on a history is an example."""


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
async def test_a_backtest_and_explanations_say_what_live_evaluation_said_a_hundred_thousand_times(
    make_lab: MakeLab, part: int
) -> None:
    for _ in range(HISTORIES):
        await compare(make_lab(), random.SystemRandom().getrandbits(60), number=RULES)


ASKED, ANSWERED = field("tag1", "eq", "asked"), field("tag1", "eq", "answered")


async def test_an_absence_is_told_where_the_range_goes_beyond_its_span(lab: Lab) -> None:
    trigger_id = await lab.make([absence(ASKED, ANSWERED, "60s")])
    await lab.happen(0, tag1="asked", block_number=1)
    await lab.happen(60, tag1="answered", block_number=2)
    await lab.happen(0, tag1="asked", block_number=3)
    await lab.happen(60, 2, tag1="of another agent", block_number=4)
    await lab.happen(1, 2, tag1="of another agent", block_number=5)
    async with lab.database.transaction() as tx:
        asked = (await lab.events(tx))[2]
        found = [await lab.backtest(tx, trigger_id, from_block=1, to_block=end) for end in (3, 4, 5)]
    # The answer of another agent is none, but its block shows that the time is over.
    assert [one.matches for one in found] == [0, 0, 1]
    [shown] = found[2].sample
    assert (shown.event_id, shown.explanation.tree.result) == (asked.id, True)


@pytest.mark.parametrize(
    ("kind", "operator", "told"), [("min", "<", [1, 2, 3, 4, 6]), ("max", ">", [0, 1, 2, 3, 4, 5])]
)
async def test_extremes_leave_their_window_with_their_samples(
    lab: Lab, kind: str, operator: str, told: list[int]
) -> None:
    trigger_id = await lab.make([window(kind, "50", operator=operator, window="60s")])
    for after, score in ((0, 60), (10, 40), (10, 50), (30, 70), (20, 50), (31, 50), (60, 45)):
        await lab.happen(after, score=score)
    async with lab.database.transaction() as tx:
        found = await lab.backtest(tx, trigger_id)
        numbers = {str(event.id): number for number, event in enumerate(await lab.events(tx))}
    assert [numbers[one.event_id] for one in found.sample] == told


@pytest.mark.parametrize("kind", ["count", "sum", "avg", "min", "max"])
@pytest.mark.parametrize("seed", range(10))
def test_a_window_in_memory_is_the_one_in_the_table(kind: str, seed: int) -> None:
    """Also when it holds all it may, events come late, and what it saw is consumed."""
    rng = random.Random(seed)
    [leaf] = parse([window(kind, "1", window="20s")]).nodes
    assert isinstance(leaf, Stateful)
    memory, stored = WindowMemory(leaf, most=4), Window(kind, leaf.span, None, None, most=4)
    time = NOON
    for seq in range(1, 60):
        time += rng.choice((0, 1, 3, 9))
        event = make_event(
            seq=EventSeq(seq), timestamp=time - rng.choice((0, 0, 0, 4, 15)), score=Decimal(rng.randint(-5, 5))
        )
        value = None if kind == "count" else event.score
        memory.take(event, Input(leaf, "", value))
        before, now = stored.fold(event.seq, event.timestamp, value)
        assert [one[:3] for one in memory.tallies()] == [before[:3], now[:3]]
        if rng.random() < 0.05:
            memory.consume()
            stored.consume(event.seq)


async def test_what_others_did_is_not_read_to_explain_what_happened_to_one(lab: Lab) -> None:
    of_each = await lab.make([limit(1, scope="agent")])
    of_all = await lab.make([limit(1)])
    for number in range(6):
        await lab.happen(1, 2 + number)
    await lab.happen(1)
    await lab.happen(1, tag1="second")
    async with lab.database.transaction() as tx:
        last = (await lab.events(tx))[-1]
        found = [await lab.explainer.explain(tx, ORGANIZATION, one, last, 3) for one in (of_each, of_all)]
    assert [(one.matched, one.explanation.tree.result) for one in found] == [(True, True), (None, None)]


async def test_events_that_cannot_matter_are_not_read(lab: Lab) -> None:
    trigger_id = await lab.make([agent(1), field("client_address", "in", [CLIENT, OTHER])], registry="reputation")
    await lab.happen(1, client_address=SAME_CLIENT)
    await lab.happen(1, 2, client_address=CLIENT)
    await lab.happen(1, client_address=CLIENT, registry="identity")
    async with lab.database.transaction() as tx:
        found = await lab.backtest(tx, trigger_id)
    assert (found.events_scanned, found.matches, found.complete) == (1, 1, True)


async def test_long_work_stops_in_time_and_goes_on_with_the_same_state(lab: Lab) -> None:
    trigger_id = await lab.make([limit(2, scope="agent")])
    for _ in range(5):
        await lab.happen(1)
    hasty = Backtester(lab.rules, EventService(), seconds=0)
    found: list[Backtested] = []
    async with lab.database.transaction() as tx:
        rule = await lab.explainer.rule(tx, ORGANIZATION, trigger_id)
        while not found or found[-1].next_cursor:
            cursor = found[-1].next_cursor if found else None
            wanted = Wanted(rule=rule, saved=None, range=Range(chain_id=lab.chain_id), max_events=100, cursor=cursor)
            found.append(await hasty.run(tx, ORGANIZATION, wanted))
    assert [(one.events_scanned, one.matches) for one in found[:5]] == [(1, 0), (1, 0), (1, 1), (1, 1), (1, 1)]
    assert [one.complete for one in found] == [False] * (len(found) - 1) + [True]
