"""Routes about deliveries: what became of each match."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct, structs

from agentauri.actions import Delivery, DeliveryDetail, DeliveryFilter, DeliveryNotFound, Replay
from agentauri.database import Transaction
from agentauri.errors import FieldError, Invalid
from agentauri.events import EventNotFound
from agentauri.http.call import Call
from agentauri.http.fields import BlockNumber, ChainNumber, Moment, NumberText, Parameters, Text, uint256
from agentauri.http.ids import delivery_id_of
from agentauri.http.lists import CursorPaging, Listing, Order, as_is, listing, nothing
from agentauri.http.routes.events import EventView, event_view
from agentauri.http.routes.triggers import masked_addresses
from agentauri.types import ActionId, ChainId, DeliveryId, EventId, TriggerId

READ, WRITE = "read:deliveries", "write:deliveries"

Status = Literal["pending", "delivered", "dead", "skipped"]


class DeadLetterQuery(CursorPaging, frozen=True, kw_only=True):
    trigger_id: Text | None = None
    action_id: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None
    action_type: Text | None = None
    event_id: Text | None = None
    chain_id: ChainNumber | None = None
    agent_id: NumberText | None = None
    environment: Literal["live", "test"] | None = None
    kind: Literal["match", "retraction", "absence", "digest", "replay", "test"] | None = None
    hold: Literal["depth", "breaker", "retraction", "paused"] | None = None
    correlation_id: Text | None = None
    since: Moment | None = None
    until: Moment | None = None
    order: Order = "desc"


class DeliveryQuery(DeadLetterQuery, frozen=True, kw_only=True):
    status: tuple[Status, ...] = ()


class ReplayBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"as_": "as"}):
    """Which deliveries to send again: those named, or those that all of the filters fit; there is at least one of them.

    Without `status` a filter means the dead ones. With `as: new` a delivery stays as it is, so going on takes a cursor.
    """

    delivery_ids: Annotated[list[UUID], Meta(max_length=1000)] | None = None
    trigger_id: Text | None = None
    action_id: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None
    event_id: Text | None = None
    chain_id: ChainNumber | None = None
    from_block: BlockNumber | None = None
    to_block: BlockNumber | None = None
    since: Moment | None = None
    until: Moment | None = None
    status: list[Status] | None = None
    as_: Literal["same", "new"] = "same"
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    cursor: UUID | None = None
    dry_run: bool = False

    def read(self, environment: Literal["live", "test"] | None) -> Replay:
        """
        Raises:
            Invalid: it would mean everything, or blocks of no chain in particular.
        """
        blocks = (self.from_block, self.to_block) != (None, None)
        if blocks and self.chain_id is None:
            raise Invalid.fields(FieldError("chain_id", "is required with from_block and to_block"))
        narrow = (self.delivery_ids, self.trigger_id, self.action_id, self.event_id, self.since, self.until)
        if not blocks and all(value is None for value in narrow):
            told = "must name deliveries, a trigger, an action, an event, blocks of a chain, or a time"
            raise Invalid.fields(FieldError("", told))
        usual: list[Status] = ["dead"] if self.delivery_ids is None else []
        return Replay(
            wanted=DeliveryFilter(
                status=tuple(usual if self.status is None else self.status),
                trigger_id=None if self.trigger_id is None else TriggerId(self.trigger_id),
                action_id=None if self.action_id is None else ActionId(self.action_id),
                event_id=self.event_id,
                chain_id=None if self.chain_id is None else ChainId(self.chain_id),
                environment=environment,
                since=self.since,
                until=self.until,
            ),
            delivery_ids=None if self.delivery_ids is None else tuple(map(DeliveryId, self.delivery_ids)),
            from_block=self.from_block,
            to_block=self.to_block,
            mode=self.as_,
            limit=self.limit,
            after=None if self.cursor is None else DeliveryId(self.cursor),
            dry_run=self.dry_run,
        )


class ReplayView(Struct, frozen=True, kw_only=True):
    """`matched` are those that were looked at: queued, or refused for a reason. There are more after `next_cursor`."""

    request_id: str
    matched: int
    queued: int
    refused: dict[str, int]
    dry_run: bool
    has_more: bool
    next_cursor: str | None


class DeliveryView(DeliveryDetail, frozen=True, kw_only=True):
    """A delivery with its event, its attempts, and what would be sent now, secrets masked."""

    event: EventView | None


@get("/deliveries", access=READ)
async def list_deliveries(request: Call, filters: NamedDependency[DeliveryQuery]) -> Listing[Delivery]:
    """The organization's deliveries, newest first unless asked otherwise."""
    return await _list(request, filters, filters.status)


