"""`agentauri trigger …`"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, TypeVar

import click

from agentauri.terminal import fail, run

if TYPE_CHECKING:
    from agentauri.app import Application

T = TypeVar("T")
STOPPED = 130

TRIGGER = click.argument("trigger_id", required=False)
DRAFT = click.option(
    "--draft", type=click.File(encoding="utf-8"), help="A trigger as JSON, as POST /triggers takes it; - reads it here."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def trigger() -> None:
    """Ask why a trigger fired or did not, and try one out. Nothing is sent or stored."""


@trigger.command()
@click.argument("trigger_id")
@click.option("--event", "event_id", required=True, help="The event's id.")
@JSON
def explain(trigger_id: str, event_id: str, as_json: bool) -> None:
    """Why a trigger fired for an event or did not, and where its deliveries stand."""
    from agentauri import trigger_console as console
    from agentauri import trigger_views as views

    found = _ask(lambda app: console.explain(app, trigger_id, event_id))
    _print(console.document(found) if as_json else views.explained(found))


@trigger.command()
@TRIGGER
@DRAFT
@click.option("--event", "event_id", help="A stored event's id. Default: the newest that would fit.")
@click.option("--sample", type=click.File(encoding="utf-8"), help="An event as JSON that nobody emitted.")
@JSON
def test(
    trigger_id: str | None, draft: IO[str] | None, event_id: str | None, sample: IO[str] | None, as_json: bool
) -> None:
    """Let a saved trigger or a draft meet one event, and see what each action would send."""
    from agentauri import trigger_console as console
    from agentauri import trigger_views as views

    if (trigger_id is None) == (draft is None):
        fail("name either a trigger or --draft", 2)
    if event_id is not None and sample is not None:
        fail("name either --event or --sample", 2)
    subject, made_up = console.Subject(trigger_id, _text(draft)), _text(sample)
    found = _ask(lambda app: console.test(app, subject, event_id, made_up))
    _print(console.document(found) if as_json else views.tested(found.tested, found.event_source))


@trigger.command()
@TRIGGER
@DRAFT
@click.option("--chain", "chain_id", type=click.IntRange(1), help="Only events of this chain.")
@click.option("--from-block", type=click.IntRange(0), help="With --chain; blocks include both ends.")
@click.option("--to-block", type=click.IntRange(0))
@click.option("--since", type=click.DateTime(), help="From this time on (UTC).")
@click.option("--until", type=click.DateTime(), help="Before this time (UTC).")
@click.option("--max-events", type=click.IntRange(1), help="Stop after so many. Default: never.")
@click.option("--sample", type=click.IntRange(0, 100), default=3, show_default=True, help="Matches to show in full.")
@JSON
def backtest(
    trigger_id: str | None,
    draft: IO[str] | None,
    chain_id: int | None,
    from_block: int | None,
    to_block: int | None,
    since: datetime | None,
    until: datetime | None,
    max_events: int | None,
    sample: int,
    as_json: bool,
) -> None:
    """Let a saved trigger or a draft meet the stored events, in the order of their time, with a memory that begins
    empty. With both, the draft is judged and compared with the saved one. Without a range: all that is stored."""
    from agentauri import trigger_console as console
    from agentauri import trigger_views as views

    if trigger_id is None and draft is None:
        fail("name a trigger, --draft or both", 2)
    if chain_id is None and (from_block is not None or to_block is not None):
        fail("--from-block and --to-block need --chain", 2)
    subject = console.Subject(trigger_id, _text(draft))
    range_ = console.range_of(chain_id, (from_block, to_block), (_utc(since), _utc(until)))
    found = _ask(lambda app: console.backtest(app, subject, range_, max_events, sample, _progress))
    width = shutil.get_terminal_size((80, 24)).columns
    _print(console.document(found) if as_json else views.backtested(found, width))


def _ask(work: Callable[[Application], Awaitable[T]]) -> T:
    try:
        return run(lambda _, app: work(app))
    except KeyboardInterrupt:
        fail("Stopped. Nothing was sent or stored.", STOPPED)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Tells a person at a terminal how far it is."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=total, label="Reading events", file=sys.stderr) as bar:
        yield lambda done: bar.update(done - bar.pos)


def _text(file: IO[str] | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read()
    except UnicodeDecodeError:
        fail(f"{file.name} is not UTF-8 text")


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)


def _print(lines: list[str]) -> None:
    click.echo("\n".join(lines))
