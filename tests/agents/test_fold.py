"""How the state of agents follows from events: each ordering trap of the registries, stubs, gaps, counts, and undoing.

What the contracts themselves can produce is in test_traps.py; here is what needs logs in an order of our choice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentauri.agents import Projections
from agentauri.database import Transaction
from agentauri.events import NewEvent
from support.agents_replay import (
    TABLES,
    ZERO,
    about_feedback,
    check,
    counters,
    encoded,
    feedback,
    make_event,
    metadata,
    person,
    record,
    response,
    stored,
    take_back,
    transfer,
    validation,
)
from support.events import CHAIN, insert_by_hand

OWNER, OTHER = person(1), person(2)
FILL = Path(__file__).parents[2] / "alembic/versions/0004_agents/4_fill.sql"


def birth(agent: int = 0, block: int = 1, log: int = 0, uri: str = "ipfs://a", owner: str = OWNER) -> list[NewEvent]:
    """What registering logs."""
    return [
        make_event("Transfer", block, log, **transfer(agent, ZERO, owner)),
        make_event("MetadataUpdate", block, log + 1, agent_id=agent),
        make_event("Registered", block, log + 2, agent_id=agent, token_uri=uri, owner=owner),
        make_event("MetadataSet", block, log + 3, **metadata(agent, "agentWallet", bytes.fromhex(owner[2:]))),
    ]


async def agent_row(tx: Transaction, agent: int = 0) -> dict[str, Any]:
    row = await tx.fetchrow("SELECT * FROM agents WHERE chain_id = $1 AND agent_id = $2", CHAIN, agent)
    assert row is not None
    return dict(row)


async def one(tx: Transaction, table: str) -> dict[str, Any]:
    [row] = await tx.fetch(f"SELECT * FROM {table}")
    return dict(row)


async def test_an_agent_is_what_registering_says_of_it(tx: Transaction) -> None:
    await record(tx, *birth())

    agent = await agent_row(tx)
    assert (agent["owner"], agent["agent_uri"], agent["agent_wallet"]) == (OWNER, "ipfs://a", OWNER)
    assert (agent["registered_block"], agent["updated_block"], agent["updated_log"]) == (1, 1, 3)
    await check(tx)


async def test_trap_1_any_event_may_be_the_first_of_an_agent(tx: Transaction) -> None:
    await record(tx, make_event("NewFeedback", 1, 0, **feedback(7, 3, 1)))

    agent = await agent_row(tx, 7)
    assert (agent["owner"], agent["registered_block"], agent["feedback_count"]) == (None, None, 1)
    await check(tx)


async def test_trap_2_the_owner_comes_from_transfers_alone(tx: Transaction) -> None:
    mint, hint, registered, wallet = birth()
    passed_on = make_event("Transfer", 1, 4, **transfer(0, OWNER, OTHER))
    late = make_event("Registered", 1, 5, agent_id=0, token_uri="ipfs://a", owner=OWNER)
    await record(tx, mint, hint, registered, wallet, passed_on, late)

    assert (await agent_row(tx))["owner"] == OTHER
    await check(tx)


async def test_trap_3_registered_without_a_uri_leaves_the_one_that_was_set(tx: Transaction) -> None:
    await record(
        tx,
        make_event("Transfer", 1, 0, **transfer(0, ZERO, OWNER)),
        make_event("URIUpdated", 1, 2, agent_id=0, token_uri="ipfs://set"),
        make_event("Registered", 1, 3, agent_id=0, token_uri="", owner=OWNER),
    )

    assert (await agent_row(tx))["agent_uri"] == "ipfs://set"
    await check(tx)


async def test_trap_3_registered_without_a_uri_just_after_a_hint_empties_it(tx: Transaction) -> None:
    await record(tx, make_event("URIUpdated", 1, 0, agent_id=0, token_uri="ipfs://set"))
    await record(
        tx,
        make_event("MetadataUpdate", 2, 1, agent_id=0),
        make_event("Registered", 2, 2, agent_id=0, token_uri="", owner=OWNER),
    )

    assert (await agent_row(tx))["agent_uri"] == ""
    await check(tx)


async def test_trap_3_a_hint_about_another_agent_is_none(tx: Transaction) -> None:
    await record(
        tx,
        make_event("URIUpdated", 1, 0, agent_id=0, token_uri="ipfs://set"),
        make_event("MetadataUpdate", 1, 1, agent_id=5),
        make_event("Registered", 1, 2, agent_id=0, token_uri="", owner=OWNER),
    )

    assert (await agent_row(tx))["agent_uri"] == "ipfs://set"
    await check(tx)


async def test_trap_4_the_wallet_that_follows_upon_registered_is_old_news(tx: Transaction) -> None:
    [mint, _, registered, wallet] = birth(log=4)
    cleared = make_event("MetadataSet", 1, 5, **metadata(0, "agentWallet", b""))
    await record(tx, mint, cleared, registered, wallet)

    assert (await agent_row(tx))["agent_wallet"] is None
    assert (await one(tx, "agent_metadata"))["value"] == b""
    await check(tx)


async def test_trap_5_a_transfer_clears_the_wallet_before_it_is_logged(tx: Transaction) -> None:
    await record(tx, *birth())
    await record(
        tx,
        make_event("MetadataSet", 2, 0, **metadata(0, "agentWallet", b"")),
        make_event("Transfer", 2, 1, **transfer(0, OWNER, OWNER)),
    )

    agent = await agent_row(tx)
    assert (agent["owner"], agent["agent_wallet"]) == (OWNER, None)
    await check(tx)


async def test_trap_6_approvals_end_at_a_transfer_and_operators_stay(tx: Transaction) -> None:
    everything = {"operator": OTHER, "approved": True}
    await record(
        tx,
        *birth(),
        make_event("Approval", 2, 0, agent_id=0, owner=OWNER, args={"approved": OTHER}),
        make_event("ApprovalForAll", 2, 1, owner=OWNER, args=everything),
    )
    assert (await agent_row(tx))["approved"] == OTHER
    await record(tx, make_event("Transfer", 3, 0, **transfer(0, OWNER, OTHER)))

    assert (await agent_row(tx))["approved"] is None
    assert (await one(tx, "agent_operators"))["approved_block"] == 2
    await record(tx, make_event("ApprovalForAll", 4, 0, owner=OWNER, args={**everything, "approved": False}))
    assert (await one(tx, "agent_operators"))["approved_block"] is None
    await check(tx)


async def test_trap_7_one_registration_may_stand_within_another(tx: Transaction) -> None:
    mint, hint, *_ = birth(0, log=0)
    inner = birth(1, log=2, uri="ipfs://b", owner=OTHER)
    last = [
        make_event("Registered", 1, 6, agent_id=0, token_uri="ipfs://a", owner=OWNER),
        make_event("MetadataSet", 1, 7, **metadata(0, "agentWallet", bytes.fromhex(OWNER[2:]))),
    ]
    await record(tx, mint, hint, *inner, *last)

    assert ((await agent_row(tx, 0))["agent_uri"], (await agent_row(tx, 0))["agent_wallet"]) == ("ipfs://a", OWNER)
    assert ((await agent_row(tx, 1))["agent_uri"], (await agent_row(tx, 1))["owner"]) == ("ipfs://b", OTHER)
    await check(tx)


async def test_trap_8_a_hint_changes_nothing(tx: Transaction) -> None:
    await record(tx, *birth())
    before = await agent_row(tx)
    await record(tx, make_event("MetadataUpdate", 2, 0, agent_id=0))

    told = ("owner", "agent_uri", "agent_wallet", "approved", "feedback_count")
    assert [(await agent_row(tx))[name] for name in told] == [before[name] for name in told]


async def test_trap_9_a_wallet_may_be_logged_before_registered(tx: Transaction) -> None:
    mint, hint, _, _ = birth()
    wallet = make_event("MetadataSet", 1, 2, **metadata(0, "agentWallet", b"\x07" * 20))
    registered = make_event("Registered", 1, 3, agent_id=0, token_uri="ipfs://a", owner=OWNER)
    await record(tx, mint, hint, wallet, registered)

    assert (await agent_row(tx))["agent_wallet"] == "0x" + "07" * 20
    await check(tx)


async def test_trap_10_a_gap_is_told_with_agent_client_and_what_is_missing(tx: Transaction) -> None:
    first = make_event("NewFeedback", 1, 0, **feedback(4, 3, 1))
    later = make_event("NewFeedback", 2, 0, **feedback(4, 3, 4))
    await record(tx, first)
    rows = await insert_and_project(tx, later)

    assert rows == [(4, person(3), 2, 3)]


async def test_trap_10_an_index_that_an_old_layout_counted_is_no_gap(tx: Transaction) -> None:
    await record(tx, make_event("NewFeedback", 1, 0, **feedback(4, 3, 1, args={"layout": "413f2d30"})))
    rows = await insert_and_project(tx, make_event("NewFeedback", 2, 0, **feedback(4, 3, 2)))

    assert rows == []
    assert await tx.fetchval("SELECT count(*) FROM feedback") == 1, "an old layout is never feedback"
    await check_state(tx)


async def test_trap_10_feedback_under_an_index_that_was_used_before_replaces_it(tx: Transaction) -> None:
    await record(
        tx,
        make_event("NewFeedback", 1, 0, **feedback(4, 3, 1, value=10)),
        make_event("FeedbackRevoked", 2, 0, **about_feedback(4, 3, 1)),
        make_event("NewFeedback", 3, 0, **feedback(4, 3, 1, value=20)),
    )

    row = await one(tx, "feedback")
    assert (row["value_raw"], row["revoked"], row["revoked_block"]) == (20, False, None)
    assert (await agent_row(tx, 4))["feedback_count"] == 1
    await check(tx)


async def test_trap_11_what_is_said_of_unknown_feedback_makes_a_stub_that_is_filled_later(tx: Transaction) -> None:
    await record(
        tx,
        make_event("FeedbackRevoked", 5, 0, **about_feedback(4, 3, 1)),
        make_event("ResponseAppended", 6, 0, **response(4, 3, 1)),
        make_event("ResponseAppended", 6, 1, **response(4, 3, 1)),
    )
    stub = await one(tx, "feedback")
    assert (stub["incomplete"], stub["revoked"], stub["value_raw"]) == (True, True, None)
    assert await tx.fetchval("SELECT count(*) FROM feedback_responses") == 2

    await record(tx, make_event("NewFeedback", 1, 0, **feedback(4, 3, 1)))  # an earlier block, found late
    filled = await one(tx, "feedback")
    assert (filled["incomplete"], filled["revoked"], filled["revoked_block"], filled["value_raw"]) == (
        False, True, 5, 80,
    )  # fmt: skip
    await check(tx)


async def test_trap_12_validations_are_answered_often_or_before_they_are_known(tx: Transaction) -> None:
    def answer(block: int, percent: int) -> NewEvent:
        return make_event("ValidationResponse", block, 0, **validation(1, 9, response=percent, tag=str(block)))

    await record(tx, answer(2, 100), answer(3, 0))
    stub = await one(tx, "validations")
    assert (stub["incomplete"], stub["response"], stub["tag"], stub["responses"]) == (True, 0, "3", 2)

    await record(tx, make_event("ValidationRequest", 1, 0, **validation(1, 9, request_uri="ipfs://q")))
    known = await one(tx, "validations")
    assert (known["incomplete"], known["request_uri"], known["requested_block"]) == (False, "ipfs://q", 1)
    assert await tx.fetchval("SELECT count(*) FROM validation_responses") == 2
    await check(tx)


async def test_trap_13_zero_is_a_value(tx: Transaction) -> None:
    await record(
        tx,
        *birth(0),
        make_event("NewFeedback", 2, 0, **feedback(0, 3, 1, value=0)),
        make_event("ValidationRequest", 3, 0, **validation(0, 0, request_uri="")),
    )
    assert (await one(tx, "validations"))["responses"] == 0
    await record(tx, make_event("ValidationResponse", 4, 0, **validation(0, 0, response=0)))

    assert (await one(tx, "validations"))["response"] == 0
    assert (await one(tx, "feedback"))["score"] == 0
    assert (await agent_row(tx, 0))["validation_count"] == 1
    await check(tx)


async def test_trap_15_what_is_taken_back_is_undone_and_comes_back(tx: Transaction) -> None:
    await record(tx, *birth(), make_event("NewFeedback", 2, 0, **feedback(0, 3, 1)))
    before = await stored(tx)
    branch = [
        make_event("Transfer", 3, 0, **transfer(0, OWNER, OTHER)),
        make_event("FeedbackRevoked", 3, 1, **about_feedback(0, 3, 1)),
        make_event("NewFeedback", 3, 2, **feedback(0, 4, 1)),
        make_event("ApprovalForAll", 3, 3, owner=OTHER, args={"operator": OWNER, "approved": True}),
        *birth(1, block=4),
    ]
    await record(tx, *branch)
    after = await stored(tx)

    await take_back(tx, 2)
    assert await stored(tx) == before
    assert (await counters(tx)).get("FeedbackRevoked") is None
    await record(tx, *branch)
    assert await stored(tx) == after
    await check(tx)


async def test_trap_16_agents_share_a_wallet_and_a_uri(tx: Transaction) -> None:
    await record(tx, *birth(0), *birth(1, block=2))

    assert (await agent_row(tx, 0))["agent_wallet"] == (await agent_row(tx, 1))["agent_wallet"] == OWNER


async def test_refetching_changes_nothing(tx: Transaction) -> None:
    logs = [*birth(), make_event("ResponseAppended", 2, 0, **response(0, 3, 1))]
    await record(tx, *logs)
    before, counted = await stored(tx), await counters(tx)
    await record(tx, *logs)

    assert (await stored(tx), await counters(tx)) == (before, counted)


async def test_counts_tell_what_was_given_whatever_became_of_it(tx: Transaction) -> None:
    await record(
        tx,
        make_event("NewFeedback", 1, 0, **feedback(0, 3, 1)),
        make_event("NewFeedback", 1, 1, **feedback(0, 3, 2)),
        make_event("NewFeedback", 2, 0, **feedback(0, 4, 1)),
        make_event("FeedbackRevoked", 3, 0, **about_feedback(0, 4, 1)),
    )

    agent = await agent_row(tx, 0)
    assert (agent["feedback_count"], agent["client_count"]) == (3, 2)
    assert agent["last_feedback_time"] == 1_700_000_004
    await check(tx)


async def test_a_row_by_hand_with_no_more_than_it_must_have_counts_as_a_sight_of_its_agent(tx: Transaction) -> None:
    seq = await insert_by_hand(tx, "by hand", agent_id=3)
    await Projections().written(tx, CHAIN, [seq], [], {("reputation", "NewFeedback"): 1})

    assert (await agent_row(tx, 3))["feedback_count"] == 0


async def test_no_text_is_too_long_for_the_state(tx: Transaction) -> None:
    junk = "".join(person(number) for number in range(2000))
    await record(
        tx,
        make_event("URIUpdated", 1, 0, agent_id=1, token_uri=junk),
        make_event("MetadataSet", 1, 1, **metadata(1, junk, junk.encode())),
        make_event("NewFeedback", 1, 2, **feedback(1, 3, 1, tag1=junk, endpoint=junk)),
        make_event("ValidationRequest", 1, 3, **validation(1, 1, request_uri=junk)),
        make_event("ApprovalForAll", 1, 4, owner=OWNER, args={"operator": junk, "approved": True}),
    )

    assert (await one(tx, "agent_metadata"))["key"] == junk


async def test_counters_that_are_wrong_are_corrected_and_told(tx: Transaction) -> None:
    await record(tx, *birth())
    await tx.run("UPDATE event_counters SET count = 7 WHERE event_type = 'Registered'")
    await tx.run("DELETE FROM event_queue")
    [wrong] = await Projections().recount(tx, CHAIN)

    assert (wrong.event_type, wrong.counted, wrong.correct) == ("Registered", 7, 1)
    assert (await counters(tx))["Registered"] == 1
    assert await Projections().recount(tx, CHAIN) == []


async def test_the_migration_fills_the_tables_from_what_is_stored(tx: Transaction) -> None:
    await record(
        tx, *birth(), make_event("ApprovalForAll", 2, 0, owner=OWNER, args={"operator": OTHER, "approved": True})
    )
    await tx.run("DELETE FROM event_queue")
    before, counted = await stored(tx), await counters(tx)
    for table in (*TABLES, "event_counters"):
        await tx.run(f"DELETE FROM {table}")

    for statement in FILL.read_text().strip().split("\n\n"):
        await tx.run(statement)

    assert (await stored(tx), await counters(tx)) == (before, counted)


async def insert_and_project(tx: Transaction, event: NewEvent) -> list[tuple[Any, ...]]:
    """The gaps that are found before a feedback written by hand."""
    names = ("block_number", "log_index", "agent_id", "client_address", "feedback_index", "value_raw", "value_decimals")
    columns = {name: getattr(event, name) for name in names}
    seq = await insert_by_hand(tx, event.id, **columns, args=encoded(event.args))
    return [tuple(row) for row in await tx.fetch("SELECT * FROM project_events($1, ARRAY[$2::bigint])", CHAIN, seq)]


async def check_state(tx: Transaction) -> None:
    """As `check`, where an event was not counted."""
    await Projections().recount(tx, CHAIN)
