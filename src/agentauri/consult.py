"""`agentauri doctor`: examines this installation, prints what was found, and says so by its exit code."""

from __future__ import annotations

import asyncio
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from agentauri.app import Stores, assemble
from agentauri.config import Config
from agentauri.connections import masked
from agentauri.doctor import CheckResult, Report, bundle, examine

EXIT_CODES = {"ok": 0, "warn": 1, "fail": 2}
COULD_NOT_RUN = 3
MARKS = {"ok": ("ok", "green"), "warn": ("WARN", "yellow"), "fail": ("FAIL", "red")}
INVISIBLE = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if code != 10}
"""Error texts are other people's: none of them may move the cursor."""


def consult(
    config: Config, stores: Stores, *, as_json: bool, fix: bool, url: str | None, to: Path | None, logs: Sequence[Path]
) -> int:
    """Run the checks and print them; the exit code."""
    report, packed = asyncio.run(_consult(config, stores, fix=fix, url=url, to=to, logs=logs))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        _print(report)
    if to is not None:
        click.echo(f"{to} holds {', '.join(packed)}; secrets are masked, look before you send it", err=True)
    return EXIT_CODES[report.result]


async def _consult(
    config: Config, stores: Stores, *, fix: bool, url: str | None, to: Path | None, logs: Sequence[Path]
) -> tuple[Report, list[str]]:
    async with assemble(config, stores) as application:
        patient = application.patient(stores, url)
        report = await examine(patient, heal=fix)
        packed = await bundle(patient, report, masked(config), logs, to) if to is not None else []
    return report, packed


def _print(report: Report) -> None:
    width = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 200
    name_width = max(len(one.check) for one in report.checks)
    for one in report.checks:
        mark, colour = MARKS[one.result]
        label = click.style(f"{mark:<5}", fg=colour, bold=one.result != "ok")
        indent = " " * (name_width + 7)
        lines = _wrapped(one.finding, width - len(indent))
        click.echo(f"{label} {one.check:<{name_width}} {lines[0]}")
        for line in lines[1:]:
            click.echo(f"{indent}{line}")
        for line in _details(one):
            click.echo(f"{indent}{line}")
    counts = {result: sum(one.result == result for one in report.checks) for result in MARKS}
    click.echo(f"\n{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed")


def _details(one: CheckResult) -> list[str]:
    lines = [f"done: {one.fixed}"] if one.fixed else []
    if one.result != "ok":
        lines += [f"why:  {one.why}", *([f"fix:  {one.fix}"] if one.fix else [])]
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text.translate(INVISIBLE), max(40, width), break_long_words=False) or [""]
