"""The embedded PostgreSQL: made on the first start, known to our own user alone."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import asyncpg

from agentauri.embedded.process import EmbeddedError, Owner, Server, run_as

DATABASE = "agentauri_backend"


class Postgres(Server):
    name = "postgres"
    stop_signal = signal.SIGINT  # fast shutdown: ends sessions, writes a checkpoint

    def __init__(self, binaries: Path, data: Path, run: Path, owner: Owner, settings: Mapping[str, str]) -> None:
        super().__init__(binaries, data, run, owner)
        self._settings = settings

    @staticmethod
    def url_in(run: Path) -> str:
        return f"postgresql://postgres@/{DATABASE}?host={quote(str(run), safe='')}"

    def ensure_database(self) -> None:
        """Make our database on the first start."""
        url = self.url_in(self._run)
        maintenance = url.replace(f"/{DATABASE}?", "/postgres?")

        async def make() -> None:
            connection = await asyncpg.connect(maintenance)
            try:
                if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                    await connection.execute(f'CREATE DATABASE "{DATABASE}"')
            finally:
                await connection.close()
            if self._has_statements():
                connection = await asyncpg.connect(url)
                try:
                    await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
                finally:
                    await connection.close()

        asyncio.run(make())

    def _prepare(self) -> None:
        version_file = self._data / "PG_VERSION"
        major = _major(run_as(self._owner, [str(self._binaries / "postgres"), "--version"]))
        if version_file.exists():
            stored = version_file.read_text().strip()
            if stored != major:
                raise EmbeddedError(
                    f"{self._data} was made by PostgreSQL {stored}, and these binaries are {major}. Dump it with the "
                    f"old ones (AGENTAURI_PG_BIN names their folder), move {self._data} away, start, and restore; "
                    "docs/how-to/move-data.md shows the commands"
                )
            return
        system_user = self._system_user()
        run_as(
            self._owner,
            [
                str(self._binaries / "initdb"),
                *("-D", str(self._data)),
                *("--username=postgres", "--auth=peer", "--encoding=UTF8", "--no-locale", "--no-instructions"),
            ],
        )
        self._owner.file(self._data / "pg_ident.conf", f'agentauri "{system_user}" postgres\n')
        self._owner.file(self._data / "pg_hba.conf", "local all all peer map=agentauri\n")

    @staticmethod
    def _system_user() -> str:
        try:
            return pwd.getpwuid(os.geteuid()).pw_name
        except KeyError as error:
            raise EmbeddedError(
                f"User id {os.geteuid()} has no name on this system, and the embedded PostgreSQL knows its users by "
                "name. Add the user to /etc/passwd, or set DATABASE_URL to a server"
            ) from error

    def _has_statements(self) -> bool:
        share = self._binaries.parent / "share"
        return any(share.glob("**/extension/pg_stat_statements.control"))

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._run),
            "unix_socket_permissions": "0700",
            "max_connections": "120",
            "shared_buffers": "128MB",
            "max_wal_size": "2GB",
            "log_line_prefix": "%m [%p] ",
            **({"shared_preload_libraries": "pg_stat_statements"} if self._has_statements() else {}),
            **self._settings,
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return [str(self._binaries / "postgres"), "-D", str(self._data), *options]

    def _answers(self) -> bool:
        lines = self._pid_file()
        ours = self._process is not None and self._pid_on_file() == self._process.pid
        return ours and len(lines) >= 8 and lines[7].strip() == "ready"

    def _pid_file(self) -> list[str]:
        try:
            return (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _pid_on_file(self) -> int | None:
        lines = self._pid_file()
        return int(lines[0]) if lines and lines[0].strip().isdigit() else None


def _major(version: str) -> str:
    match = re.search(r"(\d+)(?:\.|\s|$|devel|beta|rc)", version)
    if match is None:
        raise EmbeddedError(f"cannot tell the version of PostgreSQL from {version.strip()!r}")
    return match[1]
