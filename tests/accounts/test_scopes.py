"""What a key may be given."""

from __future__ import annotations

import pytest

from agentauri.accounts.scopes import ADMIN_ALL, EXPANSION, SCOPES, granted
from agentauri.accounts.types import KeyType, Permission
from agentauri.errors import Invalid


def test_permissions_expand_to_their_scopes() -> None:
    assert set(granted("standard", ["read", "delete"], None)) == EXPANSION["read"] | EXPANSION["delete"]


def test_all_rights_over_the_organization_are_never_part_of_an_expansion() -> None:
    assert ADMIN_ALL not in granted("admin", ["read", "write", "delete", "admin"], None)


def test_all_rights_are_granted_by_name_to_an_admin_key() -> None:
    assert ADMIN_ALL in granted("admin", ["admin"], [ADMIN_ALL])


def test_scopes_narrow_what_the_permissions_give() -> None:
    assert granted("standard", ["read", "write"], ["read:triggers"]) == ("read:triggers",)


@pytest.mark.parametrize(
    ("key_type", "permissions", "scopes", "field"),
    [
        ("standard", [], None, "permissions"),
        ("standard", ["rule"], None, "permissions"),
        ("standard", ["read", "admin"], None, "permissions"),
        ("restricted", ["read", "admin"], ["read:triggers"], "permissions"),
        ("admin", ["read"], None, "permissions"),
        ("restricted", ["read"], None, "scopes"),
        ("standard", ["read"], [], "scopes"),
        ("standard", ["read"], ["write:triggers"], "scopes"),
        ("standard", ["read"], [ADMIN_ALL], "scopes"),
        ("admin", ["admin"], ["no:such"], "scopes"),
    ],
)
def test_permissions_scopes_and_type_must_fit_each_other(
    key_type: KeyType, permissions: list[Permission], scopes: list[str] | None, field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        granted(key_type, permissions, scopes)
    assert [error.field for error in refused.value.errors] == [field]


def test_every_scope_belongs_to_one_permission_or_to_the_owner() -> None:
    assert sum(len(scopes) for scopes in EXPANSION.values()) + 1 == len(SCOPES)
