"""Shapes of the fixtures in tests/doctor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from agentauri.doctor import CheckResult

Look = Callable[..., Awaitable[CheckResult]]
Do = Callable[[str | None], Awaitable[str]]
Beat = Callable[..., Awaitable[None]]
