"""Routes about triggers, and the breaker of each."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from litestar import Response, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, Struct, structs

from agentauri.actions import Action, masked_url
from agentauri.billing import Allowance
from agentauri.breaker import BreakerConfig
from agentauri.database import Transaction
from agentauri.http.call import Call
from agentauri.http.fields import ChainNumber
from agentauri.http.ids import trigger_id_of
from agentauri.http.lists import Listing, Order, Paging, as_is, listing, nothing
from agentauri.triggers import (
    BreakerPatch,
    StateEntry,
    Trigger,
    TriggerBreaker,
    TriggerDetail,
    TriggerDraft,
    TriggerFilter,
    TriggerNotFound,
    TriggerPatch,
    count_leaves,
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


class StateQuery(Paging, frozen=True, kw_only=True):
    scope_key: Annotated[str, Meta(max_length=255)] | None = None


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
    standing, triggers = await request.standing_in(data.organization_id, WRITE), request.services.triggers
    prepared = await triggers.prepare(
        structs.replace(data, environment=standing.environment or data.environment), standing.organization_id
    )
    async with request.transaction() as tx:
        allowance = await request.allowance(tx)
        before = await triggers.count(tx, standing.organization_id)
        allowance.admit("triggers", before, before + 1)
        made = await triggers.create(tx, standing.organization_id, standing.user_id, prepared)
        admit_parts(allowance, None, made)
        await request.record(tx, "trigger.created", "trigger", made.id, name=made.name)
    return Response(made, headers={"Location": f"/api/v1/triggers/{made.id}"})


@get(["/triggers", "/organizations/{organization_id:str}/triggers"], access=READ)
async def list_triggers(request: Call, filters: NamedDependency[TriggerQuery]) -> Listing[Trigger]:
    """The organization's triggers, newest first unless asked otherwise."""
    page, standing = filters.as_page(), request.standing
    wanted = TriggerFilter(
        enabled=filters.enabled,
        status=filters.status,
        registry=filters.registry,
        chain_id=filters.chain_id,
        breaker_state=filters.breaker_state,
        environment=standing.environment or filters.environment,
        managed=filters.managed,
        search=filters.search,
        order=filters.order,
    )
    if not standing.sees(filters.environment):
        return listing(nothing(), page, as_is)
    async with request.transaction() as tx:
        found = await request.services.triggers.list(tx, standing.organization_id, wanted, page)
    return listing(found, page, as_is)


@get("/triggers/{trigger_id:str}", access=READ)
async def get_trigger(request: Call, trigger_id: FromPath[str]) -> TriggerDetail:
    """One trigger with its conditions, actions and breaker."""
    async with request.reading() as tx:
        trigger = await own_trigger(tx, request, trigger_id)
    if request.standing.may(WRITE):
        return trigger
    return structs.replace(trigger, actions=[without_address(action) for action in trigger.actions])


@patch("/triggers/{trigger_id:str}", access=WRITE, also=(409,))
async def patch_trigger(request: Call, trigger_id: FromPath[str], data: JSONBody[TriggerPatch]) -> TriggerDetail:
    """Change the fields that are given. `conditions` and `actions` replace the whole set."""
    return await _update(request, trigger_id, data)


@put("/triggers/{trigger_id:str}", access=WRITE, also=(409,))
async def put_trigger(request: Call, trigger_id: FromPath[str], data: JSONBody[TriggerPatch]) -> TriggerDetail:
    """The same as PATCH, but here null leaves a field as it is."""
    return await _update(request, trigger_id, data)


@delete("/triggers/{trigger_id:str}", access=DELETE, also=(409,))
async def delete_trigger(request: Call, trigger_id: FromPath[str]) -> None:
    """End a trigger: its state goes, its pending deliveries are skipped, its history stays."""
    async with request.transaction() as tx:
        trigger = await own_trigger(tx, request, trigger_id)
        await request.services.triggers.delete(tx, request.standing.organization_id, trigger.id)
        await request.record(tx, "trigger.deleted", "trigger", trigger.id, name=trigger.name)


@get("/triggers/{trigger_id:str}/state", access=READ)
async def list_state(
    request: Call, trigger_id: FromPath[str], filters: NamedDependency[StateQuery]
) -> Listing[StateEntry]:
    """What the trigger's conditions remember, and when it fired last where it has a cooldown."""
    page = filters.as_page()
    async with request.transaction() as tx:
        trigger = await own_trigger(tx, request, trigger_id)
        organization_id = request.standing.organization_id
        found = await request.services.triggers.states(tx, organization_id, trigger.id, filters.scope_key, page)
    return listing(found, page, as_is)


