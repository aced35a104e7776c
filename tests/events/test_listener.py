"""The listening connection: what it says, whom it wakes, and what it survives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from agentauri.config import DatabaseConfig, database_config
from agentauri.database import Database
from agentauri.events import Listener
from agentauri.supervisor import Wake
from support.events import insert_by_hand

Lines = list[dict[str, Any]]


@asynccontextmanager
async def listening(listener: Listener) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    task = asyncio.create_task(listener.run(stopping))
    yield
    stopping.set()
    await task


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 (nobody sets an event: what is looked at is a list that grows)
            await asyncio.sleep(0.01)


def codes(lines: Lines) -> list[object]:
    return [line["code"] for line in lines if "code" in line]


async def test_it_says_that_it_listens_and_wakes_everybody(database: Database, log_lines: Lines) -> None:
    wakes = [Wake(), Wake()]
    async with listening(Listener(database, wakes)):
        for wake in wakes:
            await wake.wait(asyncio.Event(), timeout=10)
    [line] = [line for line in log_lines if line.get("code") == "LISTENER_STARTED"]
    assert line["message"] == "Listening for PostgreSQL NOTIFY events on channel 'new_event'"
    assert line["level"] == "INFO"


async def test_notifications_reach_their_channels_callbacks(database: Database) -> None:
    heard: list[tuple[str, str]] = []
    started, listener = Wake(), None
    listener = Listener(database, [started])
    for channel in ("new_event", "trigger_changed", "breaker_changed"):
        listener.on(channel, lambda payload, channel=channel: heard.append((channel, payload)))  # type: ignore[misc]
    async with listening(listener):
        await started.wait(asyncio.Event(), timeout=10)
        assert listener.heard_at is None
        async with database.transaction() as tx:
            await tx.run("SELECT pg_notify('trigger_changed', '7')")
            await tx.run("SELECT pg_notify('breaker_changed', 'anything')")
            await insert_by_hand(tx, "e")
        await until(lambda: len(heard) == 3)
    assert heard[:2] == [("trigger_changed", "7"), ("breaker_changed", "anything")]
    assert '"event_id" : "e"' in heard[2][1]
    assert listener.heard_at is not None


async def test_a_callback_that_raises_keeps_neither_the_others_nor_the_next(database: Database) -> None:
    heard: list[str] = []
    started = Wake()
    listener = Listener(database, [started])
    listener.on("new_event", lambda payload: heard.index(payload))
    listener.on("new_event", heard.append)
    async with listening(listener):
        await started.wait(asyncio.Event(), timeout=10)
        async with database.transaction() as tx:
            await tx.run("SELECT pg_notify('new_event', n::text) FROM generate_series(1, 2) n")
        await until(lambda: heard == ["1", "2"])


async def test_a_lost_connection_is_made_again_and_everybody_catches_up(database: Database, log_lines: Lines) -> None:
    wake = Wake()
    async with listening(Listener(database, [wake])):
        await wake.wait(asyncio.Event(), timeout=10)
        async with database.transaction() as tx:
            await tx.run(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE 'LISTEN%'"""
            )
        await wake.wait(asyncio.Event(), timeout=10)
    assert codes(log_lines)[-3:] == ["LISTENER_STARTED", "LISTENER_TRANSIENT_ERROR", "LISTENER_STARTED"]


async def test_the_wait_between_attempts_doubles(
    tmp_path: Any, log_lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    stopping = asyncio.Event()

    async def no_wait(_: asyncio.Event, seconds: float, *__: asyncio.Event) -> None:
        waits.append(seconds)
        if len(waits) == 9:
            stopping.set()

    monkeypatch.setattr("agentauri.events.listener.wait_until", no_wait)
    nowhere = database_config(f"postgresql://postgres@/x?host={tmp_path}", (20, 30))
    async with Database.open(nowhere) as database:
        await Listener(database, []).run(stopping)
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert "LISTENER_TRANSIENT_ERROR" in codes(log_lines)


async def test_a_database_that_does_not_exist_is_fatal(database_settings: DatabaseConfig, log_lines: Lines) -> None:
    url = database_settings.url.reveal().replace("/test_", "/none_")
    async with Database.open(database_config(url, (20, 30))) as database:
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await Listener(database, []).run(asyncio.Event())
    [line] = [line for line in log_lines if line.get("code") == "LISTENER_FATAL_ERROR"]
    assert line["level"] == "CRITICAL"