@get("/deliveries/dead-letters", access=READ)
async def list_dead_letters(request: Call, filters: NamedDependency[DeadLetterQuery]) -> Listing[Delivery]:
    """Deliveries that were given up."""
    return await _list(request, filters, ("dead",))


@get("/deliveries/{delivery_id:str}", access=READ)
async def get_delivery(request: Call, delivery_id: FromPath[str]) -> DeliveryView:
    """One delivery, with every try at it."""
    chains = await request.desk.chains.get()
    async with request.transaction() as tx:
        delivery = await _own(tx, request, delivery_id)
        try:
            event = await request.services.events.get(tx, EventId(delivery.event_id))
        except EventNotFound:  # a writer of events may have taken it away; the delivery stays
            event = None
    rendered = delivery.rendered
    if rendered is not None and not request.standing.may("write:triggers"):
        rendered = masked_addresses(rendered)
    view = None if event is None else event_view(event, chains)
    return DeliveryView(**structs.asdict(structs.replace(delivery, rendered=rendered)), event=view)


@post("/deliveries/replay", access=WRITE, cost=10, status_code=202)
async def replay(request: Call, data: JSONBody[ReplayBody]) -> ReplayView:
    """Queue finished deliveries once more, oldest first: under their old ids, or as new ones of kind `replay`."""
    wanted = data.read(request.standing.environment)
    async with request.transaction() as tx:
        asked = max(data.limit, len(data.delivery_ids or ()))
        (await request.allowance(tx)).admit("replay_deliveries", 0, asked)
        done = await request.services.deliveries.replay(tx, request.standing.organization_id, wanted)
        if not data.dry_run:
            given = {name: getattr(data, name) for name in data.__struct_fields__ if name != "delivery_ids"}
            chosen = {name: value for name, value in given.items() if value is not None}
            await request.record(tx, "delivery.replayed", "replay", done.request_id, queued=done.queued, filter=chosen)
    return ReplayView(
        request_id=done.request_id,
        matched=done.queued + sum(done.refused.values()),
        queued=done.queued,
        refused=done.refused,
        dry_run=data.dry_run,
        has_more=done.last is not None,
        next_cursor=None if done.last is None else str(done.last),
    )


@post("/deliveries/{delivery_id:str}/redeliver", access=WRITE, status_code=202, also=(409,))
async def redeliver(request: Call, delivery_id: FromPath[str]) -> Delivery:
    """Queue a finished delivery once more under its old id; its attempts are kept."""
    async with request.transaction() as tx:
        delivery = await _own(tx, request, delivery_id)
        revived = await request.services.deliveries.redeliver(tx, request.standing.organization_id, delivery.id)
        await request.record(tx, "delivery.redelivered", "delivery", delivery.id)
    return revived


async def _own(tx: Transaction, request: Call, delivery_id: str) -> DeliveryDetail:
    """The key's delivery, or not found: the organization's, and of the environment that the key works in."""
    wanted = delivery_id_of(delivery_id)
    delivery = await request.services.deliveries.get(tx, request.standing.organization_id, wanted)
    if not request.standing.sees(delivery.environment):
        raise DeliveryNotFound
    return delivery


async def _list(request: Call, filters: DeadLetterQuery, status: tuple[Status, ...]) -> Listing[Delivery]:
    page, standing, parameters = filters.as_page(), request.standing, Parameters()
    wanted = DeliveryFilter(
        status=status,
        trigger_id=None if filters.trigger_id is None else TriggerId(filters.trigger_id),
        action_id=None if filters.action_id is None else ActionId(filters.action_id),
        action_type=filters.action_type,
        event_id=filters.event_id,
        chain_id=None if filters.chain_id is None else ChainId(filters.chain_id),
        agent_id=parameters.read("agent_id", filters.agent_id, uint256),
        environment=standing.environment or filters.environment,
        kind=filters.kind,
        hold=filters.hold,
        correlation_id=filters.correlation_id,
        since=filters.since,
        until=filters.until,
        order=filters.order,
    )
    parameters.check()
    if not standing.sees(filters.environment):
        return listing(nothing(), page, as_is)
    async with request.transaction() as tx:
        found = await request.services.deliveries.list(tx, standing.organization_id, wanted, page)
    return listing(found, page, as_is)


routes = [list_deliveries, list_dead_letters, get_delivery, replay, redeliver]
