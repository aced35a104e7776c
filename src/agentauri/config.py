"""Every setting, read and checked once at start.

`load()` is the only reader of the environment and of `.env` in the working folder; the environment wins. An unset or
empty variable means its default. Every fault is reported in one go, with the variable's name and what it takes.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct, field

from agentauri.types import Secret

T = TypeVar("T")

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
ROLES = ("indexer", "evaluator", "dispatcher", "http")
RETRY_SCHEDULE = (5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800, 43200)
CHAIN_ALIASES = {
    "ETHEREUM": 1, "BASE": 8453, "LINEA": 59144, "POLYGON": 137,
    "ETHEREUM_SEPOLIA": 11155111, "BASE_SEPOLIA": 84532, "LINEA_SEPOLIA": 59141, "POLYGON_AMOY": 80002,
}  # fmt: skip


class ConfigError(Exception):
    """The settings cannot be used; `faults` says why, one line per variable."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class DatabaseConfig(Struct, frozen=True, kw_only=True):
    url: Secret
    max_connections: int = 20
    acquire_timeout: int = 30
    application_name: str = "agentauri"


class RedisConfig(Struct, frozen=True, kw_only=True):
    url: Secret


class ServerConfig(Struct, frozen=True, kw_only=True):
    host: str = "127.0.0.1"
    port: int = 8080
    base_url: str = "http://localhost:8080"
    metrics_token: Secret | None = None
    metrics_port: int | None = None
    api_docs: bool = True
    enable_hsts: bool = False
    hsts_max_age: int = 31536000


class SecretsConfig(Struct, frozen=True, kw_only=True):
    """`encryption_keys`: 32 bytes each; the first encrypts, all decrypt."""

    encryption_keys: tuple[bytes, ...]
    api_key_pepper: Secret
    jwt_secret: Secret


class EvaluatorConfig(Struct, frozen=True, kw_only=True):
    max_concurrent_events: int = 100
    poll_interval: float = 1.0
    event_timeout: float = 30.0
    event_max_attempts: int = 5
    trigger_count_warning: int = 100
    max_queue_depth: int = 10_000
    critical_queue_depth: int = 50_000
    watchdog_interval: float = 60.0
    watchdog_idle: float = 300.0


class DispatcherConfig(Struct, frozen=True, kw_only=True):
    max_in_flight: int = 256
    destination_concurrency: int = 64
    max_queue_depth: int = 10_000
    critical_queue_depth: int = 50_000
    sweep_interval: float = 5.0
    horizon: float = 600.0
    retry_schedule: tuple[int, ...] = RETRY_SCHEDULE
    hold_max_age_hours: int = 72
    webhook_timeout: float = 10.0
    allow_insecure_targets: bool = False
    blocked_ports: frozenset[int] = frozenset({22, 25, 465, 587})


class ChainSettings(Struct, frozen=True, kw_only=True):
    """What the environment says about one chain; None leaves the packaged value."""

    chain_id: int
    rpc_urls: tuple[Secret, ...]
    start_block: int | None = None
    finality_depth: int | None = None
    identity: str | None = None
    reputation: str | None = None
    validation: str | None = None


class RpcConfig(Struct, frozen=True, kw_only=True):
    timeout: float = 10.0
    requests_per_second: float = 25.0
    max_range: int = 10_000
    rest: float = 60.0
    stall: float = 60.0
    quorum: int = 1


class RetentionConfig(Struct, frozen=True, kw_only=True):
    deliveries_days: int = 30
    processed_days: int = 90
    state_idle_days: int = 365


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
    reader = _Reader(_merged(environ, folder or Path.cwd()))
    config = _read(reader, only)
    if reader.faults:
        raise ConfigError(list(dict.fromkeys(reader.faults)))
    assert config is not None
    return config


def effective(environ: Mapping[str, str] | None = None, folder: Path | None = None) -> dict[str, str]:
    """The variables of ours that the environment or `.env` sets, as they are: mask them before showing them."""
    reader = _Reader(_merged(os.environ if environ is None else environ, folder or Path.cwd()))
    _read(reader, ROLES)
    return {name: value for name, value in reader.values.items() if name in reader.asked}


