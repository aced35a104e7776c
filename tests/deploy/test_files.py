"""What an operator deploys with is well-formed: the image, the composition, the service."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
UNIT = ROOT / "deploy" / "agentauri.service"


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_passes_its_linter() -> None:
    run(BIN / "hadolint", "--no-color", "Dockerfile")


def test_the_composition_keeps_to_the_schema_of_compose() -> None:
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here to read the unit")
def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "agentauri"
    program.touch(mode=0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/agentauri/bin/agentauri", str(program)))

    run("systemd-analyze", "verify", "--man=no", unit)


def test_the_unit_waits_longer_than_the_longest_stop() -> None:
    [seconds] = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)

    assert int(seconds) >= 30 + 10  # SHUTDOWN_GRACE_SECONDS, and the servers' own end
