"""Events, triggers and rows for tests of the evaluation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any

import msgspec

from agentauri.database import Database, Transaction
from agentauri.events import COLUMNS, Event
from agentauri.triggers import Evaluator
from agentauri.types import EventSeq, TriggerId

CHAIN = 84532
_numbers = count(1)

Leaf = dict[str, Any]
LogLines = list[dict[str, object]]


def make_event(**fields: Any) -> Event:
    """An event as it comes out of the table; what is not given is absent."""
    values: dict[str, Any] = dict.fromkeys(COLUMNS) | {
        "seq": 10,
        "id": "event-10",
        "chain_id": CHAIN,
        "block_number": 100,
        "block_hash": "0xb",
        "transaction_hash": "0xt",
        "log_index": 0,
        "registry": "reputation",
        "event_type": "NewFeedback",
        "timestamp": 1_700_000_000,
        "args": {},
        "origin": "external",
        "epoch": 0,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    if "value_raw" in fields and "score" not in fields:
        fields["score"] = Decimal(fields["value_raw"]).scaleb(-fields.get("value_decimals", 0))
    return Event(**(values | fields))


def field(name: str, operator: str, value: object = None) -> Leaf:
    return {"condition_type": "field", "field": name, "operator": operator, "value": value}


def agent(number: int) -> Leaf:
    return {"condition_type": "agent_id_equals", "value": str(number)}


ANY_EVENT = field("event_type", "exists", True)


async def make_trigger(
    tx: Transaction,
    condition: object = (ANY_EVENT,),
    *,
    trigger_id: str | None = None,
    actions: int = 1,
    **columns: object,
) -> TriggerId:
    """A trigger as somebody may write it by hand, with webhook actions that nobody will send."""
    number = next(_numbers)
    values: dict[str, object] = {
        "id": trigger_id or f"trigger-{number:06}",
        "organization_id": "org-1",
        "user_id": "user-1",
        "name": f"trigger {number}",
        "condition": msgspec.json.encode(condition).decode(),
        "start_blocks": msgspec.json.encode({str(CHAIN): 0}).decode(),
    } | columns
    places = ", ".join(f"${place}" for place in range(1, len(values) + 1))
    await tx.run(f"INSERT INTO triggers ({', '.join(values)}) VALUES ({places})", *values.values())
    for _ in range(actions):
        await tx.run(
            "INSERT INTO trigger_actions (trigger_id, action_type, destination) VALUES ($1, 'webhook', 'hook.test')",
            values["id"],
        )
    return TriggerId(str(values["id"]))


async def make_triggers(tx: Transaction, number: int, condition: object = (ANY_EVENT,)) -> None:
    """Many triggers of ten organizations in two statements."""
    await tx.run(
        """INSERT INTO triggers (id, organization_id, user_id, name, condition, start_blocks)
           SELECT 'many-' || lpad(n::text, 6, '0'), 'org-' || n % 10, 'user-1', 'many', $2::jsonb, '{"84532": 0}'
           FROM generate_series(1, $1::int) AS n""",
        number,
        msgspec.json.encode(condition).decode(),
    )
    await tx.run(
        """INSERT INTO trigger_actions (trigger_id, action_type, destination)
           SELECT id, 'webhook', 'hook.test' FROM triggers WHERE name = 'many'"""
    )


async def insert_events(tx: Transaction, *agents: int, chain_id: int = CHAIN, **columns: object) -> list[EventSeq]:
    """One event for each agent, with no more than the required columns and these."""
    seqs = []
    for agent_id in agents:
        number = next(_numbers)
        values: dict[str, object] = {
            "id": f"event-{number}",
            "chain_id": chain_id,
            "block_number": number,
            "block_hash": f"0xb{number}",
            "transaction_hash": f"0xt{number}",
            "log_index": 0,
            "registry": "reputation",
            "event_type": "NewFeedback",
            "timestamp": 1_700_000_000,
            "agent_id": agent_id,
        } | columns
        names = ", ".join(f'"{name}"' for name in values)
        places = ", ".join(f"${place}" for place in range(1, len(values) + 1))
        seqs.append(
            await tx.fetchval(f"INSERT INTO events ({names}) VALUES ({places}) RETURNING seq", *values.values())
        )
    return seqs


async def matches(tx: Transaction, seqs: Sequence[EventSeq]) -> list[tuple[EventSeq, TriggerId]]:
    """Which triggers have deliveries for these events."""
    rows = await tx.fetch(
        "SELECT event_seq, trigger_id FROM deliveries WHERE event_seq = ANY($1::bigint[]) ORDER BY 1, 2", seqs
    )
    return [(row["event_seq"], row["trigger_id"]) for row in rows]


async def finish(evaluator: Evaluator) -> None:
    """Everything that can be done now."""
    while await evaluator.step():
        pass


async def waiting(database: Database) -> int:
    async with database.transaction() as tx:
        number: int = await tx.fetchval("SELECT count(*) FROM event_queue")
        return number


async def until_waiting_for_a_lock(tx: Transaction, task: asyncio.Task[Any]) -> None:
    """Return when the task's statement waits for a lock, or when it is over."""
    while not task.done() and not await tx.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        pass


def coded(lines: LogLines, code: str) -> LogLines:
    return [line for line in lines if line.get("code") == code]


def average(value: object, *, field: object = None, **config: Any) -> Leaf:
    """An `ema_threshold` over ten values."""
    leaf: Leaf = {"condition_type": "ema_threshold", "operator": ">", "value": value}
    return leaf | {"config": {"window_size": 10} | config} | ({} if field is None else {"field": field})


def limit(value: object, **config: Any) -> Leaf:
    """A `rate_limit` of an hour."""
    return {
        "condition_type": "rate_limit", "operator": ">", "value": value, "config": {"time_window": "1h"} | config,
    }  # fmt: skip


def window(kind: str, value: object, *, field: object = "score", operator: str = ">", **config: Any) -> Leaf:
    """An aggregate over an hour."""
    leaf: Leaf = {"condition_type": kind, "operator": operator, "value": value, "config": {"window": "1h"} | config}
    return leaf if kind == "count" or field is None else leaf | {"field": field}


def sequence(first: object, then: object, within: str = "1h", **config: Any) -> Leaf:
    return {"condition_type": "sequence", "config": {"first": first, "then": then, "within": within} | config}


def absence(after: object, expect: object, within: str = "1h", **config: Any) -> Leaf:
    return {"condition_type": "absence", "config": {"after": after, "expect": expect, "within": within} | config}
