"""Routes that try a trigger out, or tell why it did what it did. None of them writes anything."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct, structs

from agentauri.database import Transaction
from agentauri.errors import FieldError, Invalid
from agentauri.events import Event
from agentauri.http.call import Call
from agentauri.http.fields import BlockNumber, ChainNumber, Moment, first_second, last_second
from agentauri.http.ids import event_id_of
from agentauri.http.routes.events import EventView, event_view
from agentauri.http.routes.triggers import READ, WRITE, own_trigger
from agentauri.triggers import (
    Backtested,
    Explained,
    Explanation,
    Range,
    SampleEvent,
    TriggerDraft,
    Trying,
    Wanted,
    sampled,
)
from agentauri.types import ChainId


class TestBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """On which event; with neither on the newest one that would fit."""

    event_id: str | None = None
    event: SampleEvent | None = None


class DraftTestBody(TestBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    trigger: TriggerDraft


class TestView(Struct, frozen=True, kw_only=True):
    matched: bool | None
    event: EventView
    event_source: Literal["stored", "sample", "builtin"]
    explanation: Explanation
    actions: list[Trying]


class ExplainQuery(Struct, frozen=True, kw_only=True):
    event_id: Annotated[str, Meta(min_length=1, max_length=200)] | None = None


class BacktestBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A saved trigger, or a draft, or both: then the draft is judged and compared with the saved one. A range of blocks
    includes both ends, a range of times its beginning alone."""

    trigger_id: str | None = None
    trigger: TriggerDraft | None = None
    chain_id: ChainNumber | None = None
    from_block: BlockNumber | None = None
    to_block: BlockNumber | None = None
    from_time: Moment | None = None
    to_time: Moment | None = None
    max_events: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    sample: Annotated[int, Meta(ge=0, le=100)] = 20
    cursor: Annotated[str, Meta(max_length=1000)] | None = None

    def range(self) -> Range:
        blocks = self.from_block is not None and self.to_block is not None and self.chain_id is not None
        times = self.from_time is not None and self.to_time is not None
        given = [self.from_block, self.to_block] if times else [self.from_time, self.to_time]
        if blocks == times or any(value is not None for value in given):
            told = "must be from_block and to_block with chain_id, or from_time and to_time"
            raise Invalid.fields(FieldError("from_block", told))
        if self.trigger_id is None and self.trigger is None:
            raise Invalid.fields(FieldError("trigger", "is required where there is no trigger_id"))
        return Range(
            chain_id=self.chain_id,
            from_block=self.from_block,
            to_block=self.to_block,
            from_time=first_second(self.from_time),
            to_time=last_second(self.to_time),
        )


class RangeView(Struct, frozen=True):
    chain_id: int | None
    from_block: int | None
    to_block: int | None
    from_time: datetime | None
    to_time: datetime | None


class BacktestView(Backtested, frozen=True, kw_only=True):
    range: RangeView


@post("/triggers/{trigger_id:str}/test", access=WRITE, cost=5, status_code=200)
async def try_trigger(request: Call, trigger_id: FromPath[str], data: JSONBody[TestBody]) -> TestView:
    """Let a trigger meet an event, and see what it would say and send. Nothing is sent or stored."""
    return await _test(request, data, trigger_id, None)


@post("/triggers/test", access=WRITE, cost=5, status_code=200)
async def try_draft(request: Call, data: JSONBody[DraftTestBody]) -> TestView:
    """The same for a trigger that does not exist yet."""
    return await _test(request, data, None, data.trigger)


@get("/triggers/{trigger_id:str}/explain", access=READ, cost=5)
async def explain(request: Call, trigger_id: FromPath[str], filters: NamedDependency[ExplainQuery]) -> Explained:
    """Why a trigger fired for an event or did not, and where its deliveries stand."""
    limit = await _limit(request)
    async with request.transaction() as tx:
        await tx.run("SET TRANSACTION READ ONLY")
        trigger = await own_trigger(tx, request, trigger_id)
        if filters.event_id is None:
            raise Invalid.fields(FieldError("query.event_id", "is required"))
        event = await request.services.events.get(tx, event_id_of(filters.event_id))
        organization_id = request.standing.organization_id
        return await request.services.explainer.explain(tx, organization_id, trigger.id, event, limit)


