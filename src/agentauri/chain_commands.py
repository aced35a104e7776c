"""`agentauri chain …`"""

from __future__ import annotations

import sys

import click

from agentauri.terminal import run, table

ONE = click.option("--chain", "chain_id", type=int, help="Only this one.")


@click.group()
def chain() -> None:
    """Chains and how far they are indexed."""


@chain.command("list")
@click.option("--configured", is_flag=True, help="Only those that have a URL.")
def chain_list(configured: bool) -> None:
    """Every network that is known, and what is known of it."""
    rows = run(lambda console, app: console.list_chains(app, configured_only=configured))
    table(("ID", "NAME", "CLASS", "STATUS", "START BLOCK", "FINALITY", "NOTE"), rows)


@chain.command("status")
@ONE
def chain_status(chain_id: int | None) -> None:
    """Print how far each chain is indexed."""
    lines = run(lambda console, app: console.chain_status(app, chain_id))
    click.echo("\n".join(lines) or NONE)


@chain.command("reset")
@click.option("--chain", "chain_id", type=int, required=True)
@click.option("--to-block", type=int, help="Default: the newest finalized block that a provider confirms.")
@click.option("--dry-run", is_flag=True, help="Only say what it would do.")
def chain_reset(chain_id: int, to_block: int | None, dry_run: bool) -> None:
    """Go back to the last stable checkpoint and read on from there; nothing is delivered twice."""
    click.echo(run(lambda console, app: console.reset_chain(app, chain_id, to_block, dry_run=dry_run)))


@chain.command("verify")
@ONE
def chain_verify(chain_id: int | None) -> None:
    """Look now whether every provider serves its chain and shows the right registries. Exit 0: all is well, 1: there
    are warnings, 2: something refuses a chain."""
    lines, code = run(lambda console, app: console.verify_chains(app, chain_id))
    click.echo("\n".join(lines) or NONE)
    sys.exit(code)


@chain.command("redecode")
@ONE
@click.option("--dry-run", is_flag=True, help="Only say what it would do.")
def chain_redecode(chain_id: int | None, dry_run: bool) -> None:
    """Make events of the logs that were kept raw and that this version understands."""
    lines = run(lambda console, app: console.redecode(app, chain_id, dry_run=dry_run))
    click.echo("\n".join(lines))


NONE = "No chain is configured: RPC_URLS_<chain id>=https://… adds one."
