"""Rows of `circuit_breaker_state`. Every lock is taken in the order of trigger ids."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

import asyncpg

from agentauri.breaker.types import Breaker, Failing, Transition
from agentauri.database import Transaction
from agentauri.types import TriggerId

FIELDS = Breaker.__struct_fields__
_SELECT = f"SELECT {', '.join(FIELDS)} FROM circuit_breaker_state"  # noqa: S608 (our own field names)
_LOCKED = " ORDER BY trigger_id FOR NO KEY UPDATE"


def _breakers(records: Iterable[asyncpg.Record]) -> dict[TriggerId, Breaker]:
    return {record["trigger_id"]: Breaker(**record) for record in records}


async def now(tx: Transaction) -> datetime:
    moment: datetime = await tx.fetchval("SELECT clock_timestamp()")
    return moment


async def read(tx: Transaction, trigger_ids: Collection[TriggerId]) -> dict[TriggerId, Breaker]:
    return _breakers(await tx.fetch(f"{_SELECT} WHERE trigger_id = ANY($1::text[])", list(trigger_ids)))


async def read_all(tx: Transaction) -> list[Breaker]:
    rows = await tx.fetch(f"{_SELECT} ORDER BY last_failure_at DESC NULLS LAST, trigger_id")
    return [Breaker(**row) for row in rows]


async def lock(tx: Transaction, trigger_ids: Collection[TriggerId]) -> dict[TriggerId, Breaker]:
    return _breakers(await tx.fetch(f"{_SELECT} WHERE trigger_id = ANY($1::text[]){_LOCKED}", list(trigger_ids)))


async def lock_available(tx: Transaction, trigger_ids: Collection[TriggerId]) -> dict[TriggerId, Breaker]:
    """Those that nobody else has locked just now: an open psql session must not keep others from sending."""
    return _breakers(
        await tx.fetch(f"{_SELECT} WHERE trigger_id = ANY($1::text[]){_LOCKED} SKIP LOCKED", list(trigger_ids))
    )


async def not_closed(tx: Transaction, trigger_ids: Collection[TriggerId]) -> list[TriggerId]:
    records = await tx.fetch(
        "SELECT trigger_id FROM circuit_breaker_state WHERE trigger_id = ANY($1::text[]) AND state <> 'closed'",
        list(trigger_ids),
    )
    return [record["trigger_id"] for record in records]


async def not_at_rest(tx: Transaction, trigger_ids: Collection[TriggerId]) -> list[TriggerId]:
    """Those whose row a success would change."""
    records = await tx.fetch(
        "SELECT trigger_id FROM circuit_breaker_state"
        " WHERE trigger_id = ANY($1::text[]) AND (state <> 'closed' OR failure_count > 0)",
        list(trigger_ids),
    )
    return [record["trigger_id"] for record in records]


async def make_missing(tx: Transaction, trigger_ids: Collection[TriggerId]) -> None:
    await tx.run(
        """INSERT INTO circuit_breaker_state (trigger_id, state, updated_at)
           SELECT id, 'closed', clock_timestamp() FROM unnest($1::text[]) AS id
           WHERE NOT EXISTS (SELECT FROM circuit_breaker_state s WHERE s.trigger_id = id)
           ORDER BY id ON CONFLICT (trigger_id) DO NOTHING""",
        list(trigger_ids),
    )


async def lock_due(tx: Transaction, limit: int) -> dict[TriggerId, Breaker]:
    """Breakers that time alone may change. One that somebody else holds is theirs to look after."""
    return _breakers(
        await tx.fetch(
            f"""{_SELECT} WHERE trigger_id IN (
                    (SELECT trigger_id FROM circuit_breaker_state
                     WHERE state = 'open' AND next_probe_at <= clock_timestamp() ORDER BY next_probe_at LIMIT $1)
                    UNION ALL
                    (SELECT trigger_id FROM circuit_breaker_state WHERE state = 'half_open'
                     AND half_open_admitted > success_count
                     AND half_open_at <= clock_timestamp() - interval '120 seconds' LIMIT $1))
                {_LOCKED} SKIP LOCKED""",  # noqa: S608 (our own field names)
            limit,
        )
    )


async def save(tx: Transaction, breakers: Collection[Breaker]) -> None:
    """Write locked rows back, or a row that did not exist."""
    columns = list(zip(*([getattr(b, name) for name in FIELDS] for b in breakers), strict=True))
    await tx.run(
        f"""INSERT INTO circuit_breaker_state ({", ".join(FIELDS)}, updated_at)
            SELECT *, clock_timestamp() FROM unnest($1::text[], $2::text[], $3::int[], $4::int[], $5::timestamptz[],
                $6::timestamptz[], $7::timestamptz[], $8::int[], $9::timestamptz[], $10::text[])
            ON CONFLICT (trigger_id) DO UPDATE SET
                {", ".join(f"{name} = excluded.{name}" for name in (*FIELDS[1:], "updated_at"))}""",  # noqa: S608
        *(list(column) for column in columns),
    )


async def audit_opened(tx: Transaction, opened: Sequence[Transition]) -> None:
    """The owner's audit log tells when we stopped trying, and why."""
    await tx.run(
        """INSERT INTO audit_log (organization_id, event, actor_type, target_type, target_id, details)
           SELECT t.organization_id, 'breaker.opened', 'system', 'trigger', t.id,
               jsonb_build_object('last_error', o.last_error)
           FROM unnest($1::text[], $2::text[]) AS o (trigger_id, last_error) JOIN triggers t ON t.id = o.trigger_id""",
        [transition.trigger_id for transition in opened],
        [transition.last_error for transition in opened],
    )


async def note_failing(tx: Transaction, opened: Collection[TriggerId]) -> list[Failing]:
    """Those of the opened whose owner has not been told for a day. An endpoint that is gone opens its breaker anew with
    every probe."""
    records = await tx.fetch(
        """UPDATE circuit_breaker_state s SET told_at = now() FROM triggers t
           WHERE t.id = s.trigger_id AND s.trigger_id = ANY($1::text[])
           AND (s.told_at IS NULL OR s.told_at <= now() - interval '1 day')
           RETURNING s.trigger_id, t.organization_id, s.failure_count, s.last_error,
               array(SELECT DISTINCT destination FROM trigger_actions WHERE trigger_id = t.id ORDER BY destination)""",
        list(opened),
    )
    return [Failing(*record) for record in records]


async def delete(tx: Transaction, trigger_ids: Collection[TriggerId]) -> None:
    await tx.run("DELETE FROM circuit_breaker_state WHERE trigger_id = ANY($1::text[])", list(trigger_ids))


async def count_open(tx: Transaction) -> int:
    number: int = await tx.fetchval("SELECT count(*) FROM circuit_breaker_state WHERE state = 'open'")
    return number
