"""Routes about triggers, and the breaker of each."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from litestar import Response, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct, structs

from agentauri.actions import Action, masked_url
from agentauri.breaker import BreakerConfig
from agentauri.database import Transaction
from agentauri.http.auth import require_named
from agentauri.http.call import Call
from agentauri.http.fields import ChainNumber
from agentauri.http.ids import trigger_id_of
from agentauri.http.lists import Listing, Order, Paging, as_is, listing, nothing
from agentauri.triggers import (
    BreakerPatch,
    Trigger,
    TriggerBreaker,
    TriggerDetail,
    TriggerDraft,
    TriggerFilter,
    TriggerNotFound,
    TriggerPatch,
)
from agentauri.types import TriggerId

READ, WRITE, DELETE = "read:triggers", "write:triggers", "delete:triggers"


class TriggerQuery(Paging, frozen=True, kw_only=True):
    enabled: bool | None = None
    status: Literal["disabled", "invalid", "draft", "active"] | None = None
    registry: Literal["identity", "reputation", "validation"] | None = None
    chain_id: ChainNumber | None = None
    breaker_state: Literal["closed", "open", "half_open"] | None = None
    environment: Literal["live", "test"] | None = None
    managed: bool | None = None
    search: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    order: Order = "desc"


class BreakerView(Struct, frozen=True, kw_only=True):
    trigger_id: TriggerId
    trigger_name: str
    state: Literal["closed", "open", "half_open"]
    failure_count: int
    success_count: int
    half_open_calls: int
    last_failure_at: datetime | None
    opened_at: datetime | None
    next_probe_at: datetime | None
    held_deliveries: int
    config: BreakerConfig


@post("/triggers", access=WRITE)
async def create_trigger(request: Call, data: JSONBody[TriggerDraft]) -> Response[TriggerDetail]:
    """Make a trigger with its conditions and actions, all of it or nothing. Signing secrets are shown this once."""
    key, triggers = request.key, request.services.triggers
    require_named(key, request.scope, data.organization_id)
    prepared = await triggers.prepare(structs.replace(data, environment=key.environment), key.organization_id)
    async with request.transaction() as tx:
        made = await triggers.create(tx, key.organization_id, key.user_id, prepared)
    return Response(made, headers={"Location": f"/api/v1/triggers/{made.id}"})


@get("/triggers", access=READ)
async def list_triggers(request: Call, filters: NamedDependency[TriggerQuery]) -> Listing[Trigger]:
    """The organization's triggers, newest first unless asked otherwise."""
    page, key = filters.as_page(), request.key
    wanted = TriggerFilter(
        enabled=filters.enabled,
        status=filters.status,
        registry=filters.registry,
        chain_id=filters.chain_id,
        breaker_state=filters.breaker_state,
        environment=key.environment,
        managed=filters.managed,
        search=filters.search,
        order=filters.order,
    )
    if filters.environment not in (None, key.environment):  # a key sees its own environment only
        return listing(nothing(), page, as_is)
    async with request.transaction() as tx:
        found = await request.services.triggers.list(tx, key.organization_id, wanted, page)
    return listing(found, page, as_is)


@get("/triggers/{trigger_id:str}", access=READ)
async def get_trigger(request: Call, trigger_id: FromPath[str]) -> TriggerDetail:
    """One trigger with its conditions, actions and breaker."""
    async with request.transaction() as tx:
        trigger = await _own(tx, request, trigger_id)
    if request.key.may(WRITE):
        return trigger
    return structs.replace(trigger, actions=[_without_address(action) for action in trigger.actions])


@patch("/triggers/{trigger_id:str}", access=WRITE)
async def patch_trigger(request: Call, trigger_id: FromPath[str], data: JSONBody[TriggerPatch]) -> TriggerDetail:
    """Change the fields that are given. `conditions` and `actions` replace the whole set."""
    return await _update(request, trigger_id, data)


