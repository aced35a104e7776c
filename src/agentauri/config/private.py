"""The installation's own secrets. In development missing ones are made once and kept in the data folder."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from agentauri.config.reader import Reader
from agentauri.types import Secret

PLACEHOLDERS = {"changeme", "change-me", "your-secret-key-change-in-production", "secret"}


class SecretsConfig(Struct, frozen=True, kw_only=True):
    """`encryption_keys`: 32 bytes each; the first encrypts, all decrypt. `jwt_secret_previous` only verifies."""

    encryption_keys: tuple[bytes, ...]
    api_key_pepper: Secret
    jwt_secret: Secret
    jwt_secret_previous: Secret | None = None


def read_secrets(r: Reader, development: bool, data_dir: Path) -> SecretsConfig:
    return SecretsConfig(
        encryption_keys=_read_encryption_keys(r, development, data_dir),
        api_key_pepper=_read_secret(r, "API_KEY_PEPPER", development, data_dir),
        jwt_secret=_read_secret(r, "JWT_SECRET", development, data_dir),
        jwt_secret_previous=_read_previous(r, "JWT_SECRET_PREVIOUS"),
    )


def _read_secret(r: Reader, name: str, development: bool, data_dir: Path) -> Secret:
    raw = r.raw(name)
    if raw is None:
        if not development:
            r.faults.append(f"{name}: required in production; make one with: openssl rand -base64 48")
            return Secret("")
        raw = _kept(r, data_dir / "secrets" / name.lower(), lambda: secrets.token_urlsafe(48))
    return _checked(r, name, raw)


def _read_previous(r: Reader, name: str) -> Secret | None:
    raw = r.raw(name)
    return None if raw is None else _checked(r, name, raw)


def _checked(r: Reader, name: str, raw: str) -> Secret:
    if raw.lower() in PLACEHOLDERS or len(raw.encode()) < 32 or len(set(raw)) < 10:
        r.faults.append(f"{name}: takes at least 32 bytes with 10 different characters, and no published example")
    return Secret(raw)


def _read_encryption_keys(r: Reader, development: bool, data_dir: Path) -> tuple[bytes, ...]:
    raw = r.raw("ENCRYPTION_KEY")
    if raw is None:
        if not development:
            r.faults.append("ENCRYPTION_KEY: required in production; make one with: openssl rand -base64 32")
            return ()
        raw = _kept(r, data_dir / "secrets" / "encryption_key", lambda: base64.b64encode(os.urandom(32)).decode())
    try:
        keys = tuple(base64.b64decode(part.strip(), validate=True) for part in raw.split(",") if part.strip())
    except binascii.Error:
        keys = ()
    if not keys or any(len(key) != 32 for key in keys):
        r.faults.append("ENCRYPTION_KEY: takes 32 bytes in base64, or several, comma-separated, the first to encrypt")
        return ()
    return keys


def _kept(r: Reader, path: Path, make: Callable[[], str]) -> str:
    """The secret in `path`, made there (0600) when it is not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_text(encoding="utf-8").strip()
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(value := make())
        return value
    except OSError as error:
        r.faults.append(
            f"AGENTAURI_DATA_DIR must name a folder that this user can write to, on a disk with free space "
            f"({path.parent}: {error.strerror})"
        )
        return make()
