"""Both servers of one data folder."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from agentauri.embedded.binaries import postgres_bin, short_number, usable, valkey_bin
from agentauri.embedded.postgres import Postgres
from agentauri.embedded.process import EmbeddedError, Owner, Server
from agentauri.embedded.valkey import Valkey

SOCKET_PATH_MAX = 107  # sun_path is 108 bytes with its terminator


class Embedded:
    """Both servers, or one of them; a context manager. `database_url` and `redis_url` are known inside it.

    With `join`, the servers of an agentauri that already runs on this folder are used, and left alone at the end:
    what the commands beside `serve` want.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        postgres: bool = True,
        valkey: bool = True,
        join: bool = False,
        postgres_bin: str | None = None,
        valkey_bin: str | None = None,
        postgres_settings: Mapping[str, str] | None = None,
    ) -> None:
        self._data = data_dir
        self._wants = (postgres, valkey)
        self._join = join
        self._bins = (postgres_bin, valkey_bin)
        self._settings = dict(postgres_settings or {})
        self._servers: list[Server] = []
        self._lock: int | None = None
        self.database_url: str | None = None
        self.redis_url: str | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except OSError as error:
            self.stop()
            raise EmbeddedError(
                f"{error.filename or self._data}: {error.strerror}. AGENTAURI_DATA_DIR must name a folder that this "
                "user can write to, on a disk with free space; or set DATABASE_URL and REDIS_URL to servers of yours"
            ) from error
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        owner = Owner.ours()
        self._data.mkdir(parents=True, exist_ok=True)
        if owner.drops:
            self._data.chmod(0o755)
        run = _socket_folder(self._data, owner)
        wants_postgres, wants_valkey = self._wants
        if self._join and _locked(self._data):
            self.database_url = Postgres.url_in(run) if wants_postgres else None
            self.redis_url = Valkey.url_in(run, self._data / "valkey") if wants_valkey else None
            return
        self._lock = _lock(self._data)
        if wants_postgres:
            binaries = usable(postgres_bin(self._bins[0]), "postgres", owner, self._data)
            server = Postgres(binaries, owner.folder(self._data / "postgres"), run, owner, self._settings)
            self._servers.append(server)
            server.start()
            server.ensure_database()
            self.database_url = Postgres.url_in(run)
        if wants_valkey:
            binary = usable(valkey_bin(self._bins[1]), "valkey-server", owner, self._data)
            valkey = Valkey(binary, owner.folder(self._data / "valkey"), run, owner)
            self._servers.append(valkey)
            valkey.start()
            self.redis_url = Valkey.url_in(run, self._data / "valkey")

    @property
    def joined(self) -> int | None:
        """The process whose servers these are; None when they are ours."""
        return None if self._lock is not None else int((self._data / "lock").read_text())

    def revive(self) -> list[str]:
        """Start again whichever server has died (killed from outside, out of memory); their names.

        Does not wait for them to answer: it is called from the event loop.
        """
        dead = [server for server in self._servers if not server.alive]
        for server in dead:
            server.launch()
        return [server.name for server in dead]

    def stop(self) -> None:
        """Stop what runs, newest first, and let go of the folder."""
        while self._servers:
            self._servers.pop().stop()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lock(data: Path) -> int:
    """Take the folder; the kernel lets go of it when we end, however that happens."""
    fd = os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.read(fd, 32).decode(errors="replace").strip()
        os.close(fd)
        raise EmbeddedError(
            f"{data} is in use by another agentauri (process {pid}). Stop that one, or give this one a folder of its "
            "own with AGENTAURI_DATA_DIR"
        ) from error
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd


def _locked(data: Path) -> bool:
    try:
        fd = os.open(data / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _socket_folder(data: Path, owner: Owner) -> Path:
    """Below the data folder, or, where that makes the socket's path too long, a stable private one in /tmp."""
    run = data / "run"
    if len(str(run / ".s.PGSQL.5432").encode()) <= SOCKET_PATH_MAX:
        return owner.folder(run)
    name = f"agentauri-{os.geteuid()}-{short_number(data):x}"
    short = Path(tempfile.gettempdir()) / name
    if short.exists() and short.lstat().st_uid not in (owner.uid, os.geteuid()):
        raise EmbeddedError(f"{short} belongs to somebody else; set AGENTAURI_DATA_DIR to a shorter path")
    return owner.folder(short)
