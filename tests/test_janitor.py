"""Upkeep, job by job, on a database that has something to tidy up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from agentauri import metrics
from agentauri.config import RetentionConfig
from agentauri.database import Database, Transaction
from agentauri.events import EventQueue
from agentauri.janitor import Janitor, Job
from agentauri.migrations import drop_partitions, ensure_partitions, partition_days, partition_name
from support.events import insert_by_hand

Lines = list[dict[str, Any]]
OLD = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def janitor(database: Database) -> Janitor:
    return Janitor(database, EventQueue("test"), RetentionConfig())


async def until_idle(janitor: Janitor) -> None:
    while await janitor.step():
        pass


async def insert_delivery(tx: Transaction, moment: datetime, status: str, **columns: object) -> UUID:
    key = UUID(int=(int(moment.timestamp() * 1000) << 80) | (uuid4().int >> 48))
    values = {
        "id": key, "organization_id": "o", "trigger_id": "t", "environment": "live", "trigger_version": 1,
        "action_id": 1, "action_type": "webhook", "destination": "d", "event_seq": 1, "chain_id": 1, "kind": "match",
        "status": status, "due_at": moment, "created_at": moment,
    } | columns  # fmt: skip
    places = ", ".join(f"${place}" for place in range(1, len(values) + 1))
    await tx.run(f"INSERT INTO deliveries ({', '.join(values)}) VALUES ({places})", *values.values())
    return key


async def test_a_job_that_is_done_rests_until_it_is_due(database: Database) -> None:
    runs: list[str] = []

    async def run(_: Transaction) -> bool:
        runs.append("run")
        return len(runs) < 3

    janitor = Janitor(database, EventQueue("test"), RetentionConfig(), [Job("more", "events", 60.0, run)])
    await until_idle(janitor)
    await janitor.step()
    assert len(runs) == 3


async def test_missing_partitions_are_made(janitor: Janitor, database: Database) -> None:
    async with database.transaction() as tx:
        tomorrow = (await partition_days(tx))[1]
        await drop_partitions(tx, tomorrow)
    await until_idle(janitor)
    async with database.transaction() as tx:
        assert tomorrow in await partition_days(tx)


async def test_days_beyond_retention_are_dropped_after_their_pending_rows_have_ended(
    janitor: Janitor, database: Database
) -> None:
    async with database.transaction() as tx:
        now: datetime = await tx.fetchval("SELECT now()")
        kept = await insert_delivery(tx, now - timedelta(days=30), "pending")
        for day in (31, 32, 400):
            await insert_delivery(tx, now - timedelta(days=day), "delivered")
            await insert_delivery(tx, now - timedelta(days=day), "pending", hold="breaker")
        await ensure_partitions(tx)
    await until_idle(janitor)
    async with database.transaction() as tx:
        assert [row["id"] for row in await tx.fetch("SELECT id FROM deliveries")] == [kept]
        assert (await partition_days(tx))[0] == (now - timedelta(days=30)).date()


async def test_a_day_with_a_delivery_that_is_being_sent_is_kept(janitor: Janitor, database: Database) -> None:
    async with database.transaction() as tx:
        now: datetime = await tx.fetchval("SELECT now()")
        later = now + timedelta(minutes=1)
        sent = await insert_delivery(tx, OLD, "pending", leased_until=later)
        held = await insert_delivery(tx, OLD, "pending", hold="paused")
        await ensure_partitions(tx)
    await until_idle(janitor)
    async with database.transaction() as tx:
        rows = {row["id"]: row for row in await tx.fetch("SELECT * FROM deliveries")}
        assert (rows[sent]["status"], rows[held]["status"], rows[held]["reason"]) == ("pending", "skipped", "expired")
        assert rows[held]["hold"] is None
        assert partition_name("deliveries", OLD.date()) == "deliveries_20200101"


async def test_what_outlived_its_use_is_swept_and_the_rest_is_kept(janitor: Janitor, database: Database) -> None:
    async with database.transaction() as tx:
        await tx.run("INSERT INTO triggers (id, organization_id, user_id, name) VALUES ('t', 'o', 'u', 'n')")
        await tx.run(
            """INSERT INTO checkpoints (chain_id, last_block_number, last_block_hash, last_block_time, finalized_number,
                                        first_block, status)
               VALUES (1, 20, '0x', 1, 10, 1, 'live')"""
        )
        await tx.run(
            """INSERT INTO processed_events (event_seq, event_id, processed_at, processing_duration_ms,
                                             processor_instance)
               VALUES (1, 'old', now() - interval '91 days', 1, 'i'), (2, 'new', now() - interval '89 days', 1, 'i')"""
        )
        await tx.run("INSERT INTO trigger_changes VALUES (0, 'old', now() - interval '8 days')")
        await tx.run(
            """INSERT INTO process_heartbeats (instance, role, seen_at)
               VALUES ('old', 'http', now() - interval '25 hours'), ('new', 'http', now())"""
        )
        await tx.run(
            """INSERT INTO trigger_state (trigger_id, leaf_id, scope_key, state, updated_at) VALUES
               ('t', 1, 'idle', '{}', now() - interval '366 days'), ('t', 1, 'used', '{}', now()),
               ('gone', 1, '', '{}', now())"""
        )
        await tx.run(
            """INSERT INTO state_undo (chain_id, block_number, event_seq, trigger_id, leaf_id, scope_key) VALUES
               (1, 10, 1, 't', 1, 'final'), (1, 11, 1, 't', 1, 'open'), (2, 1, 1, 't', 1, 'unknown'),
               (1, 11, 1, 'gone', 1, '')"""
        )
        await tx.run("INSERT INTO circuit_breaker_state (trigger_id, state) VALUES ('t', 'open'), ('gone', 'open')")
    await until_idle(janitor)
    async with database.transaction() as tx:

        async def left(sql: str) -> list[str]:
            return sorted(row[0] for row in await tx.fetch(sql))

        assert await left("SELECT event_id FROM processed_events") == ["new"]
        assert await left("SELECT trigger_id FROM trigger_changes") == ["t"]
        assert await left("SELECT instance FROM process_heartbeats") == ["new"]
        assert await left("SELECT scope_key FROM trigger_state") == ["used"]
        assert await left("SELECT scope_key FROM state_undo") == ["open", "unknown"]
        assert await left("SELECT trigger_id FROM circuit_breaker_state") == ["t"]


async def test_accounts_leave_nothing_behind_for_longer_than_they_may(janitor: Janitor, database: Database) -> None:
    async with database.transaction() as tx:
        await tx.run("INSERT INTO users (id, username) VALUES ('u', 'alice')")
        await tx.run("INSERT INTO organizations (id, name, slug, owner_id) VALUES ('o', 'o', 'o', 'u')")
        await tx.run(
            """INSERT INTO api_keys (id, organization_id, name, key_prefix, key_hash, environment)
               VALUES ('k', 'o', 'k', 'p', '', 'live')"""
        )
        await tx.run(
            """INSERT INTO key_usage (key_id, hour, calls, limited)
               VALUES ('k', now() - interval '91 days', 1, 0), ('k', now() - interval '89 days', 2, 0)"""
        )
        await tx.run(
            """INSERT INTO sessions (id, user_id, expires_at, ended_at) VALUES
               ('expired', 'u', now() - interval '8 days', NULL), ('ended', 'u', now(), now() - interval '8 days'),
               ('over', 'u', now() - interval '6 days', NULL), ('live', 'u', now() + interval '1 day', NULL)"""
        )
        await tx.run(
            """INSERT INTO refresh_tokens (hash, session_id, expires_at)
               VALUES ('1', 'expired', now()), ('2', 'over', now())"""
        )
        await tx.run(
            """INSERT INTO auth_failures (kind, prefix, created_at)
               VALUES ('api_key', 'old', now() - interval '31 days'), ('password', 'new', now() - interval '29 days')"""
        )
        await tx.run(
            """INSERT INTO lockouts (identifier, address, failures, window_start, level, last_failure_at) VALUES
               ('forgiven', '', 1, now(), 0, now() - interval '49 hours'),
               ('worn off', '', 1, now(), 3, now() - interval '73 hours'),
               ('recent', '', 1, now(), 0, now() - interval '47 hours'),
               ('bad', '', 1, now(), 3, now() - interval '71 hours')"""
        )
        await tx.run(
            """INSERT INTO audit_log (event, actor_type, occurred_at)
               VALUES ('old', 'system', now() - interval '366 days'), ('new', 'system', now() - interval '364 days')"""
        )
    before = metrics.REGISTRY.get_sample_value("agentauri_janitor_rows_deleted_total", {"job": "lockouts"}) or 0
    await until_idle(janitor)
    async with database.transaction() as tx:

        async def left(column: str, table: str) -> set[str]:
            return {row[0] for row in await tx.fetch(f"SELECT {column}::text FROM {table}")}

        assert await left("id", "sessions") == {"over", "live"}
        assert await left("session_id", "refresh_tokens") == {"over"}
        assert await left("prefix", "auth_failures") == {"new"}
        assert await left("identifier", "lockouts") == {"recent", "bad"}
        assert await left("calls", "key_usage") == {"2"}
        assert await left("event", "audit_log") == {"new"}
    assert metrics.REGISTRY.get_sample_value("agentauri_janitor_rows_deleted_total", {"job": "lockouts"}) == before + 2


async def test_parked_events_are_dropped_aloud_after_ninety_days(
    janitor: Janitor, database: Database, log_lines: Lines
) -> None:
    async with database.transaction() as tx:
        for event_id in ("old", "new"):
            await insert_by_hand(tx, event_id)
        await tx.run(
            """UPDATE event_queue SET due_at = now(), last_error = 'why',
                   parked_at = now() - make_interval(days => CASE position WHEN 1 THEN 91 ELSE 89 END)"""
        )
    await until_idle(janitor)
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT array_agg(position) FROM event_queue") == [2]
    [line] = [line for line in log_lines if line["event"] == "janitor.parked_event_dropped"]
    assert line["error"] == "why"


async def test_the_audit_runs(janitor: Janitor, database: Database) -> None:
    async with database.transaction() as tx:
        await insert_by_hand(tx, "e", created_at=OLD)
        await tx.run("DELETE FROM event_queue")
    await until_idle(janitor)
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT count(*) FROM event_queue") == 1


async def test_a_job_that_fails_is_reported_and_keeps_no_other(database: Database, log_lines: Lines) -> None:
    async with database.transaction() as tx:
        await tx.run("INSERT INTO process_heartbeats (instance, role, seen_at) VALUES ('old', 'http', '2020-01-01')")
        await insert_by_hand(tx, "e", created_at=OLD)
        await tx.run("ALTER TABLE processed_events RENAME TO mislaid")
    await Janitor(database, EventQueue("test"), RetentionConfig()).step()
    failed = [line for line in log_lines if line.get("code") == "STATE_CLEANUP_FAILED"]
    assert {(line["level"], line["step"], line["table"]) for line in failed} == {
        ("ERROR", "audit", "event_queue"), ("ERROR", "ledger", "processed_events"),
    }  # fmt: skip
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT count(*) FROM process_heartbeats") == 0


async def test_a_janitor_leaves_the_work_to_one_that_is_at_it(database: Database) -> None:
    runs: list[str] = []

    async def run(_: Transaction) -> bool:
        runs.append("outer")
        await Janitor(database, EventQueue("test"), RetentionConfig(), [Job("inner", "events", 60.0, inner)]).step()
        return False

    async def inner(_: Transaction) -> bool:
        runs.append("inner")
        return False

    await Janitor(database, EventQueue("test"), RetentionConfig(), [Job("outer", "events", 60.0, run)]).step()
    assert runs == ["outer"]


async def test_invalid_indexes_are_reported(janitor: Janitor, database: Database, log_lines: Lines) -> None:
    async with database.transaction() as tx:
        await tx.run("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'events_time'::regclass")
    await until_idle(janitor)
    [line] = [line for line in log_lines if line["event"] == "janitor.index_invalid"]
    assert line["index"] == "events_time"


async def test_samples_are_kept_while_they_are_in_a_window_or_may_come_back_into_one(
    janitor: Janitor, database: Database
) -> None:
    async with database.transaction() as tx:
        await tx.run("INSERT INTO triggers (id, organization_id, user_id, name) VALUES ('t', 'o', 'u', 'n')")
        for scope, newest in (("final", 1000), ("open", 1000), ("ema", 1000)):
            state = '{"ema": 1}' if scope == "ema" else '{"seconds": 60, "count": 1}'
            await tx.run("INSERT INTO trigger_state VALUES ('t', 1, $1, $2, 9, $3)", scope, state, newest)
        for scope in ("final", "open", "lost"):
            for time in (839, 840, 939, 940, 1000):
                await tx.run("INSERT INTO window_samples VALUES ('t', 1, $1, $2, $2, 1)", scope, time)
        await tx.run(
            """INSERT INTO state_undo (chain_id, block_number, event_seq, trigger_id, leaf_id, scope_key, input)
               VALUES (5, 1, 1, 't', 1, 'open', '{"t": 900}'), (5, 1, 1, 't', 1, 'open', '{"t": 1000}')"""
        )

    await until_idle(janitor)

    async with database.transaction() as tx:
        rows = await tx.fetch("SELECT scope_key, event_time FROM window_samples ORDER BY 1, 2")
        assert [tuple(row) for row in rows] == [
            ("final", 940), ("final", 1000), ("open", 840), ("open", 939), ("open", 940), ("open", 1000),
        ]  # fmt: skip
        assert await tx.fetchval("SELECT count(*) FROM state_undo") == 2


async def test_a_timer_goes_when_it_rang_or_was_cancelled_and_neither_can_be_taken_back(
    janitor: Janitor, database: Database
) -> None:
    async with database.transaction() as tx:
        await tx.run("INSERT INTO triggers (id, organization_id, user_id, name) VALUES ('t', 'o', 'u', 'n')")
        await tx.run(
            """INSERT INTO timers (chain_id, due_time, event_seq, trigger_id, trigger_version, leaf_id, scope_key,
                                   cancelled_by, fired_at)
               VALUES (5, 1, 1, 't', 1, 1, 'open', NULL, NULL), (5, 1, 2, 't', 1, 1, 'rang', NULL, now()),
                      (5, 1, 3, 't', 1, 1, 'cancelled', 9, NULL), (5, 1, 4, 't', 1, 1, 'begun lately', NULL, now()),
                      (5, 1, 5, 't', 1, 1, 'cancelled lately', 8, NULL)"""
        )
        await tx.run(
            """INSERT INTO state_undo (chain_id, block_number, event_seq, trigger_id, leaf_id, scope_key)
               VALUES (5, 1, 4, 't', 1, 'begun lately'), (5, 1, 8, 't', 1, 'cancelled lately')"""
        )

    await until_idle(janitor)

    async with database.transaction() as tx:
        rows = await tx.fetch("SELECT scope_key FROM timers ORDER BY 1")
        assert [row[0] for row in rows] == ["begun lately", "cancelled lately", "open"]


async def test_what_can_be_undone_on_a_chain_that_nobody_indexes_is_kept_as_long_as_deliveries(
    janitor: Janitor, database: Database
) -> None:
    async with database.transaction() as tx:
        await tx.run("INSERT INTO triggers (id, organization_id, user_id, name) VALUES ('t', 'o', 'u', 'n')")
        for name, moment in (("old", OLD), ("new", datetime.now(UTC))):
            seq = await insert_by_hand(tx, name, chain_id=77, created_at=moment)
            await tx.run(
                """INSERT INTO state_undo (chain_id, block_number, event_seq, trigger_id, leaf_id, scope_key)
                   VALUES (77, 1, $1, 't', 1, $2)""",
                seq,
                name,
            )

    await until_idle(janitor)

    async with database.transaction() as tx:
        assert [row[0] for row in await tx.fetch("SELECT scope_key FROM state_undo")] == ["new"]
