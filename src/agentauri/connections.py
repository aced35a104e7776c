"""What the operator's own tools need to reach the stores, and the settings as they may be shown."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from urllib.parse import parse_qsl, unquote, urlsplit

import redis

from agentauri.config import Config, effective

SECRET_NAMES = ("KEY", "SECRET", "PEPPER", "TOKEN", "PASSWORD")
URL_NAMES = ("_URL", "RPC_URL", "RPC_WS")


def masked(config: Config) -> list[str]:
    """`NAME=value` of every variable that is set, then what follows from them; no secret and no URL's secret part."""
    lines = [f"{name}={_mask(name, value)}" for name, value in sorted(effective().items())]
    derived = {
        "ENVIRONMENT": config.environment,
        "AGENTAURI_DATA_DIR": str(config.data_dir),
        "DATABASE_URL": "(embedded)" if config.database is None else "***",
        "REDIS_URL": "(embedded)" if config.redis is None else "***",
        "SERVER_HOST": config.server.host,
        "SERVER_PORT": str(config.server.port),
        "BASE_URL": config.server.base_url,
        "ALLOW_INSECURE_TARGETS": str(config.dispatcher.allow_insecure_targets).lower(),
        "CHAINS": ",".join(str(chain.chain_id) for chain in config.chains),
    }
    named = {line.partition("=")[0] for line in lines}
    return lines + [f"{name}={value}" for name, value in derived.items() if name not in named]


def _mask(name: str, value: str) -> str:
    if any(word in name for word in SECRET_NAMES) and not name.endswith("_FILE"):
        return "***"
    if any(word in name for word in URL_NAMES) and name != "BASE_URL":
        return ",".join(_mask_url(part.strip()) for part in value.split(","))
    return value


def _mask_url(url: str) -> str:
    """Scheme and host; user, path and query may hold keys."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}/***"


def postgres_environment(url: str) -> dict[str, str]:
    """The PG* variables that make plain `psql` and `pg_dump` reach this database."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    values = {
        "PGHOST": query.pop("host", None) or parts.hostname,
        "PGPORT": query.pop("port", None) or (str(parts.port) if parts.port else None),
        "PGUSER": query.pop("user", None) or (unquote(parts.username) if parts.username else None),
        "PGPASSWORD": query.pop("password", None) or (unquote(parts.password) if parts.password else None),
        "PGDATABASE": query.pop("dbname", None) or unquote(parts.path.lstrip("/")) or None,
        "PGSSLMODE": query.get("sslmode"),
        "PGSSLROOTCERT": query.get("sslrootcert"),
        "PGSSLCERT": query.get("sslcert"),
        "PGSSLKEY": query.get("sslkey"),
    }
    return {name: value for name, value in values.items() if value}


def redis_environment(url: str) -> dict[str, str]:
    """What `redis-cli` reads, and the arguments it needs besides, as REDISCLI_ARGS."""
    parts = urlsplit(url)
    values = {"REDISCLI_ARGS": " ".join(_redis_arguments(url))}
    if parts.password:
        values["REDISCLI_AUTH"] = unquote(parts.password)
    return values


def _redis_arguments(url: str) -> list[str]:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return ["-s", unquote(parts.path)]
    database = parts.path.strip("/")
    return [
        *("-h", parts.hostname or "localhost", "-p", str(parts.port or 6379)),
        *(["--user", unquote(parts.username)] if parts.username else []),
        *(["-n", database] if database else []),
        *(["--tls"] if parts.scheme == "rediss" else []),
        *(["--cacert", root] if (root := dict(parse_qsl(parts.query)).get("ssl_ca_certs")) else []),
    ]


def call_redis(url: str, arguments: list[str]) -> int:
    """Run `redis-cli` or `valkey-cli` with `arguments`, or answer by ourselves; the exit code."""
    program = shutil.which("redis-cli") or shutil.which("valkey-cli")
    if program is not None:
        environment = os.environ | redis_environment(url)
        return subprocess.call([program, *_redis_arguments(url), *arguments], env=environment)  # noqa: S603
    client = redis.from_url(url, decode_responses=True)
    try:
        if arguments[:1] == ["--latency"]:
            return _latency(client)
        if not arguments:
            print("redis-cli is not installed; name a command, such as: LLEN action_jobs", file=sys.stderr)
            return 2
        print(_rendered(client.execute_command(*arguments)))  # type: ignore[no-untyped-call]  # untyped in the library
    except redis.ConnectionError as error:
        print(f"Could not connect to Redis: {error}", file=sys.stderr)
        return 1
    except redis.RedisError as error:
        print(f"(error) {error}")
        return 1
    finally:
        client.close()
    return 0


def _latency(client: object, samples: int = 100) -> int:
    """Ping a hundred times and print what redis-cli prints."""
    times = []
    for _ in range(samples):
        started = time.perf_counter()
        client.ping()  # type: ignore[attr-defined]  # a redis client; its stubs make this a union with a coroutine
        times.append((time.perf_counter() - started) * 1000)
    average = sum(times) / samples
    print(f"min: {min(times):.2f}, max: {max(times):.2f}, avg: {average:.2f} ({samples} samples)")
    return 0


def _rendered(answer: object) -> str:
    """As redis-cli writes when its output is not a terminal: values bare, a list a line each."""
    if answer is None:
        return ""
    if answer is True:
        return "PONG"
    if isinstance(answer, (list, tuple, set)):
        return "\n".join(_rendered(item) for item in answer)
    if isinstance(answer, dict):
        return "\n".join(f"{key}\n{_rendered(value)}" for key, value in answer.items())
    return str(answer)
