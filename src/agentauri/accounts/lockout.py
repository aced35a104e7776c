"""How often one may try a password: counted per name and address, for names that nobody has, too.

A try is counted before it is looked at, so that any number of them at once pass no more often than one after another;
a success takes the count away. The name is kept as its hash alone, since people type passwords into the wrong field.
Of an IPv6 address the /64 counts, which is one holder's to roam in.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from ipaddress import IPv6Address, IPv6Network, ip_address

from agentauri.accounts.errors import AccountLocked
from agentauri.database import Transaction

TRIES = 5
WINDOW = timedelta(minutes=15)
FIRST_LOCK = timedelta(minutes=15)
HIGHEST_LEVEL = 4
"""Of which each doubles the lock: 15, 30, 60, 120 and 240 minutes."""
LEVEL_LASTS = timedelta(hours=24)
SIEGE = 100
"""So many failures of one account within an hour, from wherever, close it to all addresses that it does not know."""

KIND = "password"


def counted_as(client: str) -> str:
    """Whom budgets and locks count: an address, of IPv6 the /64 that its holder may roam in."""
    try:
        address = ip_address(client)
    except ValueError:
        return client
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or IPv6Network((address, 64), strict=False))
    return client


def name_hash(identifier: str) -> str:
    return hashlib.sha256(identifier.casefold().encode(errors="replace")).hexdigest()


async def begin(tx: Transaction, identifier: str, address: str, user_id: str | None) -> None:
    """Count a try. Commit it before the password is looked at.

    Raises:
        AccountLocked: this one is not counted, and must not be looked at.
    """
    name, source = name_hash(identifier), counted_as(address)
    counted = await tx.fetchval(
        """INSERT INTO lockouts AS l (identifier, address, failures, window_start, level, last_failure_at)
           VALUES ($1, $2, 1, now(), 0, now())
           ON CONFLICT (identifier, address) DO UPDATE SET
               (failures, window_start, level, locked_until, last_failure_at) = (
                   SELECT CASE WHEN tries >= $3 THEN 0 ELSE tries END,
                          CASE WHEN fresh OR tries >= $3 THEN now() ELSE l.window_start END,
                          CASE WHEN tries >= $3 THEN least(worn + 1, $6) ELSE worn END,
                          CASE WHEN tries >= $3 THEN now() + $5::interval * (2 ^ least(worn, $6)) END,
                          now()
                   FROM (SELECT l.window_start <= now() - $4::interval AS fresh) AS age,
                        LATERAL (SELECT CASE WHEN fresh THEN 1 ELSE l.failures + 1 END AS tries,
                                        greatest(0, l.level - floor(extract(epoch FROM now() - l.last_failure_at)
                                                                    / extract(epoch FROM $7::interval))::int) AS worn
                                ) AS sums)
           WHERE l.locked_until IS NULL OR l.locked_until <= now()
           RETURNING failures""",
        name,
        source,
        TRIES,
        WINDOW,
        FIRST_LOCK,
        HIGHEST_LEVEL,
        LEVEL_LASTS,
    )
    if counted is None:
        raise AccountLocked(await _left(tx, name, source))
    if await _besieged(tx, name) and not (user_id is not None and await _knows(tx, user_id, address)):
        raise AccountLocked(WINDOW.total_seconds())


async def succeeded(tx: Transaction, identifier: str, address: str) -> None:
    await tx.run(
        "DELETE FROM lockouts WHERE identifier = $1 AND address = $2", name_hash(identifier), counted_as(address)
    )


async def _left(tx: Transaction, name: str, source: str) -> float:
    seconds = await tx.fetchval(
        """SELECT extract(epoch FROM locked_until - now())::float8 FROM lockouts
           WHERE identifier = $1 AND address = $2""",
        name,
        source,
    )
    return max(1.0, seconds or 1.0)


async def _besieged(tx: Transaction, name: str) -> bool:
    return bool(
        await tx.fetchval(
            """SELECT count(*) > $3 FROM (
                   SELECT FROM auth_failures WHERE kind = $1 AND prefix = $2
                   AND created_at > now() - interval '1 hour' LIMIT $3 + 1) AS recent""",
            KIND,
            name[:16],
            SIEGE,
        )
    )


async def _knows(tx: Transaction, user_id: str, address: str) -> bool:
    rows = await tx.fetch(
        """SELECT DISTINCT ip FROM sessions
           WHERE user_id = $1 AND created_at > now() - interval '90 days' AND ip IS NOT NULL""",
        user_id,
    )
    return counted_as(address) in {counted_as(row["ip"]) for row in rows}
