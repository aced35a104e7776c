"""What the pages tell their readers to type is typed here, and does what they say."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from agentauri.embedded import Embedded
from support.folders import passing_folder
from support.pages import Block, Terminals, blocks, commands
from support.processes import Nursery, serving, until
from support.warm import warm_commands

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
EMBEDDED = ROOT / "docs" / "tutorial.md"
TOLD = [page for page in PAGES if page != EMBEDDED and blocks(page.read_text(encoding="utf-8"))]
EVENT = (
    "INSERT INTO events (id, chain_id, block_number, block_hash, transaction_hash, log_index, registry, event_type,"
    " timestamp, agent_id, score) VALUES ($1, 84532, $2::bigint, '0xb', '0x' || $2::bigint, 0, 'reputation',"
    " 'NewFeedback', extract(epoch FROM now())::bigint, 42, 12.5)"
)


class Gone(BaseHTTPRequestHandler):
    """A receiver that wants nothing any more, except tests."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(410 if self.path == "/gone" else 204)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The PATH of a reader who has activated the environment."""
    with warm_commands(tmp_path_factory.mktemp("commands")) as ours:
        yield os.pathsep.join([str(ours), str(Path(sys.executable).parent), os.environ["PATH"]])


def surroundings(folder: Path, path: str) -> dict[str, str]:
    """A reader's environment. Its curl fails where the answer is an error."""
    (folder / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
    return {"PATH": path, "HOME": str(folder), "CURL_HOME": str(folder), "PAGER": "cat", "LC_ALL": "C.UTF-8"}


@pytest.fixture(scope="module")
def stage(
    servers: Embedded,
    admin_url: str,
    template: str,
    nursery: Nursery,
    path: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, str]]:
    """An installation that runs and has a story, as the variables that the pages use: `TRIGGER` with its `ACTION`
    matched `EVENT`, whose `DELIVERY` the receiver refused; two more events are parked."""
    folder = tmp_path_factory.mktemp("stage")
    database_url = admin_url.replace("/postgres?", "/pages?")
    assert servers.redis_url is not None
    settings = surroundings(folder, path) | {
        "DATABASE_URL": database_url,
        "REDIS_URL": servers.redis_url,
        "ENVIRONMENT": "development",
        "RATE_LIMIT_MODE": "off",
        "AGENTAURI_DATA_DIR": str(folder / "data"),
        "SERVER_PORT": "0",
        "PWD": str(folder),
    }
    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Gone)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    with contextmanager(serving)(nursery, settings, folder) as start:
        asyncio.run(execute(admin_url, f"CREATE DATABASE pages TEMPLATE {template} STRATEGY file_copy"))
        url = f"http://127.0.0.1:{asyncio.run(start().port())}"
        made = nursery.start(["key", "create", "--organization", "pages"], settings, folder / "key")
        assert asyncio.run(made.ended()) == 0
        key = (folder / "key").read_text().strip()
        trigger = post(
            f"{url}/api/v1/triggers",
            key,
            {
                "name": "Bad ratings",
                "registry": "reputation",
                "conditions": [{"condition_type": "score_threshold", "operator": "<", "value": 40}],
                "actions": [
                    {
                        "action_type": "webhook",
                        "config": {"url": f"http://127.0.0.1:{receiver.server_port}/gone"},
                    }
                ],
            },
        )
        delivery = asyncio.run(given_up(database_url))
        yield settings | {
            "URL": url,
            "KEY": key,
            "TRIGGER": trigger["id"],
            "ACTION": str(trigger["actions"][0]["id"]),
            "EVENT": "an-event",
            "DELIVERY": delivery,
        }
    receiver.shutdown()
    receiver.server_close()


def post(url: str, key: str, body: object) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"X-API-Key": key})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def given_up(database_url: str) -> str:
    """Let the story happen; the id of the delivery that was given up."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(EVENT, "an-event", 1)

        async def dead() -> bool:
            return bool(await connection.fetchval("SELECT count(*) FROM deliveries WHERE status = 'dead'"))

        await until(dead, 20, "a delivery to be given up")
        async with connection.transaction():
            await connection.execute(EVENT, "parked-1", 2)
            await connection.execute(EVENT, "parked-2", 3)
            await connection.execute(
                "UPDATE event_queue SET attempts = 5, due_at = now(), parked_at = now(), last_error = 'a bug'"
            )
        return str(await connection.fetchval("SELECT id FROM deliveries"))
    finally:
        await connection.close()


def play(page: Path, folder: Path, environment: dict[str, str], ports: dict[str, str]) -> None:
    """Do all that `page` says; on this machine its ports are others."""
    text = page.read_text(encoding="utf-8")
    for written, port in ports.items():
        text = text.replace(written, port)
    notes = folder.with_name(f"{folder.name}-notes")
    for needed in (folder, notes):
        needed.mkdir()
    with Terminals(folder, notes, environment) as terminals:
        for block in blocks(text):
            try:
                terminals.play(block)
            except AssertionError as failed:
                pytest.fail(f"{page.relative_to(ROOT)}:{block.line}: {failed}", pytrace=False)


@pytest.mark.parametrize("page", TOLD, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_says_works(page: Path, stage: dict[str, str]) -> None:
    with passing_folder("agentauri-page-") as folder:
        play(page, folder / "reader", stage, {"http://localhost:8080": stage["URL"]})


def test_the_tutorial_works_to_the_letter(path: str) -> None:
    with passing_folder("agentauri-tutorial-") as folder:
        ports = {"8080": free_port(), "9000": free_port()}
        # The tutorial waits for retries, which are to come at once here.
        faster = {"SERVER_PORT": ports["8080"], "RETRY_SCHEDULE_SECONDS": "1,1,1,1,1,1,1,1,1,1"}
        play(EMBEDDED, folder / "reader", surroundings(folder, path) | faster, ports)


def test_every_page_with_commands_of_ours_that_can_run_here_is_run() -> None:
    run = {str(page.relative_to(ROOT / "docs")) for page in TOLD if page.is_relative_to(ROOT / "docs")}

    assert run >= {
        "reference/doctor.md",
        *(
            f"how-to/{name}.md"
            for name in (
                "back-up-and-restore",
                "change-keys",
                "encrypt-the-database",
                "handle-an-open-breaker",
                "replay-what-failed",
                "retry-parked-events",
                "run-with-your-own-postgres-and-redis",
                "verify-a-webhook",
                "why-did-it-not-fire",
            )
        ),
    }


def test_a_command_ends_where_the_shell_has_all_of_it() -> None:
    text = "$ echo 'one\ntwo'\none\n…\n$ cat <<END\nx\nEND\nx\n$ false # exits 1\n"

    assert [(found.text, found.expected, found.exit_code) for found in commands(text)] == [
        ("echo 'one\ntwo'", "one\n…\n", 0),
        ("cat <<END\nx\nEND", "x\n", 0),
        ("false # exits 1", "", 1),
    ]


@pytest.mark.parametrize(
    "wrong",
    ["$ false\n", "$ true # exits 1\n", "$ echo one\ntwo\n", "$ echo one\none\n…\ntwo\n", "$ echo 2 is\n2 i\n"],
)
def test_a_page_that_is_wrong_is_found(tmp_path: Path, wrong: str) -> None:
    with Terminals(tmp_path, tmp_path, surroundings(tmp_path, os.environ["PATH"])) as terminals:
        terminals.play(Block("run", "$ true\n", 1))
        with pytest.raises(AssertionError):
            terminals.play(Block("run", wrong, 2))
