"""Where the truth and the hints are."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct

from agentauri.config.reader import Reader
from agentauri.types import Secret

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


class DatabaseConfig(Struct, frozen=True, kw_only=True):
    url: Secret
    max_connections: int = 20
    acquire_timeout: int = 30
    application_name: str = "agentauri"


class RedisConfig(Struct, frozen=True, kw_only=True):
    url: Secret


def database_config(url: str, pool: tuple[int, int]) -> DatabaseConfig:
    return DatabaseConfig(url=Secret(url), max_connections=pool[0], acquire_timeout=pool[1])


def read_database(r: Reader, url: str | None, pool: tuple[int, int]) -> DatabaseConfig | None:
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("postgres", "postgresql"):
        r.faults.append("DATABASE_URL: takes postgresql://user:password@host:port/agentauri_backend?sslmode=…")
    if (mode := dict(parse_qsl(parts.query)).get("sslmode")) and mode not in SSL_MODES:
        r.faults.append(f"DATABASE_URL: sslmode takes {', '.join(SSL_MODES)}")
    return database_config(url, pool)


def read_redis(r: Reader, url: str | None) -> RedisConfig | None:
    if url is None:
        return None
    if urlsplit(url).scheme not in ("redis", "rediss", "unix"):
        r.faults.append("REDIS_URL: takes redis://host:port/0, rediss://… or unix:///path")
    return RedisConfig(url=Secret(url))
