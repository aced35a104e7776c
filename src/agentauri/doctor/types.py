"""What an examination says."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Result = Literal["ok", "warn", "fail"]
ORDER: tuple[Result, ...] = ("ok", "warn", "fail")


class CheckResult(Struct, frozen=True, kw_only=True):
    """One check: what was found, with the figure, and the command that mends it, to be run as it stands.

    `fixed` says what `--fix` did; the result is that of the check after it.
    """

    check: str
    result: Result
    finding: str
    why: str
    fix: str | None = None
    fixed: str | None = None


class Report(Struct, frozen=True, kw_only=True):
    """All checks in their order; `result` is the worst of them."""

    result: Result
    checks: list[CheckResult]

    @classmethod
    def of(cls, checks: list[CheckResult]) -> Report:
        return cls(result=max((one.result for one in checks), key=ORDER.index, default="ok"), checks=checks)
