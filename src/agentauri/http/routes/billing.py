"""Routes about plans and credits."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from msgspec import Struct

from agentauri.accounts import ADMIN_ALL
from agentauri.billing import PLANS, CreditTransaction, PlanTerms, TransactionType, payment, write_usdc
from agentauri.http.auth import ANY
from agentauri.http.call import Call
from agentauri.http.lists import Listing, Paging, as_is, listing
from agentauri.types import Plan, utc_now

READ = "read:billing"
OF_ORGANIZATION = "/organizations/{organization_id:str}/credits"


class PlanList(Struct, frozen=True):
    data: list[PlanTerms]


class Upgrade(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    plan: Plan
    organization_id: str | None = None


class Upgraded(Struct, frozen=True, kw_only=True):
    organization_id: str
    plan: Plan
    previous_plan: Plan
    requests_per_hour: int
    effective_at: datetime
    payment: Literal["waived", "paid", "none"]


class Balance(Struct, frozen=True, kw_only=True):
    """In micro-USDC, and as people write it."""

    balance: int
    currency: Literal["USDC"]
    balance_formatted: str


class TransactionQuery(Paging, frozen=True, kw_only=True):
    transaction_type: TransactionType | None = None


class Subscription(Struct, frozen=True, kw_only=True):
    """Nobody is paid for a plan in this version: it has no provider and no end."""

    id: str
    plan: Plan
    status: Literal["active"]
    provider: str | None
    current_period_start: datetime | None
    current_period_end: datetime | None
    canceled_at: datetime | None


@get("/billing/plans", access=ANY)
async def list_plans() -> PlanList:
    """The plans, from the smallest to the largest, with their quotas."""
    return PlanList(list(PLANS.values()))


@post("/billing/upgrade", access=ADMIN_ALL, status_code=200, also=(402,))
async def change_plan(request: Call, data: JSONBody[Upgrade]) -> Upgraded:
    """Change the plan, from the next request on. Where upgrades are not for free, the operator grants them."""
    standing = await request.standing_in(data.organization_id, ADMIN_ALL)
    organizations = request.services.organizations
    async with request.transaction() as tx:
        before = await organizations.hold(tx, standing.organization_id)
        paid = payment(
            before.plan,
            data.plan,
            waived=request.services.server.allow_unpaid_upgrades,
            reference=await organizations.reference(tx, before),
        )
        after = await organizations.set_plan(tx, request.actor, before, data.plan)
    return Upgraded(
        organization_id=after.id,
        plan=after.plan,
        previous_plan=before.plan,
        requests_per_hour=PLANS[after.plan].requests_per_hour,
        effective_at=utc_now(),
        payment=paid,
    )


@get(["/billing/credits", f"{OF_ORGANIZATION}/balance"], access=READ)
async def get_credits(request: Call) -> Balance:
    """The organization's credit."""
    async with request.transaction() as tx:
        balance = await request.services.credits.balance(tx, request.standing.organization_id)
    return Balance(balance=balance, currency="USDC", balance_formatted=write_usdc(balance))


@get(["/billing/transactions", f"{OF_ORGANIZATION}/transactions"], access=READ)
async def list_transactions(request: Call, filters: NamedDependency[TransactionQuery]) -> Listing[CreditTransaction]:
    """What the balance is the sum of, newest first."""
    page = filters.as_page()
    async with request.transaction() as tx:
        found = await request.services.credits.transactions(
            tx, request.standing.organization_id, filters.transaction_type, page
        )
    return listing(found, page, as_is)


@get("/billing/subscription", access=READ)
async def get_subscription(request: Call) -> Subscription:
    """Which plan the organization has."""
    standing = request.standing
    return Subscription(
        id=standing.organization_id,
        plan=standing.plan,
        status="active",
        provider=None,
        current_period_start=None,
        current_period_end=None,
        canceled_at=None,
    )


routes = [list_plans, change_plan, get_credits, list_transactions, get_subscription]
