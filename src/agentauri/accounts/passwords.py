"""Passwords: argon2id, beside the event loop, a few at a time, and the same work whether or not there is anything to
compare with."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from passlib.context import CryptContext

from agentauri import metrics
from agentauri.errors import FieldError, Unavailable

T = TypeVar("T")

SHORTEST, LONGEST = 12, 128
WAITING = 64
YIELDING = 10
"""How nice a thread is that hashes: of a processor that the loop wants too it gets a tenth."""

_CONTEXT = CryptContext(
    schemes=["argon2"], argon2__type="ID", argon2__memory_cost=19_456, argon2__time_cost=2, argon2__parallelism=1
)


class PasswordHasher:
    """At most `concurrency` hashes at once, each 19 MiB; beyond `WAITING` callers it refuses."""

    def __init__(self, concurrency: int) -> None:
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="passwords", initializer=_give_way)
        self._most = concurrency + WAITING
        self._callers = 0
        self._dummy: str | None = None

    async def hash(self, password: str) -> str:
        """Raises: Unavailable: too many wait."""
        return await self._run(_CONTEXT.hash, password)

    async def verify(self, password: str, stored: str | None) -> tuple[bool, str | None]:
        """Whether it is the password, and a new hash of it where the stored one was made with older parameters.

        Where nothing is stored a hash of nobody's password is compared, which takes as long.

        Raises:
            Unavailable: too many wait.
        """
        if self._dummy is None:
            self._dummy = await self._run(_CONTEXT.hash, secrets.token_urlsafe())
        same, renewed = await self._run(_CONTEXT.verify_and_update, password, stored or self._dummy)
        return (same, renewed) if stored else (False, None)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[..., T], *arguments: str | None) -> T:
        if self._callers >= self._most:
            raise Unavailable("Too many logins at once; try again in a moment.")
        self._callers += 1
        started = time.perf_counter()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        finally:
            self._callers -= 1
            metrics.PASSWORD_HASH.observe(time.perf_counter() - started)


def _give_way() -> None:
    """Let the loop go first where both want a processor. Linux alone knows of threads that yield to their own
    process."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), YIELDING)


def refusal(password: str, *names: str | None) -> FieldError | None:
    """Why this may be nobody's password: too short or long, too common, or built on one of her `names`."""
    folded = password.casefold()
    if not SHORTEST <= len(password) <= LONGEST:
        return FieldError("password", f"must have {SHORTEST} to {LONGEST} characters")
    if "\0" in password:
        return FieldError("password", "must not hold NUL")
    if folded in common_passwords():
        return FieldError("password", "is one of the most common passwords")
    if any(name and len(name) > 2 and name.casefold() in folded for name in names):
        return FieldError("password", "must not contain the user name or the e-mail's name")
    return None


def generate() -> str:
    """A password that nobody guesses, for the operator to hand over."""
    return secrets.token_urlsafe(18)


@cache
def common_passwords() -> frozenset[str]:
    """The 30,000 that leaks hold most often, case-folded."""
    from zxcvbn.frequency_lists import FREQUENCY_LISTS  # half a megabyte, for those who make an account here

    return frozenset(word.casefold() for word in FREQUENCY_LISTS["passwords"])
