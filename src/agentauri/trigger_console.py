"""What `agentauri trigger …` asks of the services: nothing of it sends or stores anything.

The operator asks about any organization's trigger, and no plan limits how many events are read.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from datetime import datetime
from typing import Literal, TypeVar

import msgspec
from msgspec import Struct

from agentauri.app import Application
from agentauri.database import Transaction
from agentauri.errors import FieldError, Invalid
from agentauri.events import Event
from agentauri.triggers import (
    Backtested,
    Backtester,
    Explained,
    Prepared,
    Range,
    Rule,
    SampleEvent,
    Tested,
    TriggerDraft,
    TriggerNotFound,
    Wanted,
    sampled,
)
from agentauri.types import ChainId, EventId, OrganizationId, TriggerId

Source = Literal["stored", "sample", "builtin"]
NOBODY = OrganizationId("")
UNLIMITED = 10**15
T = TypeVar("T")
Measured = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""Is told how many events there are to read, and gives what is to be told how many were."""


class Tryout(Struct, frozen=True):
    tested: Tested
    event_source: Source


class Subject(Struct, frozen=True):
    """A saved trigger, a draft as `POST /triggers` takes it, or both: then the draft is judged."""

    trigger_id: str | None
    draft: str | None


async def explain(app: Application, trigger_id: str, event_id: str) -> Explained:
    async with _reading(app) as tx:
        owner = await _owner(app, tx, trigger_id)
        event = await app.events.get(tx, EventId(event_id))
        return await app.explainer.explain(tx, owner, TriggerId(trigger_id), event, UNLIMITED)


async def test(app: Application, subject: Subject, event_id: str | None, sample: str | None) -> Tryout:
    """Let it meet an event: a stored one, a `sample` as the route for it takes one, or the newest that would fit."""
    wanted = None if sample is None else _read(sample, SampleEvent, "the sample")
    prepared = await _prepared(app, subject)
    async with _reading(app) as tx:
        rule, _ = await _rules(app, tx, subject, prepared)
        if event_id is not None:
            event = await app.events.get(tx, EventId(event_id))
        elif wanted is not None:
            event = sampled(app.events, wanted)
        else:
            chain_id = rule.definition.chain_id
            event = await app.events.example(
                tx, rule.definition.registry, None if chain_id is None else ChainId(chain_id)
            )
        tested = await app.explainer.test(tx, rule, event, UNLIMITED)
    return Tryout(tested, "stored" if event.seq > 0 else "builtin" if wanted is None else "sample")


async def backtest(
    app: Application,
    subject: Subject,
    wanted: Range,
    max_events: int | None,
    sample: int,
    measured: Measured,
) -> Backtested:
    """All of it in one go, however long that takes; `measured` shows how far it has come."""
    prepared = await _prepared(app, subject)
    backtester = Backtester(app.rules, app.events, seconds=math.inf)
    async with _reading(app) as tx:
        rule, saved = await _rules(app, tx, subject, prepared)
        asked = Wanted(rule=rule, saved=saved, range=wanted, max_events=max_events or UNLIMITED, sample=sample)
        with measured(await backtester.size(tx, asked)) as progress:
            return await backtester.run(tx, rule.facts.organization_id, asked, progress)


def range_of(
    chain_id: int | None, blocks: tuple[int | None, int | None], times: tuple[datetime | None, datetime | None]
) -> Range:
    """Both blocks are part of it, of the times only the first."""
    since, until = (None if time is None else math.ceil(time.timestamp()) for time in times)
    return Range(
        chain_id=chain_id,
        from_block=blocks[0],
        to_block=blocks[1],
        from_time=since,
        to_time=None if until is None else until - 1,
    )


def document(found: Explained | Tryout | Backtested) -> list[str]:
    """As JSON, in the shape of the HTTP API's answer."""
    if isinstance(found, Tryout):
        tested = found.tested
        answer: object = {
            "matched": tested.matched,
            "event": _told(tested.event),
            "event_source": found.event_source,
            "explanation": tested.explanation,
            "actions": tested.actions,
        }
    else:
        answer = found
    return [msgspec.json.format(msgspec.json.encode(answer, enc_hook=str)).decode()]


@asynccontextmanager
async def _reading(app: Application) -> AsyncIterator[Transaction]:
    async with app.database.transaction() as tx:
        await tx.run("SET TRANSACTION READ ONLY; SET LOCAL statement_timeout TO 0")
        yield tx


async def _owner(app: Application, tx: Transaction, trigger_id: str) -> OrganizationId:
    facts = (await app.triggers.facts(tx, [TriggerId(trigger_id)])).get(TriggerId(trigger_id))
    if facts is None:
        raise TriggerNotFound
    return facts.organization_id


async def _prepared(app: Application, subject: Subject) -> Prepared | None:
    if subject.draft is None:
        return None
    return await app.triggers.prepare(_read(subject.draft, TriggerDraft, "the draft"), anonymous=True)


def _read(text: str, kind: type[T], name: str) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except ValueError as error:
        raise Invalid.fields(FieldError(name, str(error))) from error


async def _rules(
    app: Application, tx: Transaction, subject: Subject, prepared: Prepared | None
) -> tuple[Rule, Rule | None]:
    """The rule to judge, and the saved one that a draft is compared with."""
    saved, owner = None, NOBODY
    if subject.trigger_id is not None:
        owner = await _owner(app, tx, subject.trigger_id)
        saved = await app.explainer.rule(tx, owner, TriggerId(subject.trigger_id))
    if prepared is not None:
        return app.explainer.drafted(owner, prepared), saved
    assert saved is not None
    return saved, None


def _told(event: Event) -> dict[str, object]:
    """The fields that an event has, for JSON: numbers that a reader's double could not hold are text."""
    fields = {name: value for name, value in event.fields().items() if value is not None}
    for name in ("topics", "data"):
        fields.pop(name, None)
    return {
        name: str(value) if isinstance(value, int) and abs(value) > 2**53 else value for name, value in fields.items()
    }
