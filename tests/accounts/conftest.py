"""The services of accounts, put together as the application does."""

from __future__ import annotations

import pytest

from agentauri.accounts import (
    ApiKeyService,
    AuditFilter,
    AuditTrail,
    MemberService,
    Organization,
    OrganizationDraft,
    OrganizationService,
    Standing,
    Standings,
    UserPrincipal,
)
from agentauri.database import Transaction
from agentauri.types import OrganizationId, Page, Secret, UserId


@pytest.fixture
def standings() -> Standings:
    return Standings()


@pytest.fixture
def audit() -> AuditTrail:
    return AuditTrail()


@pytest.fixture
def keys(pepper: Secret, audit: AuditTrail) -> ApiKeyService:
    return ApiKeyService(pepper, audit)


@pytest.fixture
def ended() -> list[OrganizationId]:
    """Organizations whose things elsewhere were told to end."""
    return []


@pytest.fixture
def organizations(
    keys: ApiKeyService, standings: Standings, audit: AuditTrail, ended: list[OrganizationId]
) -> OrganizationService:
    async def end_elsewhere(_: Transaction, organization_id: OrganizationId) -> None:
        ended.append(organization_id)

    return OrganizationService(keys, standings, audit, end_elsewhere)


@pytest.fixture
def members(standings: Standings, audit: AuditTrail) -> MemberService:
    return MemberService(standings, audit)


async def make_user(tx: Transaction, name: str) -> UserPrincipal:
    """Somebody who can be a member."""
    user_id = UserId(f"id-of-{name}")
    await tx.run(
        "INSERT INTO users (id, username, email) VALUES ($1, $2, $3)", user_id, name, f"{name}@company.example.org"
    )
    return UserPrincipal(user_id=user_id, username=name, session_id="s")


async def standing_of(
    tx: Transaction, standings: Standings, user: UserPrincipal, organization: Organization
) -> Standing:
    return await standings.find(tx, user, organization.id)


async def told(tx: Transaction, audit: AuditTrail, organization_id: OrganizationId) -> list[str]:
    """The events of the organization's audit rows, oldest first."""
    page = await audit.of_organization(tx, organization_id, AuditFilter(order="asc"), Page(limit=100))
    return [entry.event for entry in page.data]


def draft(slug: str = "acme") -> OrganizationDraft:
    return OrganizationDraft(name=slug.title(), slug=slug)
