"""Evaluation, delivery, and how long what they leave is kept."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from msgspec import Struct

from agentauri.config.reader import Reader, known, within
from agentauri.types import Secret

TELEGRAM_API_URL = "https://api.telegram.org"
RETRY_SCHEDULE = (5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800, 43200)


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
    telegram_bot_token: Secret | None = None
    telegram_api_url: str = TELEGRAM_API_URL


class RetentionConfig(Struct, frozen=True, kw_only=True):
    deliveries_days: int = 30
    processed_days: int = 90
    state_idle_days: int = 365
    auth_failures_days: int = 30
    audit_days: int = 365


def read_evaluator(r: Reader, depth: int, critical: int) -> EvaluatorConfig:
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


def read_dispatcher(r: Reader, depth: int, critical: int, development: bool) -> DispatcherConfig:
    def schedule(raw: str) -> tuple[int, ...]:
        values = tuple(within(int(part), 1, 86400) for part in raw.split(",") if part.strip())
        return values if len(values) <= 20 else known({}, raw)

    def ports(raw: str) -> frozenset[int]:
        return frozenset(within(int(part), 1, 65535) for part in raw.split(",") if part.strip())

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
        telegram_bot_token=_read_bot_token(r),
        telegram_api_url=r.parse("TELEGRAM_API_URL", TELEGRAM_API_URL, _plain_url, "an http:// or https:// URL"),
    )


def _read_bot_token(r: Reader) -> Secret | None:
    def token(raw: str) -> Secret:
        if not re.fullmatch(r"[0-9]{1,20}:[A-Za-z0-9_-]{10,100}", raw):
            raise ValueError
        return Secret(raw)

    alias = r.parse("TELOXIDE_TOKEN", None, token, "a bot's token")
    return r.parse("TELEGRAM_BOT_TOKEN", alias, token, "a bot's token")


def _plain_url(raw: str) -> str:
    parts = urlsplit(raw)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        raise ValueError
    return raw.rstrip("/")


def read_retention(r: Reader) -> RetentionConfig:
    return RetentionConfig(
        deliveries_days=r.number("RETENTION_DELIVERIES_DAYS", 30, 7, 365),
        processed_days=r.number("RETENTION_PROCESSED_DAYS", 90, 7, 3650),
        state_idle_days=r.number("STATE_IDLE_DAYS", 365, 30, 3650),
        auth_failures_days=r.number("AUTH_FAILURES_RETENTION_DAYS", 30, 1, 3650),
        audit_days=r.number("AUDIT_RETENTION_DAYS", 365, 1, 3650),
    )
