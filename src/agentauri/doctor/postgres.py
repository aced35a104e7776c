"""PostgreSQL: can we reach it, safely, with room to spare, and is the schema the one we know?"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import asyncpg
from cryptography import x509

from agentauri import certificates, migrations
from agentauri.database import Transaction, is_tls_fault
from agentauri.doctor.check import Check, Finding, Patient, fail, of_database, ok, plural, psql, warn

ANSWER_SECONDS = 5.0
LONG_QUERY = "1 minute"
LONG_TRANSACTION = "10 minutes"
USED_SHARE = 0.8
SPARE_CONNECTIONS = 10
SSL_REQUEST = struct.pack("!ii", 8, 80877103)
RENEW = "scripts/generate-pg-certs.sh && docker compose restart postgres"
NOTIFYING = ("notify_new_event_trigger", "notify_event_change_trigger")
ENCRYPTED_MODES = ("require", "verify-ca", "verify-full")


async def _answers(patient: Patient) -> Sequence[Finding]:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(ANSWER_SECONDS), patient.database.outside() as connection:
            version = await connection.fetchval("SHOW server_version")
    except TimeoutError:
        return [fail(f"no answer within {ANSWER_SECONDS:.0f} s", _start_postgres(patient))]
    except Exception as error:  # noqa: BLE001 (whatever it is, it is what the operator must read)
        cause = error.__cause__ or error
        return [_refused(patient, cause)]
    milliseconds = (time.perf_counter() - started) * 1000
    return [ok(f"PostgreSQL {version} answers in {milliseconds:.0f} ms, connecting included")]


def _refused(patient: Patient, cause: BaseException) -> Finding:
    text = str(cause) or type(cause).__name__
    if isinstance(cause, OSError) and cause.errno is not None:
        text = f"{os.strerror(cause.errno)} (os error {cause.errno})"
    if is_tls_fault(cause):
        return fail(f"refused for want of TLS: {text}", RENEW)
    if isinstance(cause, asyncpg.InvalidCatalogNameError):
        return fail(text, "agentauri migrate")
    return fail(text, _start_postgres(patient))


def _start_postgres(patient: Patient) -> str:
    return "agentauri serve" if patient.embedded else "docker compose up -d postgres"


def _parameters(patient: Patient) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(patient.database_settings.url.reveal()).query))


async def _tls(patient: Patient) -> Sequence[Finding]:
    mode = _parameters(patient).get("sslmode", "prefer")
    try:
        async with asyncio.timeout(ANSWER_SECONDS), patient.database.outside() as connection:
            row = await connection.fetchrow("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    except Exception as error:  # noqa: BLE001 (what has nothing to do with TLS, the check before has told)
        cause = error.__cause__ or error
        return [fail(f"DATABASE_TLS_FAILED: {cause}", RENEW)] if is_tls_fault(cause) else []
    if row is not None and row["ssl"]:
        return [ok(f"sslmode={mode}: the session is encrypted ({row['version']})")]
    if mode in ENCRYPTED_MODES:
        return [fail(f"sslmode={mode}, and the session is not encrypted", RENEW)]
    return [ok(f"sslmode={mode} does not ask for encryption")]


async def _certificate(patient: Patient) -> Sequence[Finding]:
    """The root file that DATABASE_URL names, and the certificate that the server shows."""
    parameters = _parameters(patient)
    found: list[Finding] = []
    if root := parameters.get("sslrootcert"):
        try:
            ends = certificates.expiry(Path(root)).at
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no certificate"
            found.append(fail(f"{root}: {reason}", RENEW, "root"))
        else:
            found.append(_days_left(ends, f"the root in {root}", RENEW, "root"))
    if parameters.get("sslmode") in ENCRYPTED_MODES:
        shown = await asyncio.to_thread(_shown_certificate, patient.database_settings.url.reveal())
        if shown is not None:
            found.append(_days_left(shown.not_valid_after_utc, "the server's certificate", RENEW, "server"))
    return found or [ok("DATABASE_URL asks for no certificate")]


def _days_left(ends: datetime, what: str, renew: str, part: str) -> Finding:
    days = (ends - datetime.now(UTC)).days
    text = f"{what} ends on {ends:%Y-%m-%d} ({plural(days, 'day')} left)"
    if ends <= datetime.now(UTC):
        return fail(f"{what} ended on {ends:%Y-%m-%d}", renew, part)
    return warn(text, renew, part) if days < certificates.WARN_DAYS else ok(text, part)


def _shown_certificate(url: str) -> x509.Certificate | None:
    """What the server shows, whether or not it is to be believed: asked as its protocol begins TLS."""
    parts = urlsplit(url)
    if not parts.hostname:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # we look at it, and trust it with nothing
    try:
        with socket.create_connection((parts.hostname, parts.port or 5432), ANSWER_SECONDS) as plain:
            plain.sendall(SSL_REQUEST)
            if plain.recv(1) != b"S":
                return None
            with context.wrap_socket(plain, server_hostname=parts.hostname) as secured:
                der = secured.getpeercert(binary_form=True)
    except OSError:
        return None
    return x509.load_der_x509_certificate(der) if der else None


async def _pool(patient: Patient) -> Sequence[Finding]:
    async with patient.database.transaction(durable=False) as tx:
        row = await tx.fetchrow(
            """SELECT current_setting('max_connections')::int AS most,
                      (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used,
                      (SELECT count(*) FROM pg_stat_activity
                       WHERE application_name = $1 AND state <> 'idle' AND pid <> pg_backend_pid()) AS busy,
                      (SELECT count(DISTINCT instance) FROM process_heartbeats
                       WHERE seen_at > now() - interval '30 seconds') AS replicas""",
            patient.database_settings.application_name,
        )
    assert row is not None
    each = patient.config.database_pool[0]
    replicas = max(1, row["replicas"])
    wanted = each * replicas + SPARE_CONNECTIONS
    text = f"{row['used']} of {row['most']} connections in use; {plural(replicas, 'process', 'processes')} of {each}"
    if row["used"] >= USED_SHARE * row["most"]:
        return [fail(text, psql(f"ALTER SYSTEM SET max_connections = {max(2 * row['most'], wanted)}"))]
    if row["busy"] >= USED_SHARE * each * replicas:
        return [warn(f"{row['busy']} of {each * replicas} pooled connections are at work", _larger_pool(each))]
    if wanted > row["most"]:
        return [warn(f"{text}; they may come to want {wanted}", psql(f"ALTER SYSTEM SET max_connections = {wanted}"))]
    return [ok(text)]


def _larger_pool(each: int) -> str:
    return f"echo DB_MAX_CONNECTIONS={min(500, max(50, 2 * each))} >> .env"


async def _long_queries(tx: Transaction) -> Finding:
    row = await tx.fetchrow(
        f"""SELECT pid, extract(epoch FROM now() - coalesce(query_start, xact_start))::int AS seconds, state,
                   left(query, 80) AS query, count(*) OVER () AS count
            FROM pg_stat_activity
            WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
              AND (state = 'active' AND query_start < now() - interval '{LONG_QUERY}' AND query !~* '^COPY .* TO STDOUT'
                   OR state LIKE 'idle in transaction%' AND xact_start < now() - interval '{LONG_TRANSACTION}')
            ORDER BY seconds DESC LIMIT 1"""  # noqa: S608 (constants)
    )
    if row is None:
        return ok("no statement has been running for a minute")
    text = f"process {row['pid']} has been {row['state']} for {row['seconds']} s: {row['query']}"
    more = f" (and {row['count'] - 1} more)" if row["count"] > 1 else ""
    return warn(text + more, psql(f"SELECT pg_terminate_backend({row['pid']})"))


async def _schema(patient: Patient) -> Sequence[Finding]:
    schema = await migrations.state(patient.database)
    if schema.ok:
        return [ok(f"the schema is at revision {schema.head}")]
    return [fail(f"the schema is at {schema.current or 'nothing'}; this version needs {schema.head}",
                 "agentauri migrate")]  # fmt: skip


async def _invalid_indexes(tx: Transaction) -> Finding:
    names = [row[0] for row in await tx.fetch(
        """SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
           WHERE NOT i.indisvalid AND c.relnamespace = current_schema()::regnamespace AND c.relkind = 'i' ORDER BY 1"""
    )]  # fmt: skip
    if not names:
        return ok("every index is valid")
    return fail(f"invalid: {', '.join(names)}", psql(f"REINDEX INDEX CONCURRENTLY {names[0]}"))


async def _partitions(tx: Transaction) -> Finding:
    today = await tx.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
    days = set(await migrations.partition_days(tx))
    missing = [day for ahead in range(3) if (day := today + timedelta(days=ahead)) not in days]
    strays = await tx.fetchval("SELECT EXISTS (SELECT FROM deliveries_default)")
    if missing:
        return fail(f"no partition for {', '.join(map(str, missing))}", "agentauri migrate")
    if strays:
        return warn("the default partition holds deliveries", "agentauri migrate")
    return ok("there are partitions for the days to come, and the default one is empty")


async def _make_partitions(patient: Patient) -> str | None:
    async with patient.database.transaction() as tx:
        made = await migrations.ensure_partitions(tx)
    return f"made {', '.join(made)}" if made else None


async def _event_trigger(tx: Transaction) -> Finding:
    rows = await tx.fetch(
        "SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = to_regclass('events') AND NOT tgisinternal"
    )
    states = {row["tgname"]: bytes(row["tgenabled"]).decode() for row in rows}
    if missing := [name for name in migrations.EVENT_TRIGGERS if name not in states]:
        return fail(f"missing on events: {', '.join(missing)}", "agentauri migrate")
    off = [name for name in migrations.EVENT_TRIGGERS if states[name] not in ("A", *("O" if name in NOTIFYING else ()))]
    if off:
        return fail(f"switched off on events: {', '.join(off)}", psql(_enabling(off)))
    return ok("the triggers on events are in place and enabled")


def _enabling(names: Sequence[str]) -> str:
    """Those that queue do so for replicated rows too."""
    return "; ".join(
        f"ALTER TABLE events ENABLE {'' if name in NOTIFYING else 'ALWAYS '}TRIGGER {name}" for name in names
    )


async def _enable_triggers(patient: Patient) -> str | None:
    async with patient.database.transaction() as tx:
        finding = await _event_trigger(tx)
        if finding.fix is None:
            return None
        if finding.fix != "agentauri migrate":
            await tx.run(_enabling(migrations.EVENT_TRIGGERS))
            return "enabled the triggers on events"
        await migrations.restore_event_triggers(tx)
    return "made the triggers on events again"


async def _statements(tx: Transaction) -> Finding:
    if await tx.fetchval("SELECT to_regclass('pg_stat_statements') IS NOT NULL"):
        return ok("pg_stat_statements is there")
    if "pg_stat_statements" in await tx.fetchval("SHOW shared_preload_libraries"):
        return warn("pg_stat_statements is loaded and not created", psql("CREATE EXTENSION pg_stat_statements"))
    return warn(
        "pg_stat_statements is not loaded: slow statements cannot be ranked",
        psql("ALTER SYSTEM SET shared_preload_libraries = pg_stat_statements"),
    )


CHECKS = (
    Check(name="database", why="PostgreSQL holds the truth: without it nothing is read, matched or sent.",
          look=_answers),
    Check(name="tls", why="Without TLS everybody on the way reads what is stored.", look=_tls),
    Check(name="certificate", why="The day it ends, every connection is refused.", look=_certificate),
    Check(name="schema", why="This version works on its own schema and on no other.", look=_schema,
          needs=("database",)),
    Check(name="pool", why="Without a free connection a request waits 30 s and fails.", look=_pool,
          needs=("database", "schema")),
    Check(name="long_queries", why="A statement that never ends holds a connection, and may hold locks.",
          look=of_database(_long_queries), needs=("database",)),
    Check(name="invalid_indexes", why="An invalid index is written and never read: everything becomes slower.",
          look=of_database(_invalid_indexes), needs=("database",)),
    Check(name="partitions", why="Deliveries go into the partition of their day; the default one cannot be dropped.",
          look=of_database(_partitions), needs=("database", "schema"), heal=_make_partitions),
    Check(name="event_trigger", why="The triggers on events queue what is inserted and wake the evaluator.",
          look=of_database(_event_trigger), needs=("database", "schema"), heal=_enable_triggers),
    Check(name="statements", why="With it the slowest statements can be named.", look=of_database(_statements),
          needs=("database",)),
)  # fmt: skip
