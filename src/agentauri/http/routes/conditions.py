"""Routes about the conditions of a trigger, one at a time."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, Struct, UnsetType

from agentauri.http.call import Call
from agentauri.http.ids import condition_id_of
from agentauri.http.lists import Listing, Paging, as_is, listing, part_of
from agentauri.http.routes.triggers import DELETE, READ, WRITE, admit_parts, own_trigger
from agentauri.triggers import Condition


class ConditionQuery(Paging, frozen=True, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=100)] = 100


class ConditionBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"not_": "not"}):
    """A leaf or a group. What answers add to it may be sent back, and means nothing."""

    condition_type: str | UnsetType | None = UNSET
    field: str | UnsetType | None = UNSET
    operator: str | UnsetType | None = UNSET
    value: Any = UNSET
    config: dict[str, Any] | UnsetType | None = UNSET
    all: list[Any] | UnsetType | None = UNSET
    any: list[Any] | UnsetType | None = UNSET
    not_: dict[str, Any] | UnsetType | None = UNSET
    id: Any = UNSET
    trigger_id: Any = UNSET
    created_at: Any = UNSET

    def given(self) -> Condition:
        """What was sent, but for what an answer adds."""
        sent: Condition = msgspec.to_builtins(self)
        return {name: value for name, value in sent.items() if name not in ("id", "trigger_id", "created_at")}


@post("/triggers/{trigger_id:str}/conditions", access=WRITE, also=(409,))
async def add_condition(request: Call, trigger_id: FromPath[str], data: JSONBody[ConditionBody]) -> Condition:
    """Add a condition that has to hold as well."""
    async with request.transaction() as tx:
        allowance = await request.allowance(tx)
        trigger = await own_trigger(tx, request, trigger_id)
        made = await request.services.parts.add_condition(
            tx, request.standing.organization_id, trigger.id, data.given()
        )
        admit_parts(allowance, trigger, await own_trigger(tx, request, trigger_id))
        await request.record(tx, "condition.created", "condition", made["id"], trigger_id=trigger.id)
    return made


@get("/triggers/{trigger_id:str}/conditions", access=READ)
async def list_conditions(
    request: Call, trigger_id: FromPath[str], filters: NamedDependency[ConditionQuery]
) -> Listing[Condition]:
    """The conditions of a trigger, in their order."""
    page = filters.as_page()
    async with request.transaction() as tx:
        trigger = await own_trigger(tx, request, trigger_id)
    return listing(part_of(trigger.conditions, page), page, as_is)


@patch("/triggers/{trigger_id:str}/conditions/{condition_id:str}", access=WRITE, also=(409,))
async def patch_condition(
    request: Call, trigger_id: FromPath[str], condition_id: FromPath[str], data: JSONBody[ConditionBody]
) -> Condition:
    """Change the fields that are given, of any node of the tree."""
    return await _change(request, trigger_id, condition_id, data)


@put("/triggers/{trigger_id:str}/conditions/{condition_id:str}", access=WRITE, also=(409,))
async def put_condition(
    request: Call, trigger_id: FromPath[str], condition_id: FromPath[str], data: JSONBody[ConditionBody]
) -> Condition:
    """The same as PATCH, but here null leaves a field as it is."""
    return await _change(request, trigger_id, condition_id, data)


@delete("/triggers/{trigger_id:str}/conditions/{condition_id:str}", access=DELETE, also=(409,))
async def delete_condition(request: Call, trigger_id: FromPath[str], condition_id: FromPath[str]) -> None:
    """Take a node out of the tree. Without any condition the trigger is a draft."""
    async with request.transaction() as tx:
        trigger = await own_trigger(tx, request, trigger_id)
        await request.services.parts.remove_condition(
            tx, request.standing.organization_id, trigger.id, condition_id_of(condition_id)
        )
        await request.record(tx, "condition.deleted", "condition", condition_id, trigger_id=trigger.id)


async def _change(request: Call, trigger_id: str, condition_id: str, body: ConditionBody) -> Condition:
    async with request.transaction() as tx:
        allowance = await request.allowance(tx)
        trigger = await own_trigger(tx, request, trigger_id)
        changed = await request.services.parts.change_condition(
            tx, request.standing.organization_id, trigger.id, condition_id_of(condition_id), body.given()
        )
        admit_parts(allowance, trigger, await own_trigger(tx, request, trigger_id))
        await request.record(
            tx, "condition.updated", "condition", condition_id, trigger_id=trigger.id, fields=sorted(body.given())
        )
    return changed


routes = [add_condition, list_conditions, patch_condition, put_condition, delete_condition]
