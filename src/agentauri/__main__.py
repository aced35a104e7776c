"""`python -m agentauri` is the `agentauri` command."""

from agentauri.cli import main

main()
