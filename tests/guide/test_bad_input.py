"""Bad input and bad surroundings: a clear error that says what to do, and the process lives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agentauri.demo import LocalChain
from support import folders
from support.console import MakeTrigger
from support.processes import Child, Nursery, until

TRIGGER: dict[str, Any] = {
    "name": "bad",
    "conditions": [{"condition_type": "score_threshold", "operator": "<", "value": "60"}],
    "actions": [{"action_type": "webhook", "config": {"url": "https://hooks.example/x"}}],
}


async def refusal(http: aiohttp.ClientSession, port: int, body: object) -> dict[str, Any]:
    """The problem that POST /triggers answers with; the process still serves afterwards."""
    sent = body if isinstance(body, bytes) else None
    async with http.post(
        f"http://127.0.0.1:{port}/api/v1/triggers",
        data=sent,
        json=None if sent is not None else body,
        headers={"Content-Type": "application/json"},
    ) as answer:
        assert answer.content_type == "application/problem+json"
        problem: dict[str, Any] = await answer.json(content_type=None)
    async with http.get(f"http://127.0.0.1:{port}/api/v1/triggers") as answer:
        assert (await answer.json())["pagination"]["total"] == 0
    return problem


async def test_a_refused_trigger_names_every_fault_and_stores_nothing(
    serve: Callable[..., Child], http: aiohttp.ClientSession
) -> None:
    port = await serve(ALLOW_INSECURE_TARGETS="false").port()
    webhook = TRIGGER["actions"][0]

    malformed = await refusal(http, port, b'{"name": ')
    unknown = await refusal(http, port, TRIGGER | {"colour": "red"})
    empty = await refusal(http, port, TRIGGER | {"conditions": [{"any": []}]})
    template = await refusal(
        http, port, TRIGGER | {"actions": [webhook | {"config": {"url": "https://h.example", "body": "{{nope}}"}}]}
    )
    private = await refusal(http, port, TRIGGER | {"actions": [webhook | {"config": {"url": "https://10.0.0.8/x"}}]})

    assert (malformed["status"], malformed["error"]) == (400, "malformed_request")
    assert [error["field"] for error in unknown["errors"]] == ["colour"]
    assert [error["field"] for error in empty["errors"]] == ["conditions[0].any"]
    assert template["errors"][0]["field"].startswith("actions[0].config.body")
    assert [error["field"] for error in private["errors"]] == ["actions[0].config.url"]
    assert {problem["status"] for problem in (unknown, empty, template, private)} == {422}


async def test_a_wrong_rpc_url_stops_that_chain_alone(
    serve: Callable[..., Child], make_trigger: MakeTrigger, http: aiohttp.ClientSession
) -> None:
    child = serve(RPC_URLS_8453="http://127.0.0.1:1/secret-key", LOG_LEVEL="DEBUG")
    port = await child.port()

    await child.logged(code="RPC_UNAVAILABLE")
    await make_trigger(port)

    async with http.get(f"http://127.0.0.1:{port}/api/v1/chains/8453") as answer:
        assert (await answer.json())["status"] == "degraded"
    async with http.get(f"http://127.0.0.1:{port}/health/ready") as answer:
        assert answer.status == 200
    assert "secret-key" not in child.log.read_text()


async def test_a_node_of_another_chain_is_refused_with_the_variable_to_change(
    serve: Callable[..., Child], http: aiohttp.ClientSession
) -> None:
    async with LocalChain.start() as chain:
        child = serve(RPC_URLS_8453=chain.url)
        line = await child.logged(code="CHAIN_SELF_CHECK_FAILED")
        port = await child.port()

        assert "RPC_URLS_8453" in str(line["message"])
        assert "31337" in str(line["message"])
        async with http.get(f"http://127.0.0.1:{port}/health/ready") as answer:
            assert answer.status == 200


def start_on(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agentauri", "serve"],
        env={"PATH": os.environ["PATH"], "AGENTAURI_DATA_DIR": str(folder), "SERVER_PORT": "0"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_data_folder_that_is_not_a_folder_is_named_with_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    done = start_on(tmp_path / "file" / "data")

    assert done.returncode == 1
    assert "AGENTAURI_DATA_DIR" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """Too small for a server."""
    with folders.small_disk(8) as folder:
        yield folder


def test_a_full_disk_is_told_with_what_to_do(small_disk: Path) -> None:
    done = start_on(small_disk / "data")

    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "AGENTAURI_DATA_DIR" in done.stderr
    assert "Traceback" not in done.stderr


async def test_without_a_database_the_process_lives_and_says_that_it_is_not_ready(serve: Callable[..., Child]) -> None:
    child = serve(DATABASE_URL="postgresql://postgres@127.0.0.1:1/agentauri_backend?sslmode=disable")
    base = f"http://127.0.0.1:{await child.port()}"

    async with aiohttp.ClientSession() as session:
        async with session.get(f"{base}/health/live") as answer:
            assert answer.status == 200
        async with session.get(f"{base}/health/ready") as answer:
            problem = await answer.json(content_type=None)
            assert answer.status == 503
    assert {"database", "migrations"} <= set(problem["failing"])
    child.signal(signal.SIGTERM)
    assert await child.ended() == 0


@pytest.mark.parametrize(
    "command",
    [
        ["breaker", "reset", "nope"],
        ["events", "retry", "--id", "nope"],
        ["deliveries", "redeliver", "--trigger", "nope"],
        ["deliveries", "show", "nope"],
        ["key", "revoke", "nope"],
        ["key", "create", "--organization", "two\nlines"],
    ],
)
async def test_a_command_that_names_nothing_fails_in_a_sentence(
    nursery: Nursery, database_url: str, redis_url: str, tmp_path: Path, command: list[str]
) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PWD": str(tmp_path),
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "ENVIRONMENT": "development",
        "AGENTAURI_DATA_DIR": str(tmp_path / "data"),
    }
    child = nursery.start(command, environment, tmp_path / "command.log")

    assert await child.ended() == 1
    assert "Traceback" not in child.log.read_text()
    assert child.log.read_text().strip()


async def test_a_taken_port_is_named_with_the_setting(serve: Callable[..., Child]) -> None:
    first = serve("--only", "http")
    second = serve("--only", "http", SERVER_PORT=str(await first.port()))

    assert await second.ended() == 1
    await until(lambda: "SERVER_PORT" in second.log.read_text(), 5, "the name of the setting")
    assert first.alive
