"""The HTTP side."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Literal, TypeVar
from urllib.parse import urlsplit

from msgspec import Struct

from agentauri.config.discovery import DiscoveryConfig, read_discovery
from agentauri.config.reader import Reader, known, within
from agentauri.types import Secret

T = TypeVar("T")

RateLimitMode = Literal["enforcing", "shadow", "off"]
Network = IPv4Network | IPv6Network

MODES: dict[str, RateLimitMode] = {"enforcing": "enforcing", "shadow": "shadow", "off": "off"}
DEVELOPMENT_ORIGINS = ("http://localhost:3000", "http://localhost:8080", "http://localhost:8004")


class ServerConfig(Struct, frozen=True, kw_only=True):
    host: str = "127.0.0.1"
    port: int = 8080
    base_url: str = "http://localhost:8080"
    metrics_token: Secret | None = None
    metrics_port: int | None = None
    api_docs: bool = True
    enable_hsts: bool = False
    hsts_max_age: int = 31536000
    password_hash_concurrency: int = 2
    allow_unpaid_upgrades: bool = False
    rate_limit_mode: RateLimitMode = "enforcing"
    auth_rate_limit: int = 60
    monitoring_token: Secret | None = None
    trusted_proxies: tuple[Network, ...] = ()
    cors_origins: tuple[str, ...] = ()
    discovery: DiscoveryConfig = DiscoveryConfig()


def read_server(r: Reader, development: bool, embedded: bool) -> ServerConfig:
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
        metrics_port=r.parse("METRICS_PORT", None, lambda raw: within(int(raw), 0, 65535), "a number from 0 to 65535"),
        api_docs=r.flag("API_DOCS_ENABLED", True),
        enable_hsts=r.flag("ENABLE_HSTS", False),
        hsts_max_age=r.number("HSTS_MAX_AGE", 31536000, 0, 2**31),
        password_hash_concurrency=r.number("PASSWORD_HASH_CONCURRENCY", 2, 1, 64),
        allow_unpaid_upgrades=r.flag("ALLOW_UNPAID_UPGRADES", development and embedded),
        rate_limit_mode=r.parse(
            "RATE_LIMIT_MODE", MODES["enforcing"], lambda raw: known(MODES, raw.lower()), "enforcing, shadow or off"
        ),
        auth_rate_limit=r.number("AUTH_RATE_LIMIT_PER_HOUR", 60, 1, 1_000_000),
        monitoring_token=Secret(monitoring) if (monitoring := r.raw("MONITORING_TOKEN")) else None,
        trusted_proxies=r.parse(
            "TRUSTED_PROXIES", (), _each(ip_network), "comma-separated networks, such as 10.0.0.0/8,192.0.2.7"
        ),
        cors_origins=_read_origins(r, development),
        discovery=read_discovery(r),
    )


def _read_origins(r: Reader, development: bool) -> tuple[str, ...]:
    def origin(raw: str) -> str:
        parts = urlsplit(raw)
        if parts.scheme not in (("http", "https") if development else ("https",)) or not parts.hostname:
            raise ValueError
        if raw != f"{parts.scheme}://{parts.netloc}" or "@" in raw or "*" in raw:
            raise ValueError
        return raw.lower()

    takes = "comma-separated origins, such as https://app.example.org: no *, no path, in production https only"
    return r.parse("CORS_ALLOWED_ORIGINS", DEVELOPMENT_ORIGINS if development else (), _each(origin), takes)


def _each(convert: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """For values between commas."""
    return lambda raw: tuple(convert(part.strip()) for part in raw.split(",") if part.strip())
