"""Routes about API keys. The key itself is in one answer only: the one that makes it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from litestar import Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, Struct, UnsetType, structs

from agentauri.accounts import (
    ApiKey,
    Environment,
    KeyDraft,
    KeyFilter,
    KeyPatch,
    KeyRotation,
    KeyStats,
    KeyType,
    NewKey,
    Permission,
)
from agentauri.billing import PLANS
from agentauri.http.call import Call
from agentauri.http.fields import Moment
from agentauri.http.ids import key_id_of
from agentauri.http.lists import Listing, Paging, as_is, listing

READ, WRITE, DELETE = "read:api-keys", "write:api-keys", "delete:api-keys"
OF_ORGANIZATION = "/organizations/{organization_id:str}/api-keys"
WEEK = 604_800

Name = Annotated[str, Meta(min_length=1, max_length=255)]
Scope = Annotated[str, Meta(max_length=64)]
Units = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Reason = Annotated[str, Meta(max_length=1000)]


class MakeKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name
    environment: Environment
    key_type: KeyType = "standard"
    permissions: tuple[Permission, ...] = ("read",)
    scopes: tuple[Scope, ...] | None = None
    rate_limit_override: Units | None = None
    expires_at: Moment | None = None
    organization_id: str | None = None


class ChangeKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is absent stays; null takes away an end or an override."""

    name: Name | UnsetType = UNSET
    scopes: tuple[Scope, ...] | UnsetType = UNSET
    rate_limit_override: Units | UnsetType | None = UNSET
    expires_at: Moment | UnsetType | None = UNSET


class RotateKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the key that is replaced goes on working beside the new one."""

    name: Name | None = None
    expires_at: Moment | None = None
    overlap_seconds: Annotated[int, Meta(ge=0, le=WEEK)] = 900


class RevokeKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reason: Reason | None = None


USUAL = RotateKey()
NO_REASON = RevokeKey()


class KeyQuery(Paging, frozen=True, kw_only=True):
    include_revoked: bool = False
    environment: Environment | None = None


class RevokeQuery(Struct, frozen=True, kw_only=True):
    reason: Reason | None = None


class MadeKey(ApiKey, frozen=True, kw_only=True):
    """`key` is the whole key, shown this once."""

    key: str


class Rotated(MadeKey, frozen=True, kw_only=True):
    old_key_id: str
    old_key_revoked_at: datetime


@post(["/api-keys", OF_ORGANIZATION], access=WRITE)
async def create_key(request: Call, data: JSONBody[MakeKey]) -> Response[MadeKey]:
    """Make a key. It can be given nothing that its maker may not do."""
    standing, keys = await request.standing_in(data.organization_id, WRITE), request.services.keys
    draft = KeyDraft(
        name=data.name,
        created_by=standing.user_id,
        environment=data.environment,
        key_type=data.key_type,
        permissions=data.permissions,
        scopes=data.scopes,
        rate_limit_override=data.rate_limit_override,
        expires_at=data.expires_at,
    )
    async with request.transaction() as tx:
        allowance = await request.allowance(tx)
        before = await keys.count_active(tx, standing.organization_id)
        made = await keys.issue(tx, request.actor, standing, draft, _most_units(request))
        allowance.admit("api_keys", before, before + 1)
    return Response(_made(made), headers={"Location": f"/api/v1/api-keys/{made.key.id}"})


@get(["/api-keys", OF_ORGANIZATION], access=READ)
async def list_keys(request: Call, filters: NamedDependency[KeyQuery]) -> Listing[ApiKey]:
    """The organization's keys, newest first; a key itself is never shown again."""
    page = filters.as_page()
    wanted = KeyFilter(include_revoked=filters.include_revoked, environment=filters.environment)
    async with request.transaction() as tx:
        found = await request.services.keys.page(tx, request.standing, wanted, page)
    return listing(found, page, as_is)


@get(["/api-keys/stats", f"{OF_ORGANIZATION}/stats"], access=READ)
async def key_stats(request: Call) -> KeyStats:
    """How many keys there are, and how they were used."""
    async with request.transaction() as tx:
        return await request.services.keys.stats(tx, request.standing)


@get("/api-keys/{key_id:str}", access=READ)
async def get_key(request: Call, key_id: FromPath[str]) -> ApiKey:
    """One key, without the key itself."""
    async with request.transaction() as tx:
        return await request.services.keys.get(tx, request.standing, key_id_of(key_id))


@patch("/api-keys/{key_id:str}", access=WRITE, also=(409,))
async def patch_key(request: Call, key_id: FromPath[str], data: JSONBody[ChangeKey]) -> ApiKey:
    """Change the fields that are given."""
    standing, keys = request.standing, request.services.keys
    patch = KeyPatch(
        name=data.name if data.name is UNSET else data.name.strip(),
        scopes=data.scopes,
        rate_limit_override=data.rate_limit_override,
        expires_at=data.expires_at,
    )
    async with request.transaction() as tx:
        allowance = await request.allowance(tx)
        before = await keys.count_active(tx, standing.organization_id)
        key = await keys.update(tx, request.actor, standing, key_id_of(key_id), patch, _most_units(request))
        allowance.admit("api_keys", before, await keys.count_active(tx, standing.organization_id))
    return key


@delete("/api-keys/{key_id:str}", access=DELETE, status_code=200)
async def revoke_key(
    request: Call, key_id: FromPath[str], filters: NamedDependency[RevokeQuery], data: JSONBody[RevokeKey] = NO_REASON
) -> ApiKey:
    """End a key at once and for good. One that is revoked stays as it is."""
    standing = request.standing
    async with request.transaction() as tx:
        return await request.services.keys.revoke(
            tx,
            standing.organization_id,
            key_id_of(key_id),
            actor=request.actor,
            environment=standing.environment,
            reason=data.reason or filters.reason,
        )


@post(
    ["/api-keys/{key_id:str}/rotate", "/api-keys/{key_id:str}/regenerate"], access=WRITE, status_code=200, also=(409,)
)
async def rotate_key(request: Call, key_id: FromPath[str], data: JSONBody[RotateKey] = USUAL) -> Rotated:
    """Make a key that may do the same, and end the old one when the overlap is over."""
    standing, keys = request.standing, request.services.keys
    wanted = KeyRotation(name=data.name, expires_at=data.expires_at, overlap=timedelta(seconds=data.overlap_seconds))
    async with request.transaction() as tx:
        allowance = await request.allowance(tx)
        before = await keys.count_active(tx, standing.organization_id)
        rotated = await keys.rotate(tx, request.actor, standing, key_id_of(key_id), wanted)
        allowance.admit("api_keys", before, await keys.count_active(tx, standing.organization_id))
    return Rotated(
        **structs.asdict(_made(rotated.made)),
        old_key_id=rotated.old_key_id,
        old_key_revoked_at=rotated.old_key_revoked_at,
    )


def _most_units(request: Call) -> int:
    """What a key's own limit may be at most: the plan's."""
    return PLANS[request.standing.plan].requests_per_hour


def _made(made: NewKey) -> MadeKey:
    return MadeKey(**structs.asdict(made.key), key=made.secret.reveal())


routes = [create_key, list_keys, key_stats, get_key, patch_key, revoke_key, rotate_key]