@post("/triggers/backtest", access=WRITE, cost=10, status_code=200)
async def backtest(request: Call, data: JSONBody[BacktestBody]) -> BacktestView:
    """Let a trigger meet stored events, with state that begins empty. Long ones stop and go on by their cursor."""
    range_, explainer, standing = data.range(), request.services.explainer, request.standing
    prepared = None
    if data.trigger is not None:
        standing = await request.standing_in(data.trigger.organization_id, WRITE)
        draft = structs.replace(data.trigger, environment=standing.environment or data.trigger.environment)
        prepared = await request.services.triggers.prepare(draft, standing.organization_id, anonymous=True)
    limit = await _limit(request)
    async with request.transaction() as tx:
        await tx.run("SET TRANSACTION READ ONLY")
        saved = None
        if data.trigger_id is not None:
            trigger = await own_trigger(tx, request, data.trigger_id)
            saved = await explainer.rule(tx, standing.organization_id, trigger.id)
        drafted = None if prepared is None else explainer.drafted(standing.organization_id, prepared)
        rule = drafted or saved
        assert rule is not None
        wanted = Wanted(
            rule=rule,
            saved=None if drafted is None else saved,
            range=range_,
            max_events=min(limit, data.max_events or limit),
            sample=data.sample,
            cursor=data.cursor,
        )
        done = await request.services.backtester.run(tx, standing.organization_id, wanted)
    shown = RangeView(data.chain_id, data.from_block, data.to_block, data.from_time, data.to_time)
    return BacktestView(**structs.asdict(done), range=shown)


async def _test(request: Call, body: TestBody, trigger_id: str | None, draft: TriggerDraft | None) -> TestView:
    explainer, prepared, standing = request.services.explainer, None, request.standing
    if draft is not None:
        standing = await request.standing_in(draft.organization_id, WRITE)
        draft = structs.replace(draft, environment=standing.environment or draft.environment)
        prepared = await request.services.triggers.prepare(draft, standing.organization_id, anonymous=True)
    chains, limit = await request.desk.chains.get(), await _limit(request)
    async with request.transaction() as tx:
        await tx.run("SET TRANSACTION READ ONLY")
        if prepared is not None:
            rule = explainer.drafted(standing.organization_id, prepared)
        else:
            trigger = await own_trigger(tx, request, trigger_id or "")
            rule = await explainer.rule(tx, standing.organization_id, trigger.id)
        event = await _event(tx, request, body, rule.definition.registry, rule.definition.chain_id)
        tested = await explainer.test(tx, rule, event, limit)
    source: Literal["stored", "sample", "builtin"]
    source = "stored" if event.seq > 0 else "builtin" if body.event is None else "sample"
    return TestView(
        matched=tested.matched,
        event=event_view(event, chains),
        event_source=source,
        explanation=tested.explanation,
        actions=tested.actions,
    )


async def _limit(request: Call) -> int:
    async with request.transaction() as tx:
        return (await request.allowance(tx)).limit("backtest_events")


async def _event(tx: Transaction, request: Call, body: TestBody, registry: str | None, chain_id: int | None) -> Event:
    if body.event_id is not None and body.event is not None:
        raise Invalid.fields(FieldError("event", "cannot be given together with event_id"))
    if body.event_id is not None:
        return await request.services.events.get(tx, event_id_of(body.event_id))
    if body.event is not None:
        try:
            return sampled(request.services.events, body.event)
        except Invalid as error:
            raise Invalid.fields(*(fault.under("event") for fault in error.errors)) from error
    return await request.services.events.example(tx, registry, None if chain_id is None else ChainId(chain_id))


routes = [try_trigger, try_draft, explain, backtest]
