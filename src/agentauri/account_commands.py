"""`agentauri key …`, `agentauri organization …` and `agentauri user …`"""

from __future__ import annotations

import click

from agentauri.terminal import run, table

PLANS = ("free", "starter", "pro", "enterprise")
CREDITS = ("purchase", "usage", "refund", "bonus", "adjustment")


@click.group()
def key() -> None:
    """API keys."""


@key.command("create")
@click.option("--organization", required=True, help="Its slug or id; made, owned by `operator`, when missing.")
@click.option("--name", default="command line", show_default=True)
@click.option("--environment", type=click.Choice(["live", "test"]), default="live", show_default=True)
@click.option(
    "--permission", "permissions", multiple=True, type=click.Choice(["read", "write", "delete", "admin"]),
    help="Repeatable. Default: read, write and delete.",
)  # fmt: skip
def create_key(organization: str, name: str, environment: str, permissions: tuple[str, ...]) -> None:
    """Make a key and print it; it is shown this once."""
    wanted = permissions or ("read", "write", "delete")
    click.echo(run(lambda console, app: console.create_key(app, organization, name, environment, wanted)))


@key.command("list")
@click.option("--organization", help="Only of this one (slug or id).")
def list_keys(organization: str | None) -> None:
    """List keys by prefix; a key itself is never shown again."""
    rows = run(lambda console, app: console.list_keys(app, organization))
    table(("PREFIX", "ORGANIZATION", "NAME", "ENVIRONMENT", "STATE", "CREATED", "LAST USED"), rows)


@key.command("revoke")
@click.argument("reference", metavar="PREFIX|ID")
def revoke_key(reference: str) -> None:
    """End a key, named by its first 16 characters or its id, at once and for good."""
    click.echo(f"{run(lambda console, app: console.revoke_key(app, reference))} is revoked.")


@click.group()
def organization() -> None:
    """Organizations and their plans."""


@organization.command("list")
def list_organizations() -> None:
    """Every organization, with its owner and its plan."""
    rows = run(lambda console, app: console.list_organizations(app))
    table(("SLUG", "ID", "NAME", "PLAN", "OWNER", "CREATED"), rows)


@organization.command("plan")
@click.argument("reference", metavar="SLUG|ID")
@click.argument("plan", type=click.Choice(PLANS))
def set_plan(reference: str, plan: str) -> None:
    """Give an organization another plan. Its limits follow within 5 seconds."""
    click.echo(run(lambda console, app: console.set_plan(app, reference, plan)))


@organization.command("credit")
@click.argument("reference", metavar="SLUG|ID")
@click.argument("amount", metavar="USDC")
@click.option(
    "--type",
    "kind",
    type=click.Choice(CREDITS),
    default="adjustment",
    show_default=True,
    help="What the ledger calls it.",
)
@click.option("--description", help="What the ledger says of it.")
@click.option("--reference-id", help="A payment's or an invoice's number.")
def book_credit(reference: str, amount: str, kind: str, description: str | None, reference_id: str | None) -> None:
    """Book credit to an organization, or take it with a negative amount (put -- before it)."""
    click.echo(run(lambda console, app: console.book_credit(app, reference, amount, kind, description, reference_id)))


@click.group()
def user() -> None:
    """Users who log in."""


@user.command("list")
def list_users() -> None:
    """Every user."""
    rows = run(lambda console, app: console.list_users(app))
    table(("NAME", "ID", "E-MAIL", "STATE", "CREATED", "LAST LOGIN"), rows)


@user.command("disable")
@click.argument("reference", metavar="NAME|ID")
def disable_user(reference: str) -> None:
    """Keep a user out: her sessions end within 5 seconds. Keys of her organizations go on working."""
    click.echo(f"{run(lambda console, app: console.switch_user(app, reference, active=False))} is disabled.")


@user.command("enable")
@click.argument("reference", metavar="NAME|ID")
def enable_user(reference: str) -> None:
    """Let a user in again."""
    click.echo(f"{run(lambda console, app: console.switch_user(app, reference, active=True))} is enabled.")


@user.command("reset-password")
@click.argument("reference", metavar="NAME|ID")
def reset_password(reference: str) -> None:
    """Give a user a new password and print it, this once. Her sessions end."""
    click.echo(run(lambda console, app: console.reset_password(app, reference)))
