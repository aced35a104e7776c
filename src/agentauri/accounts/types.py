"""Organizations, keys, and the principals that a request can have."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal, NewType

from msgspec import UNSET, Struct, UnsetType

from agentauri.types import OrganizationId, Plan, Secret, UserId

KeyId = NewType("KeyId", str)
Environment = Literal["live", "test"]
KeyType = Literal["standard", "restricted", "admin"]
Permission = Literal["read", "write", "delete", "admin"]
Role = Literal["owner", "admin", "member", "viewer"]
GivenRole = Literal["admin", "member", "viewer"]
"""Roles that are given; an owner becomes one by a transfer."""


class Anonymous(Struct, frozen=True):
    """Nobody in particular: no credential was presented."""


class ApiKeyPrincipal(Struct, frozen=True, kw_only=True):
    """A key that was accepted. `user_id` made the key, and stands for it where an object names its maker.
    `rate_limit_override` is a tighter budget of its own, inside that of its organization."""

    key_id: KeyId
    organization_id: OrganizationId
    user_id: UserId
    environment: Environment
    scopes: frozenset[str]
    rate_limit_override: int | None = None

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin:all" in self.scopes


class UserPrincipal(Struct, frozen=True, kw_only=True):
    """A user who is logged in. What she may do depends on the organization: `Standing` says it."""

    user_id: UserId
    username: str
    session_id: str


Principal = Anonymous | UserPrincipal | ApiKeyPrincipal


class Standing(Struct, frozen=True, kw_only=True):
    """What a principal may do in one organization. `role` is a member's, None for a key; `environment` is a key's own,
    None where both are seen. `user_id` stands for the principal where an object names its maker."""

    organization_id: OrganizationId
    plan: Plan
    user_id: UserId
    role: Role | None
    environment: Environment | None
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin:all" in self.scopes

    def sees(self, environment: Environment | None) -> bool:
        """Whether objects of this environment, or of whichever there is for None, are shown."""
        return self.environment is None or environment in (None, self.environment)


class User(Struct, frozen=True, kw_only=True):
    """An account as its user sees it."""

    id: UserId
    username: str
    email: str | None
    email_verified: bool
    name: str | None
    avatar: str | None
    is_active: bool
    mfa_enabled: bool
    created_at: datetime
    last_login_at: datetime | None


class Organization(Struct, frozen=True, kw_only=True):
    id: OrganizationId
    name: str
    slug: str
    description: str | None
    owner_id: UserId
    plan: Plan
    is_personal: bool
    created_at: datetime
    updated_at: datetime


class OwnOrganization(Organization, frozen=True, kw_only=True):
    """As one of its members sees it."""

    my_role: Role


class Member(Struct, frozen=True, kw_only=True):
    """`id` names the membership."""

    id: str
    user_id: UserId
    username: str
    email: str | None
    role: Role
    status: Literal["active"] = "active"
    invited_by: UserId | None
    created_at: datetime


class KeyDraft(Struct, frozen=True, kw_only=True):
    """`scopes` None means all that `permissions` give."""

    name: str
    created_by: UserId
    environment: Environment = "live"
    key_type: KeyType = "standard"
    permissions: tuple[Permission, ...] = ("read",)
    scopes: tuple[str, ...] | None = None
    rate_limit_override: int | None = None
    expires_at: datetime | None = None


class KeyPatch(Struct, frozen=True, kw_only=True):
    """What is UNSET stays."""

    name: str | UnsetType = UNSET
    scopes: tuple[str, ...] | UnsetType = UNSET
    rate_limit_override: int | UnsetType | None = UNSET
    expires_at: datetime | UnsetType | None = UNSET


class KeyRotation(Struct, frozen=True, kw_only=True):
    """What is None is as it was. The key that is replaced works for `overlap` more."""

    name: str | None = None
    expires_at: datetime | None = None
    overlap: timedelta = timedelta(minutes=15)


class ApiKey(Struct, frozen=True, kw_only=True):
    """A key as it may be shown: never the key itself. `is_active` means accepted right now."""

    id: KeyId
    organization_id: OrganizationId
    name: str
    prefix: str
    environment: Environment
    key_type: KeyType
    permissions: tuple[Permission, ...]
    scopes: tuple[str, ...]
    rate_limit_override: int | None
    is_active: bool
    is_revoked: bool
    last_used_at: datetime | None
    last_used_ip: str | None
    expires_at: datetime | None
    created_at: datetime
    created_by: UserId | None
    revoked_at: datetime | None
    replaced_by: KeyId | None


class NewKey(Struct, frozen=True, kw_only=True):
    """A key just made. `secret` is the whole key; nobody can read it again."""

    key: ApiKey
    secret: Secret


class RotatedKey(Struct, frozen=True, kw_only=True):
    """A key just made in place of another, which stops by itself."""

    made: NewKey
    old_key_id: KeyId
    old_key_revoked_at: datetime


class KeyFilter(Struct, frozen=True, kw_only=True):
    include_revoked: bool = False
    environment: Environment | None = None


class KeysByEnvironment(Struct, frozen=True):
    live: int
    test: int


class KeysByType(Struct, frozen=True):
    standard: int
    restricted: int
    admin: int


class KeyStats(Struct, frozen=True, kw_only=True):
    """Counted over an organization's keys, those that have ended too."""

    total_keys: int
    active_keys: int
    expired_keys: int
    revoked_keys: int
    unused_keys: int
    keys_expiring_soon: int
    api_calls_total: int
    calls_24h: int
    failed_auth_24h: int
    rate_limited_24h: int
    keys_by_environment: KeysByEnvironment
    keys_by_type: KeysByType


class AuthFailure(Struct, frozen=True, kw_only=True):
    """One refused credential, for the record. `presented` is cut to 16 characters."""

    kind: Literal["api_key", "password"]
    presented: str
    address: str
    user_agent: str
    route: str