def _merged(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    return {key: value for key, value in (_dotenv(folder / ".env") | dict(environ)).items() if value.strip()}


def _dotenv(path: Path) -> dict[str, str]:
    """`KEY=value` lines; `export ` before and quotes around are dropped, `#` after white space starts a comment."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    values = {}
    for line in text.splitlines():
        match = re.match(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)$", line)
        if not match:
            continue
        key, value = match.groups()
        if value[:1] in ("'", '"') and value.rstrip()[-1:] == value[:1] and len(value.rstrip()) > 1:
            values[key] = value.rstrip()[1:-1]
        else:
            values[key] = re.sub(r"(^|\s+)#.*$", "", value).strip()
    return values


class _Reader:
    """Reads single variables and collects what is wrong with them."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values
        self.asked: set[str] = set()
        self.faults: list[str] = []

    def raw(self, name: str) -> str | None:
        """The variable, or the content of the file that `<name>_FILE` names."""
        self.asked |= {name, f"{name}_FILE"}
        if (path := self.values.get(f"{name}_FILE")) and name not in self.values:
            try:
                return Path(path).read_text(encoding="utf-8").strip() or None
            except OSError as error:
                self.faults.append(f"{name}_FILE: cannot be read ({error.strerror}); name a readable file")
        return self.values.get(name)

    def parse(self, name: str, default: T, convert: Callable[[str], T], takes: str) -> T:
        raw = self.raw(name)
        if raw is None:
            return default
        try:
            return convert(raw.strip())
        except (ValueError, binascii.Error):
            self.faults.append(f"{name}: takes {takes}")
            return default

    def number(self, name: str, default: int, low: int, high: int) -> int:
        return self.parse(name, default, lambda raw: _within(int(raw), low, high), f"a number from {low} to {high}")

    def flag(self, name: str, default: bool) -> bool:
        words = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}
        return self.parse(name, default, lambda raw: _known(words, raw.lower()), "true, false, 1, 0, on or off")

    def text(self, name: str, default: str) -> str:
        return self.raw(name) or default

    def choice(self, name: str, default: str, *choices: str) -> str:
        return self.parse(name, default, lambda raw: _among(raw.lower(), choices), " or ".join(choices))


def _within(value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise ValueError
    return value


def _known(words: Mapping[str, T], word: str) -> T:
    if word not in words:
        raise ValueError
    return words[word]


def _among(word: str, choices: tuple[str, ...]) -> str:
    return _known({choice: choice for choice in choices}, word)


def default_data_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/agentauri")
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "agentauri"


def _read(r: _Reader, only: tuple[str, ...]) -> Config | None:
    database_url, redis_url = r.raw("DATABASE_URL"), r.raw("REDIS_URL")
    embedded = database_url is None
    environment = r.choice("ENVIRONMENT", "development" if embedded else "production", "development", "production")
    development = environment == "development"
    data_dir = Path(r.text("AGENTAURI_DATA_DIR", str(default_data_dir()))).expanduser().absolute()
    pool = (
        r.number("DB_MAX_CONNECTIONS", 20, 14, 500),
        r.number("DB_ACQUIRE_TIMEOUT_SECONDS", 30, 1, 120),
    )
    secrets_config = _read_secrets(r, development, data_dir)
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
        database=_read_database(r, database_url, pool),
        database_pool=pool,
        redis=_read_redis(r, redis_url),
        server=_read_server(r, development),
        secrets=secrets_config,
        evaluator=_read_evaluator(r, depth, critical),
        dispatcher=_read_dispatcher(r, depth, critical, development),
        chains=_read_chains(r),
        rpc=RpcConfig(
            timeout=r.number("RPC_TIMEOUT_SECONDS", 10, 1, 60),
            requests_per_second=r.number("RPC_REQUESTS_PER_SECOND", 25, 1, 1000),
            max_range=r.number("RPC_MAX_RANGE", 10_000, 1, 100_000),
            rest=r.number("RPC_REST_SECONDS", 60, 1, 3600),
            stall=r.number("CHAIN_STALL_SECONDS", 60, 1, 3600),
            quorum=r.number("RPC_QUORUM", 1, 1, 2),
        ),
        retention=RetentionConfig(
            deliveries_days=r.number("RETENTION_DELIVERIES_DAYS", 30, 7, 365),
            processed_days=r.number("RETENTION_PROCESSED_DAYS", 90, 7, 3650),
            state_idle_days=r.number("STATE_IDLE_DAYS", 365, 30, 3650),
        ),
        postgres_bin=r.raw("AGENTAURI_PG_BIN"),
        valkey_bin=r.raw("AGENTAURI_VALKEY_BIN"),
    )


