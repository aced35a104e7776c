"""The summary equals the contract's to the last bit: by worked examples, and by asking our own contract."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import pytest

from agentauri.agents import Summary, gather, summarize, summarize_responses
from agentauri.demo import Account, LocalChain

LARGEST = 10**38
CLIENTS = [Account.number(n).address for n in range(40, 52)]
STRANGER = Account.number(99).address
TAGS = ("", "uptime", "Uptime", "quality")


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([(87, 0), (9977, 2), (8951, 2)], (3, 9209, 2)),
        ([(-32, 1), (-15, 1), (4, 0)], (3, -2, 1)),
        ([(-1, 0), (-75, 2)], (2, 0, 0)),
        ([(LARGEST, 0), (0, 18), (0, 18)], (3, -886533759346574857640019685980940971, 18)),
        ([(10, 0), (10, 0), (40, 0)], (3, 20, 0)),
        ([(10, 0), (40, 0)], (2, 25, 0)),
        ([(-32, 1), (-15, 1), (4, 0), (99, 0)], (4, 24, 0)),
        ([(85, 0), (90, 0), (40, 0)], (3, 71, 0)),
        ([(9977, 2), (85, 0)], (2, 92, 0)),
        ([(-32, 1), (-33, 1), (-33, 1)], (3, -32, 1)),
        ([(1, 0), (2, 0), (-5, 0)], (3, 0, 0)),
        ([(85, 0), (85, 0), (9977, 2)], (3, 89, 0)),
        ([(LARGEST, 0), (1, 18), (1, 18)], (3, -886533759346574857640019685980940970, 18)),
        ([], (0, 0, 0)),
    ],
)
def test_the_summary_of_the_worked_examples(entries: list[tuple[int, int]], expected: tuple[int, int, int]) -> None:
    assert summarize(gather(entries)) == Summary(*expected)


def test_a_score_has_the_decimals_of_its_summary() -> None:
    assert str(Summary(3, -2, 1).score) == "-0.2"
    assert format(Summary(1, 5, 18).score, "f") == "0.000000000000000005"
    assert str(Summary(0, 0, 0).score) == "0"


@pytest.mark.parametrize(
    ("responses", "expected"), [([100, 67, 0], (3, 55)), ([], (0, 0)), ([0], (1, 0)), ([100, 99], (2, 99))]
)
def test_the_summary_of_validations_is_rounded_down(responses: list[int], expected: tuple[int, int]) -> None:
    found = summarize_responses(len(responses), sum(responses))

    assert (found.count, found.average) == expected


class Rating(NamedTuple):
    client: str
    value: int
    decimals: int
    tag1: str
    tag2: str
    revoked: bool


def expected_of(ratings: Sequence[Rating], clients: Sequence[str], tag1: str, tag2: str) -> Summary:
    """Walks the list as the contract does."""
    return summarize(
        gather(
            (one.value, one.decimals)
            for client in clients
            for one in ratings
            if one.client == client and not one.revoked and tag1 in ("", one.tag1) and tag2 in ("", one.tag2)
        )
    )


def random_rating(dice: random.Random) -> Rating:
    value = dice.choice((dice.randint(-100, 100), dice.randint(-LARGEST, LARGEST), LARGEST, -LARGEST, 0, 1, -1))
    return Rating(
        client=dice.choice(CLIENTS),
        value=value,
        decimals=dice.choice((0, 1, 2, 18, dice.randint(0, 18))),
        tag1=dice.choice(TAGS),
        tag2=dice.choice(TAGS),
        revoked=dice.random() < 0.15,
    )


def random_question(dice: random.Random) -> tuple[list[str], str, str]:
    clients = [dice.choice([*CLIENTS, STRANGER]) for _ in range(dice.choice((1, 2, 5, 20)))]
    return clients, dice.choice(TAGS), dice.choice(("", "", *TAGS))


async def rate(chain: LocalChain, ratings: Sequence[Rating]) -> int:
    """A new agent with these ratings."""
    agent_id, _ = await chain.register()
    calls, given = [], dict.fromkeys(CLIENTS, 0)
    for one in ratings:
        what = (agent_id, one.value, one.decimals, one.tag1, one.tag2, "", "", bytes(32))
        calls.append(chain.reputation_call("giveFeedback", *what, sender=one.client))
        given[one.client] += 1
        if one.revoked:
            calls.append(chain.reputation_call("revokeFeedback", agent_id, given[one.client], sender=one.client))
    await chain.send_together(calls)
    return agent_id


async def compare(chain: LocalChain, dice: random.Random, *, agents: int, ratings: int, questions: int) -> None:
    wrapped = 0
    for _ in range(agents):
        given = [random_rating(dice) for _ in range(ratings)]
        agent_id = await rate(chain, given)
        for _ in range(questions):
            clients, tag1, tag2 = random_question(dice)
            said = await chain.read(chain.reputation_call("getSummary", agent_id, clients, tag1, tag2))
            assert expected_of(given, clients, tag1, tag2) == Summary(*said), (given, clients, tag1, tag2)
            wrapped += abs(said[1]) > LARGEST
    assert wrapped  # it says what nobody can have given, so the wrap was among the cases


@pytest.fixture
async def chain() -> AsyncIterator[LocalChain]:
    async with LocalChain.start() as started:
        yield started


async def test_the_summary_equals_the_contracts(chain: LocalChain) -> None:
    await compare(chain, random.Random(8004), agents=2, ratings=60, questions=100)


@pytest.mark.soak
async def test_the_summary_equals_the_contracts_in_ten_thousand_cases(chain: LocalChain) -> None:
    await compare(chain, random.Random(), agents=40, ratings=80, questions=250)
