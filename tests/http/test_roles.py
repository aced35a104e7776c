"""Every route of an organization, asked by members of each role and by a stranger: they may what the table says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from agentauri.accounts import ROLES, SYSTEM, GivenRole
from agentauri.types import OrganizationId, UserId

from .conftest import Answer, Api
from .test_access import BODIES, LEAVING, NOTHING, OF_ORGANIZATIONS, address, organization_id
from .test_auth_routes import Person, register

MakeKey = Callable[..., Awaitable[str]]
BELOW: tuple[GivenRole, ...] = ("admin", "member", "viewer")


async def ask(person: Person, route: str, organization: str) -> Answer:
    method, path = address(route, of=organization)
    headers = {} if "{organization_id}" in route else {"X-Organization-ID": organization}
    return await person.ask(method, path.removeprefix("/api/v1"), BODIES.get(route), **headers)


async def test_a_member_may_what_the_table_gives_her_role_and_nothing_else(api: Api, make_key: MakeKey) -> None:
    await make_key()
    acme = await organization_id(api)
    for role in BELOW:
        person = await register(api, role)
        async with api.house.database.transaction() as tx:
            await api.house.members.add(tx, SYSTEM, OrganizationId(acme), UserId(person.id), role)
        for route, scope in OF_ORGANIZATIONS.items():
            answer = await ask(person, route, acme)
            wanted = "write:organizations" if route == LEAVING else scope
            if wanted in ROLES[role]:
                assert answer.status not in (401, 403), (role, route, answer.body)
            else:
                assert (answer.status, answer.json()["required_scope"]) == (403, wanted), (role, route)


async def test_a_user_who_is_no_member_finds_nothing_on_any_route_and_changes_nothing(
    api: Api, make_key: MakeKey
) -> None:
    await make_key(key_type="admin", permissions=("read", "write", "delete", "admin"))
    acme, stranger = await organization_id(api), await register(api, "stranger")
    before = await everything(api, acme)
    for route in OF_ORGANIZATIONS:
        answers = [await ask(stranger, route, organization) for organization in (acme, NOTHING)]
        assert {answer.status for answer in answers} == {404}, route
        texts = {answer.body.replace(answer.headers["X-Request-Id"].encode(), b"") for answer in answers}
        assert len(texts) == 1, route
    assert await everything(api, acme) == before


async def everything(api: Api, organization: str) -> list[Any]:
    async with api.house.database.transaction() as tx:
        return [
            await tx.fetchval(f"SELECT count(*) FROM {table} WHERE organization_id = $1", organization)
            for table in ("triggers", "follows", "api_keys", "memberships", "audit_log", "deliveries")
        ]
