"""Routes about organizations, their members, and what was done in them."""

from __future__ import annotations

from typing import Annotated, Literal

from litestar import Response, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct, structs

from agentauri.accounts import (
    ADMIN_ALL,
    AuditEntry,
    AuditFilter,
    GivenRole,
    Member,
    Organization,
    OrganizationDraft,
    OrganizationPatch,
    OwnOrganization,
    Role,
)
from agentauri.http.auth import KNOWN, USER, authorize
from agentauri.http.call import Call
from agentauri.http.fields import Moment
from agentauri.http.ids import member_id_of
from agentauri.http.lists import CursorPaging, Listing, Order, Paging, as_is, listing, nothing
from agentauri.types import Paged, UserId

READ, WRITE = "read:organizations", "write:organizations"

Filter = Annotated[str, Meta(min_length=1, max_length=100)]


class OrganizationView(Organization, frozen=True, kw_only=True):
    """`my_role` is the user's; null for a key."""

    my_role: Role | None


class Transfer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    new_owner_id: Annotated[str, Meta(min_length=1, max_length=100)]


class RoleChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    role: GivenRole


class MemberQuery(Paging, frozen=True, kw_only=True):
    status: Literal["active", "invited"] | None = None


class AuditQuery(CursorPaging, frozen=True, kw_only=True):
    """An `event` that ends in a dot is the beginning of several."""

    event: Filter | None = None
    actor_id: Filter | None = None
    target_id: Filter | None = None
    since: Moment | None = None
    until: Moment | None = None
    order: Order = "desc"


@post("/organizations", access=USER, also=(403, 409))
async def create_organization(request: Call, data: JSONBody[OrganizationDraft]) -> Response[OrganizationView]:
    """Make an organization, on the plan free. Who makes it owns it; a user owns at most 20."""
    async with request.transaction() as tx:
        made = await request.services.organizations.create(tx, request.actor, request.me.user_id, data)
    view = OrganizationView(**structs.asdict(made), my_role="owner")
    return Response(view, headers={"Location": f"/api/v1/organizations/{made.id}"})


@get("/organizations", access=KNOWN)
async def list_organizations(request: Call, filters: NamedDependency[Paging]) -> Listing[OrganizationView]:
    """Those that the user is a member of, newest first; for a key, its own."""
    page, standing, organizations = filters.as_page(), request.standing, request.services.organizations
    found: Paged[OwnOrganization] | Paged[Organization]
    async with request.transaction() as tx:
        if standing.role is not None:
            found = await organizations.of_user(tx, standing.user_id, page)
            return listing(found, page, lambda one: OrganizationView(**structs.asdict(one)))
        own = await organizations.get(tx, standing.organization_id)
    found = Paged(data=[own][page.offset :], total=1, has_more=False)
    return listing(found, page, lambda one: OrganizationView(**structs.asdict(one), my_role=None))


@get("/organizations/{organization_id:str}", access=READ)
async def get_organization(request: Call) -> OrganizationView:
    """One organization."""
    async with request.transaction() as tx:
        return _view(request, await request.services.organizations.get(tx, request.standing.organization_id))


@patch("/organizations/{organization_id:str}", access=WRITE, also=(409,))
async def patch_organization(request: Call, data: JSONBody[OrganizationPatch]) -> OrganizationView:
    """Change the fields that are given."""
    return await _change(request, data)


@put("/organizations/{organization_id:str}", access=WRITE, also=(409,))
async def put_organization(request: Call, data: JSONBody[OrganizationPatch]) -> OrganizationView:
    """The same as PATCH, but here null leaves a field as it is."""
    return await _change(request, data)


@delete("/organizations/{organization_id:str}", access=ADMIN_ALL, also=(409,))
async def delete_organization(request: Call) -> None:
    """End an organization, with its keys, its triggers and what waits to be delivered. A personal one stays."""
    async with request.transaction() as tx:
        await request.services.organizations.delete(tx, request.actor, request.standing.organization_id)


@post("/organizations/{organization_id:str}/transfer", access=ADMIN_ALL, status_code=200, also=(409,))
async def transfer_organization(request: Call, data: JSONBody[Transfer]) -> OrganizationView:
    """Hand the organization over to another member. Who owned it becomes an admin."""
    async with request.transaction() as tx:
        after = await request.services.organizations.transfer(
            tx, request.actor, request.standing.organization_id, UserId(data.new_owner_id)
        )
    role: Role | None = None if request.standing.role is None else "admin"
    return OrganizationView(**structs.asdict(after), my_role=role)


@get("/organizations/{organization_id:str}/members", access=READ)
async def list_members(request: Call, filters: NamedDependency[MemberQuery]) -> Listing[Member]:
    """The members, oldest first. Whose role is below admin sees the e-mails of others masked."""
    page = filters.as_page()
    if filters.status == "invited":
        return listing(nothing(), page, as_is)
    async with request.transaction() as tx:
        found = await request.services.members.list(tx, request.standing, page)
    return listing(found, page, as_is)


@patch("/organizations/{organization_id:str}/members/{user_id:str}", access=ADMIN_ALL, also=(409,))
async def patch_member(request: Call, user_id: FromPath[str], data: JSONBody[RoleChange]) -> Member:
    """Give a member another role."""
    return await _change_role(request, user_id, data)


@put("/organizations/{organization_id:str}/members/{user_id:str}", access=ADMIN_ALL, also=(409,))
async def put_member(request: Call, user_id: FromPath[str], data: JSONBody[RoleChange]) -> Member:
    """The same as PATCH."""
    return await _change_role(request, user_id, data)


@delete("/organizations/{organization_id:str}/members/{user_id:str}", access=READ, also=(409,))
async def remove_member(request: Call, user_id: FromPath[str]) -> None:
    """Remove a member, with `write:organizations`; or leave, which everybody may but the owner. Only the owner removes
    an admin."""
    standing = request.standing
    if standing.role is None or user_id != standing.user_id:
        authorize(request.principal, standing, WRITE)
    async with request.transaction() as tx:
        await request.services.members.remove(tx, request.actor, standing, member_id_of(user_id))


@get("/organizations/{organization_id:str}/audit-log", access="read:audit")
async def read_audit_log(request: Call, filters: NamedDependency[AuditQuery]) -> Listing[AuditEntry]:
    """What was done in the organization, newest first unless asked otherwise."""
    page = filters.as_page()
    wanted = AuditFilter(
        event=filters.event,
        actor_id=filters.actor_id,
        target_id=filters.target_id,
        since=filters.since,
        until=filters.until,
        order=filters.order,
    )
    async with request.transaction() as tx:
        found = await request.services.audit.of_organization(tx, request.standing.organization_id, wanted, page)
    return listing(found, page, as_is)


async def _change(request: Call, wanted: OrganizationPatch) -> OrganizationView:
    async with request.transaction() as tx:
        after = await request.services.organizations.update(tx, request.actor, request.standing.organization_id, wanted)
    return _view(request, after)


async def _change_role(request: Call, user_id: str, wanted: RoleChange) -> Member:
    async with request.transaction() as tx:
        return await request.services.members.change_role(
            tx, request.actor, request.standing.organization_id, member_id_of(user_id), wanted.role
        )


def _view(request: Call, organization: Organization) -> OrganizationView:
    return OrganizationView(**structs.asdict(organization), my_role=request.standing.role)


routes = [
    create_organization,
    list_organizations,
    get_organization,
    patch_organization,
    put_organization,
    delete_organization,
    transfer_organization,
    list_members,
    patch_member,
    put_member,
    remove_member,
    read_audit_log,
]
