"""`agentauri demo` as a stranger runs it: real servers, a real chain, a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

DEMO = (sys.executable, "-m", "agentauri", "demo")


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


def test_ctrl_c_ends_the_live_view_with_a_summary(environment: dict[str, str]) -> None:
    with subprocess.Popen(DEMO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "feedback" in line:
                break
        demo.send_signal(signal.SIGINT)
        rest = demo.stdout.read()

    assert demo.returncode == 0, rest
    assert "Summary" in rest
    assert list(Path(environment["TMPDIR"]).iterdir()) == []


def test_without_a_local_node_the_demo_says_what_to_install(environment: dict[str, str], tmp_path: Path) -> None:
    environment["AGENTAURI_ANVIL"] = str(tmp_path / "missing")

    done = subprocess.run([*DEMO, "--once"], env=environment, capture_output=True, text=True, check=False, timeout=100)

    assert done.returncode == 1
    assert "AGENTAURI_ANVIL" in done.stdout
    assert "Traceback" not in done.stderr
