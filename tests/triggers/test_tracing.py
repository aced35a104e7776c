"""A trace says what the evaluator says, whatever the rule and the events."""

from __future__ import annotations

import random

import pytest

from agentauri.triggers.conditions import parse
from agentauri.triggers.matching import Definition, compile_nodes
from agentauri.triggers.state.programs import compile_state
from agentauri.triggers.state.rehearsal import Rehearsal
from agentauri.triggers.tracing import Memory, trace
from triggers.making import CHAIN, make_event
from triggers.test_naive import NOON, Rules


@pytest.mark.parametrize("seed", range(40))
def test_the_verdict_of_a_trace_is_the_evaluators(seed: int) -> None:
    rng = random.Random(seed)
    tree = parse(Rules(rng).rule())
    definition = Definition("t", "o", 1, "live", None, None, -1, {}, 0, tree.nodes, ())
    program = compile_state(definition)
    rehearsal = None if program is None else Rehearsal(program)
    for seq in range(1, 40):
        event = make_event(
            seq=seq, block_number=seq, timestamp=NOON + 5 * seq, agent_id=rng.randint(1, 2),
            value_raw=rng.randint(-9, 9), value_decimals=0, tag1=rng.choice(("a", "b", None)),
        )  # fmt: skip
        if rehearsal is None:
            matched, memory = compile_nodes(tree.nodes)(event), Memory()
        else:
            answer = rehearsal.meet(event)
            matched, memory = answer.matched, Memory(answer.holding, answer.shown)
        assert trace(tree.nodes, tree.document, event, memory).result is matched
    for answer in () if rehearsal is None else rehearsal.ring(CHAIN, NOON + 1000):
        memory = Memory(answer.holding, answer.shown)
        assert trace(tree.nodes, tree.document, answer.event, memory).result is True
