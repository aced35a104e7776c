"""Plans: what each allows, and how one comes to another."""

from __future__ import annotations

from itertools import pairwise

import pytest

from agentauri.billing import PLANS, Allowance, UpgradeUnpaid, payment
from agentauri.errors import QuotaExceeded


def test_a_larger_plan_allows_no_less_of_anything() -> None:
    terms = list(PLANS.values())
    for smaller, larger in pairwise(terms):
        assert smaller.requests_per_hour < larger.requests_per_hour
        for name in smaller.quotas.__struct_fields__:
            assert getattr(smaller.quotas, name) <= getattr(larger.quotas, name), name


def test_the_last_one_that_fits_is_admitted_and_the_next_one_told_its_limit() -> None:
    free = Allowance("free")
    free.admit("triggers", 9, 10)

    with pytest.raises(QuotaExceeded) as refused:
        free.admit("triggers", 10, 11)

    told = refused.value
    assert (told.name, told.limit, told.used, told.plan) == ("triggers", 10, 10, "free")


def test_what_a_larger_plan_left_behind_may_stay_and_shrink_but_not_grow() -> None:
    free = Allowance("free")
    free.admit("triggers", 40, 40)
    free.admit("triggers", 40, 39)
    with pytest.raises(QuotaExceeded):
        free.admit("triggers", 40, 41)


def test_a_smaller_plan_costs_nothing_and_a_larger_one_is_waived_or_refused_with_the_operators_command() -> None:
    assert payment("pro", "free", waived=False, reference="acme") == "none"
    assert payment("pro", "pro", waived=False, reference="acme") == "none"
    assert payment("free", "pro", waived=True, reference="acme") == "waived"
    with pytest.raises(UpgradeUnpaid) as refused:
        payment("free", "pro", waived=False, reference="acme")
    assert "agentauri organization plan acme pro" in refused.value.hint