def database_config(url: str, pool: tuple[int, int]) -> DatabaseConfig:
    return DatabaseConfig(url=Secret(url), max_connections=pool[0], acquire_timeout=pool[1])


def _read_database(r: _Reader, url: str | None, pool: tuple[int, int]) -> DatabaseConfig | None:
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("postgres", "postgresql"):
        r.faults.append("DATABASE_URL: takes postgresql://user:password@host:port/agentauri_backend?sslmode=…")
    if (mode := dict(parse_qsl(parts.query)).get("sslmode")) and mode not in SSL_MODES:
        r.faults.append(f"DATABASE_URL: sslmode takes {', '.join(SSL_MODES)}")
    return database_config(url, pool)


def _read_redis(r: _Reader, url: str | None) -> RedisConfig | None:
    if url is None:
        return None
    if urlsplit(url).scheme not in ("redis", "rediss", "unix"):
        r.faults.append("REDIS_URL: takes redis://host:port/0, rediss://… or unix:///path")
    return RedisConfig(url=Secret(url))


def _read_server(r: _Reader, development: bool) -> ServerConfig:
    port = r.number("SERVER_PORT", 8080, 0, 65535)
    base_url = r.raw("BASE_URL")
    if base_url is None and not development:
        r.faults.append("BASE_URL: required in production; the address under which callers reach this server")
    token = r.raw("METRICS_TOKEN")
    return ServerConfig(
        host=r.text("SERVER_HOST", "127.0.0.1" if development else "0.0.0.0"),  # noqa: S104 (a container's own)
        port=port,
        base_url=base_url or f"http://localhost:{port}",
        metrics_token=Secret(token) if token else None,
        metrics_port=r.parse("METRICS_PORT", None, lambda raw: _within(int(raw), 0, 65535), "a number from 0 to 65535"),
        api_docs=r.flag("API_DOCS_ENABLED", True),
        enable_hsts=r.flag("ENABLE_HSTS", False),
        hsts_max_age=r.number("HSTS_MAX_AGE", 31536000, 0, 2**31),
    )


def _read_evaluator(r: _Reader, depth: int, critical: int) -> EvaluatorConfig:
    return EvaluatorConfig(
        max_concurrent_events=r.number("MAX_CONCURRENT_EVENTS", 100, 1, 100),
        poll_interval=r.number("POLL_INTERVAL_MS", 1000, 100, 60000) / 1000,
        event_timeout=r.number("EVENT_TIMEOUT_SECONDS", 30, 1, 300),
        event_max_attempts=r.number("EVENT_MAX_ATTEMPTS", 5, 1, 20),
        trigger_count_warning=r.number("TRIGGER_COUNT_WARNING", 100, 1, 100000),
        max_queue_depth=depth,
        critical_queue_depth=critical,
        watchdog_interval=r.number("WATCHDOG_INTERVAL_SECONDS", 60, 1, 3600),
        watchdog_idle=r.number("WATCHDOG_IDLE_SECONDS", 300, 1, 3600),
    )


def _read_dispatcher(r: _Reader, depth: int, critical: int, development: bool) -> DispatcherConfig:
    def schedule(raw: str) -> tuple[int, ...]:
        values = tuple(_within(int(part), 1, 86400) for part in raw.split(",") if part.strip())
        return values if len(values) <= 20 else _known({}, raw)

    def ports(raw: str) -> frozenset[int]:
        return frozenset(_within(int(part), 1, 65535) for part in raw.split(",") if part.strip())

    retention = r.number("RETENTION_DELIVERIES_DAYS", 30, 7, 365)
    hold = r.number("HOLD_MAX_AGE_HOURS", 72, 1, 336)
    if hold >= retention * 24:
        r.faults.append("HOLD_MAX_AGE_HOURS: must be below RETENTION_DELIVERIES_DAYS")
    return DispatcherConfig(
        max_in_flight=r.number("MAX_IN_FLIGHT_DELIVERIES", 256, 1, 5000),
        destination_concurrency=r.number("DESTINATION_CONCURRENCY", 64, 1, 1000),
        max_queue_depth=depth,
        critical_queue_depth=critical,
        sweep_interval=r.number("SWEEP_INTERVAL_SECONDS", 5, 1, 60),
        horizon=r.number("QUEUE_HORIZON_SECONDS", 600, 60, 3600),
        retry_schedule=r.parse(
            "RETRY_SCHEDULE_SECONDS", RETRY_SCHEDULE, schedule, "up to 20 comma-separated numbers from 1 to 86400"
        ),
        hold_max_age_hours=hold,
        webhook_timeout=r.number("WEBHOOK_TIMEOUT_SECONDS", 10, 1, 60),
        allow_insecure_targets=r.flag("ALLOW_INSECURE_TARGETS", development),
        blocked_ports=r.parse(
            "EGRESS_BLOCKED_PORTS", frozenset({22, 25, 465, 587}), ports, "comma-separated port numbers"
        ),
    )


