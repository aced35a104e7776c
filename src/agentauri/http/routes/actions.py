"""Routes about the actions of a trigger, one at a time."""

from __future__ import annotations

from litestar import delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import structs

from agentauri.actions import Action, ActionDraft, ActionPatch, Delivery, NotDeliverable, SettledEvent, patched
from agentauri.http.call import Call
from agentauri.http.ids import action_id_of
from agentauri.http.lists import Listing, Paging, as_is, listing, part_of
from agentauri.http.routes.triggers import DELETE, READ, WRITE, admit_parts, given_fields, own_trigger, without_address


@post("/triggers/{trigger_id:str}/actions", access=WRITE, also=(409,))
async def add_action(request: Call, trigger_id: FromPath[str], data: JSONBody[ActionDraft]) -> Action:
    """Add an action. The signing secret of a webhook is shown this once."""
    organization_id, parts = request.standing.organization_id, request.services.parts
    async with request.transaction() as tx:
        trigger = await own_trigger(tx, request, trigger_id)
    checked = await parts.prepare_action(structs.replace(data, id=None), organization_id)
    async with request.transaction() as tx:
        allowance = await request.allowance(tx)
        made = await parts.add_action(tx, organization_id, trigger.id, checked)
        admit_parts(allowance, trigger, await own_trigger(tx, request, trigger_id))
        await request.record(
            tx, "action.created", "action", made.id, trigger_id=trigger.id, action_type=made.action_type
        )
    return made


@get("/triggers/{trigger_id:str}/actions", access=READ)
async def list_actions(request: Call, trigger_id: FromPath[str], filters: NamedDependency[Paging]) -> Listing[Action]:
    """The actions of a trigger, lower priority first."""
    page = filters.as_page()
    async with request.transaction() as tx:
        trigger = await own_trigger(tx, request, trigger_id)
    shown = as_is if request.standing.may(WRITE) else without_address
    return listing(part_of(trigger.actions, page), page, shown)


@patch("/triggers/{trigger_id:str}/actions/{action_id:str}", access=WRITE, also=(409,))
async def patch_action(
    request: Call, trigger_id: FromPath[str], action_id: FromPath[str], data: JSONBody[ActionPatch]
) -> Action:
    """Change the fields that are given; `config` key by key, where null takes a key away."""
    return await _change(request, trigger_id, action_id, data)


@put("/triggers/{trigger_id:str}/actions/{action_id:str}", access=WRITE, also=(409,))
async def put_action(
    request: Call, trigger_id: FromPath[str], action_id: FromPath[str], data: JSONBody[ActionPatch]
) -> Action:
    """The same as PATCH, but here null leaves a field as it is."""
    return await _change(request, trigger_id, action_id, data)


@delete("/triggers/{trigger_id:str}/actions/{action_id:str}", access=DELETE, also=(409,))
async def delete_action(request: Call, trigger_id: FromPath[str], action_id: FromPath[str]) -> None:
    """End an action: what waits for it is skipped."""
    async with request.transaction() as tx:
        trigger = await own_trigger(tx, request, trigger_id)
        await request.services.parts.remove_action(
            tx, request.standing.organization_id, trigger.id, action_id_of(action_id)
        )
        await request.record(tx, "action.deleted", "action", action_id, trigger_id=trigger.id)


@post(
    "/triggers/{trigger_id:str}/actions/{action_id:str}/send-test",
    access="write:deliveries",
    cost=5,
    status_code=202,
    also=(409,),
)
async def send_test(request: Call, trigger_id: FromPath[str], action_id: FromPath[str]) -> Delivery:
    """Send one real message, marked as a test, to the action's target: about the newest event that would fit, or a
    sample."""
    services, organization_id = request.services, request.standing.organization_id
    async with request.transaction() as tx:
        trigger = await own_trigger(tx, request, trigger_id)
        action = await services.parts.action(tx, trigger.id, action_id_of(action_id))
        if trigger.environment == "test":
            raise NotDeliverable("Nothing of the test environment is ever sent.")
        event = await services.events.example(tx, trigger.registry, trigger.chain_id)
        facts = await services.triggers.facts(tx, [trigger.id])
        told = SettledEvent(
            seq=event.seq, event_id=event.id, epoch=event.epoch, created_at=event.created_at, chain_id=event.chain_id
        )
        return await services.deliveries.send_test(tx, organization_id, facts[trigger.id], action, told)


async def _change(request: Call, trigger_id: str, action_id: str, patch: ActionPatch) -> Action:
    """What the change makes of the action is checked between two transactions: name servers may take their time."""
    organization_id, parts = request.standing.organization_id, request.services.parts
    async with request.transaction() as tx:
        trigger = await own_trigger(tx, request, trigger_id)
        action = await parts.action(tx, trigger.id, action_id_of(action_id))
    checked = await parts.prepare_action(patched(action, patch), organization_id)
    async with request.transaction() as tx:
        changed = await parts.change_action(tx, organization_id, trigger.id, checked, action)
        await request.record(
            tx, "action.updated", "action", action.id, trigger_id=trigger.id, fields=given_fields(patch)
        )
    return changed


routes = [add_action, list_actions, patch_action, put_action, delete_action, send_test]
