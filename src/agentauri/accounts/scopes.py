"""What a key may do: permissions expand to scopes, and the type of a key bounds both."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from agentauri.accounts.types import KeyType, Permission, Role
from agentauri.errors import FieldError, Invalid

ADMIN_ALL = "admin:all"
"""Every scope, and what only an owner may. Never part of an expansion: it is granted by name."""

EXPANSION: Mapping[Permission, frozenset[str]] = {
    "read": frozenset(
        {
            "read:organizations",
            "read:triggers",
            "read:deliveries",
            "read:agents",
            "read:events",
            "read:api-keys",
            "read:billing",
        }
    ),
    "write": frozenset({"write:triggers", "write:deliveries"}),
    "delete": frozenset({"delete:triggers"}),
    "admin": frozenset(
        {
            "write:organizations",
            "write:api-keys",
            "delete:api-keys",
            "write:agents",
            "delete:agents",
            "write:webhooks",
            "read:audit",
            "write:billing",
        }
    ),
}

ROLES: Mapping[Role, frozenset[str]] = {
    "viewer": EXPANSION["read"],
    "member": EXPANSION["read"] | EXPANSION["write"] | EXPANSION["delete"],
    "admin": EXPANSION["read"] | EXPANSION["write"] | EXPANSION["delete"] | EXPANSION["admin"],
    "owner": frozenset({ADMIN_ALL}).union(*EXPANSION.values()),
}
"""What a member of each role may do: the one table from which guards, documentation and tests come."""

SCOPES: frozenset[str] = frozenset({ADMIN_ALL}).union(*EXPANSION.values())


def granted(key_type: KeyType, permissions: Collection[Permission], scopes: Collection[str] | None) -> tuple[str, ...]:
    """The scopes of a new key, sorted.

    Raises:
        Invalid: permissions and scopes do not fit each other or the type.
    """
    if not permissions or not set(permissions) <= EXPANSION.keys():
        raise _refused("permissions", "must be some of read, write, delete, admin")
    if key_type == "admin" and "admin" not in permissions:
        raise _refused("permissions", "must hold admin for a key of type admin")
    if key_type != "admin" and "admin" in permissions:
        raise _refused("permissions", "may hold admin only for a key of type admin")
    if key_type == "restricted" and not scopes:
        raise _refused("scopes", "must list what a key of type restricted may do")
    given = frozenset().union(*(EXPANSION[permission] for permission in permissions))
    if scopes is None:
        return tuple(sorted(given))
    allowed = given | {ADMIN_ALL} if key_type == "admin" else given
    if not scopes or not set(scopes) <= allowed:
        raise _refused("scopes", "must be some of those that the permissions give")
    return tuple(sorted(set(scopes)))


def _refused(field: str, rule: str) -> Invalid:
    return Invalid.fields(FieldError(field, rule))
