"""The marked blocks of a documentation page, and the terminals in which a reader would type them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import textwrap
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

_MARKED = re.compile(
    r"^ *```\S+ (?P<mark>run|run &|prints|file=\S+)\n(?P<text>.*?)^ *```$|^<!-- (?P<key>Ctrl-C) (?P<job>\S+) -->$",
    re.MULTILINE | re.DOTALL,
)
_EXIT = re.compile(r"# exits (\d+)$")
_SHAPES = (
    r"\d{4}-\d\d-\d\dT[\d:.]+Z?",
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    r"(?:sk_live_|sk_test_|whsec_)[\w+/=]+",
)
"""Times, ids and secrets: in an expected output each stands for any other of its kind."""


class Block(NamedTuple):
    mark: str
    text: str
    line: int


class Command(NamedTuple):
    text: str
    expected: str
    """What it has to print; nothing is expected of a command without."""

    @property
    def exit_code(self) -> int:
        found = _EXIT.search(self.text)
        return int(found[1]) if found else 0


def blocks(page: str) -> list[Block]:
    found = []
    for match in _MARKED.finditer(page):
        line = page.count("\n", 0, match.start()) + 1
        mark = match["mark"] or match["key"]
        found.append(Block(mark, match["job"] or textwrap.dedent(match["text"] or ""), line))
    return found


def commands(text: str) -> list[Command]:
    """A `$ ` begins a command, which goes on until the shell has all of it; the rest is what it prints."""
    found: list[Command] = []
    typing = False
    for line in text.splitlines():
        if typing:
            found[-1] = Command(f"{found[-1].text}\n{line}", "")
        elif line.startswith("$ "):
            found.append(Command(line[2:], ""))
        else:
            assert found, f"a block that is run begins with `$ `, not with {line!r}"
            found[-1] = found[-1]._replace(expected=f"{found[-1].expected}{line}\n")
            continue
        typing = not _is_whole(found[-1].text)
    return found


def _is_whole(command: str) -> bool:
    read = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True)
    return not command.endswith("\\") and not read.stderr


def pattern(expected: str) -> str:
    """`…` stands for anything, alone in a line for any lines."""
    return "".join(_line_pattern(line) for line in _even(expected).splitlines())


def _line_pattern(line: str) -> str:
    if line.strip() == "…":
        return r"(?:.*\n)*?"
    return ".*".join(map(_part_pattern, line.split("…"))) + r"\n"


def _part_pattern(text: str) -> str:
    parts = re.split(f"({'|'.join(_SHAPES)})", text)
    return "".join(next((shape for shape in _SHAPES if re.fullmatch(shape, part)), re.escape(part)) for part in parts)


def _even(text: str) -> str:
    """Columns are as wide as what stands in them, and tabs where nobody looks; psql ends in an empty line."""
    return "".join(" ".join(line.split()) + "\n" for line in text.splitlines() if line.strip())


class Terminals:
    """A bash session, and what was left running beside it, in one folder."""

    def __init__(self, folder: Path, notes: Path, environment: Mapping[str, str]) -> None:
        """`notes` is where the runner keeps what it needs, out of the reader's way."""
        self._folder, self._notes = folder, notes
        self._jobs: dict[int, str] = {}
        self._number = 0
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=folder,
            env=dict(environment),
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for group in (*self._jobs, self._shell.pid):
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        self._shell.communicate()

    def play(self, block: Block) -> None:
        match block.mark:
            case "run":
                for command in commands(block.text):
                    self._run(command)
            case "run &":
                self._leave_running("\n".join(command.text for command in commands(block.text)))
            case "prints":
                self._await(block.text)
            case "Ctrl-C":
                self._interrupt(block.text)
            case _:
                (self._folder / block.mark.removeprefix("file=")).write_text(block.text, encoding="utf-8")

    def _run(self, command: Command) -> None:
        script, output = self._write(command.text)
        code = int(self._tell(f"{{ . {script}; }} >{output} 2>&1 </dev/null; (echo $?)"))
        printed = output.read_text(encoding="utf-8")
        assert code == command.exit_code, f"$ {command.text}\nended with {code}:\n{printed}"
        fits = not command.expected or re.fullmatch(pattern(command.expected), _even(printed))
        assert fits, f"$ {command.text}\nprinted\n{printed}\nand not\n{command.expected}"

    def _leave_running(self, command: str) -> None:
        script, output = self._write(command)
        # With job control it has a process group of its own, and Ctrl-C is not ignored.
        group = int(self._tell(f"set -m; ( . {script} ) >{output} 2>&1 </dev/null & set +m; echo $!"))
        self._jobs[group] = command

    def _await(self, expected: str, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        wanted = re.compile(f"^{pattern(expected)}", re.MULTILINE)
        while True:
            printed = [path.read_text(encoding="utf-8") for path in sorted(self._notes.glob("*.out"))]
            if any(wanted.search(_even(text)) for text in printed):
                return
            assert time.monotonic() < deadline, f"nobody printed\n{expected}\nbut\n{'-----'.join(printed)[-6000:]}"
            time.sleep(0.05)

    def _interrupt(self, part: str, seconds: float = 30.0) -> None:
        """Ctrl-C for what was started by a command with this in it, and its end."""
        group = next(group for group, command in reversed(self._jobs.items()) if part in command)
        del self._jobs[group]
        os.killpg(group, signal.SIGINT)
        self._tell(f"wait {group}; echo")

    def _write(self, command: str) -> tuple[Path, Path]:
        self._number += 1
        script = self._notes / f"{self._number:02}.sh"
        script.write_text(command + "\n", encoding="utf-8")
        return script, script.with_suffix(".out")

    def _tell(self, line: str) -> str:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(line + "\n")
        self._shell.stdin.flush()
        return self._shell.stdout.readline().strip()
