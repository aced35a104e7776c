"""Accounts: registering, logging in and out, and what a user changes about herself.

Whatever takes a password works in two transactions with the hashing between them: no connection waits for a hash.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from uuid import uuid4

from msgspec import UNSET, Struct, UnsetType

from agentauri.accounts import lockout, organization_store, passwords, store, user_store
from agentauri.accounts.audit import Actor, AuditTrail, Target
from agentauri.accounts.errors import (
    AccountDisabled,
    EmailExists,
    InvalidCredentials,
    InvalidRefreshToken,
    OwnerOfOrganizations,
    UsernameExists,
)
from agentauri.accounts.organizations import OrganizationService
from agentauri.accounts.passwords import PasswordHasher
from agentauri.accounts.sessions import Begun, Sessions
from agentauri.accounts.standing import Standings
from agentauri.accounts.tokens import LIFETIME, AccessTokens, Claims
from agentauri.accounts.types import AuthFailure, User, UserPrincipal
from agentauri.database import Database, Transaction
from agentauri.errors import FieldError, Invalid
from agentauri.types import Secret, UserId

USERNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{2,49}")
EMAIL_LENGTH = 254


class Caller(Struct, frozen=True, kw_only=True):
    """Where a request comes from."""

    address: str
    user_agent: str | None
    route: str
    request_id: str | None


class Registration(Struct, frozen=True, kw_only=True):
    username: str
    email: str
    password: Secret
    name: str | None = None


class AccountChanges(Struct, frozen=True, kw_only=True):
    """What is UNSET stays. A new name or e-mail takes the present password, where there is one."""

    name: str | UnsetType | None = UNSET
    avatar: str | UnsetType | None = UNSET
    username: str | UnsetType = UNSET
    email: str | UnsetType = UNSET
    current_password: Secret | None = None


class LoggedIn(Struct, frozen=True, kw_only=True):
    """An access token and a refresh token, both shown this once; the times are seconds."""

    token: Secret
    expires_in: int
    refresh_token: Secret
    refresh_expires_in: int
    user: User


class UserService:
    def __init__(
        self,
        database: Database,
        hasher: PasswordHasher,
        tokens: AccessTokens,
        sessions: Sessions,
        standings: Standings,
        audit: AuditTrail,
        organizations: OrganizationService,
    ) -> None:
        self._database = database
        self._hasher = hasher
        self._tokens = tokens
        self._sessions = sessions
        self._standings = standings
        self._audit = audit
        self._organizations = organizations

    async def register(self, wanted: Registration, caller: Caller) -> LoggedIn:
        """Make the user, her identity, her personal organization and her first session, all or nothing.

        Raises:
            Invalid: a field breaks a rule.
            UsernameExists, EmailExists: somebody has it.
        """
        _check_registration(wanted)
        hashed = await self._hasher.hash(wanted.password.reveal())
        async with self._transaction() as tx:
            await user_store.lock_names(tx)
            if await user_store.email_taken(tx, wanted.email, None):
                raise EmailExists
            user = await user_store.insert(tx, wanted.username, wanted.email, wanted.name, hashed)
            if user is None:
                raise UsernameExists
            organization = await organization_store.insert(
                tx, str(uuid4()), f"{user.username}'s Personal", _personal_slug(user.username), user.id, "free",
                personal=True,
            )  # fmt: skip
            actor = _actor(user.id, user.username, caller)
            await self._audit.record(
                tx, actor, "account.registered", organization_id=organization.id, target=Target("user", user.id)
            )
            return await self._log_in(tx, user, caller)

    async def log_in(self, identifier: str, password: Secret, caller: Caller) -> LoggedIn:
        """By user name or e-mail. An unknown name, a wrong password and an account without one cost the same.

        Raises:
            InvalidCredentials: whatever of these it is.
            AccountDisabled: only to who knows the password.
            AccountLocked: too many failures; the password was not looked at.
        """
        known = await self._try(identifier, caller)
        same, renewed = await self._hasher.verify(password.reveal(), known.password_hash if known else None)
        if known is None or not same:
            await self._failed(identifier, known.user if known else None, caller)
            raise InvalidCredentials
        async with self._transaction() as tx:
            await lockout.succeeded(tx, identifier, caller.address)
            user = await user_store.get(tx, known.user.id)
            if user is None or not user.is_active:
                raise AccountDisabled
            if renewed is not None:
                await user_store.set_password(tx, user.id, renewed)
            return await self._log_in(tx, user, caller)

    async def refresh(self, token: Secret, caller: Caller) -> LoggedIn:
        """A new access token and a new refresh token for an old one, which is spent.

        Raises:
            InvalidRefreshToken: unknown, expired, of a session or user that has ended, or spent before: then the whole
                session ends.
        """
        async with self._transaction() as tx:
            done = await self._sessions.refresh(tx, token.reveal())
            user = await user_store.get(tx, done.user_id)
            assert user is not None
            actor = _actor(user.id, user.username, caller)
            if done.reused:
                await self._audit.record(tx, actor, "session.reuse_detected", target=Target("session", done.session_id))
            else:
                assert done.begun is not None
                result = await self._answer(tx, user, done.begun)
        if done.reused:
            raise InvalidRefreshToken
        return result

    async def log_out(
        self, principal: UserPrincipal | None, token: Secret | None, caller: Caller, *, everywhere: bool
    ) -> None:
        """End the session of the access token and that of the refresh token; `everywhere` all of the user's. Says
        nothing of what there was to end."""
        async with self._transaction() as tx:
            ended = await self._sessions.end_by_token(tx, token.reveal()) if token is not None else None
            user_id = principal.user_id if principal else ended[0] if ended else None
            if user_id is None:
                return
            if everywhere:
                await self._end_everything(tx, user_id)
            elif principal is not None:
                await self._sessions.end_if_live(tx, principal.user_id, principal.session_id)
            user = await user_store.get(tx, user_id)
            name = user.username if user else None
            await self._audit.record(
                tx, _actor(user_id, name, caller), "account.logged_out", details={"everywhere": everywhere}
            )

    async def get(self, tx: Transaction, user_id: UserId) -> User:
        """Raises: InvalidCredentials: she is gone meanwhile."""
        user = await user_store.get(tx, user_id)
        if user is None:
            raise InvalidCredentials
        return user

    async def providers(self, tx: Transaction, user_id: UserId) -> Sequence[str]:
        """By which ways she may log in."""
        return await user_store.providers(tx, user_id)

    async def end_session(self, principal: UserPrincipal, session_id: str, caller: Caller) -> None:
        """Raises: SessionNotFound."""
        async with self._transaction() as tx:
            await self._sessions.end(tx, principal.user_id, session_id)
            actor = _actor(principal.user_id, principal.username, caller)
            await self._audit.record(tx, actor, "session.revoked", target=Target("session", session_id))

    async def change(self, principal: UserPrincipal, wanted: AccountChanges, caller: Caller) -> User:
        """
        Raises:
            Invalid, UsernameExists, EmailExists: as on registering.
            InvalidCredentials: a new name or e-mail came without the present password.
        """
        _check_changes(wanted)
        if wanted.username is not UNSET or wanted.email is not UNSET:
            await self._confirm(principal, wanted.current_password, caller)
        changed = {
            name: value
            for name in ("name", "avatar", "username", "email")
            if (value := getattr(wanted, name)) is not UNSET
        }
        async with self._transaction() as tx:
            await user_store.lock_names(tx)
            if "email" in changed and await user_store.email_taken(tx, changed["email"], principal.user_id):
                raise EmailExists
            user = await user_store.update(tx, principal.user_id, changed)
            if user is None:
                raise UsernameExists
            event = "account.email_changed" if "email" in changed else "account.updated"
            await self._audit.record(
                tx, _actor(user.id, user.username, caller), event, details={"fields": sorted(changed)}
            )
            self._sessions.forget_after(tx)
        return user

    async def change_password(
        self, principal: UserPrincipal, current: Secret | None, new: Secret, caller: Caller
    ) -> None:
        """Ends every other session, and every access token but those of this session that are issued from now on.

        Raises:
            Invalid: the new one breaks a rule.
            InvalidCredentials: the present one is missing or wrong.
        """
        async with self._transaction() as tx:
            user = await self.get(tx, principal.user_id)
        if fault := passwords.refusal(new.reveal(), user.username, _local_part(user.email)):
            raise Invalid.fields(FieldError("new_password", fault.message))
        await self._confirm(principal, current, caller)
        hashed = await self._hasher.hash(new.reveal())
        async with self._transaction() as tx:
            await user_store.set_password(tx, user.id, hashed)
            await self._sessions.end_all(tx, user.id, but=principal.session_id)
            await self._audit.record(tx, _actor(user.id, user.username, caller), "account.password_changed")

    async def delete(self, principal: UserPrincipal, password: Secret | None, caller: Caller) -> None:
        """Erase her and the organizations that are hers alone; what she did stays in the audit rows, under her id.

        Raises:
            InvalidCredentials: the password is missing or wrong.
            OwnerOfOrganizations: one of hers has other members.
        """
        await self._confirm(principal, password, caller)
        async with self._transaction() as tx:
            if await user_store.owns_shared(tx, principal.user_id):
                raise OwnerOfOrganizations
            actor = _actor(principal.user_id, None, caller)
            await self._audit.record(tx, actor, "account.deleted", target=Target("user", principal.user_id))
            await self._organizations.end_owned(tx, actor, principal.user_id)
            await user_store.delete(tx, principal.user_id)
            self._sessions.forget_after(tx)
            self._standings.forget_after(tx)

    async def set_active(self, tx: Transaction, reference: str, *, active: bool) -> User:
        """The operator's switch, by user name or id. Switching off ends every session.

        Raises: UserNotFound.
        """
        user = await user_store.find(tx, reference)
        await user_store.set_active(tx, user.id, active=active)
        if not active:
            await self._end_everything(tx, user.id)
        await self._audit.record(
            tx, Actor(), "account.enabled" if active else "account.disabled", target=Target("user", user.id)
        )
        self._sessions.forget_after(tx)
        return await self.get(tx, user.id)

    async def reset_password(self, reference: str) -> tuple[User, Secret]:
        """The operator's way: a new password for a user, by name or id, shown this once. Ends every session.

        Raises: UserNotFound.
        """
        password = Secret(passwords.generate())
        hashed = await self._hasher.hash(password.reveal())
        async with self._transaction() as tx:
            user = await user_store.find(tx, reference)
            await user_store.set_password(tx, user.id, hashed)
            await self._end_everything(tx, user.id)
            await self._audit.record(tx, Actor(), "account.password_reset", target=Target("user", user.id))
        return user, password

    async def list(self, tx: Transaction) -> Sequence[User]:
        """Every user, for the operator; oldest first."""
        return await user_store.everybody(tx)

    def _transaction(self) -> AbstractAsyncContextManager[Transaction]:
        return self._database.transaction()

    async def _try(self, identifier: str, caller: Caller) -> user_store.Known | None:
        """Count a try at this name, and find whom it means."""
        async with self._transaction() as tx:
            known = await user_store.recognise(tx, identifier)
            await lockout.begin(tx, identifier, caller.address, known.user.id if known else None)
        return known

    async def _failed(self, identifier: str, user: User | None, caller: Caller) -> None:
        async with self._transaction() as tx:
            failure = AuthFailure(
                kind="password",
                presented=lockout.name_hash(identifier),
                address=caller.address,
                user_agent=caller.user_agent or "",
                route=caller.route,
            )
            await store.insert_failure(tx, failure)
            actor = _actor(user.id if user else None, user.username if user else None, caller)
            await self._audit.record(tx, actor, "account.login_failed")

    async def _log_in(self, tx: Transaction, user: User, caller: Caller) -> LoggedIn:
        begun = await self._sessions.begin(tx, user.id, caller.address, caller.user_agent)
        user = await user_store.logged_in(tx, user.id)
        await self._audit.record(
            tx, _actor(user.id, user.username, caller), "account.logged_in", target=Target("session", begun.session_id)
        )
        return await self._answer(tx, user, begun)

    async def _answer(self, tx: Transaction, user: User, begun: Begun) -> LoggedIn:
        version = await user_store.token_version(tx, user.id)
        claims = Claims(user_id=user.id, username=user.username, session_id=begun.session_id, version=version)
        return LoggedIn(
            token=self._tokens.issue(claims),
            expires_in=LIFETIME,
            refresh_token=begun.refresh_token,
            refresh_expires_in=begun.expires_in,
            user=user,
        )

    async def _confirm(self, principal: UserPrincipal, password: Secret | None, caller: Caller) -> None:
        """That it is she, by her password; nothing where she has none. Counts against the lock of her name."""
        known = await self._try(principal.username, caller)
        if known is not None and known.password_hash is None:
            return
        same, _ = await self._hasher.verify(
            password.reveal() if password else "", known.password_hash if known else None
        )
        if not same or password is None:
            await self._failed(principal.username, known.user if known else None, caller)
            raise InvalidCredentials
        async with self._transaction() as tx:
            await lockout.succeeded(tx, principal.username, caller.address)

    async def _end_everything(self, tx: Transaction, user_id: UserId) -> None:
        await self._sessions.end_all(tx, user_id)
        await user_store.next_token_version(tx, user_id)


def _check_registration(wanted: Registration) -> None:
    faults = [fault for fault in (_username_fault(wanted.username), _email_fault(wanted.email)) if fault]
    if fault := passwords.refusal(wanted.password.reveal(), wanted.username, _local_part(wanted.email)):
        faults.append(fault)
    if wanted.name is not None and not 1 <= len(wanted.name.strip()) <= 100:
        faults.append(FieldError("name", "must have 1 to 100 characters"))
    if faults:
        raise Invalid.fields(*faults)


def _check_changes(wanted: AccountChanges) -> None:
    faults: list[FieldError | None] = []
    if isinstance(wanted.username, str):
        faults.append(_username_fault(wanted.username))
    if isinstance(wanted.email, str):
        faults.append(_email_fault(wanted.email))
    if isinstance(wanted.name, str) and not 1 <= len(wanted.name.strip()) <= 100:
        faults.append(FieldError("name", "must have 1 to 100 characters"))
    if isinstance(wanted.avatar, str) and not re.fullmatch(r"https://\S{1,2040}", wanted.avatar):
        faults.append(FieldError("avatar", "must be an https URL of at most 2048 characters"))
    found = [fault for fault in faults if fault is not None]
    if found:
        raise Invalid.fields(*found)


def _username_fault(username: str) -> FieldError | None:
    if USERNAME.fullmatch(username):
        return None
    return FieldError("username", "must be 3 to 50 letters, digits, _ . or -, the first a letter or digit")


def _email_fault(email: str) -> FieldError | None:
    local, _, domain = email.partition("@")
    if len(email) <= EMAIL_LENGTH and email.count("@") == 1 and local and domain and not re.search(r"\s|\0", email):
        return None
    return FieldError("email", f"must be an e-mail address of at most {EMAIL_LENGTH} characters")


def _local_part(email: str | None) -> str | None:
    return email.partition("@")[0] if email else None


def _personal_slug(username: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", username.lower()).strip("-") + "-personal"


def _actor(user_id: UserId | None, name: str | None, caller: Caller) -> Actor:
    return Actor(
        type="user",
        id=user_id,
        name=name,
        ip=caller.address,
        user_agent=caller.user_agent,
        request_id=caller.request_id,
    )
