"""The commands about the state of agents."""

from __future__ import annotations

import sys

import click

from agentauri.terminal import fail, run

CHAIN = click.option("--chain", "chain_id", type=int, help="Only of this chain.")


@click.group()
def projections() -> None:
    """The state of every agent, as it follows from the events."""


@projections.command("rebuild")
@CHAIN
@click.option("--agent", "agent_id", type=click.IntRange(0), help="Only this agent of the chain.")
def rebuild(chain_id: int | None, agent_id: int | None) -> None:
    """Make it afresh from the stored events. Safe at any time, also while `serve` runs."""
    if agent_id is not None and chain_id is None:
        fail("--agent needs --chain", 2)
    click.echo("\n".join(run(lambda console, app: console.rebuild_projections(app, chain_id, agent_id))))


@projections.command("verify")
@CHAIN
@click.option("--sample", type=click.IntRange(1, 100_000), default=100, show_default=True, help="Agents of each chain.")
def verify(chain_id: int | None, sample: int) -> None:
    """Ask the contracts about agents picked at random, as of the last indexed block. Exit 0: they say the same, 1: they
    do not, or cannot be asked."""
    lines, code = run(lambda console, app: console.verify_projections(app, chain_id, sample))
    click.echo("\n".join(lines))
    sys.exit(code)
