"""Routes about registry events: public facts of the chain, nobody's in particular."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Meta, Struct

from agentauri.chain import ChainStatus
from agentauri.events import DATA_COLUMNS, Event, EventFilter
from agentauri.http.auth import ANY
from agentauri.http.call import Call
from agentauri.http.fields import (
    AddressText,
    BlockNumber,
    ChainNumber,
    HashText,
    Moment,
    NumberText,
    Parameters,
    Text,
    address,
    first_second,
    last_second,
    transaction_hash,
    uint256,
)
from agentauri.http.ids import event_id_of
from agentauri.http.lists import CursorPaging, Listing, Order, listing
from agentauri.triggers import EVENT_TYPES
from agentauri.types import ChainId

Registry = Literal["identity", "reputation", "validation"]
Finality = Literal["latest", "safe", "finalized"]

AS_TEXT = frozenset({"feedback_index", "value_raw"})
KNOWN_TYPES = frozenset().union(*EVENT_TYPES.values())
EventType = Annotated[str, Meta(max_length=1000, extra_json_schema={"enum": sorted(KNOWN_TYPES)})]


class EventView(Struct, frozen=True, kw_only=True):
    """An event. `data` holds the decoded fields that it has, `args` every argument by its name in the ABI."""

    id: str
    seq: int
    chain_id: int
    block_number: int
    block_hash: str
    tx_hash: str
    tx_index: int | None
    log_index: int
    contract_address: str | None
    registry: str
    event_type: str
    agent_id: str | None
    timestamp: int
    ingested_at: datetime
    finality: Finality
    retracted: bool
    data: dict[str, Any]
    args: dict[str, Any]


class EventQuery(CursorPaging, frozen=True, kw_only=True):
    """Which events: all that are given must fit; of a list, one."""

    aliases: ClassVar[Mapping[str, str]] = {"chainId": "chain_id", "eventType": "event_type", "agentId": "agent_id"}

    chain_id: tuple[ChainNumber, ...] = ()
    registry: tuple[Registry, ...] = ()
    event_type: tuple[EventType, ...] = ()
    agent_id: NumberText | None = None
    client: AddressText | None = None
    owner: AddressText | None = None
    validator: AddressText | None = None
    tag1: Text | None = None
    tag2: Text | None = None
    tx_hash: HashText | None = None
    from_block: BlockNumber | None = None
    to_block: BlockNumber | None = None
    from_time: Moment | None = None
    to_time: Moment | None = None
    search: Annotated[str, Meta(min_length=2, max_length=100)] | None = None
    include_retracted: bool = False
    sort: Literal["time", "ingested"] = "time"
    order: Order = "desc"

    def as_filter(self) -> EventFilter:
        parameters = Parameters()
        if not set(self.event_type) <= KNOWN_TYPES:
            parameters.refuse("event_type", f"must be one of {', '.join(sorted(KNOWN_TYPES))}")
        if (self.from_block is not None or self.to_block is not None) and len(self.chain_id) != 1:
            parameters.refuse("chain_id", "must name one chain where blocks are given")
        wanted = EventFilter(
            chain_ids=tuple(ChainId(chain) for chain in self.chain_id),
            registries=self.registry,
            event_types=self.event_type,
            agent_id=parameters.read("agent_id", self.agent_id, uint256),
            client=parameters.read("client", self.client, address),
            owner=parameters.read("owner", self.owner, address),
            validator=parameters.read("validator", self.validator, address),
            tag1=self.tag1,
            tag2=self.tag2,
            transaction_hash=parameters.read("tx_hash", self.tx_hash, transaction_hash),
            from_block=self.from_block,
            to_block=self.to_block,
            from_time=first_second(self.from_time),
            to_time=last_second(self.to_time),
            search=self.search,
            include_retracted=self.include_retracted,
            sort=self.sort,
            order=self.order,
        )
        parameters.check()
        return wanted


@get("/events", access=ANY, search_cost=2)
async def list_events(request: Call, filters: NamedDependency[EventQuery]) -> Listing[EventView]:
    """Events, newest first unless asked otherwise."""
    page, wanted = filters.as_page(), filters.as_filter()
    chains = await request.desk.chains.get()
    async with request.transaction() as tx:
        found = await request.services.events.search(tx, wanted, page)
    return listing(found, page, lambda event: event_view(event, chains))


@get("/events/{event_id:str}", access=ANY)
async def get_event(request: Call, event_id: FromPath[str]) -> EventView:
    """One event, retracted or not."""
    wanted = event_id_of(event_id)
    chains = await request.desk.chains.get()
    async with request.transaction() as tx:
        event = await request.services.events.get(tx, wanted)
    return event_view(event, chains)


def event_view(event: Event, chains: list[ChainStatus]) -> EventView:
    return EventView(
        id=event.id,
        seq=event.seq,
        chain_id=event.chain_id,
        block_number=event.block_number,
        block_hash=event.block_hash,
        tx_hash=event.transaction_hash,
        tx_index=event.transaction_index,
        log_index=event.log_index,
        contract_address=event.contract_address,
        registry=event.registry,
        event_type=event.event_type,
        agent_id=None if event.agent_id is None else str(event.agent_id),
        timestamp=event.timestamp,
        ingested_at=event.created_at,
        finality=_finality(event, chains),
        retracted=event.retracted_at is not None,
        data=_data(event),
        args=event.args,
    )


def _data(event: Event) -> dict[str, Any]:
    data = {name: value for name in DATA_COLUMNS if (value := getattr(event, name)) is not None}
    for name, value in data.items():
        if isinstance(value, Decimal):
            data[name] = format(value, "f")
        elif name in AS_TEXT:
            data[name] = str(value)
    return data


def _finality(event: Event, chains: list[ChainStatus]) -> Finality:
    """As far as its chain had come a moment ago."""
    for chain in chains:
        if chain.chain_id == event.chain_id:
            if chain.finalized_block is not None and event.block_number <= chain.finalized_block:
                return "finalized"
            if chain.safe_block is not None and event.block_number <= chain.safe_block:
                return "safe"
    return "latest"


routes = [list_events, get_event]
