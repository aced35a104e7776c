"""PostgreSQL: can we reach it, safely, with room to spare, and is the schema the one we know?"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from datetime import timedelta

import asyncpg

from agentauri import migrations
from agentauri.database import Transaction
from agentauri.doctor import tls
from agentauri.doctor.check import Check, Finding, Patient, fail, of_database, ok, plural, psql, warn

ANSWER_SECONDS = 5.0
LONG_QUERY = "1 minute"
LONG_TRANSACTION = "10 minutes"
PATIENT_SECONDS = 1
USED_SHARE = 0.8
SPARE_CONNECTIONS, SMALLEST_POOL = 10, 14
NOTIFYING = ("notify_new_event_trigger", "notify_event_change_trigger")


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
    if refused := tls.refusal(patient, cause):
        return refused
    if isinstance(cause, asyncpg.InvalidCatalogNameError):
        return fail(text, "agentauri migrate")
    return fail(text, _start_postgres(patient))


def _start_postgres(patient: Patient) -> str:
    return "agentauri serve" if patient.embedded else "docker compose up -d postgres"


async def _pool(patient: Patient) -> Sequence[Finding]:
    async with patient.database.transaction(durable=False) as tx:
        row = await tx.fetchrow(
            """SELECT current_setting('max_connections')::int AS most,
                      (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used,
                      (SELECT count(*) FROM pg_stat_activity
                       WHERE application_name = $1 AND state <> 'idle' AND pid <> pg_backend_pid()) AS busy,
                      (SELECT source FROM pg_settings WHERE name = 'max_connections') AS source,
                      (SELECT count(DISTINCT instance) FROM process_heartbeats
                       WHERE seen_at > now() - interval '30 seconds') AS replicas,
                      (SELECT min(instance) FROM process_heartbeats
                       WHERE seen_at > now() - interval '30 seconds' AND status ->> 'pool' = 'exhausted') AS dry""",
            patient.database_settings.application_name,
        )
    assert row is not None
    each = patient.config.database_pool[0]
    replicas = max(1, row["replicas"])
    wanted = each * replicas + SPARE_CONNECTIONS
    text = f"{row['used']} of {row['most']} connections in use; {plural(replicas, 'process', 'processes')} of {each}"
    if row["dry"]:
        told = f"{row['dry']} ran out of connections within the last minutes (DB_POOL_EXHAUSTED). {text}"
        return [warn(told, _pool_of(patient, max(50, 2 * each)))]
    if row["used"] >= USED_SHARE * row["most"]:
        return [fail(text, _more_connections(patient, row, wanted))]
    if row["busy"] >= USED_SHARE * each * replicas:
        return [warn(f"{row['busy']} of {each * replicas} pooled connections are at work",
                     _pool_of(patient, max(50, 2 * each)))]  # fmt: skip
    if wanted > row["most"]:
        return [warn(f"{text}; they may come to want {wanted}", _more_connections(patient, row, wanted))]
    return [ok(text)]


def _pool_of(patient: Patient, connections: int) -> str:
    return patient.change("api-gateway event-processor action-workers", f"DB_MAX_CONNECTIONS={min(500, connections)}")


def _more_connections(patient: Patient, row: asyncpg.Record, wanted: int) -> str:
    """A smaller pool where that is enough, else a server that takes more."""
    fitting = (row["most"] - SPARE_CONNECTIONS) // max(1, row["replicas"])
    if fitting >= SMALLEST_POOL and row["used"] < USED_SHARE * row["most"]:
        return _pool_of(patient, fitting)
    most = max(2 * row["most"], wanted)
    if row["source"] == "command line":
        changed = f"sed -i.old 's/max_connections=[0-9]*/max_connections={most}/' compose.yaml"
        return f"{changed} && docker compose up -d postgres"
    return psql(f"ALTER SYSTEM SET max_connections = {most}") + " && docker compose restart postgres"


async def _locks(tx: Transaction) -> Finding:
    """Whom others have been waiting for. Each wait is short, since it is given up and begun again."""
    row = await tx.fetchrow(
        """WITH waiting AS (SELECT pid, unnest(pg_blocking_pids(pid)) AS blocker FROM pg_stat_activity
                            WHERE datname = current_database() AND wait_event_type = 'Lock')
           SELECT b.pid, count(DISTINCT w.pid) AS waiting, b.state, b.application_name,
                  extract(epoch FROM now() - b.xact_start)::int AS seconds, left(b.query, 80) AS query
           FROM waiting w JOIN pg_stat_activity b ON b.pid = w.blocker
           WHERE b.wait_event_type IS DISTINCT FROM 'Lock' AND b.xact_start < now() - make_interval(secs => $1)
           GROUP BY b.pid, b.state, b.application_name, b.xact_start, b.query ORDER BY 2 DESC LIMIT 1""",
        PATIENT_SECONDS,
    )
    if row is None:
        return ok("nobody waits for a lock that is held for long")
    return fail(
        f"{plural(row['waiting'], 'statement')} wait for a lock of process {row['pid']}"
        f" ({row['application_name'] or 'nameless'}), {row['state']} for {row['seconds']} s: {row['query']}",
        psql(f"SELECT pg_terminate_backend({row['pid']})"),
    )


async def _foreign_triggers(patient: Patient) -> Sequence[Finding]:
    async with patient.database.transaction(durable=False) as tx:
        rows = await tx.fetch(
            """SELECT tgname, c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
               WHERE NOT tgisinternal AND tgparentid = 0 AND tgenabled <> 'D'
               AND c.relnamespace = current_schema()::regnamespace AND NOT tgname = ANY($1) ORDER BY 2, 1""",
            sorted(migrations.trigger_names()),
        )
    if not rows:
        return [ok("only our own triggers are on our tables")]
    return [
        warn(
            f"{row['tgname']} on {row['relname']} is none of ours, and runs in the middle of our work",
            psql(f'ALTER TABLE {row["relname"]} DISABLE TRIGGER "{row["tgname"]}"'),
            row["tgname"],
        )
        for row in rows
    ]


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
    loaded = await tx.fetchval("SHOW shared_preload_libraries")
    if "pg_stat_statements" in loaded:
        return warn("pg_stat_statements is loaded and not created", psql("CREATE EXTENSION pg_stat_statements"))
    if not await tx.fetchval("SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_stat_statements')"):
        return ok("this PostgreSQL comes without pg_stat_statements")
    libraries = ", ".join([*filter(None, [loaded]), "pg_stat_statements"])
    return warn(
        "pg_stat_statements is not loaded: slow statements cannot be ranked",
        psql(f"ALTER SYSTEM SET shared_preload_libraries = {libraries}") + " && docker compose restart postgres",
    )


ANSWERS = Check(
    name="database", why="PostgreSQL holds the truth: without it nothing is read, matched or sent.", look=_answers
)
CHECKS = (
    Check(name="schema", why="This version works on its own schema and on no other.", look=_schema,
          needs=("database",)),
    Check(name="pool", why="Without a free connection a request waits 30 s and fails.", look=_pool,
          needs=("database", "schema")),
    Check(name="long_queries", why="A statement that never ends holds a connection, and may hold locks.",
          look=of_database(_long_queries), needs=("database",)),
    Check(name="locks", why="Whoever waits for it holds a connection, until none is left.", look=of_database(_locks),
          needs=("database",)),
    Check(name="foreign_triggers", why="When it fails or is slow, so is the statement of ours that sets it off.",
          look=_foreign_triggers, needs=("database", "schema")),
    Check(name="invalid_indexes", why="An invalid index is written and never read: everything becomes slower.",
          look=of_database(_invalid_indexes), needs=("database",)),
    Check(name="partitions", why="Deliveries go into the partition of their day; the default one cannot be dropped.",
          look=of_database(_partitions), needs=("database", "schema"), heal=_make_partitions),
    Check(name="event_trigger", why="The triggers on events queue what is inserted and wake the evaluator.",
          look=of_database(_event_trigger), needs=("database", "schema"), heal=_enable_triggers),
    Check(name="statements", why="With it the slowest statements can be named.", look=of_database(_statements),
          needs=("database",)),
)  # fmt: skip
