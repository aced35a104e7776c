"""Organizations, keys, and the principals that a request can have."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NewType

from msgspec import Struct

from agentauri.types import OrganizationId, Secret, UserId

KeyId = NewType("KeyId", str)
Environment = Literal["live", "test"]
KeyType = Literal["standard", "restricted", "admin"]
Permission = Literal["read", "write", "delete", "admin"]
Plan = Literal["free", "starter", "pro", "enterprise"]


class Anonymous(Struct, frozen=True):
    """Nobody in particular: no credential was presented."""


class ApiKeyPrincipal(Struct, frozen=True, kw_only=True):
    """A key that was accepted. `user_id` made the key, and stands for it where an object names its maker."""

    key_id: KeyId
    organization_id: OrganizationId
    user_id: UserId
    environment: Environment
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin:all" in self.scopes


Principal = Anonymous | ApiKeyPrincipal


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


class KeyDraft(Struct, frozen=True, kw_only=True):
    """`scopes` None means all that `permissions` give."""

    name: str
    created_by: UserId
    environment: Environment = "live"
    key_type: KeyType = "standard"
    permissions: tuple[Permission, ...] = ("read",)
    scopes: tuple[str, ...] | None = None
    expires_at: datetime | None = None


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


class AuthFailure(Struct, frozen=True, kw_only=True):
    """One refused credential, for the record. `presented` is cut to 16 characters."""

    kind: Literal["api_key"]
    presented: str
    address: str
    user_agent: str
    route: str
