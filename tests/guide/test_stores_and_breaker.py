"""Database, Redis and circuit breaker: what an operator types, and what it shows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import aiohttp
import pytest

from agentauri.embedded import Embedded
from support.console import INSERT, Command, MakeTrigger, grep
from support.folders import passing_folder
from support.processes import Child, until
from support.receiver import Answer, Receiver

OPEN = "SELECT trigger_id, state, failure_count, last_failure_at FROM circuit_breaker_state WHERE state = 'open';"
RESET = (
    "UPDATE circuit_breaker_state SET state = 'closed', failure_count = 0, success_count = 0"
    " WHERE trigger_id = '{trigger_id}';"
)


@pytest.fixture
def refusing_url() -> Iterator[str]:
    """The URL of a PostgreSQL that listens on TCP and lets nobody in there."""
    address = f"127.{os.getpid() % 250 + 1}.8.4"  # a loopback of its own: port 5432 of 127.0.0.1 may be taken
    settings = {"listen_addresses": address, "fsync": "off"}
    with (
        passing_folder("agentauri-tls-") as folder,
        Embedded(folder / "data", valkey=False, postgres_settings=settings),
    ):
        yield f"postgresql://postgres@{address}:5432/agentauri_backend?sslmode=disable"


async def test_a_refused_connection_shows_the_servers_words_and_the_way_out(
    serve: Callable[..., Child], refusing_url: str
) -> None:
    child = serve(DATABASE_URL=refusing_url)

    line = await child.logged(code="DATABASE_TLS_FAILED")

    assert "no pg_hba.conf entry for host" in str(line["message"])
    assert "sslmode" in str(line["remedy"])
    assert child.alive


async def test_connections_and_long_queries_can_be_seen(serve: Callable[..., Child], agentauri: Command) -> None:
    await serve().port()

    assert "count" in await agentauri("psql", "-c", "SELECT count(*) FROM pg_stat_activity;")
    assert "(0 rows)" in await agentauri(
        "psql", "-c", "SELECT pid, now() - query_start AS duration, query FROM pg_stat_activity"
        " WHERE state = 'active' AND now() - query_start > interval '1 minute' ORDER BY duration DESC;",
    )  # fmt: skip
    assert "avg_ms" in await agentauri(
        "psql", "-c", "SELECT AVG(processing_duration_ms) as avg_ms, MAX(processing_duration_ms) as max_ms,"
        " COUNT(*) as total_events FROM processed_events WHERE processed_at > NOW() - INTERVAL '1 hour';",
    )  # fmt: skip


async def test_redis_answers_the_ping(agentauri: Command) -> None:
    assert (await agentauri("redis-cli", "PING")).strip() == "PONG"


async def test_an_open_breaker_is_told_half_opens_by_itself_and_closes_on_success(
    serve: Callable[..., Child],
    agentauri: Command,
    make_trigger: MakeTrigger,
    receiver: Receiver,
    http: aiohttp.ClientSession,
) -> None:
    child = serve(RETRY_SCHEDULE_SECONDS="1,1,1,1,1")
    port = await child.port()
    trigger = await make_trigger(port)
    url = f"http://127.0.0.1:{port}/api/v1/triggers/{trigger['id']}/circuit-breaker"
    async with http.patch(url, json={"failure_threshold": 1, "recovery_timeout_seconds": 1}) as answer:
        assert answer.status == 200
    receiver.answers.append(Answer(503))

    await agentauri("psql", "-c", INSERT.format(id="first"))
    await child.logged(code="CIRCUIT_BREAKER_OPEN")
    await child.logged(code="CIRCUIT_BREAKER_HALF_OPEN")
    await child.logged(code="CIRCUIT_BREAKER_CLOSED")

    assert f"Circuit breaker OPEN for trigger {trigger['id']}" in grep(child, "Circuit breaker OPEN")
    assert "skipping trigger (fail-fast)" in grep(child, "CIRCUIT_BREAKER")
    assert "Circuit breaker transitioned to HALF_OPEN" in grep(child, "CIRCUIT_BREAKER")
    assert "503" in grep(child, str(trigger["id"]), "ERROR")
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1


async def test_an_open_breaker_can_be_seen_and_reset_by_sql_without_a_restart(
    serve: Callable[..., Child],
    agentauri: Command,
    make_trigger: MakeTrigger,
    receiver: Receiver,
    http: aiohttp.ClientSession,
) -> None:
    child = serve(RETRY_SCHEDULE_SECONDS="1,1,1,1,1")
    port = await child.port()
    trigger = await make_trigger(port)
    url = f"http://127.0.0.1:{port}/api/v1/triggers/{trigger['id']}/circuit-breaker"
    async with http.patch(url, json={"failure_threshold": 1, "recovery_timeout_seconds": 3600}) as answer:
        assert answer.status == 200
    receiver.answers.append(Answer(500))
    await agentauri("psql", "-c", INSERT.format(id="first"))
    await child.logged(code="CIRCUIT_BREAKER_OPEN")

    assert str(trigger["id"]) in await agentauri("psql", "-c", OPEN)
    assert str(trigger["id"]) in await agentauri("breaker", "list", "--open")
    await agentauri("psql", "-c", RESET.format(trigger_id=trigger["id"]))
    await receiver.wait_for(2)

    async with http.get(url) as answer:
        assert (await answer.json())["state"] == "closed"


async def test_a_breaker_that_cannot_be_written_is_told_and_loses_no_outcome(
    serve: Callable[..., Child], agentauri: Command, make_trigger: MakeTrigger, receiver: Receiver
) -> None:
    child = serve(RETRY_SCHEDULE_SECONDS="1,1,1,1,1")
    await make_trigger(await child.port())
    receiver.answers.append(Answer(500))
    await agentauri(
        "psql",
        "-c", "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'refused by hand'; END $$;",
        "-c", "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON circuit_breaker_state"
        " FOR EACH ROW EXECUTE FUNCTION refuse();",
        "-c", INSERT.format(id="first"),
    )  # fmt: skip

    await child.logged(code="CIRCUIT_BREAKER_PERSIST_FAILED")
    assert "Circuit breaker state may be inconsistent" in grep(child, "CIRCUIT_BREAKER_PERSIST_FAILED")
    await agentauri("psql", "-c", "DROP TRIGGER refuse ON circuit_breaker_state;")
    await receiver.wait_for(2)

    await until(lambda: '"outcome":"delivered"' in child.log.read_text(), 20, "the delivery to be recorded")


async def test_the_breaker_trouble_is_reset_by_command(
    serve: Callable[..., Child], agentauri: Command, make_trigger: MakeTrigger
) -> None:
    trigger = await make_trigger(await serve().port())
    await agentauri(
        "psql", "-c", "INSERT INTO circuit_breaker_state (trigger_id, state, failure_count, updated_at)"
        f" VALUES ('{trigger['id']}', 'open', 10, now());",
    )  # fmt: skip

    await agentauri("breaker", "reset", str(trigger["id"]))

    assert str(trigger["id"]) not in await agentauri("psql", "-c", OPEN)


def test_the_shipped_url_names_the_database_of_the_guide(servers: Embedded) -> None:
    assert servers.database_url is not None
    assert urlsplit(servers.database_url).path == "/agentauri_backend"