@put("/triggers/{trigger_id:str}", access=WRITE)
async def put_trigger(request: Call, trigger_id: FromPath[str], data: JSONBody[TriggerPatch]) -> TriggerDetail:
    """The same as PATCH, but here null leaves a field as it is."""
    return await _update(request, trigger_id, data)


@delete("/triggers/{trigger_id:str}", access=DELETE)
async def delete_trigger(request: Call, trigger_id: FromPath[str]) -> None:
    """End a trigger: its state goes, its pending deliveries are skipped, its history stays."""
    async with request.transaction() as tx:
        trigger = await _own(tx, request, trigger_id)
        await request.services.triggers.delete(tx, request.key.organization_id, trigger.id)


@get("/triggers/{trigger_id:str}/circuit-breaker", access=READ)
async def get_breaker(request: Call, trigger_id: FromPath[str]) -> BreakerView:
    """The state of a trigger's breaker, and its settings."""
    async with request.transaction() as tx:
        trigger = await _own(tx, request, trigger_id)
        breaker = await request.services.triggers.breaker(tx, request.key.organization_id, trigger.id)
        return await _breaker_view(tx, request, breaker)


@patch("/triggers/{trigger_id:str}/circuit-breaker", access=WRITE)
async def configure_breaker(request: Call, trigger_id: FromPath[str], data: JSONBody[BreakerPatch]) -> BreakerView:
    """Change the breaker's settings; what is not given stays."""
    async with request.transaction() as tx:
        trigger = await _own(tx, request, trigger_id)
        organization_id = request.key.organization_id
        breaker = await request.services.triggers.configure_breaker(tx, organization_id, trigger.id, data)
        return await _breaker_view(tx, request, breaker)


@post("/triggers/{trigger_id:str}/circuit-breaker/reset", access=WRITE, status_code=200)
async def reset_breaker(request: Call, trigger_id: FromPath[str]) -> BreakerView:
    """Close the breaker now; what it held becomes due."""
    async with request.transaction() as tx:
        trigger = await _own(tx, request, trigger_id)
        breaker = await request.services.triggers.reset_breaker(tx, request.key.organization_id, trigger.id)
        return await _breaker_view(tx, request, breaker)


async def _own(tx: Transaction, request: Call, trigger_id: str) -> TriggerDetail:
    """The key's trigger, or not found: the organization's, and of the environment that the key works in."""
    trigger = await request.services.triggers.get(tx, request.key.organization_id, trigger_id_of(trigger_id))
    if trigger.environment != request.key.environment:
        raise TriggerNotFound
    return trigger


def _without_address(action: Action) -> Action:
    """For those who may only look: path and query of a target may hold a key."""
    shown = {name: masked_url(str(value)) for name, value in action.config.items() if name in ("url", "server_url")}
    return structs.replace(action, config=action.config | shown)


async def _update(request: Call, trigger_id: str, wanted: TriggerPatch) -> TriggerDetail:
    key, triggers = request.key, request.services.triggers
    require_named(key, request.scope, wanted.organization_id)
    prepared = await triggers.prepare(wanted, key.organization_id)
    async with request.transaction() as tx:
        trigger = await _own(tx, request, trigger_id)
        return await triggers.update(tx, key.organization_id, trigger.id, prepared)


async def _breaker_view(tx: Transaction, request: Call, found: TriggerBreaker) -> BreakerView:
    breaker = found.breaker
    return BreakerView(
        trigger_id=found.trigger.id,
        trigger_name=found.trigger.name,
        state=breaker.state,
        failure_count=breaker.failure_count,
        success_count=breaker.success_count,
        half_open_calls=breaker.half_open_admitted,
        last_failure_at=breaker.last_failure_at,
        opened_at=breaker.opened_at,
        next_probe_at=breaker.next_probe_at,
        held_deliveries=await request.services.deliveries.held(tx, found.trigger.id),
        config=found.config,
    )


routes = [
    create_trigger,
    list_triggers,
    get_trigger,
    patch_trigger,
    put_trigger,
    delete_trigger,
    get_breaker,
    configure_breaker,
    reset_breaker,
]
