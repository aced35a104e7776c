"""PostgreSQL's troubles are found, and the printed fix mends them."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import msgspec
import pytest

from agentauri import certificates
from agentauri.config import database_config
from agentauri.database import Database
from agentauri.doctor import Patient, examine
from support.doctor import Do, Look


@pytest.mark.parametrize("name", ["notify_new_event_trigger", "queue_new_event_trigger"])
async def test_a_disabled_trigger_on_events_is_enabled_by_the_printed_statement(
    database: Database, look: Look, do: Do, name: str
) -> None:
    async with database.transaction() as tx:
        await tx.run(f"ALTER TABLE events DISABLE TRIGGER {name}")

    found = await look("event_trigger")
    assert (found.result, name in found.finding) == ("fail", True)
    await do(found.fix)

    assert (await look("event_trigger")).result == "ok"
    async with database.transaction() as tx:
        state = await tx.fetchval("SELECT tgenabled FROM pg_trigger WHERE tgname = $1", name)
    assert state == (b"O" if name.startswith("notify") else b"A")


async def test_a_dropped_trigger_on_events_is_made_again_by_migrate_as_the_schema_has_it(
    database: Database, look: Look, do: Do
) -> None:
    everything = """SELECT pg_get_functiondef(tgfoid) || pg_get_triggerdef(oid) || tgenabled::text FROM pg_trigger
                    WHERE tgrelid = 'events'::regclass AND NOT tgisinternal ORDER BY tgname"""
    async with database.transaction() as tx:
        before = [row[0] for row in await tx.fetch(everything)]
        await tx.run("DROP FUNCTION notify_new_event CASCADE; DROP FUNCTION queue_event_change CASCADE")

    found = await look("event_trigger")
    assert found.fix == "agentauri migrate"
    await do(found.fix)

    assert (await look("event_trigger")).result == "ok"
    async with database.transaction() as tx:
        assert [row[0] for row in await tx.fetch(everything)] == before


async def test_fix_enables_the_triggers_and_says_so(database: Database, look: Look) -> None:
    async with database.transaction() as tx:
        await tx.run("ALTER TABLE events DISABLE TRIGGER notify_new_event_trigger")

    found = await look("event_trigger", heal=True)

    assert (found.result, found.fixed) == ("ok", "enabled the triggers on events")


async def test_a_missing_partition_is_made_by_the_printed_command(database: Database, look: Look, do: Do) -> None:
    async with database.transaction() as tx:
        tomorrow = await tx.fetchval("SELECT to_char((now() AT TIME ZONE 'UTC') + interval '1 day', 'YYYYMMDD')")
        await tx.run(f"DROP TABLE deliveries_{tomorrow}, attempts_{tomorrow}")

    found = await look("partitions")
    assert found.result == "fail"
    await do(found.fix)

    assert (await look("partitions")).result == "ok"


async def test_fix_makes_missing_partitions(database: Database, look: Look) -> None:
    async with database.transaction() as tx:
        tomorrow = await tx.fetchval("SELECT to_char((now() AT TIME ZONE 'UTC') + interval '1 day', 'YYYYMMDD')")
        await tx.run(f"DROP TABLE deliveries_{tomorrow}, attempts_{tomorrow}")

    found = await look("partitions", heal=True)

    assert found.result == "ok"
    assert f"deliveries_{tomorrow}" in (found.fixed or "")


async def test_an_older_schema_is_told_and_hides_what_it_cannot_show(
    database: Database, patient: Patient, look: Look
) -> None:
    async with database.transaction() as tx:
        await tx.run("UPDATE alembic_version SET version_num = '0001'")

    found = await look("schema")

    assert (found.result, found.fix) == ("fail", "agentauri migrate")
    assert "backlog" not in {one.check for one in (await examine(patient)).checks}


async def test_an_invalid_index_is_rebuilt_by_the_printed_statement(database: Database, look: Look, do: Do) -> None:
    async with database.outside() as connection:
        await connection.execute("INSERT INTO pipeline_marks (name, value) VALUES ('a', 1), ('b', 1)")
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute("CREATE UNIQUE INDEX CONCURRENTLY torn ON pipeline_marks (value)")
        await connection.execute("DELETE FROM pipeline_marks WHERE name = 'b'")

    found = await look("invalid_indexes")
    assert (found.result, "torn" in found.finding) == ("fail", True)
    await do(found.fix)

    assert (await look("invalid_indexes")).result == "ok"


async def test_a_transaction_left_open_is_named_and_ended_by_the_printed_statement(
    database: Database, look: Look, do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentauri.doctor.postgres.LONG_TRANSACTION", "0 seconds")
    async with database.outside() as connection:
        await connection.execute("BEGIN; SELECT 1")

        found = await look("long_queries")
        assert (found.result, "idle in transaction" in found.finding) == ("warn", True)
        await do(found.fix)

        assert (await look("long_queries")).result == "ok"


async def test_a_database_that_is_away_is_the_only_thing_said_of_the_database(patient: Patient) -> None:
    settings = database_config("postgresql://nobody@127.0.0.1:1/none", (20, 30))
    async with Database.open(settings) as away:
        report = await examine(msgspec.structs.replace(patient, database=away, database_settings=settings))

    found = {one.check: one for one in report.checks}
    assert found["database"].result == "fail"
    assert "refused" in found["database"].finding
    assert not {"schema", "pool", "backlog", "workers"} & set(found)


async def test_certificates_that_end_soon_or_have_ended_or_are_missing_are_told_apart(
    tmp_path: Path, look: Look, database_url: str
) -> None:
    root = tmp_path / "root.crt"
    settings = database_config(f"{database_url}&sslmode=disable&sslrootcert={root}", (20, 30))

    async def found(days: int) -> tuple[str, str]:
        certificates.generate(tmp_path, ["localhost"], days)
        result = await look("certificate:root", database_settings=settings)
        return result.result, result.finding

    assert (await found(100))[0] == "ok"
    result, finding = await found(5)
    assert (result, "4 days left" in finding) == ("warn", True)
    root.unlink()
    gone = await look("certificate:root", database_settings=settings)
    assert (gone.result, "No such file" in gone.finding) == ("fail", True)
