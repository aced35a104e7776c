"""Runs the checks in order, heals what may be healed, and tells what came of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Sequence

from agentauri.doctor import access, around, postgres, tls, work
from agentauri.doctor.check import Check, Finding, Patient, fail
from agentauri.doctor.types import CheckResult, Report
from agentauri.errors import Unavailable

CHECK_SECONDS = 30.0
CHECKS: tuple[Check, ...] = (
    postgres.ANSWERS,
    *tls.CHECKS,
    *postgres.CHECKS,
    *around.REDIS,
    *work.CHECKS,
    *access.CHECKS,
    *around.CHECKS,
)
OUTSIDE: tuple[Check, ...] = around.OUTSIDE
"""Only where a URL is given."""


async def examine(patient: Patient, *, heal: bool = False, only: Collection[str] = ()) -> Report:
    """Look at everything, or only by these checks and those that they need. With `heal` the safe remedies are applied
    to what is not well, and it is looked at again.

    Never raises for what is wrong with the patient. A check whose needs are not met says nothing: the check that it
    needs has said it.
    """
    results: list[CheckResult] = []
    unwell: set[str] = set()
    needed = {name for check in CHECKS if check.name in only for name in check.needs}
    for check in (*CHECKS, *(OUTSIDE if patient.url else ())):
        if unwell.intersection(check.needs) or (only and check.name not in {*only, *needed}):
            continue
        found = await _look(check, patient)
        fixed = None
        if heal and check.heal is not None and any(one.result != "ok" for one in found):
            fixed = await _heal(check, patient)
            found = await _look(check, patient)
        if any(one.result == "fail" for one in found):
            unwell.add(check.name)
        results += [_result(check, one, fixed, in_compose=patient.in_compose) for one in found]
    return Report.of(results)


async def _look(check: Check, patient: Patient) -> Sequence[Finding]:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await check.look(patient)
    except TimeoutError:
        return [fail(f"no answer within {CHECK_SECONDS:.0f} s", "agentauri doctor")]
    except Unavailable as error:
        return [fail(error.message, "agentauri doctor")]


async def _heal(check: Check, patient: Patient) -> str | None:
    assert check.heal is not None
    try:
        return await check.heal(patient)
    except Unavailable as error:
        return f"tried, and could not: {error.message}"


def _result(check: Check, found: Finding, fixed: str | None, *, in_compose: bool) -> CheckResult:
    name = check.name if found.part is None else f"{check.name}:{found.part}"
    fix = found.fix
    if fix is not None and in_compose:  # the host has docker, and none of our commands
        fix = re.sub(r"(?<![\w/])agentauri (?=[a-z])", "docker compose exec api-gateway agentauri ", fix)
    return CheckResult(check=name, result=found.result, finding=found.text, why=check.why, fix=fix, fixed=fixed)
