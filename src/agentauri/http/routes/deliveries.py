"""Routes about deliveries: what became of each match."""

from __future__ import annotations

from typing import Annotated, Literal

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Meta, structs

from agentauri.actions import Delivery, DeliveryDetail, DeliveryFilter, DeliveryNotFound, masked_url
from agentauri.database import Transaction
from agentauri.events import EventNotFound
from agentauri.http.call import Call
from agentauri.http.fields import ChainNumber, Moment, Parameters, Text, uint256
from agentauri.http.ids import delivery_id_of
from agentauri.http.lists import CursorPaging, Listing, Order, as_is, listing, nothing
from agentauri.http.routes.events import EventView, event_view
from agentauri.types import ActionId, ChainId, EventId, TriggerId

READ, WRITE = "read:deliveries", "write:deliveries"

Status = Literal["pending", "delivered", "dead", "skipped"]


class DeadLetterQuery(CursorPaging, frozen=True, kw_only=True):
    trigger_id: Text | None = None
    action_id: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None
    action_type: Text | None = None
    event_id: Text | None = None
    chain_id: ChainNumber | None = None
    agent_id: Text | None = None
    environment: Literal["live", "test"] | None = None
    kind: Literal["match", "retraction", "absence", "digest", "replay", "test"] | None = None
    hold: Literal["depth", "breaker", "retraction", "paused"] | None = None
    correlation_id: Text | None = None
    since: Moment | None = None
    until: Moment | None = None
    order: Order = "desc"


class DeliveryQuery(DeadLetterQuery, frozen=True, kw_only=True):
    status: tuple[Status, ...] = ()


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
    if rendered is not None and "url" in rendered and not request.key.may("write:triggers"):
        rendered = rendered | {"url": masked_url(str(rendered["url"]))}
    view = None if event is None else event_view(event, chains)
    return DeliveryView(**structs.asdict(structs.replace(delivery, rendered=rendered)), event=view)


@post("/deliveries/{delivery_id:str}/redeliver", access=WRITE, status_code=202, also=(409,))
async def redeliver(request: Call, delivery_id: FromPath[str]) -> Delivery:
    """Queue a finished delivery once more under its old id; its attempts are kept."""
    async with request.transaction() as tx:
        delivery = await _own(tx, request, delivery_id)
        return await request.services.deliveries.redeliver(tx, request.key.organization_id, delivery.id)


async def _own(tx: Transaction, request: Call, delivery_id: str) -> DeliveryDetail:
    """The key's delivery, or not found: the organization's, and of the environment that the key works in."""
    wanted = delivery_id_of(delivery_id)
    delivery = await request.services.deliveries.get(tx, request.key.organization_id, wanted)
    if delivery.environment != request.key.environment:
        raise DeliveryNotFound
    return delivery


async def _list(request: Call, filters: DeadLetterQuery, status: tuple[Status, ...]) -> Listing[Delivery]:
    page, key, parameters = filters.as_page(), request.key, Parameters()
    wanted = DeliveryFilter(
        status=status,
        trigger_id=None if filters.trigger_id is None else TriggerId(filters.trigger_id),
        action_id=None if filters.action_id is None else ActionId(filters.action_id),
        action_type=filters.action_type,
        event_id=filters.event_id,
        chain_id=None if filters.chain_id is None else ChainId(filters.chain_id),
        agent_id=parameters.read("agent_id", filters.agent_id, uint256),
        environment=key.environment,
        kind=filters.kind,
        hold=filters.hold,
        correlation_id=filters.correlation_id,
        since=filters.since,
        until=filters.until,
        order=filters.order,
    )
    parameters.check()
    if filters.environment not in (None, key.environment):  # a key sees its own environment only
        return listing(nothing(), page, as_is)
    async with request.transaction() as tx:
        found = await request.services.deliveries.list(tx, key.organization_id, wanted, page)
    return listing(found, page, as_is)


routes = [list_deliveries, list_dead_letters, get_delivery, redeliver]
