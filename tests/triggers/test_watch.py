"""What an operator hears although nothing failed."""

from __future__ import annotations

from agentauri.database import Database
from agentauri.triggers.watch import Watch
from support.processes import until
from triggers.conftest import MakeEvaluator
from triggers.making import LogLines, coded, insert_events


def said(watch: Watch, now: float = 0.0, **seen: object) -> list[str]:
    values = {"depth": 0, "oldest_seconds": 0.0, "nothing_processed": False} | seen
    return [alarm.message for alarm in watch.check(now, **values)]  # type: ignore[arg-type]


def test_old_events_while_nothing_is_processed_are_a_stall() -> None:
    stalled = ["No events processed in the last 5 minutes"]

    assert said(Watch(300), depth=1, oldest_seconds=301, nothing_processed=True) == stalled
    assert said(Watch(300), depth=1, oldest_seconds=301) == []
    assert said(Watch(300), depth=1, oldest_seconds=299, nothing_processed=True) == []
    assert said(Watch(300), nothing_processed=True) == []


def test_events_that_nobody_announces_are_an_idle_listener() -> None:
    watch = Watch(300)
    watch.took(0.0)
    watch.took(250.0)

    assert said(watch, 299.0) == []
    assert said(watch, 301.0) == ["NOTIFY listener appears idle"]
    watch.notified()
    assert said(watch, 302.0) == []


def test_an_hour_of_slow_events_is_said() -> None:
    watch = Watch(300)
    watch.finished(0.0, events=10, total_ms=20_000)
    watch.finished(61.0, events=10, total_ms=10)

    assert said(watch, 100.0) == ["Event processing slower than event arrival rate"]
    assert said(watch, 3601.0) == []


def test_a_queue_that_grew_in_five_checks_is_a_growing_backlog() -> None:
    watch = Watch(300)

    assert [said(watch, depth=depth) for depth in (1, 2, 3, 4, 5)] == [[]] * 5
    assert said(watch, depth=6) == ["Backlog growing"]
    assert said(watch, depth=6) == []


async def test_events_that_only_the_poll_finds_are_told_until_a_notification_comes(
    database: Database, make_evaluator: MakeEvaluator, log_lines: LogLines
) -> None:
    evaluator = make_evaluator(watchdog_idle=0.5)

    async def said_of_an_unannounced_one() -> bool:
        async with database.transaction() as tx:
            await insert_events(tx, 1)
        await evaluator.step()
        await evaluator.watch()
        return bool(coded(log_lines, "LISTENER_IDLE"))

    await until(said_of_an_unannounced_one, 10, "LISTENER_IDLE")
    evaluator.heard()
    log_lines.clear()
    await evaluator.watch()

    assert coded(log_lines, "LISTENER_IDLE") == []


async def test_events_that_take_more_than_a_second_each_are_told(
    database: Database, make_evaluator: MakeEvaluator, log_lines: LogLines
) -> None:
    evaluator = make_evaluator()
    async with database.transaction() as tx:
        await insert_events(tx, 1)
        await tx.run(
            """CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN PERFORM pg_sleep(1.1); RETURN NEW; END $$"""
        )
        await tx.run("CREATE TRIGGER dawdle BEFORE INSERT ON processed_events FOR EACH ROW EXECUTE FUNCTION dawdle()")

    await evaluator.step()
    await evaluator.watch()

    [line] = coded(log_lines, "EVENT_PROCESSING_SLOW")
    assert line["message"] == "Event processing slower than event arrival rate"


async def test_a_backlog_that_grows_from_check_to_check_is_told(
    database: Database, make_evaluator: MakeEvaluator, log_lines: LogLines
) -> None:
    evaluator = make_evaluator()
    for _ in range(6):
        assert "Backlog growing" not in [line.get("message") for line in log_lines]
        async with database.transaction() as tx:
            await insert_events(tx, 1)
        await evaluator.watch()

    assert "Backlog growing" in [line.get("message") for line in log_lines]
