"""Whatever the rule and the events, what is matched and remembered is what a plain reading of the rule says."""

from __future__ import annotations

import random
from collections.abc import Callable
from decimal import Decimal
from math import isclose
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentauri.database import Database, Transaction
from agentauri.events import Event
from agentauri.triggers import Evaluator
from agentauri.triggers.conditions import parse
from agentauri.triggers.index import Index
from agentauri.triggers.matching import Definition
from agentauri.triggers.state.meeting import SLOTS
from agentauri.triggers.state.rehearsal import Rehearsal
from agentauri.triggers.state.slots import AbsenceSlot, CooldownSlot, SequenceSlot, WindowSlot
from triggers.making import CHAIN, make_event
from triggers.naive import STATEFUL, Naive
from triggers.test_state_reorg import START, STEP, World

ORDERED = ("lt", "lte", "gt", "gte", "eq", "ne", ">", "<=")
CLIENT, SAME_CLIENT, OTHER = "0x" + "ab" * 20, "0x" + "AB" * 20, "0x" + "cd" * 20
FIELDS = (
    "score", "agent_id", "tag1", "value_raw", "feedback_index", "tag2", "client_address", "args.x", "timestamp",
)  # fmt: skip
NOON = 1_700_000_000


class Rules:
    """Random rules."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def rule(self) -> list[Any]:
        rng = self.rng
        items = [self.node(rng.randint(0, 3)) for _ in range(rng.randint(1, 3))]
        if rng.random() < 0.2 and not any(resets(item) for item in items):
            items.insert(rng.randint(0, len(items)), self.pair("absence", "after", "expect"))
        return items if rng.random() < 0.8 else [{"all": items}]

    def node(self, depth: int, *, stateless: bool = False) -> Any:
        roll = self.rng.random()
        if depth and roll < 0.5:
            kind = self.rng.choice(("all", "any", "not"))
            inner = [self.node(depth - 1, stateless=stateless) for _ in range(self.rng.randint(1, 3))]
            return {"not": inner[0]} if kind == "not" else {kind: inner}
        if stateless or roll > 0.8:
            return self.plain()
        return self.remembering()

    def plain(self) -> Any:
        rng = self.rng
        name = rng.choice(FIELDS)
        if rng.random() < 0.15:
            return {"condition_type": "agent_id_equals", "value": rng.randint(1, 2)}
        leaf = {"condition_type": "field", "field": name}
        if rng.random() < 0.1:
            return leaf | {"operator": "exists", "value": rng.random() < 0.5}
        if name in ("tag1", "tag2", "args.x"):
            words = rng.choice(("eq", "ne", "contains", "starts_with", "ends_with", "regex", "in", "not_in"))
            return leaf | {"operator": words, "value": self.several(words, lambda: rng.choice(("a", "b", "c", "ab")))}
        if name == "client_address":
            kind = rng.choice(("eq", "ne", "in", "contains"))
            return leaf | {
                "operator": kind,
                "value": self.several(kind, lambda: rng.choice((CLIENT, SAME_CLIENT, OTHER))),
            }
        kind = rng.choice((*ORDERED, "in", "not_in"))
        return leaf | {"operator": kind, "value": self.several(kind, self.number)}

    def several(self, kind: str, one: Callable[[], Any]) -> Any:
        return [one() for _ in range(self.rng.randint(1, 3))] if kind in ("in", "not_in") else one()

    def number(self) -> str:
        return str(Decimal(self.rng.randint(-9, 9)) / self.rng.choice((1, 2, 4)))

    def scope(self) -> dict[str, Any]:
        scopes = ("agent", "client", "trigger", ["chain_id"], ["chain_id", "tag1"])
        return self.rng.choice(({}, *({"scope": scope} for scope in scopes)))

    def span(self) -> str:
        return f"{self.rng.choice((1, 7, 14, 25, 60, 300))}s"

    def remembering(self) -> Any:
        rng = self.rng
        kind = rng.choice(sorted(STATEFUL - {"absence"}))
        if kind == "sequence":
            return self.pair("sequence", "first", "then")
        config: dict[str, Any] = self.scope()
        leaf: dict[str, Any] = {
            "condition_type": kind,
            "operator": rng.choice(ORDERED),
            "value": self.number(),
            "config": config,
        }
        if kind == "ema_threshold":
            config["window_size"] = rng.randint(1, 5)
        elif kind == "rate_limit":
            config |= {"time_window": self.span(), "reset_on_trigger": rng.random() < 0.5}
            leaf["value"] = rng.randint(0, 4)
        else:
            config["window"] = self.span()
            if kind != "count":
                leaf["field"] = "score"
            if rng.random() < 0.3:
                config["where"] = self.node(1, stateless=True)
        return leaf

    def pair(self, kind: str, begins: str, ends: str) -> Any:
        sorts = {begins: self.node(1, stateless=True), ends: self.node(1, stateless=True)}
        return {"condition_type": kind, "config": sorts | {"within": self.span()} | self.scope()}


def resets(node: Any) -> bool:
    return "'reset_on_trigger': True" in str(node)


def random_events(rng: random.Random) -> list[Event]:
    """In the order of their evaluation, some of them late, several in one second."""
    found, time = [], NOON
    for number in range(rng.randint(3, 14)):
        time += rng.choice((0, 0, 1, 6, 13, 40))
        late = time - rng.choice((0, 0, 0, 0, 5, 20))
        found.append(
            make_event(
                seq=number + 1, id=f"event-{number}", timestamp=late, block_number=rng.randint(1, 3), log_index=number,
                agent_id=rng.choice((1, 1, 2, None)), tag1=rng.choice(("a", "b", "ab", "", None)),
                tag2=rng.choice(("a", "c", None)), value_raw=rng.choice((1, -3, None)),
                score=rng.choice((None, Decimal(rng.randint(-9, 9)) / rng.choice((1, 2, 4)))),
                feedback_index=rng.choice((1, 2, None)), client_address=rng.choice((CLIENT, SAME_CLIENT, OTHER, None)),
                args=rng.choice(({}, {"x": "a"}, {"x": "cab"})),
            )
        )  # fmt: skip
    return found


class Engine:
    """The engine without a database: the index, compiled rules, and state that was never written."""

    def __init__(self, condition: Any, cooldown: int) -> None:
        tree = parse(condition, known={})
        self.index = Index()
        self.index.put(
            Definition(
                trigger_id="t", organization_id="o", version=1, environment="live", chain_id=CHAIN, registry=None,
                start_seq=0, start_blocks={}, created=0, nodes=tree.nodes, actions=(), cooldown_seconds=cooldown,
            )
        )  # fmt: skip
        self.slots: dict[tuple[int, str], Any] = {}
        self.cooldown = CooldownSlot(cooldown, None)
        program = self.index.program(0)
        assert program is not None
        self.rehearsal = None if program.state is None else Rehearsal(program.state)
        self.waiting: list[tuple[Event, int, AbsenceSlot]] = []

    def meet(self, event: Event) -> tuple[bool, bool, dict[int, Any]]:
        """Whether it matched, whether silently, and the numbers that its leaves came to."""
        [*numbers] = self.index.candidates(event)
        program = self.index.program(numbers[0]) if numbers else None
        if program is None or not program.matches(event):
            return False, False, {}
        if program.state is None:
            return True, False, {}
        inputs = program.state.inputs(event)
        holding: set[int] = set()
        shown: dict[int, Any] = {}
        slots = [
            self.slots.setdefault((one.leaf.id, one.scope_key), SLOTS.get(one.leaf.kind, WindowSlot)(one.leaf, None))
            for one in inputs
        ]
        for slot, one in zip(slots, inputs, strict=True):
            entry, tells = slot.fold(event, one)
            if entry.held:
                holding.add(one.leaf.id)
            if one.leaf.kind not in ("sequence", "absence"):
                shown[one.leaf.id] = tells.get("ema", tells["count"])
        for slot, one in zip(slots, inputs, strict=True):
            if isinstance(slot, AbsenceSlot) and one.begins and program.state.judge(event, {*holding, one.leaf.id}):
                self.waiting.append((event, event.timestamp + one.leaf.span, slot))
        if not program.state.judge(event, holding):
            return False, False, shown
        if program.state.cooldown_seconds and not self.cooldown.fold(event.seq, event.timestamp).held:
            return True, True, shown
        for slot, one in zip(slots, inputs, strict=True):
            if one.leaf.resets and isinstance(slot, WindowSlot):
                slot.window.consume(event.seq)
        return True, False, shown


def compare(seed: int) -> None:
    rng = random.Random(seed)
    rule, cooldown = Rules(rng).rule(), rng.choice((0, 0, 0, 20))
    engine, naive = Engine(rule, cooldown), Naive(rule, cooldown)
    for event in random_events(rng):
        matched, silent, numbers = engine.meet(event)
        assert (matched, silent) == naive.meet(event), (rule, event)
        if engine.rehearsal is not None:
            visit = engine.rehearsal.meet(event)
            assert (visit.matched, visit.suppressed) == (matched, silent), (rule, event)
        mine, plain = sorted(numbers.values()), sorted(naive.numbers.values())
        assert len(mine) == len(plain), (rule, event)
        assert all(isclose(one, other, rel_tol=1e-12) for one, other in zip(mine, plain, strict=True)), (rule, event)
    assert [event for event, _, _ in engine.waiting] == [one[3] for one in naive.asked], rule
    if engine.rehearsal is not None:
        rang = [visit.event for visit in engine.rehearsal.ring(CHAIN, NOON + 200) if not visit.suppressed]
        assert rang == naive.silences(NOON + 200), rule
    left = sum(one.consumed_by is not None for slot in engine.slots.values() for one in used_of(slot))
    assert left == len(naive.used), rule


def used_of(slot: object) -> list[Any]:
    if isinstance(slot, SequenceSlot):
        return slot.fresh
    return slot.window.fresh if isinstance(slot, WindowSlot) else []


@settings(max_examples=600, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**63))
def test_the_engine_says_what_a_plain_reading_says(seed: int) -> None:
    compare(seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_engine_says_what_a_plain_reading_says_a_hundred_thousand_times() -> None:
    first = random.SystemRandom().getrandbits(60)
    for seed in range(first, first + 100_000):
        compare(seed)


async def live(database: Database, make_evaluator: Callable[..., Evaluator], seed: int, number: int) -> None:
    """So many random rules on a random chain that forks, with a new process now and then, against the chain that is
    left."""
    rng = random.Random(seed)
    world = World(database, make_evaluator(max_concurrent_events=rng.choice((3, 13))), rng)
    rules = {f"rule {one} {world.chain_id}": (Rules(rng).rule(), rng.choice((0, 0, 30))) for one in range(number)}
    async with database.transaction() as tx:
        await add(tx, world.chain_id, rules)
    world.mine([world.log()])
    for _ in range(rng.randint(4, 10)):
        await step(world, make_evaluator)
    while len(world.blocks) < world.highest + 60:
        world.mine([])
    await world.settle()
    assert await matches(database, world) == plainly(world, rules)
    async with database.transaction() as tx:
        await tx.run("DELETE FROM triggers")


async def add(tx: Transaction, chain_id: int, rules: dict[str, tuple[Any, int]]) -> None:
    conditions = [msgspec.json.encode(parse(rule, known={}).document).decode() for rule, _ in rules.values()]
    await tx.run(
        """INSERT INTO triggers (id, organization_id, user_id, name, chain_id, start_blocks, condition,
                                 cooldown_seconds)
           SELECT id, 'org-1', 'user-1', id, $1::bigint, jsonb_build_object($1::bigint, 0), condition::jsonb, cooldown
           FROM unnest($2::text[], $3::text[], $4::int[]) AS t (id, condition, cooldown)""",
        chain_id,
        list(rules),
        conditions,
        [cooldown for _, cooldown in rules.values()],
    )
    await tx.run(
        """INSERT INTO trigger_actions (trigger_id, action_type, destination)
           SELECT id, 'webhook', 'hook.test' FROM triggers WHERE chain_id = $1""",
        chain_id,
    )


async def step(world: World, make_evaluator: Callable[..., Evaluator]) -> None:
    rng = world.rng
    match rng.choice(("mine", "mine", "index", "index", "evaluate", "evaluate", "fork", "chores", "restart")):
        case "mine":
            for _ in range(rng.randint(1, 5)):
                world.mine([world.log() for _ in range(rng.randint(0, 3))])
        case "index":
            await world.index(rng.randint(1, 9))
        case "evaluate":
            await world.evaluator.step()
        case "fork":
            await world.fork(rng.randint(1, 8), ["kept", "moved", "dropped"])
        case "chores":
            await world.evaluator.chores()
        case _:
            world.evaluator = make_evaluator(max_concurrent_events=rng.choice((3, 13)))


async def matches(database: Database, world: World) -> set[tuple[str, int]]:
    async with database.transaction() as tx:
        rows = await tx.fetch(
            """SELECT trigger_id, convert_from(data, 'UTF8')::int FROM deliveries d JOIN events e ON e.seq = d.event_seq
               WHERE d.chain_id = $1 AND d.kind IN ('match', 'absence') AND d.reason IS DISTINCT FROM 'retracted'""",
            world.chain_id,
        )
    return {(row[0], row[1]) for row in rows}


def plainly(world: World, rules: dict[str, tuple[Any, int]]) -> set[tuple[str, int]]:
    """What the chain alone that is left makes of the rules."""
    found = set()
    chain = [
        make_event(
            seq=number, chain_id=event.chain_id, block_number=event.block_number, log_index=event.log_index,
            timestamp=event.timestamp, agent_id=event.agent_id, tag1=event.tag1, score=event.score, tag2=event.tag2,
            client_address=event.client_address, value_raw=event.value_raw, feedback_index=event.feedback_index,
            args=event.args, data=event.data,
        )
        for number, event in enumerate(world.events(0, len(world.blocks)), 1)
    ]  # fmt: skip
    for trigger_id, (rule, cooldown) in rules.items():
        naive = Naive(rule, cooldown)
        told = [event for event in chain if naive.meet(event) == (True, False)]
        told += naive.silences(START + STEP * (len(world.blocks) - 1))
        found |= {(trigger_id, int(event.data or b"0")) for event in told}
    return found


CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=6, deadline=None, derandomize=True, database=None, suppress_health_check=CHECKS)
@given(seed=st.integers(0, 2**63))
async def test_after_forks_and_restarts_it_is_what_the_chain_that_is_left_says(
    database: Database, make_evaluator: Callable[..., Evaluator], seed: int
) -> None:
    await live(database, make_evaluator, seed, number=4)


PARTS, HISTORIES, RULES = 4, 125, 200
"""A rule on a history is an example."""


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
async def test_after_forks_and_restarts_it_is_what_the_chain_that_is_left_says_a_hundred_thousand_times(
    database: Database, make_evaluator: Callable[..., Evaluator], part: int
) -> None:
    for _ in range(HISTORIES):
        await live(database, make_evaluator, random.SystemRandom().getrandbits(60), number=RULES)
