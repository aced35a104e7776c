"""Routes about agents that are followed."""

from __future__ import annotations

from litestar import Response, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Struct, structs

from agentauri.http.call import Call
from agentauri.http.fields import ChainNumber, uint256
from agentauri.http.lists import Listing, Paging, as_is, listing, nothing
from agentauri.http.routes.triggers import DELETE, READ, WRITE, given_fields, masked_addresses
from agentauri.triggers import Environment, Follow, FollowDraft, FollowNotFound, FollowPatch


class FollowQuery(Paging, frozen=True, kw_only=True):
    chain_id: ChainNumber | None = None
    enabled: bool | None = None
    environment: Environment | None = None


class OnChain(Struct, frozen=True, kw_only=True):
    """Which chain's agent of that id is meant."""

    chain_id: ChainNumber


@get("/agents/following", access=READ)
async def list_follows(request: Call, filters: NamedDependency[FollowQuery]) -> Listing[Follow]:
    """The agents that the organization follows, the latest first."""
    page, standing = filters.as_page(), request.standing
    if not standing.sees(filters.environment):
        return listing(nothing(), page, as_is)
    async with request.transaction() as tx:
        found = await request.services.follows.list(
            tx,
            standing.organization_id,
            standing.environment or filters.environment,
            page,
            chain_id=filters.chain_id,
            enabled=filters.enabled,
        )
    return listing(found, page, lambda follow: _shown(request, follow))


@post("/agents/{agent_id:str}/follow", access=WRITE, also=(409,))
async def follow_agent(request: Call, agent_id: FromPath[str], data: JSONBody[FollowDraft]) -> Response[Follow]:
    """Watch an agent on every registry. The signing secret of its webhooks is shown this once."""
    standing, follows, agent = (
        await request.standing_in(data.organization_id, WRITE),
        request.services.follows,
        _agent(agent_id),
    )
    wanted = structs.replace(data, environment=standing.environment or data.environment)
    prepared = await follows.prepare(agent, wanted, standing.organization_id)
    async with request.transaction() as tx:
        allowance = await request.allowance(tx)
        before = await follows.count(tx, standing.organization_id)
        allowance.admit("follows", before, before + 1)
        allowance.admit("actions_per_trigger", 0, len(data.actions))
        made = await follows.create(tx, standing.organization_id, standing.user_id, agent, prepared)
        await request.record(tx, "follow.created", "follow", made.id, chain_id=made.chain_id, agent_id=made.agent_id)
    address = f"/api/v1/agents/{made.agent_id}/follow?chain_id={made.chain_id}"
    return Response(made, headers={"Location": address})


@get("/agents/{agent_id:str}/follow", access=READ)
async def get_follow(request: Call, agent_id: FromPath[str], filters: NamedDependency[OnChain]) -> Follow:
    """A followed agent, and the triggers that watch it."""
    standing = request.standing
    async with request.transaction() as tx:
        follow = await request.services.follows.get(
            tx, standing.organization_id, standing.environment or "live", filters.chain_id, _agent(agent_id)
        )
    return _shown(request, follow)


@patch("/agents/{agent_id:str}/follow", access=WRITE)
async def patch_follow(
    request: Call, agent_id: FromPath[str], filters: NamedDependency[OnChain], data: JSONBody[FollowPatch]
) -> Follow:
    """Change all three triggers together. `actions` replaces the whole set; the signing secret stays."""
    return await _change(request, agent_id, filters.chain_id, data)


@put("/agents/{agent_id:str}/follow", access=WRITE)
async def put_follow(
    request: Call, agent_id: FromPath[str], filters: NamedDependency[OnChain], data: JSONBody[FollowPatch]
) -> Follow:
    """The same as PATCH, but here null leaves a field as it is."""
    return await _change(request, agent_id, filters.chain_id, data)


@delete("/agents/{agent_id:str}/follow", access=DELETE)
async def unfollow_agent(request: Call, agent_id: FromPath[str], filters: NamedDependency[OnChain]) -> None:
    """End a follow, with its three triggers."""
    standing = request.standing
    async with request.transaction() as tx:
        where = (standing.organization_id, standing.environment or "live", filters.chain_id, _agent(agent_id))
        follow = await request.services.follows.get(tx, *where)
        await request.services.follows.delete(tx, *where)
        await request.record(tx, "follow.deleted", "follow", follow.id, chain_id=follow.chain_id, agent_id=agent_id)


async def _change(request: Call, agent_id: str, chain_id: int, wanted: FollowPatch) -> Follow:
    standing, follows, agent = (
        await request.standing_in(wanted.organization_id, WRITE),
        request.services.follows,
        _agent(agent_id),
    )
    prepared = await follows.prepare_change(wanted, standing.organization_id)
    async with request.transaction() as tx:
        allowance = await request.allowance(tx)
        where = (standing.organization_id, standing.environment or "live", chain_id, agent)
        before = await follows.get(tx, *where)
        after = await follows.update(tx, *where, prepared)
        allowance.admit("actions_per_trigger", len(before.actions), len(after.actions))
        await request.record(tx, "follow.updated", "follow", after.id, fields=given_fields(wanted))
    return after


def _agent(text: str) -> int:
    try:
        return uint256(text)
    except ValueError as error:
        raise FollowNotFound from error


def _shown(request: Call, follow: Follow) -> Follow:
    """Path and query of a target may hold a key: they are not for those who may only look."""
    if request.standing.may(WRITE):
        return follow
    actions = [structs.replace(one, config_preview=masked_addresses(one.config_preview)) for one in follow.actions]
    return structs.replace(follow, actions=actions)


routes = [list_follows, follow_agent, get_follow, patch_follow, put_follow, unfollow_agent]
