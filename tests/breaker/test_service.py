"""Breakers in PostgreSQL: many askers, one truth."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from agentauri import metrics
from agentauri.breaker import Breaker, BreakerBusy, BreakerConfig, BreakerService, Outcome, Transition
from agentauri.database import Database
from agentauri.types import TriggerId

T = TriggerId("t-1")
CONFIG = BreakerConfig(failure_threshold=3, recovery_timeout_seconds=60, half_open_max_calls=1)


@pytest.fixture
def breakers() -> BreakerService:
    return BreakerService()


async def told(
    database: Database, breakers: BreakerService, outcomes: str, *, trigger_id: TriggerId = T, config: Any = CONFIG
) -> list[Transition]:
    kinds = {"S": True, "F": False, "U": None}
    async with database.transaction() as tx:
        return await breakers.record(
            tx,
            [
                Outcome(trigger_id=trigger_id, ok=kinds[outcome], error="the cause", config=config)
                for outcome in outcomes
            ],
        )


async def admitted(database: Database, breakers: BreakerService, wanted: int, config: BreakerConfig = CONFIG) -> int:
    async with database.transaction() as tx:
        return (await breakers.admit(tx, {T: (config, wanted)}))[T].go


async def row(database: Database, breakers: BreakerService) -> Breaker:
    async with database.transaction() as tx:
        return await breakers.get(tx, T)


async def sql(database: Database, statement: str) -> None:
    async with database.transaction() as tx:
        await tx.run(statement)


async def test_without_a_row_a_breaker_is_closed(database: Database, breakers: BreakerService) -> None:
    assert await admitted(database, breakers, 50) == 50
    assert await row(database, breakers) == Breaker(trigger_id=T)


async def test_successes_at_rest_write_nothing(database: Database, breakers: BreakerService) -> None:
    await told(database, breakers, "SSSU")

    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT count(*) FROM circuit_breaker_state") == 0


async def test_the_threshold_opens_it(database: Database, breakers: BreakerService) -> None:
    assert await told(database, breakers, "FFSFF") == []
    assert await told(database, breakers, "F") == [Transition(T, "open", "the cause")]

    breaker = await row(database, breakers)
    assert (breaker.state, breaker.failure_count, breaker.last_error) == ("open", 3, "the cause")
    assert breaker.opened_at is not None
    assert breaker.next_probe_at is not None
    assert (breaker.next_probe_at - breaker.opened_at).total_seconds() == 60
    assert await admitted(database, breakers, 1) == 0


async def test_opening_is_told_in_the_audit_log_of_the_triggers_owner(
    database: Database, breakers: BreakerService
) -> None:
    await sql(database, "INSERT INTO triggers (id, organization_id, user_id, name) VALUES ('t-1', 'org-1', 'u', 'n')")

    await told(database, breakers, "FFFF")

    async with database.transaction() as tx:
        rows = await tx.fetch(
            "SELECT organization_id, event, target_id, details FROM audit_log WHERE organization_id = 'org-1'"
        )
    assert [tuple(row) for row in rows] == [("org-1", "breaker.opened", "t-1", '{"last_error": "the cause"}')]


async def test_an_endpoint_that_keeps_failing_is_told_once_a_day(
    database: Database, breakers: BreakerService, log_lines: list[dict[str, object]]
) -> None:
    await sql(
        database,
        f"""INSERT INTO triggers (id, organization_id, user_id, name) VALUES ('{T}', 'org-2', 'user', 't');
            INSERT INTO trigger_actions (trigger_id, action_type, destination)
            VALUES ('{T}', 'webhook', 'b.example'), ('{T}', 'webhook', 'a.example'), ('{T}', 'rest', 'a.example')""",
    )

    def told_of() -> list[dict[str, object]]:
        return [line for line in log_lines if line.get("code") == "ENDPOINT_FAILING"]

    count = metrics.ENDPOINTS_FAILING._value.get()  # endpoints_failing_total
    await told(database, breakers, "FFF")
    (line,) = told_of()
    assert (line["trigger_id"], line["organization_id"], line["failures"]) == (T, "org-2", 3)
    assert line["message"] == f"The endpoint of trigger {T} keeps failing: a.example, b.example"
    assert line["last_error"] == "the cause"
    for probe in range(2):
        await sql(database, "UPDATE circuit_breaker_state SET next_probe_at = now()")
        async with database.transaction() as tx:
            await breakers.tick(tx)
        assert await admitted(database, breakers, 1) == 1
        await told(database, breakers, "F")
        assert len(told_of()) == 1 + probe
        await sql(database, "UPDATE circuit_breaker_state SET told_at = now() - interval '1 day'")
    assert metrics.ENDPOINTS_FAILING._value.get() == count + 2


async def test_the_tick_lets_it_probe_and_a_success_closes_it(database: Database, breakers: BreakerService) -> None:
    await told(database, breakers, "FFF")
    async with database.transaction() as tx:
        assert await breakers.tick(tx) == []
    await sql(database, "UPDATE circuit_breaker_state SET next_probe_at = now()")

    async with database.transaction() as tx:
        assert [change.state for change in await breakers.tick(tx)] == ["half_open"]
    assert [change.state for change in await told(database, breakers, "S")] == ["closed"]

    assert (await row(database, breakers)).failure_count == 0


async def test_half_open_admits_exactly_as_many_under_concurrency(database: Database, breakers: BreakerService) -> None:
    config = BreakerConfig(failure_threshold=1, half_open_max_calls=4)
    await told(database, breakers, "F", config=config)
    await sql(database, "UPDATE circuit_breaker_state SET next_probe_at = now()")
    async with database.transaction() as tx:
        await breakers.tick(tx)

    async def until_answered() -> int:
        while True:
            async with database.transaction() as tx:
                admission = (await breakers.admit(tx, {T: (config, 1)}))[T]
            if not admission.busy:
                return admission.go

    assert sum(await asyncio.gather(*(until_answered() for _ in range(50)))) == 4


async def until_written(database: Database, outcomes: Sequence[Outcome]) -> None:
    while True:
        with suppress(BreakerBusy):
            async with database.transaction() as tx:
                await BreakerService().record(tx, outcomes)
            return


async def test_failures_of_many_processes_are_all_counted(database: Database) -> None:
    config = BreakerConfig(failure_threshold=1000)
    outcome = Outcome(trigger_id=T, ok=False, config=config, error="x")

    await asyncio.gather(*(until_written(database, [outcome, outcome]) for _ in range(15)))

    assert (await row(database, BreakerService())).failure_count == 30


async def test_triggers_in_any_order_never_deadlock(database: Database) -> None:
    outcomes = [
        Outcome(trigger_id=TriggerId(f"t-{number}"), ok=False, config=BreakerConfig(failure_threshold=100), error="x")
        for number in range(20)
    ]

    await asyncio.gather(*(until_written(database, outcomes if number % 2 else outcomes[::-1]) for number in range(10)))

    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT sum(failure_count) FROM circuit_breaker_state") == 200


async def test_a_breaker_locked_by_hand_is_busy_and_stops_no_other(
    database: Database, breakers: BreakerService
) -> None:
    other = TriggerId("t-2")
    await told(database, breakers, "FFF")
    await told(database, breakers, "FFF", trigger_id=other)

    async with database.transaction() as session:
        await session.run("UPDATE circuit_breaker_state SET failure_count = 7 WHERE trigger_id = $1", T)
        async with database.transaction() as tx:
            admissions = await breakers.admit(tx, {T: (CONFIG, 1), other: (CONFIG, 1)})
        with pytest.raises(BreakerBusy) as busy:
            await told(database, breakers, "F")

    assert {key: (admission.busy, admission.go) for key, admission in admissions.items()} == {
        T: (True, 0),
        other: (False, 0),
    }
    assert busy.value.trigger_ids == {T}


async def test_a_slot_without_outcome_is_given_back(database: Database, breakers: BreakerService) -> None:
    await told(database, breakers, "FFF")
    await sql(database, "UPDATE circuit_breaker_state SET next_probe_at = now()")
    async with database.transaction() as tx:
        await breakers.tick(tx)
    assert await admitted(database, breakers, 1) == 1
    assert await admitted(database, breakers, 1) == 0

    await sql(database, "UPDATE circuit_breaker_state SET half_open_at = now() - interval '121 seconds'")
    async with database.transaction() as tx:
        await breakers.tick(tx)

    assert await admitted(database, breakers, 1) == 1


async def test_a_reset_in_sql_by_the_three_known_columns_is_complete(
    database: Database, breakers: BreakerService
) -> None:
    await told(database, breakers, "FFF")

    await sql(database, "UPDATE circuit_breaker_state SET state='closed', failure_count=0, success_count=0")

    breaker = await row(database, breakers)
    assert (breaker.opened_at, breaker.next_probe_at, breaker.half_open_admitted) == (None, None, 0)
    assert await admitted(database, breakers, 9) == 9


async def test_a_reset_closes_it_and_says_so(
    database: Database, breakers: BreakerService, log_lines: list[dict[str, Any]]
) -> None:
    await told(database, breakers, "FFF")

    async with database.transaction() as tx:
        breaker = await breakers.reset(tx, T)
        assert (await breakers.reset(tx, TriggerId("none"))).state == "closed"

    assert (breaker.state, breaker.failure_count) == ("closed", 0)
    assert (await row(database, breakers)).state == "closed"
    assert [line.get("code") for line in log_lines] == [
        "CIRCUIT_BREAKER_OPEN",
        "CIRCUIT_BREAKER_CLOSED",
        "CIRCUIT_BREAKER_RESET",
    ]


async def test_another_timeout_moves_the_probe(database: Database, breakers: BreakerService) -> None:
    await told(database, breakers, "FFF")

    async with database.transaction() as tx:
        breaker = await breakers.configure(tx, T, BreakerConfig(recovery_timeout_seconds=600))
        await breakers.configure(tx, TriggerId("none"), CONFIG)

    assert breaker.opened_at is not None
    assert breaker.next_probe_at is not None
    assert (breaker.next_probe_at - breaker.opened_at).total_seconds() == 600


async def test_a_refusal_is_logged_at_most_once_a_minute(
    database: Database, breakers: BreakerService, log_lines: list[dict[str, Any]]
) -> None:
    await told(database, breakers, "FFF")
    for _ in range(3):
        await admitted(database, breakers, 1)

    assert [line.get("code") for line in log_lines] == ["CIRCUIT_BREAKER_OPEN"]


async def test_what_is_remembered_for_the_log_is_forgotten_when_it_is_over(
    database: Database, breakers: BreakerService
) -> None:
    await told(database, breakers, "FFF")
    async with database.transaction() as tx:
        await breakers.reset(tx, T)

    breakers.heard(f'{{"trigger_id": "{T}", "state": "open"}}')
    breakers.heard(f'{{"trigger_id": "{T}", "state": "closed"}}')

    assert not breakers._own
    assert not breakers._refusals.over(T)


async def test_a_write_that_fails_is_told_and_takes_everything_back(
    database: Database, breakers: BreakerService, log_lines: list[dict[str, Any]]
) -> None:
    await sql(database, "ALTER TABLE circuit_breaker_state ADD CONSTRAINT planted CHECK (failure_count < 1)")

    with pytest.raises(Exception, match="violates check constraint"):
        await told(database, breakers, "F")

    (line,) = [line for line in log_lines if line.get("code") == "CIRCUIT_BREAKER_PERSIST_FAILED"]
    assert (line["level"], line["message"]) == ("ERROR", "Circuit breaker state may be inconsistent")
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT count(*) FROM circuit_breaker_state") == 0


async def test_a_transition_is_notified(database: Database, breakers: BreakerService) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with database.outside() as connection:
        await connection.add_listener("breaker_changed", lambda *arguments: heard.put_nowait(str(arguments[-1])))
        await told(database, breakers, "FFF")
        payload = await asyncio.wait_for(heard.get(), 10)

    assert BreakerService().heard(payload) == T


async def test_forgotten_breakers_are_closed(database: Database, breakers: BreakerService) -> None:
    await told(database, breakers, "FFF")
    async with database.transaction() as tx:
        assert await breakers.count_open(tx) == 1
        await breakers.forget(tx, [T])
        assert await breakers.count_open(tx) == 0
        assert await breakers.room(tx, {T: CONFIG}, 500) == {T: 500}
