"""Routes of accounts: registering, logging in and out, and what a user changes about herself."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from litestar import delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, Struct, UnsetType

from agentauri.accounts import (
    AccountChanges,
    ApiKeyPrincipal,
    AuditEntry,
    AuditFilter,
    Environment,
    LoggedIn,
    LoginSession,
    Permission,
    Registration,
    Role,
    User,
    UserPrincipal,
)
from agentauri.errors import FieldError, Invalid
from agentauri.http.auth import CREDENTIALS, KNOWN, OPTIONAL, USER
from agentauri.http.call import Call
from agentauri.http.fields import Moment
from agentauri.http.lists import CursorPaging, Listing, Paging, as_is, listing, part_of
from agentauri.types import Page, Plan, Secret

MOST_SHOWN = 1000
"""Organizations of a user, in what tells who she is."""

Name = Annotated[str, Meta(min_length=1, max_length=254)]
Password = Annotated[str, Meta(max_length=1024)]
RefreshToken = Annotated[str, Meta(min_length=1, max_length=256)]


class Register(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    username: Name
    email: Name
    password: Password
    name: str | None = None


class Login(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of `username_or_email`, `username` and `email`."""

    password: Password
    username_or_email: Name | None = None
    username: Name | None = None
    email: Name | None = None


class Refresh(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    refresh_token: RefreshToken


class Logout(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    refresh_token: RefreshToken | None = None
    all: bool = False


class LoggedOut(Struct, frozen=True):
    success: bool = True
    message: str = "You are logged out."


class AuthResult(Struct, frozen=True, kw_only=True):
    """Both tokens are shown this once. Times in seconds."""

    token: str
    token_type: Literal["Bearer"]
    expires_in: int
    refresh_token: str
    refresh_expires_in: int
    user: User


class Membership(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    slug: str
    role: Role
    plan: Plan


class MyUser(User, frozen=True, kw_only=True, tag_field="type", tag="user"):
    """Who asks, as a user; `plan` and `organization_id` are those of the organization that the request is about."""

    plan: Plan
    organization_id: str
    wallets: list[dict[str, str]]
    providers: list[str]
    organizations: list[Membership]


class MyKey(Struct, frozen=True, kw_only=True, tag_field="type", tag="api_key"):
    """Who asks, as a key."""

    id: str
    name: str
    prefix: str
    environment: Environment
    key_type: str
    permissions: list[Permission]
    scopes: list[str]
    organization_id: str
    plan: Plan
    expires_at: datetime | None


class Me(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is absent stays. A new user name or e-mail takes the present password, where there is one."""

    name: str | UnsetType | None = UNSET
    avatar: str | UnsetType | None = UNSET
    username: Name | UnsetType = UNSET
    email: Name | UnsetType = UNSET
    current_password: Password | None = None


class DeleteMe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    password: Password | None = None


class NewPassword(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    new_password: Password
    current_password: Password | None = None


class SessionView(LoginSession, frozen=True, kw_only=True):
    current: bool


class SecurityLogQuery(CursorPaging, frozen=True, kw_only=True):
    since: Moment | None = None
    until: Moment | None = None


NO_BODY = DeleteMe()
USUAL_LOGOUT = Logout()


@post("/auth/register", access=CREDENTIALS, also=(409,))
async def register(request: Call, data: JSONBody[Register]) -> AuthResult:
    """Make an account with a personal organization, and log in."""
    wanted = Registration(username=data.username, email=data.email, password=Secret(data.password), name=data.name)
    return _result(await request.services.users.register(wanted, request.caller))


@post("/auth/login", access=CREDENTIALS, status_code=200, also=(401, 403))
async def login(request: Call, data: JSONBody[Login]) -> AuthResult:
    """Log in by user name or e-mail."""
    given = [name for name in (data.username_or_email, data.username, data.email) if name is not None]
    if len(given) != 1:
        raise Invalid.fields(FieldError("username_or_email", "must be given, this or username or email, and one alone"))
    return _result(await request.services.users.log_in(given[0], Secret(data.password), request.caller))


@post("/auth/refresh", access=CREDENTIALS, status_code=200, also=(401,))
async def refresh(request: Call, data: JSONBody[Refresh]) -> AuthResult:
    """Exchange a refresh token for new tokens. It is good for one use; a second one ends the session."""
    return _result(await request.services.users.refresh(Secret(data.refresh_token), request.caller))


@post("/auth/logout", access=OPTIONAL, status_code=200)
async def logout(request: Call, data: JSONBody[Logout] = USUAL_LOGOUT) -> LoggedOut:
    """End the session of the access token and of the refresh token; with `all` every session of the user."""
    token = Secret(data.refresh_token) if data.refresh_token is not None else None
    principal = request.principal
    user = principal if isinstance(principal, UserPrincipal) else None
    await request.services.users.log_out(user, token, request.caller, everywhere=data.all)
    return LoggedOut()


@get("/auth/me", access=KNOWN)
async def me(request: Call) -> MyUser | MyKey:
    """Who asks."""
    standing, principal = request.standing, request.principal
    async with request.transaction() as tx:
        if isinstance(principal, ApiKeyPrincipal):
            key = await request.services.keys.get(tx, standing, principal.key_id)
            return MyKey(
                id=key.id,
                name=key.name,
                prefix=key.prefix,
                environment=key.environment,
                key_type=key.key_type,
                permissions=list(key.permissions),
                scopes=list(key.scopes),
                organization_id=standing.organization_id,
                plan=standing.plan,
                expires_at=key.expires_at,
            )
        user = await request.services.users.get(tx, request.me.user_id)
        own = await request.services.organizations.of_user(tx, user.id, Page(limit=MOST_SHOWN))
        providers = await request.services.users.providers(tx, user.id)
    return MyUser(
        **_fields(user),
        plan=standing.plan,
        organization_id=standing.organization_id,
        wallets=[],
        providers=list(providers),
        organizations=[
            Membership(id=one.id, name=one.name, slug=one.slug, role=one.my_role, plan=one.plan) for one in own.data
        ],
    )


@patch("/auth/me", access=USER, also=(409,))
async def patch_me(request: Call, data: JSONBody[Me]) -> User:
    """Change the fields that are given."""
    return await _change(request, data)


@put("/auth/me", access=USER, also=(409,))
async def put_me(request: Call, data: JSONBody[Me]) -> User:
    """The same as PATCH, but here null leaves a field as it is."""
    return await _change(request, data)


@delete("/auth/me", access=USER, also=(409,))
async def delete_me(request: Call, data: JSONBody[DeleteMe] = NO_BODY) -> None:
    """Delete the account and the organizations that are its alone. What it did stays in audit rows, under its id."""
    password = Secret(data.password) if data.password is not None else None
    await request.services.users.delete(request.me, password, request.caller)


@get("/auth/sessions", access=USER)
async def list_sessions(request: Call, filters: NamedDependency[Paging]) -> Listing[SessionView]:
    """Where the user is logged in, the latest first."""
    page, user = filters.as_page(), request.me
    async with request.transaction() as tx:
        found = await request.services.sessions.list(tx, user.user_id)
    return listing(
        part_of(found, page), page, lambda one: SessionView(**_fields(one), current=one.id == user.session_id)
    )


@delete("/auth/sessions/{session_id:str}", access=USER)
async def end_session(request: Call, session_id: FromPath[str]) -> None:
    """End one of them."""
    await request.services.users.end_session(request.me, session_id, request.caller)


@post("/auth/password", access=USER, status_code=204)
async def change_password(request: Call, data: JSONBody[NewPassword]) -> None:
    """Change the password. Every other session ends."""
    current = Secret(data.current_password) if data.current_password is not None else None
    await request.services.users.change_password(request.me, current, Secret(data.new_password), request.caller)


@get("/auth/security-log", access=USER)
async def security_log(request: Call, filters: NamedDependency[SecurityLogQuery]) -> Listing[AuditEntry]:
    """What the user did, newest first."""
    page = filters.as_page()
    wanted = AuditFilter(since=filters.since, until=filters.until)
    async with request.transaction() as tx:
        found = await request.services.audit.of_user(tx, request.me.user_id, wanted, page)
    return listing(found, page, as_is)


def _result(done: LoggedIn) -> AuthResult:
    return AuthResult(
        token=done.token.reveal(),
        token_type="Bearer",  # noqa: S106 (the name of a scheme)
        expires_in=done.expires_in,
        refresh_token=done.refresh_token.reveal(),
        refresh_expires_in=done.refresh_expires_in,
        user=done.user,
    )


async def _change(request: Call, data: Me) -> User:
    wanted = AccountChanges(
        name=data.name,
        avatar=data.avatar,
        username=data.username,
        email=data.email,
        current_password=Secret(data.current_password) if data.current_password is not None else None,
    )
    return await request.services.users.change(request.me, wanted, request.caller)


def _fields(value: Struct) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__struct_fields__}


routes = [
    register, login, refresh, logout, me, patch_me, put_me, delete_me, list_sessions, end_session, change_password,
    security_log,
]  # fmt: skip
