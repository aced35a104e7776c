"""Who is turned away at the door: keys that are refused, and budgets that are used up."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from contextlib import aclosing

from agentauri.actions import connect_redis
from agentauri.billing import PLANS
from agentauri.doctor.check import Check, Finding, Patient, ok, plural, warn
from agentauri.types import Plan

BUDGET = "agentauri:rl:{org:"
MOST_BUDGETS = 10_000
MINUTES = 60
NEARLY = 0.95
"""Some requests cost more than the unit that may be left."""

SHOWN = 20


async def _api_keys(patient: Patient) -> Sequence[Finding]:
    """Keys that were refused within the hour, unless their organization has been given another one since."""
    async with patient.database.transaction(durable=False) as tx:
        rows = await tx.fetch(
            """SELECT k.key_prefix, o.slug, refused.times, refused.last_at,
                      CASE WHEN k.revoked_at <= now() THEN 'was revoked at '
                                || to_char(k.revoked_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')
                           WHEN k.expires_at <= now() THEN 'expired at '
                                || to_char(k.expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')
                           WHEN NOT k.is_active THEN 'is switched off'
                           ELSE 'is in force, and what came is another key with its beginning, or API_KEY_PEPPER was'
                                ' changed' END AS state,
                      CASE WHEN (SELECT count(*) FROM organizations same WHERE same.slug = o.slug) > 1
                           THEN o.id ELSE o.slug END AS reference
               FROM (SELECT prefix, count(*) AS times, max(created_at) AS last_at FROM auth_failures
                     WHERE kind = 'api_key' AND created_at > now() - interval '1 hour' GROUP BY prefix) AS refused
               JOIN api_keys k ON k.key_prefix = refused.prefix JOIN organizations o ON o.id = k.organization_id
               WHERE NOT EXISTS (SELECT FROM api_keys other WHERE other.organization_id = k.organization_id
                                 AND other.created_at > refused.last_at AND other.is_active)
               ORDER BY refused.times DESC, k.key_prefix LIMIT $1""",
            SHOWN,
        )
    if not rows:
        return [ok("no key of anybody's was refused within the hour, unless it has been replaced since")]
    return [
        warn(
            f"{row['key_prefix']}… of {row['slug']} {row['state']}; refused {plural(row['times'], 'time')} within the"
            f" hour, the last at {row['last_at']:%H:%M:%S}",
            f"agentauri key create --organization {shlex.quote(row['reference'])}",
            row["key_prefix"],
        )
        for row in rows
    ]


async def _rate_limits(patient: Patient) -> Sequence[Finding]:
    """Organizations whose budget of the hour is all but used up, against the plan that they have now."""
    if patient.config.server.rate_limit_mode != "enforcing":
        return [ok(f"RATE_LIMIT_MODE={patient.config.server.rate_limit_mode}: nobody is refused")]
    used = await _used(patient)
    async with patient.database.transaction(durable=False) as tx:
        rows = await tx.fetch("SELECT id, slug, plan FROM organizations WHERE id = ANY($1)", list(used))
    slugs = [row["slug"] for row in rows]
    found = []
    for row in rows:
        limit = PLANS[row["plan"]].requests_per_hour
        if used[row["id"]] < NEARLY * limit:
            continue
        reference = row["id"] if slugs.count(row["slug"]) > 1 else row["slug"]
        text = f"{row['slug']} has used {used[row['id']]} of the {limit} requests an hour of its plan {row['plan']}"
        found.append(warn(text, _more(patient, row["plan"], reference), row["slug"]))
    return found[:SHOWN] or [ok(f"nobody is near the end of a budget ({plural(len(rows), 'organization')} seen)")]


def _more(patient: Patient, plan: Plan, reference: str) -> str:
    plans = list(PLANS)
    if plan != plans[-1]:
        larger = plans[plans.index(plan) + 1]
        return f"agentauri organization plan {shlex.quote(reference)} {larger}"
    return patient.change("api-gateway", "RATE_LIMIT_MODE=shadow")


async def _used(patient: Patient) -> dict[str, int]:
    """Units of the sliding hour, by organization."""
    used: dict[str, int] = {}
    oldest = time.time() // 60 - MINUTES
    async with aclosing(connect_redis(patient.redis_url.reveal())) as client:
        async for key in client.scan_iter(match=f"{BUDGET}*}}", count=1000):
            name = key.decode() if isinstance(key, bytes) else key
            slots = await client.hgetall(name)
            used[name.removeprefix(BUDGET).removesuffix("}")] = sum(
                int(units) for minute, units in slots.items() if int(minute) > oldest
            )
            if len(used) >= MOST_BUDGETS:
                break
    return used


CHECKS = (
    Check(name="api_keys", why="Whoever still calls with such a key gets a 401.", look=_api_keys,
          needs=("database", "schema")),
    Check(name="rate_limits", why="Whoever has used up the hour's budget gets a 429.", look=_rate_limits,
          needs=("database", "schema", "redis")),
)  # fmt: skip
