"""The servers of our own: private, durable, and gone when we are gone."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio

from agentauri.embedded import Embedded, EmbeddedError
from support.folders import passing_folder

SERVE_AND_WAIT = """
import sys
from pathlib import Path
from agentauri import log
from agentauri.embedded import Embedded
log.configure("json", "ERROR")
with Embedded(Path(sys.argv[1]), postgres_settings={"fsync": "off"}) as embedded:
    print(embedded.database_url, embedded.redis_url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A data folder that user nobody can reach (pytest's own are closed to others)."""
    with passing_folder("agentauri data ") as path:
        yield path / "data"


def start(folder: Path) -> Embedded:
    return Embedded(folder, postgres_settings={"fsync": "off"})


async def remember(embedded: Embedded, word: str) -> None:
    assert embedded.database_url is not None
    assert embedded.redis_url is not None
    connection = await asyncpg.connect(embedded.database_url)
    await connection.execute("CREATE TABLE IF NOT EXISTS words (word text)")
    await connection.execute("INSERT INTO words VALUES ($1)", word)
    await connection.close()
    client = redis.asyncio.from_url(embedded.redis_url)
    await client.rpush("words", word)
    await client.aclose()


async def remembered(embedded: Embedded) -> tuple[list[str], list[bytes]]:
    assert embedded.database_url is not None
    assert embedded.redis_url is not None
    connection = await asyncpg.connect(embedded.database_url)
    rows = [row["word"] for row in await connection.fetch("SELECT word FROM words")]
    await connection.close()
    client = redis.asyncio.from_url(embedded.redis_url)
    listed = [word for word in await client.lrange("words", 0, -1) if isinstance(word, bytes)]
    await client.aclose()
    return rows, listed


def test_data_outlives_a_stop_and_a_start(folder: Path) -> None:
    with start(folder) as first:
        asyncio.run(remember(first, "kept"))
    with start(folder) as second:
        assert asyncio.run(remembered(second)) == (["kept"], [b"kept"])


def test_no_port_is_open_and_nothing_is_readable_by_others(folder: Path) -> None:
    with start(folder) as embedded:
        assert embedded.database_url is not None
        pid = int((folder / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        inodes = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
        tcp = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        assert not [inode for inode in inodes if inode.startswith("socket:[") and f" {inode[8:-1]} " in tcp]
        assert "port 0" in (folder / "valkey" / "valkey.conf").read_text()
        for private in ("postgres", "valkey", "run"):
            assert stat.S_IMODE((folder / private).stat().st_mode) == 0o700


def test_children_die_with_us_and_the_next_start_recovers(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVE_AND_WAIT, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        database_url = child.stdout.readline().split()[0]
        asyncio.run(write_row(database_url))
        child.send_signal(signal.SIGKILL)

    with start(folder) as embedded:
        assert asyncio.run(remembered(embedded))[0] == ["committed"]


async def write_row(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE TABLE words (word text); INSERT INTO words VALUES ('committed')")
    await connection.close()


def test_a_folder_in_use_is_refused_and_can_be_joined(folder: Path) -> None:
    with start(folder) as first:
        asyncio.run(remember(first, "shared"))
        with pytest.raises(EmbeddedError, match=f"in use by another agentauri .process {os.getpid()}."):
            start(folder).__enter__()
        with Embedded(folder, join=True) as joined:
            assert asyncio.run(remembered(joined)) == (["shared"], [b"shared"])
        assert asyncio.run(remembered(first))[0] == ["shared"]


def test_a_server_that_was_killed_is_revived_with_its_data(folder: Path) -> None:
    with start(folder) as embedded:
        asyncio.run(remember(embedded, "kept"))
        pid = int((folder / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGKILL)
        embedded._servers[0]._process.wait()  # type: ignore[union-attr]  # it was started above

        assert embedded.revive() == ["postgres"]
        embedded._servers[0].wait_until_ready()
        assert asyncio.run(remembered(embedded))[0] == ["kept"]


def test_data_of_another_major_version_is_refused_with_the_way_out(folder: Path) -> None:
    with start(folder):
        pass
    (folder / "postgres" / "PG_VERSION").write_text("9\n")

    with pytest.raises(EmbeddedError, match=r"made by PostgreSQL 9.*AGENTAURI_PG_BIN"):
        start(folder).__enter__()


def test_a_folder_that_cannot_be_made_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(EmbeddedError, match="AGENTAURI_DATA_DIR"):
        start(tmp_path / "file" / "data").__enter__()


def test_a_folder_without_programs_names_the_setting(folder: Path) -> None:
    with pytest.raises(EmbeddedError, match="AGENTAURI_PG_BIN"):
        Embedded(folder, postgres_bin="/nonexistent").__enter__()


def test_a_long_path_still_gets_its_sockets(folder: Path) -> None:
    deep = folder / ("d" * 100)
    with start(deep) as embedded:
        asyncio.run(remember(embedded, "deep"))
        assert asyncio.run(remembered(embedded))[0] == ["deep"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="SO_PEERCRED users differ elsewhere")
def test_another_system_user_is_not_let_in(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    with start(folder):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(folder / "run" / ".s.PGSQL.5432"))
        (folder / "run").chmod(0o755)
        (folder / "run" / ".s.PGSQL.5432").chmod(0o777)
        url = f"postgresql://postgres@/agentauri_backend?host={folder / 'run'}"
        child = os.fork()
        if child == 0:
            os.setuid(1)
            try:
                asyncio.run(asyncpg.connect(url))
            except asyncpg.InvalidAuthorizationSpecificationError:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
