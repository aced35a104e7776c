"""A server as a child process: run as its owner, ended by us, and gone when we are gone."""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from agentauri.errors import AgentAuriError
from agentauri.log import get_logger

log = get_logger(__name__)

LINUX = sys.platform.startswith("linux")
START_SECONDS, STOP_SECONDS = 60.0, 60.0


class EmbeddedError(AgentAuriError):
    """The servers cannot be used as things stand; the message says what to do."""


class Owner(Struct, frozen=True):
    """The system user the servers run as: we ourselves, or `nobody` when we are root."""

    uid: int
    gid: int
    drops: bool

    @classmethod
    def ours(cls) -> Owner:
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid(), drops=False)
        nobody = pwd.getpwnam("nobody")
        return cls(nobody.pw_uid, nobody.pw_gid, drops=True)

    def folder(self, path: Path) -> Path:
        """`path` as a private folder of this owner."""
        path.mkdir(parents=True, exist_ok=True)
        if self.drops:
            os.chown(path, self.uid, self.gid)
        path.chmod(0o700)
        return path

    def file(self, path: Path, text: str) -> Path:
        """`text` in a file that this owner alone can read."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
        if self.drops:
            os.chown(path, self.uid, self.gid)
        return path


class Server(ABC):
    """A child process with a pid file, started and stopped alike for both servers."""

    name: str
    stop_signal: signal.Signals

    def __init__(self, binaries: Path, data: Path, run: Path, owner: Owner) -> None:
        self._binaries = binaries
        self._data = data
        self._run = run
        self._owner = owner
        self._process: subprocess.Popen[bytes] | None = None
        self._log = data.parent / f"{self.name}.log"

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, and return once it answers."""
        self.launch()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        _wait(self._ready, START_SECONDS, f"{self.name} did not come up; see {self._log}")

    def launch(self) -> None:
        """Start, without waiting for it to answer."""
        self._end_predecessor()
        self._prepare()
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 (paths of ours)
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=environment(),
                start_new_session=True,  # Ctrl-C is for us: we drain first and stop them last
                preexec_fn=die_with(os.getpid(), self.stop_signal),
                user=self._owner.uid if self._owner.drops else None,
                group=self._owner.gid if self._owner.drops else None,
                extra_groups=[] if self._owner.drops else None,
            )
        log.info("embedded.started", server=self.name, pid=self._process.pid)

    def stop(self) -> None:
        if self._process is None:
            return
        if self.alive:
            self._process.send_signal(self.stop_signal)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait()
        self._process = None

    def _end_predecessor(self) -> None:
        """A server that outlived a killed process of ours: the lock says that nobody else can own it."""
        pid = self._pid_on_file()
        if pid is None or not _runs_in(pid, self._data):
            return
        os.kill(pid, self.stop_signal)
        _wait(lambda: not _exists(pid), STOP_SECONDS, f"an older {self.name} (process {pid}) does not stop; kill it")

    def _ready(self) -> bool:
        if not self.alive:
            tail = self._log.read_text(errors="replace").strip().splitlines()[-4:]
            raise EmbeddedError(
                f"{self.name} ended while starting: {' | '.join(tail)}. The whole log is {self._log}. "
                "If the disk is full, free space or name another folder with AGENTAURI_DATA_DIR"
            )
        return self._answers()

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _prepare(self) -> None: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    @abstractmethod
    def _pid_on_file(self) -> int | None: ...


def run_as(owner: Owner, command: list[str]) -> str:
    """Run a program of ours to its end as `owner`; its output, or `EmbeddedError` with it."""
    done = subprocess.run(  # noqa: S603 (paths of ours)
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        timeout=120,
        env=environment(),
        user=owner.uid if owner.drops else None,
        group=owner.gid if owner.drops else None,
        extra_groups=[] if owner.drops else None,
    )
    if done.returncode != 0:
        told = [line for line in done.stdout.splitlines() if "FATAL" in line or "error:" in line.lower()]
        raise EmbeddedError(
            f"{Path(command[0]).name} failed: {' | '.join(told[-2:]) or done.stdout.strip()[-400:]}. "
            "AGENTAURI_DATA_DIR must name a folder that this user can write to, on a disk with free space"
        )
    return done.stdout


def environment() -> dict[str, str]:
    """Nothing of the caller's PG* variables or locale may change what the servers do."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"}


def die_with(parent: int, sign: signal.Signals) -> Callable[[], None] | None:
    """Run in the child: ask the kernel for `sign` when our process dies. Linux only; elsewhere the pid file serves."""
    if not LINUX:
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def arrange() -> None:
        libc.prctl(1, int(sign))  # PR_SET_PDEATHSIG; after setuid, which clears it
        if os.getppid() != parent:
            os._exit(1)

    return arrange


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return not LINUX
    return stat.read_text().rpartition(")")[2].split()[0] != "Z"


def _runs_in(pid: int, data: Path) -> bool:
    """Whether `pid` is alive and a server of this folder, not a stranger who got the number later."""
    if not _exists(pid):
        return False
    if LINUX:
        try:
            return os.fsencode(data) in Path(f"/proc/{pid}/cmdline").read_bytes() or (
                Path(f"/proc/{pid}/cwd").resolve() == data
            )
        except OSError:
            return False
    listed = subprocess.run(  # noqa: S603
        ["/bin/ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return str(data) in listed.stdout


def _wait(ready: Callable[[], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise EmbeddedError(otherwise)
        time.sleep(0.01)
