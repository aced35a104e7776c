"""Login sessions: refresh tokens that are good for one use each, and whether an access token still stands for anybody.

A refresh token is exchanged for its successor; one that comes back after that was stolen, from us or from its owner, so
the whole session ends. What a session's access tokens are worth is looked up at most every 5 s.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from uuid import uuid4

from msgspec import Struct

from agentauri.accounts.errors import InvalidRefreshToken, InvalidToken, SessionNotFound
from agentauri.accounts.tokens import Claims
from agentauri.accounts.types import UserPrincipal
from agentauri.database import Transaction
from agentauri.types import Secret, UserId

TOKEN_LASTS = timedelta(days=30)
SESSION_LASTS = timedelta(days=90)
MOST_SESSIONS = 10
REMEMBERED_SECONDS = 5.0
REMEMBERED = 10_000


class LoginSession(Struct, frozen=True, kw_only=True):
    id: str
    ip: str | None
    user_agent: str | None
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime


class Begun(Struct, frozen=True, kw_only=True):
    """A session with its newest refresh token, shown this once. `expires_in`: seconds."""

    session_id: str
    refresh_token: Secret
    expires_in: int


class Refreshed(Struct, frozen=True, kw_only=True):
    """`reused` instead of `begun`: the token had been used before, and its session has ended for it."""

    user_id: UserId
    session_id: str
    begun: Begun | None
    reused: bool = False


class Sessions:
    def __init__(self) -> None:
        self._believed: dict[str, tuple[float, int, UserPrincipal]] = {}
        self._changes = 0

    async def begin(self, tx: Transaction, user_id: UserId, ip: str, user_agent: str | None) -> Begun:
        """A new session; of more than ten the oldest end."""
        session_id = str(uuid4())
        await tx.run("SELECT FROM users WHERE id = $1 FOR UPDATE", user_id)
        await tx.run(
            """UPDATE sessions SET ended_at = now() WHERE id IN (
                   SELECT id FROM sessions WHERE user_id = $1 AND ended_at IS NULL AND expires_at > now()
                   ORDER BY created_at DESC, id OFFSET $2)""",
            user_id,
            MOST_SESSIONS - 1,
        )
        await tx.run(
            """INSERT INTO sessions (id, user_id, ip, user_agent, expires_at)
               VALUES ($1, $2, $3, $4, now() + $5::interval)""",
            session_id,
            user_id,
            ip,
            user_agent[:256] if user_agent else None,
            SESSION_LASTS,
        )
        self.forget_after(tx)
        return await self._issue(tx, session_id)

    async def refresh(self, tx: Transaction, token: str) -> Refreshed:
        """Exchange a refresh token. Commit also where it was `reused`: that ends the session.

        Raises:
            InvalidRefreshToken: unknown or expired, or of a session or user that has ended.
        """
        row = await tx.fetchrow(
            """SELECT t.rotated_at, t.expires_at > now() AS fresh, s.id, s.user_id,
                      s.ended_at IS NULL AND s.expires_at > now() AND u.is_active AS live
               FROM refresh_tokens t JOIN sessions s ON s.id = t.session_id JOIN users u ON u.id = s.user_id
               WHERE t.hash = $1 FOR UPDATE OF t, s""",
            _hash(token),
        )
        if row is None or not row["live"]:
            raise InvalidRefreshToken
        user_id, session_id = UserId(row["user_id"]), row["id"]
        if row["rotated_at"] is not None:
            await self._end(tx, [session_id])
            return Refreshed(user_id=user_id, session_id=session_id, begun=None, reused=True)
        if not row["fresh"]:
            raise InvalidRefreshToken
        await tx.run("UPDATE refresh_tokens SET rotated_at = now() WHERE hash = $1", _hash(token))
        await tx.run("UPDATE sessions SET last_used_at = now() WHERE id = $1", session_id)
        return Refreshed(user_id=user_id, session_id=session_id, begun=await self._issue(tx, session_id))

    async def list(self, tx: Transaction, user_id: UserId) -> list[LoginSession]:
        """Her live sessions, newest first."""
        rows = await tx.fetch(
            """SELECT id, ip, user_agent, created_at, last_used_at, expires_at FROM sessions
               WHERE user_id = $1 AND ended_at IS NULL AND expires_at > now() ORDER BY created_at DESC, id""",
            user_id,
        )
        return [LoginSession(**dict(row)) for row in rows]

    async def end(self, tx: Transaction, user_id: UserId, session_id: str) -> None:
        """Raises: SessionNotFound: no such session of hers, or it has ended."""
        if session_id not in {session.id for session in await self.list(tx, user_id)}:
            raise SessionNotFound
        await self._end(tx, [session_id])

    async def end_if_live(self, tx: Transaction, user_id: UserId, session_id: str) -> None:
        """As `end`, where there is nothing to end too."""
        with suppress(SessionNotFound):
            await self.end(tx, user_id, session_id)

    async def end_by_token(self, tx: Transaction, token: str) -> tuple[UserId, str] | None:
        """End the session of a refresh token, live or not; whose it was, None where it is unknown."""
        row = await tx.fetchrow(
            """SELECT s.user_id, s.id FROM refresh_tokens t JOIN sessions s ON s.id = t.session_id
               WHERE t.hash = $1""",
            _hash(token),
        )
        if row is None:
            return None
        await self._end(tx, [row["id"]])
        return UserId(row["user_id"]), row["id"]

    async def end_all(self, tx: Transaction, user_id: UserId, *, but: str | None = None) -> int:
        """End her sessions, and with them every access token; `but` is the one to keep. How many ended."""
        rows = await tx.fetch(
            """SELECT id FROM sessions WHERE user_id = $1 AND ended_at IS NULL AND id IS DISTINCT FROM $2""",
            user_id,
            but,
        )
        await self._end(tx, [row["id"] for row in rows])
        return len(rows)

    def remembered(self, claims: Claims) -> UserPrincipal | None:
        """Whom `recognise` saw in these claims within the last 5 s."""
        until, version, principal = self._believed.get(claims.session_id, (0.0, 0, None))
        fits = principal is not None and principal.user_id == claims.user_id and version == claims.version
        return principal if fits and time.monotonic() < until else None

    async def recognise(self, tx: Transaction, claims: Claims) -> UserPrincipal:
        """Whom a token stands for now.

        Raises:
            InvalidToken: nobody any more.
        """
        changes = self._changes
        username = await tx.fetchval(
            """SELECT u.username FROM sessions s JOIN users u ON u.id = s.user_id
               WHERE s.id = $1 AND u.id = $2 AND u.token_version = $3 AND u.is_active
               AND s.ended_at IS NULL AND s.expires_at > now()""",
            claims.session_id,
            claims.user_id,
            claims.version,
        )
        if username is None:
            raise InvalidToken
        principal = UserPrincipal(user_id=claims.user_id, username=username, session_id=claims.session_id)
        if changes == self._changes:  # else what we read may be older than the change
            if len(self._believed) >= REMEMBERED:
                self._believed.clear()
            self._believed[claims.session_id] = (time.monotonic() + REMEMBERED_SECONDS, claims.version, principal)
        return principal

    def forget_after(self, tx: Transaction) -> None:
        """Believe nothing remembered once this transaction has committed: it changes what users may."""
        tx.on_commit(self._forget)

    async def _issue(self, tx: Transaction, session_id: str) -> Begun:
        token = Secret("urt_" + secrets.token_urlsafe(32))
        seconds = await tx.fetchval(
            """INSERT INTO refresh_tokens (hash, session_id, expires_at)
               SELECT $1, id, least(expires_at, now() + $3::interval) FROM sessions WHERE id = $2
               RETURNING extract(epoch FROM expires_at - now())::int""",
            _hash(token.reveal()),
            session_id,
            TOKEN_LASTS,
        )
        return Begun(session_id=session_id, refresh_token=token, expires_in=seconds)

    async def _end(self, tx: Transaction, ids: Sequence[str]) -> None:
        await tx.run("UPDATE sessions SET ended_at = now() WHERE id = ANY($1) AND ended_at IS NULL", ids)
        self.forget_after(tx)

    def _forget(self) -> None:
        self._changes += 1
        self._believed.clear()


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
