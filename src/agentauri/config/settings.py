"""The whole of the settings, and the one function that reads them."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from msgspec import Struct, field

from agentauri.config.chains import ChainSettings, RpcConfig, read_chains, read_rpc
from agentauri.config.pipeline import (
    DispatcherConfig,
    EvaluatorConfig,
    RetentionConfig,
    read_dispatcher,
    read_evaluator,
    read_retention,
)
from agentauri.config.private import SecretsConfig, read_secrets
from agentauri.config.reader import ConfigError, Reader, merged
from agentauri.config.server import ServerConfig, read_server
from agentauri.config.stores import DatabaseConfig, RedisConfig, read_database, read_redis

ROLES = ("indexer", "evaluator", "dispatcher", "http")


class Config(Struct, frozen=True, kw_only=True):
    """The whole of it. `database` and `redis` are None where the embedded servers are to be used."""

    environment: Literal["development", "production"]
    data_dir: Path
    instance_name: str
    log_format: Literal["json", "text"]
    log_level: str
    shutdown_grace: float
    roles: tuple[str, ...]
    database: DatabaseConfig | None
    database_pool: tuple[int, int]
    redis: RedisConfig | None
    server: ServerConfig
    secrets: SecretsConfig
    evaluator: EvaluatorConfig
    dispatcher: DispatcherConfig
    chains: tuple[ChainSettings, ...]
    rpc: RpcConfig
    retention: RetentionConfig
    postgres_bin: str | None = None
    valkey_bin: str | None = None
    warnings: tuple[str, ...] = field(default_factory=tuple)


def load(environ: Mapping[str, str] | None = None, folder: Path | None = None, only: tuple[str, ...] = ROLES) -> Config:
    """Read settings from `environ` (default: the process's) and from `.env` in `folder` (default: the working one).

    In development, missing secrets are made once and kept in the data folder, mode 0600.

    Raises:
        ConfigError: with every fault found.
    """
    environ = os.environ if environ is None else environ
    reader = Reader(merged(environ, folder or Path.cwd()))
    config = read(reader, only)
    if reader.faults:
        raise ConfigError(list(dict.fromkeys(reader.faults)))
    return config


def effective(environ: Mapping[str, str] | None = None, folder: Path | None = None) -> dict[str, str]:
    """The variables of ours that the environment or `.env` sets, as they are: mask them before showing them."""
    reader = Reader(merged(os.environ if environ is None else environ, folder or Path.cwd()))
    read(reader)
    return {name: value for name, value in reader.values.items() if name in reader.asked}


def default_data_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/agentauri")
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "agentauri"


def read(r: Reader, only: tuple[str, ...] = ROLES) -> Config:
    """What the reader's values come to; its `faults` say whether that can be used."""
    database_url, redis_url = r.raw("DATABASE_URL"), r.raw("REDIS_URL")
    embedded = database_url is None
    environment = r.choice("ENVIRONMENT", "development" if embedded else "production", "development", "production")
    development = environment == "development"
    data_dir = Path(r.text("AGENTAURI_DATA_DIR", str(default_data_dir()))).expanduser().absolute()
    pool = (
        r.number("DB_MAX_CONNECTIONS", 20, 14, 500),
        r.number("DB_ACQUIRE_TIMEOUT_SECONDS", 30, 1, 120),
    )
    secrets_config = read_secrets(r, development, data_dir)
    depth = r.number("MAX_QUEUE_DEPTH", 10_000, 2, 10_000_000)
    critical = r.number("CRITICAL_QUEUE_DEPTH", 50_000, 3, 100_000_000)
    if critical <= depth:
        r.faults.append("CRITICAL_QUEUE_DEPTH: must be above MAX_QUEUE_DEPTH")
    return Config(
        environment="development" if development else "production",
        data_dir=data_dir,
        instance_name=r.text("INSTANCE_NAME", socket.gethostname()),
        log_format="text" if r.choice("LOG_FORMAT", "json", "json", "text") == "text" else "json",
        log_level=r.choice("LOG_LEVEL", "info", "debug", "info", "warning", "error", "critical").upper(),
        shutdown_grace=r.number("SHUTDOWN_GRACE_SECONDS", 30, 1, 300),
        roles=only,
        database=read_database(r, database_url, pool),
        database_pool=pool,
        redis=read_redis(r, redis_url),
        server=read_server(r, development, embedded),
        secrets=secrets_config,
        evaluator=read_evaluator(r, depth, critical),
        dispatcher=read_dispatcher(r, depth, critical, development),
        chains=read_chains(r),
        rpc=read_rpc(r),
        retention=read_retention(r),
        postgres_bin=r.raw("AGENTAURI_PG_BIN"),
        valkey_bin=r.raw("AGENTAURI_VALKEY_BIN"),
    )
