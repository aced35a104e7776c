"""`agentauri demo` as a stranger runs it: real servers, a real chain, a process of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

DEMO = (sys.executable, "-m", "agentauri", "demo")


def take_terminal() -> None:
    """Run in the child: its standard input is the terminal whose Ctrl-C it gets."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """Somebody's settings, which the demo must not touch, and a folder for what it writes."""
    with tempfile.TemporaryDirectory(prefix="demo-test-") as folder:
        Path(folder).chmod(0o755)  # as root, the embedded servers run as somebody who has to enter it
        yield {**os.environ, "DATABASE_URL": "postgresql://nowhere.invalid/x", "SERVER_PORT": "1", "TMPDIR": folder}


def test_once_shows_every_step_and_leaves_nothing_behind(environment: dict[str, str]) -> None:
    done = subprocess.run([*DEMO, "--once"], env=environment, capture_output=True, text=True, check=False, timeout=100)

    assert done.returncode == 0, done.stdout + done.stderr
    for step in ("registered", "feedback", "match", "signed delivery verified", "reorg", "retraction", "checked"):
        assert step in done.stdout
    assert "problem" not in done.stdout
    assert done.stderr == ""
    assert list(Path(environment["TMPDIR"]).iterdir()) == []


def test_on_a_terminal_a_panel_lives_below_the_lines_until_ctrl_c(environment: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    environment |= {"TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "100", "LINES": "30"}
    shown, typed = "", list[bytes]()
    with subprocess.Popen(
        DEMO, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=take_terminal
    ) as demo:
        os.close(theirs)
        with suppress(OSError):  # the end, as a terminal says it
            while part := os.read(ours, 65536):
                shown += part.decode(errors="replace")
                if "commit to request" in shown and not typed:
                    typed.append(b"\x03")
                    os.write(ours, b"\x03")
    os.close(ours)

    assert demo.returncode == 0, shown
    assert "reorgs 0" in shown
    *_, left = shown.rpartition("Summary")
    assert "commit to request" not in left
    assert "\x1b" not in left
    assert list(Path(environment["TMPDIR"]).iterdir()) == []


def test_without_a_local_node_the_demo_says_what_to_install(environment: dict[str, str], tmp_path: Path) -> None:
    environment["AGENTAURI_ANVIL"] = str(tmp_path / "missing")

    done = subprocess.run([*DEMO, "--once"], env=environment, capture_output=True, text=True, check=False, timeout=100)

    assert done.returncode == 1
    assert "AGENTAURI_ANVIL" in done.stdout
    assert "Traceback" not in done.stderr
