"""Routes about the secrets that webhooks are signed with."""

from __future__ import annotations

from typing import Annotated

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct

from agentauri.actions import Rotation, SecretHint
from agentauri.http.call import Call
from agentauri.http.ids import action_id_of
from agentauri.http.lists import Listing, Paging, as_is, listing

DAY, WEEK = 86_400, 604_800


class RotateSecret(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the secret that is replaced goes on signing beside the new one."""

    overlap_seconds: Annotated[int, Meta(ge=0, le=WEEK)] = DAY


USUAL = RotateSecret()


@get("/webhooks/secrets", access="read:triggers")
async def list_secrets(request: Call, filters: NamedDependency[Paging]) -> Listing[SecretHint]:
    """Which signing secrets are in force, by their first characters; never the secrets."""
    page, standing = filters.as_page(), request.standing
    async with request.transaction() as tx:
        found = await request.services.actions.secret_hints(tx, standing.organization_id, standing.environment, page)
    return listing(found, page, as_is)


@post("/webhooks/{action_id:str}/rotate-secret", access="write:webhooks", status_code=200, also=(409,))
async def rotate_secret(request: Call, action_id: FromPath[str], data: JSONBody[RotateSecret] = USUAL) -> Rotation:
    """Replace a signing secret; the new one is shown this once. Until the overlap ends both sign."""
    standing = request.standing
    async with request.transaction() as tx:
        rotated = await request.services.actions.rotate_secret(
            tx, standing.organization_id, standing.environment, action_id_of(action_id), data.overlap_seconds
        )
        await request.record(tx, "webhook_secret.rotated", "action", action_id, overlap_seconds=data.overlap_seconds)
    return rotated


routes = [list_secrets, rotate_secret]
