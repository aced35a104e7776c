"""The oldest PostgreSQL that must do, beside the one that every other test runs on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentauri.embedded import Embedded
from support.postgres_15 import packaged


@pytest.fixture(scope="session")
def postgres_15_bin() -> str:
    folder = packaged()
    if folder is None:
        pytest.skip("these binaries are for Linux on x86-64")
    return str(folder)


@pytest.fixture(scope="session")
def postgres_15_url(postgres_15_bin: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="agentauri-pg15-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        settings = {"fsync": "off", "shared_buffers": "16MB"}
        with Embedded(folder, valkey=False, postgres_bin=postgres_15_bin, postgres_settings=settings) as embedded:
            assert embedded.database_url is not None
            yield embedded.database_url
