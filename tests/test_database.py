"""One unit of work: commits whole, rolls back whole, and tells an outage from a mistake."""

import asyncio
from collections.abc import Coroutine

import asyncpg
import pytest

from agentauri.config import database_config
from agentauri.database import Database, DatabaseBusy, DatabaseUnavailable, PoolExhausted, array


async def test_an_exception_rolls_everything_back(database: Database) -> None:
    with pytest.raises(ValueError, match="stop"):
        async with database.transaction() as tx:
            await tx.run("INSERT INTO pipeline_marks (name, value) VALUES ('a', 1)")
            raise ValueError("stop")

    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT count(*) FROM pipeline_marks WHERE name = 'a'") == 0


async def test_what_follows_a_commit_runs_after_it_and_never_after_a_rollback(database: Database) -> None:
    done: list[str] = []
    async with database.transaction() as tx:
        tx.on_commit(lambda: done.append("committed"))
        assert done == []
    with pytest.raises(ValueError, match="stop"):
        async with database.transaction() as tx:
            tx.on_commit(lambda: done.append("rolled back"))
            raise ValueError("stop")

    assert done == ["committed"]


async def test_a_transaction_begins_with_whatever_comes_first(database: Database) -> None:
    async with database.transaction() as tx:
        assert await tx.run("SELECT FROM (VALUES (1), (2)) AS two; SELECT FROM (VALUES (1)) AS one") == 1
        assert await tx.fetchval("SELECT now()") == await tx.fetchval("SELECT now()")
    with pytest.raises(ValueError, match="stop"):
        async with database.transaction() as tx:
            await tx.copy("pipeline_marks", ["name", "value"], [("copied", 1)])
            raise ValueError("stop")
    async with database.transaction():
        pass

    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT count(*) FROM pipeline_marks WHERE name = 'copied'") == 0


async def test_what_follows_a_commit_may_be_left_to_the_caller(database: Database) -> None:
    done: list[str] = []
    later: list[Coroutine[object, object, None]] = []
    async with database.transaction(later=later.append) as tx:
        tx.on_commit(lambda: done.append("first"))
        tx.on_commit(lambda: done.append("second"))
    assert done == []

    await later[0]

    assert done == ["first", "second"]


async def test_a_savepoint_undoes_only_its_own_part(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.run("INSERT INTO pipeline_marks (name, value) VALUES ('kept', 1)")
        with pytest.raises(asyncpg.UniqueViolationError):
            async with tx.savepoint():
                await tx.run("INSERT INTO pipeline_marks (name, value) VALUES ('kept', 2)")
        assert await tx.fetchval("SELECT value FROM pipeline_marks WHERE name = 'kept'") == 1


async def test_a_lost_connection_is_weather_and_the_pool_recovers(database: Database, admin_url: str) -> None:
    with pytest.raises(DatabaseUnavailable):
        async with database.transaction() as tx:
            pid = await tx.fetchval("SELECT pg_backend_pid()")
            other = await asyncpg.connect(admin_url)
            await other.execute("SELECT pg_terminate_backend($1)", pid)
            await other.close()
            await tx.fetchval("SELECT 1")
    await database.up()

    assert await database.answers()


async def test_connections_that_ended_while_they_lay_in_the_pool_fail_nobody(
    database: Database, admin_url: str
) -> None:
    async with database.transaction() as one, database.transaction() as other:
        pids = [await tx.fetchval("SELECT pg_backend_pid()") for tx in (one, other)]
    admin = await asyncpg.connect(admin_url)
    await admin.execute("SELECT pg_terminate_backend(pid, 10000) FROM unnest($1::int[]) AS pid", pids)
    await admin.close()

    for _ in range(3):
        async with database.transaction() as tx:
            assert await tx.fetchval("SELECT pg_backend_pid()") not in pids


async def test_a_server_that_is_not_there_is_weather() -> None:
    nowhere = database_config("postgresql://postgres@/agentauri_backend?host=/nonexistent", (20, 1))
    async with Database.open(nowhere) as database:
        with pytest.raises(DatabaseUnavailable):
            async with database.transaction():
                pass
        assert not await database.answers()


async def test_a_constraint_is_a_mistake_and_not_weather(database: Database) -> None:
    with pytest.raises(asyncpg.NotNullViolationError):
        async with database.transaction() as tx:
            await tx.run("INSERT INTO pipeline_marks (name) VALUES ('a')")


async def test_an_empty_pool_refuses_that_caller_alone(database_url: str, log_lines: list[dict[str, object]]) -> None:
    async with Database.open(database_config(database_url, (1, 1))) as database, database.transaction() as tx:
        with pytest.raises(PoolExhausted):
            async with database.transaction():
                pass
        assert await tx.fetchval("SELECT 1") == 1

    (line,) = [line for line in log_lines if line.get("code") == "DB_POOL_EXHAUSTED"]
    assert line["message"] == "Failed to acquire connection from pool: Connection timeout after 1s"


async def test_a_share_limits_how_many_connections_its_owner_holds(database: Database) -> None:
    share = database.limited(1)
    async with share.transaction() as tx:
        assert share._share is not None
        assert share._share.locked()
        async with database.transaction() as other:
            assert await other.fetchval("SELECT pg_backend_pid()") != await tx.fetchval("SELECT pg_backend_pid()")


async def test_an_error_of_the_callers_own_is_not_taken_for_weather(database: Database) -> None:
    with pytest.raises(BrokenPipeError):
        async with database.transaction() as tx:
            await tx.fetchval("SELECT 1")
            raise BrokenPipeError("a pipe of the caller's")


async def test_a_read_that_is_given_up_leaves_no_connection_in_doubt(database_url: str) -> None:
    async with Database.open(database_config(database_url, (1, 1))) as database:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), database.reading() as tx:
                await tx.fetchval("SELECT pg_sleep(30)")

        async with database.reading() as tx:
            assert await tx.fetchval("SELECT 1") == 1


async def test_a_share_that_is_used_up_refuses_in_time(database_url: str) -> None:
    async with Database.open(database_config(database_url, (3, 1))) as database:
        share = database.limited(1)
        async with share.transaction():
            with pytest.raises(PoolExhausted):
                async with share.transaction():
                    pass
        async with share.transaction() as tx:
            assert await tx.fetchval("SELECT 1") == 1


async def test_a_lock_that_does_not_come_free_is_weather(database: Database) -> None:
    async with database.transaction() as holder:
        await holder.run("INSERT INTO pipeline_marks (name, value) VALUES ('held', 1)")
        with pytest.raises(DatabaseBusy):
            async with database.transaction() as tx:
                await tx.run("SET LOCAL lock_timeout TO '50ms'")
                await tx.run("INSERT INTO pipeline_marks (name, value) VALUES ('held', 2)")


async def test_a_server_that_answers_and_refuses_is_given_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def note(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("agentauri.database.asyncio.sleep", note)
    for _ in range(4):
        await database.up()

    assert pauses == [0.0, 0.1, 0.2, 0.4]


async def test_an_array_as_text_keeps_every_element_as_it_is(database: Database) -> None:
    texts = ["plain", "", "NULL", None, 'a "b" {c,d}', "back\\slash\\", "two\nlines", "ünï"]
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT $1::text::text[]", array(texts)) == texts
        assert await tx.fetchval("SELECT $1::text::bigint[]", array([1, -2, 2**62])) == [1, -2, 2**62]
        assert await tx.fetchval("SELECT $1::text::text[]", array([])) == []
