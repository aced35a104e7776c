"""The real process, as often as a test likes: forked from one that has imported everything already.

Starting Python and importing the whole house takes longer than what most of these tests do. A nursery process imports
once and forks a child for each start; the child runs the command as if typed, in an environment of its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self


class Nursery:
    """Forks children that are born with every import done."""

    def __init__(self, **environment: str) -> None:
        """`environment` is what the nursery itself starts with; a child's own is given with each start."""
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def start(self, arguments: list[str], environment: Mapping[str, str], log: Path) -> Child:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"arguments": arguments, "environment": dict(environment), "log": str(log)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Child(int(self._process.stdout.readline()), log)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


class Child:
    """A running `agentauri`, its log in a file. Killed on leaving, if it is still there."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid = pid
        self.log = log

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def alive(self) -> bool:
        return self.exit_code is None

    @property
    def exit_code(self) -> int | None:
        """How it ended, negative for a signal; None while it runs."""
        path = self.log.with_suffix(f".{self.pid}.exit")
        return int(path.read_text()) if path.exists() else None

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            if self.alive:  # its number may be somebody else's by now
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while self.alive and time.monotonic() < deadline:
            time.sleep(0.005)

    def lines(self) -> list[dict[str, object]]:
        """What it has logged so far; output that is no JSON is left out."""
        found = []
        for line in self.log.read_text().splitlines() if self.log.exists() else []:
            with suppress(ValueError):
                found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict)]

    async def ended(self, seconds: float = 30.0) -> int | None:
        await until(lambda: not self.alive, seconds, f"the process to end that logs to {self.log}")
        return self.exit_code

    async def logged(self, seconds: float = 30.0, **fields: object) -> dict[str, object]:
        """The first line that has these fields, once it is there."""
        found: dict[str, object] | None = None

        def there() -> bool:
            nonlocal found
            ended = not self.alive
            found = next((line for line in self.lines() if fields.items() <= line.items()), None)
            assert found or not ended, f"ended with {self.exit_code}: {self.log.read_text()[-2000:]}"
            return found is not None

        await until(there, seconds, f"a log line with {fields} in {self.log}")
        assert found is not None
        return found

    async def port(self, seconds: float = 30.0) -> int:
        """The port that it serves HTTP on, once it does."""
        line = await self.logged(seconds, event="http.listening")
        return int(str(line["port"]))


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float, what: str) -> None:
    """Wait for something outside this process, which cannot be stepped."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer if isinstance(answer, bool) else await answer:
            return
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        await asyncio.sleep(0.025)  # a look may cost a transaction, and there are few cores


@contextmanager
def nursery(**environment: str) -> Iterator[Nursery]:
    opened = Nursery(**environment)
    try:
        yield opened
    finally:
        opened.close()


def serving(born_of: Nursery, environment: Mapping[str, str], folder: Path) -> Iterator[Callable[..., Child]]:
    """A function that starts `agentauri serve`; keyword arguments are further settings. Its children are killed at the
    end: for fixtures to yield from."""
    children: list[Child] = []

    def start(*arguments: str, **settings: str) -> Child:
        log = folder / f"serve-{len(children)}.log"
        child = born_of.start(["serve", *arguments], {**environment, **settings}, log)
        children.append(child)
        return child

    try:
        yield start
    finally:
        for child in children:
            child.kill()


def _serve_requests() -> None:
    """The nursery itself."""
    import agentauri.console  # noqa: F401 (imported late by the commands)
    from agentauri import faults
    from agentauri.cli import main
    from agentauri.embedded import die_with

    nursery_dies = die_with(os.getpid(), signal.SIGKILL)
    for request in sys.stdin:
        order = json.loads(request)
        # A middle process waits for the child, so that its exit code is kept and no zombie stays.
        read, write = os.pipe()
        if os.fork() == 0:
            os.close(read)
            _arrange(nursery_dies)
            middle_dies = die_with(os.getpid(), signal.SIGKILL)
            child = os.fork()
            if child == 0:
                _arrange(middle_dies)
                os.close(write)
                _become(order, lambda: importlib.reload(faults), main)
            os.write(write, f"{child}\n".encode())
            os.close(write)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            path = Path(order["log"]).with_suffix(f".{child}.exit")
            path.with_suffix(".part").write_text(str(code))
            path.with_suffix(".part").rename(path)
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as answer:
            print(answer.readline().strip(), flush=True)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _arrange(death: Callable[[], None] | None) -> None:
    """Nobody is left behind when the tests are killed: each generation goes with the one before."""
    if death is not None:
        death()


def _put_over(file: str, path: str) -> None:
    """Have this process, and nobody else, see `file` at `path`. Linux, as root."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, recursive_private, bind = 0x20000, 0x44000, 0x1000
    done = [
        libc.unshare(new_namespace),
        libc.mount(b"none", b"/", None, recursive_private, None),
        libc.mount(os.fsencode(file), os.fsencode(path), None, bind, None),
    ]
    if any(done):
        raise OSError(ctypes.get_errno(), "a mount namespace of its own", path)


def _become(order: dict[str, object], rearm: Callable[[], object], main: Callable[..., object]) -> None:
    """Turn this fork into the command; never returns."""
    log = os.open(str(order["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.clear()
    os.environ.update(order["environment"])  # type: ignore[call-overload]  # strings, from our own JSON
    if resolver := os.environ.pop("TEST_RESOLV_CONF", None):
        _put_over(resolver, "/etc/resolv.conf")
    if skew := os.environ.pop("TEST_SKEW_SECONDS", None):
        ctypes.c_long.in_dll(ctypes.CDLL(None), "skew_seconds").value = int(skew)  # of skew.c, preloaded
    os.chdir(os.environ.get("PWD", "/"))
    rearm()
    code = 1
    try:
        main(order["arguments"], standalone_mode=True)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve_requests()