@delete("/triggers/{trigger_id:str}/state", access=WRITE)
async def clear_state(request: Call, trigger_id: FromPath[str]) -> None:
    """Forget all of that: the trigger goes on as if it were new."""
    async with request.transaction() as tx:
        trigger = await own_trigger(tx, request, trigger_id)
        await request.services.triggers.forget(tx, request.standing.organization_id, trigger.id)
        await request.record(tx, "trigger.state_cleared", "trigger", trigger.id)


@get("/triggers/{trigger_id:str}/circuit-breaker", access=READ)
async def get_breaker(request: Call, trigger_id: FromPath[str]) -> BreakerView:
    """The state of a trigger's breaker, and its settings."""
    async with request.transaction() as tx:
        trigger = await own_trigger(tx, request, trigger_id)
        breaker = await request.services.triggers.breaker(tx, request.standing.organization_id, trigger.id)
        return await _breaker_view(tx, request, breaker)


@patch("/triggers/{trigger_id:str}/circuit-breaker", access=WRITE)
async def configure_breaker(request: Call, trigger_id: FromPath[str], data: JSONBody[BreakerPatch]) -> BreakerView:
    """Change the breaker's settings; what is not given stays."""
    async with request.transaction() as tx:
        trigger = await own_trigger(tx, request, trigger_id)
        organization_id = request.standing.organization_id
        breaker = await request.services.triggers.configure_breaker(tx, organization_id, trigger.id, data)
        await request.record(tx, "breaker.configured", "trigger", trigger.id, **structs.asdict(breaker.config))
        return await _breaker_view(tx, request, breaker)


@post("/triggers/{trigger_id:str}/circuit-breaker/reset", access=WRITE, status_code=200)
async def reset_breaker(request: Call, trigger_id: FromPath[str]) -> BreakerView:
    """Close the breaker now; what it held becomes due."""
    async with request.transaction() as tx:
        trigger = await own_trigger(tx, request, trigger_id)
        breaker = await request.services.triggers.reset_breaker(tx, request.standing.organization_id, trigger.id)
        await request.record(tx, "breaker.reset", "trigger", trigger.id)
        return await _breaker_view(tx, request, breaker)


async def own_trigger(tx: Transaction, request: Call, trigger_id: str) -> TriggerDetail:
    """The key's trigger, or not found: the organization's, and of the environment that the key works in."""
    trigger = await request.services.triggers.get(tx, request.standing.organization_id, trigger_id_of(trigger_id))
    if not request.standing.sees(trigger.environment):
        raise TriggerNotFound
    return trigger


def admit_parts(allowance: Allowance, before: TriggerDetail | None, after: TriggerDetail) -> None:
    """Let a trigger have the conditions and actions that a change makes of it.

    Raises:
        QuotaExceeded
    """
    allowance.admit(
        "conditions_per_trigger", count_leaves(before.conditions if before else ()), count_leaves(after.conditions)
    )
    allowance.admit("actions_per_trigger", len(before.actions if before else ()), len(after.actions))


def given_fields(wanted: Struct) -> list[str]:
    """Which fields a change names, for the audit trail."""
    names = wanted.__struct_fields__
    return [name for name in names if name != "organization_id" and getattr(wanted, name) is not UNSET]


def without_address(action: Action) -> Action:
    """For those who may only look: path and query of a target may hold a key."""
    return structs.replace(action, config=masked_addresses(action.config))


def masked_addresses(config: dict[str, object]) -> dict[str, object]:
    return config | {name: masked_url(str(config[name])) for name in ("url", "server_url") if name in config}


async def _update(request: Call, trigger_id: str, wanted: TriggerPatch) -> TriggerDetail:
    standing, triggers = await request.standing_in(wanted.organization_id, WRITE), request.services.triggers
    prepared = await triggers.prepare(wanted, standing.organization_id)
    async with request.transaction() as tx:
        allowance = await request.allowance(tx)
        trigger = await own_trigger(tx, request, trigger_id)
        after = await triggers.update(tx, standing.organization_id, trigger.id, prepared)
        admit_parts(allowance, trigger, after)
        await request.record(tx, "trigger.updated", "trigger", trigger.id, fields=given_fields(wanted))
    return after


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
    list_state,
    clear_state,
    get_breaker,
    configure_breaker,
    reset_breaker,
]
