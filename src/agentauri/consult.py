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
from msgspec import Struct

from agentauri.app import Stores, assemble
from agentauri.config import Config
from agentauri.connections import masked
from agentauri.doctor import CHECKS, OUTSIDE, CheckResult, Report, bundle, examine

EXIT_CODES = {"ok": 0, "warn": 1, "fail": 2}
COULD_NOT_RUN = 3
MARKS = {"ok": ("ok", "green"), "warn": ("WARN", "yellow"), "fail": ("FAIL", "red")}
INVISIBLE = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if code != 10}
"""Error texts are other people's: none of them may move the cursor."""


class Wanted(Struct, frozen=True, kw_only=True):
    """What was typed: which checks (none named: all), whether to mend, where to look from outside, what to pack."""

    only: Sequence[str]
    fix: bool
    url: str | None
    bundle: Path | None
    logs: Sequence[Path]


def unknown(names: Sequence[str]) -> list[str]:
    """Those that no check has."""
    known = {check.name for check in (*CHECKS, *OUTSIDE)}
    return [name for name in names if name not in known]


def consult(config: Config, stores: Stores, wanted: Wanted, *, as_json: bool) -> int:
    """Run the checks and print them; the exit code."""
    report, packed = asyncio.run(_consult(config, stores, wanted))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        _print(report)
    if wanted.bundle is not None:
        click.echo(f"{wanted.bundle} holds {', '.join(packed)}; secrets are masked, look before you send it", err=True)
    return EXIT_CODES[report.result]


async def _consult(config: Config, stores: Stores, wanted: Wanted) -> tuple[Report, list[str]]:
    async with assemble(config, stores) as application:
        patient = application.patient(stores, wanted.url, stores.embedded.joined if stores.embedded else None)
        report = await examine(patient, heal=wanted.fix, only=wanted.only)
        if wanted.bundle is None:
            return report, []
        return report, await bundle(patient, report, masked(config), wanted.logs, wanted.bundle)


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