def _read_chains(r: _Reader) -> tuple[ChainSettings, ...]:
    urls: dict[int, str] = {}
    for alias, chain_id in CHAIN_ALIASES.items():
        if value := r.raw(f"{alias}_RPC_URL"):
            urls[chain_id] = value
    for name, value in r.values.items():
        if match := re.fullmatch(r"RPC_URLS?_([1-9][0-9]{0,15})", name):
            r.asked.add(name)
            urls[int(match[1])] = value if name.startswith("RPC_URLS_") else urls.get(int(match[1]), value)
        elif name.startswith(("RPC_URLS_", "RPC_URL_")):
            r.faults.append(f"{name}: ends in a chain id, such as RPC_URLS_8453")
    wanted = r.parse(
        "CHAINS", None, lambda raw: [int(part) for part in raw.split(",") if part.strip()], "comma-separated chain ids"
    )
    chains = []
    for chain_id, value in sorted(urls.items()):
        if wanted is not None and chain_id not in wanted:
            continue
        chains.append(_read_chain(r, chain_id, value))
    return tuple(chains)


def _read_chain(r: _Reader, chain_id: int, urls: str) -> ChainSettings:
    def address(raw: str) -> str:
        if not re.fullmatch(r"0x[0-9a-fA-F]{40}", raw):
            raise ValueError
        return raw.lower()

    parts = [part.strip() for part in urls.split(",") if part.strip()]
    for part in parts:
        if urlsplit(part).scheme not in ("http", "https") or not urlsplit(part).hostname:
            r.faults.append(f"RPC_URLS_{chain_id}: takes comma-separated http:// or https:// URLs")
            break
    takes = "an address, 0x and 40 hex digits"
    return ChainSettings(
        chain_id=chain_id,
        rpc_urls=tuple(Secret(part) for part in parts),
        start_block=r.parse(f"START_BLOCK_{chain_id}", None, lambda raw: _within(int(raw), 0, 2**53), "a block number"),
        finality_depth=r.parse(
            f"FINALITY_DEPTH_{chain_id}", None, lambda raw: _within(int(raw), 0, 100_000), "a number of blocks"
        ),
        identity=r.parse(f"IDENTITY_ADDRESS_{chain_id}", None, address, takes),
        reputation=r.parse(f"REPUTATION_ADDRESS_{chain_id}", None, address, takes),
        validation=r.parse(f"VALIDATION_ADDRESS_{chain_id}", None, address, takes),
    )


PLACEHOLDERS = {"changeme", "change-me", "your-secret-key-change-in-production", "secret"}


def _read_secrets(r: _Reader, development: bool, data_dir: Path) -> SecretsConfig:
    return SecretsConfig(
        encryption_keys=_read_encryption_keys(r, development, data_dir),
        api_key_pepper=_read_secret(r, "API_KEY_PEPPER", development, data_dir),
        jwt_secret=_read_secret(r, "JWT_SECRET", development, data_dir),
    )


def _read_secret(r: _Reader, name: str, development: bool, data_dir: Path) -> Secret:
    raw = r.raw(name)
    if raw is None:
        if not development:
            r.faults.append(f"{name}: required in production; make one with: openssl rand -base64 48")
            return Secret("")
        raw = _kept(r, data_dir / "secrets" / name.lower(), lambda: secrets.token_urlsafe(48))
    if raw.lower() in PLACEHOLDERS or len(raw.encode()) < 32 or len(set(raw)) < 10:
        r.faults.append(f"{name}: takes at least 32 bytes with 10 different characters, and no published example")
    return Secret(raw)


def _read_encryption_keys(r: _Reader, development: bool, data_dir: Path) -> tuple[bytes, ...]:
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


def _kept(r: _Reader, path: Path, make: Callable[[], str]) -> str:
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
