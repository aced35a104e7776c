"""What the reference pages list is what the code has, no more and no less."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from agentauri import metrics
from agentauri.cli import main
from agentauri.config import ROLES
from agentauri.config.reader import Reader
from agentauri.config.settings import read
from agentauri.doctor.examination import CHECKS, OUTSIDE
from agentauri.http.app import create_litestar
from agentauri.http.entrance import RouteTable

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src" / "agentauri"
REFERENCE = ROOT / "docs" / "reference"
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def variables(tmp_path: Path) -> set[str]:
    """Every variable that is read; those of a chain end in `<id>`."""
    values = {"AGENTAURI_DATA_DIR": str(tmp_path), "RPC_URLS_1": "https://a.example", "RPC_URL_2": "https://b.example"}
    reader = Reader(values)
    read(reader)
    names = {re.sub(r"_[0-9]+$", "_<id>", name) for name in reader.asked}
    return {name for name in names if not name.endswith("_FILE")}


def test_the_settings_page_lists_every_variable(tmp_path: Path) -> None:
    first_cells = re.findall(r"^\| (`[^|]*) \|", page("settings.md"), re.MULTILINE)

    listed = {name for cell in first_cells for name in re.findall(r"`([A-Z0-9_]+(?:<id>)?)`", cell)}

    assert listed == variables(tmp_path)


def test_the_example_file_lists_every_variable(tmp_path: Path) -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8")

    listed = {re.sub(r"_[0-9]+$", "_<id>", name) for name in re.findall(r"^# ([A-Z0-9_]+)=", lines, re.MULTILINE)}

    assert listed == variables(tmp_path)


def test_the_example_file_shows_the_defaults(tmp_path: Path) -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^# ([A-Z0-9_]+)=(.+)$", lines, re.MULTILINE))
    plain, told = Reader({"AGENTAURI_DATA_DIR": str(tmp_path)}), Reader({"AGENTAURI_DATA_DIR": str(tmp_path)} | shown)

    assert read(plain) == read(told)
    assert told.faults == []


class Line(NamedTuple):
    """A line that the sources log; `code` is empty where it has none."""

    event: str
    code: str


def lines() -> Iterator[Line]:
    for path in SOURCES.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match call:
                case ast.Call(func=ast.Name(id="Alarm"), args=[ast.Constant(value=str(event)), _, *rest]):
                    code = rest[0] if rest else None
                case ast.Call(args=[ast.Constant(value=str(event)), *_]) if re.fullmatch(r"[a-z_]+\.[a-z_]+", event):
                    if not re.search(r"\blog\b|\btell\b", ast.unparse(call.func)):
                        continue
                    code = next((keyword.value for keyword in call.keywords if keyword.arg == "code"), None)
                case _:
                    continue
            yield Line(event, "" if code is None else ast.unparse(code).strip("f'"))


def test_the_logs_page_lists_every_code() -> None:
    listed = set(re.findall(r"^\| `([A-Z_]+)` \|", page("logs.md"), re.MULTILINE))
    logged = {line.code for line in lines()} - {"", "alarm.code"}
    logged.remove("CIRCUIT_BREAKER_{state.upper()}")

    assert listed == logged | {"CIRCUIT_BREAKER_HALF_OPEN", "CIRCUIT_BREAKER_CLOSED"}


def test_the_logs_page_lists_every_event_without_a_code() -> None:
    listed = set(re.findall(r"`([a-z_]+\.[a-z_]+)`", page("logs.md")))

    assert {line.event for line in lines() if not line.code} <= listed


def test_the_metrics_page_lists_every_metric() -> None:
    listed = set(re.findall(r"^\| `(agentauri_[a-z_]+)` \| [a-z]+ \|", page("metrics.md"), re.MULTILINE))
    families = metrics.REGISTRY.collect()

    assert listed == {f"{family.name}_total" if family.type == "counter" else family.name for family in families}


def test_the_commands_page_lists_every_command() -> None:
    listed = set(re.findall(r"^\| `agentauri ([a-z_-]+(?: [a-z][a-z-]*)?)", page("cli.md"), re.MULTILINE))

    assert listed == set(commands(main))


def test_the_api_page_lists_every_route() -> None:
    listed = set()
    for methods, cell in re.findall(r"^\| ([A-Z, ]+) \| ([^|]+) \|", page("http-api.md"), re.MULTILINE):
        paths = re.findall(r"`([^`?]+)[^`]*`", cell)
        start = paths[0].rpartition("/")[0]  # what `…` stands for in the others
        listed |= {(method, path.replace("…", start)) for method in methods.split(", ") for path in paths}
    routes = {(method, template) for template, method, _ in RouteTable(create_litestar()).items()}

    assert {named(*route) for route in listed} == {named(*route) for route in routes}


def named(method: str, path: str) -> str:
    """A route whatever its parameters are called."""
    return f"{method} {re.sub('{[a-z_]+}', '{}', path).rstrip('/') or '/'}"


def test_the_doctors_page_lists_every_check_and_what_it_mends() -> None:
    listed = re.findall(r"^\| `([a-z_]+)` \|.*\| (\*\*.+\*\*)? ?\|$", page("doctor.md"), re.MULTILINE)

    assert {name: bool(mends) for name, mends in listed} == {
        check.name: check.heal is not None for check in (*CHECKS, *OUTSIDE)
    }


def commands(group: click.Group, prefix: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}"


def test_the_image_copies_files_that_exist_and_are_not_ignored() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    sources = {source for names in copied for source in names.split()}
    kept = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE))

    assert sources == kept
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_compose_file_runs_roles_that_exist() -> None:
    lists = re.findall(r'"--only", "([a-z,]+)"', (ROOT / "compose.yaml").read_text(encoding="utf-8"))

    assert {role for roles in lists for role in roles.split(",")} == set(ROLES)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        other = path.parent / file if file else path
        assert other.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(other), f"{target} has no such heading"


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_code_block_is_closed(path: Path) -> None:
    assert len(re.findall(r"^ *```", path.read_text(encoding="utf-8"), re.MULTILINE)) % 2 == 0
