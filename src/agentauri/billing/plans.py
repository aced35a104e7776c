"""The plans: the one table from which budgets, quotas and their documentation come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from agentauri.errors import PaymentRequired, QuotaExceeded
from agentauri.types import Plan

Quota = Literal[
    "triggers",
    "conditions_per_trigger",
    "actions_per_trigger",
    "follows",
    "api_keys",
    "backtest_events",
    "replay_deliveries",
]


class Quotas(Struct, frozen=True, kw_only=True):
    """How many there may be at once; the last two: in one call. Triggers of follows and revoked keys do not count."""

    triggers: int
    conditions_per_trigger: int
    actions_per_trigger: int
    follows: int
    api_keys: int
    backtest_events: int
    replay_deliveries: int


class PlanTerms(Struct, frozen=True, kw_only=True):
    plan: Plan
    requests_per_hour: int
    quotas: Quotas


def _terms(plan: Plan, requests_per_hour: int, *quotas: int) -> PlanTerms:
    names = Quotas.__struct_fields__
    return PlanTerms(
        plan=plan, requests_per_hour=requests_per_hour, quotas=Quotas(**dict(zip(names, quotas, strict=True)))
    )


PLANS: Mapping[Plan, PlanTerms] = {
    terms.plan: terms
    for terms in (
        #                        req/h  trig. leaves actions follows keys  backtest replay
        _terms("free",              50,    10,    10,     3,    100,    5,    5_000,   100),
        _terms("starter",          100,    50,    20,     5,    100,   10,   20_000,   500),
        _terms("pro",              500,   250,    50,    10,    500,   50,   50_000, 1_000),
        _terms("enterprise",     2_000, 5_000,    64,    20,  5_000,  500,  100_000, 1_000),
    )
}  # fmt: skip
"""From the smallest to the largest."""


class Allowance(Struct, frozen=True):
    """What an organization of this plan may make. Good while its row is held: then no two counts pass together."""

    plan: Plan

    def limit(self, quota: Quota) -> int:
        limit: int = getattr(PLANS[self.plan].quotas, quota)
        return limit

    def admit(self, quota: Quota, before: int, after: int) -> None:
        """Let it become `after` where it was `before`. What a larger plan left behind may stay, but not grow.

        Raises:
            QuotaExceeded
        """
        limit = self.limit(quota)
        if after > limit and after > before:
            raise QuotaExceeded(quota, limit, before, self.plan)


class UpgradeUnpaid(PaymentRequired):
    """There is nobody to take the money, so only the operator can grant this. `hint` says how."""

    def __init__(self, hint: str) -> None:
        super().__init__("This plan has to be paid for.")
        self.hint = hint


def payment(before: Plan, wanted: Plan, *, waived: bool, reference: str) -> Literal["waived", "none"]:
    """How a change of plan is paid: a larger one not at all where that is allowed, a smaller one costs nothing.

    `reference` is what names the organization to its operator.

    Raises:
        UpgradeUnpaid: a larger plan, and upgrades are not for free.
    """
    order = list(PLANS)
    if order.index(wanted) <= order.index(before):
        return "none"
    if not waived:
        raise UpgradeUnpaid(f"The operator can grant it: agentauri organization plan {reference} {wanted}")
    return "waived"
