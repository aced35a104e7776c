"""Sending finished deliveries again: one by its id, or many by a filter. Both refuse for the same reasons."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

import asyncpg

from agentauri.actions import store
from agentauri.actions.errors import DeliveryNotFound, DeliveryPending, EventRetracted, NotDeliverable
from agentauri.actions.store import Where
from agentauri.actions.types import DeliveryDraft, Release, Replay
from agentauri.database import Transaction
from agentauri.errors import Conflict
from agentauri.types import DeliveryId, OrganizationId

_JOINED = f"{store.JOINED} LEFT JOIN trigger_actions a ON a.id = d.action_id"
_REFUSAL = """CASE WHEN d.status = 'pending' THEN 'delivery_pending'
    WHEN d.environment = 'test' THEN 'test_environment'
    WHEN e.retracted_at IS NOT NULL AND d.kind NOT IN ('retraction', 'test') THEN 'event_retracted'
    WHEN e.seq IS NULL AND d.kind <> 'test' THEN 'event_gone'
    WHEN a.id IS NULL THEN 'action_deleted' END"""
_REFUSAL_AS_NEW = f"coalesce({_REFUSAL}, CASE WHEN d.kind NOT IN ('match', 'replay') THEN 'not_a_match' END)"
"""A replay tells of a match. What a retraction, a digest or a test says is only true under its own name."""

_SENTENCES = {
    "test_environment": "Deliveries of the test environment are never sent.",
    "event_gone": "The delivery's event does not exist any more.",
    "action_deleted": "The delivery's action does not exist any more.",
}


async def lock_to_redeliver(tx: Transaction, organization_id: OrganizationId | None, id_: DeliveryId) -> None:
    """Lock a finished delivery that may be sent again.

    Raises:
        DeliveryNotFound, DeliveryPending, EventRetracted, NotDeliverable
    """
    record = await tx.fetchrow(
        f"""SELECT {_REFUSAL} AS refusal, d.hold FROM {_JOINED}
            WHERE d.id = $1 AND ($2::text IS NULL OR d.organization_id = $2) FOR NO KEY UPDATE OF d""",  # noqa: S608
        id_,
        organization_id,
    )
    if record is None:
        raise DeliveryNotFound
    if record["refusal"] is not None:
        raise _refused(record["refusal"], record["hold"])


def _refused(reason: str, hold: str | None) -> Conflict:
    match reason:
        case "delivery_pending":
            return DeliveryPending(hold)
        case "event_retracted":
            return EventRetracted()
        case _:
            return NotDeliverable(_SENTENCES[reason])


async def select(
    tx: Transaction, organization_id: OrganizationId | None, replay: Replay
) -> tuple[list[asyncpg.Record], bool]:
    """The next deliveries to send again, locked, oldest first, and whether there are more of them."""
    where = _where(organization_id, replay)
    records = await tx.fetch(
        f"""SELECT d.*, e.id AS event_id, e.epoch, a.action_type AS type_now, a.destination AS destination_now
            FROM {_JOINED} WHERE {where} AND {_refusal(replay)} IS NULL
            ORDER BY d.id LIMIT {replay.limit + 1} FOR NO KEY UPDATE OF d""",  # noqa: S608 (our own words)
        *where.values,
    )
    return records[: replay.limit], len(records) > replay.limit


async def refused(
    tx: Transaction, organization_id: OrganizationId | None, replay: Replay, last: DeliveryId | None
) -> Counter[str]:
    """How many deliveries up to `last` were passed over, by reason; ids that name
    none of those that are wanted are `no_match`."""
    where = _where(organization_id, replay)
    if last is not None:
        where.add("d.id <= {}", last)
    records = await tx.fetch(
        f"""SELECT reason, count(*) AS number FROM (
                SELECT {_refusal(replay)} AS reason FROM {_JOINED} WHERE {where}) AS passed
            GROUP BY reason""",  # noqa: S608 (our own words)
        *where.values,
    )
    found = {record["reason"]: record["number"] for record in records}
    counted = Counter({reason: number for reason, number in found.items() if reason is not None})
    if replay.delivery_ids is not None and last is None:
        named = set(replay.delivery_ids)
        beyond = sum(replay.after is None or id_.bytes > replay.after.bytes for id_ in named)
        counted["no_match"] = beyond - sum(found.values())
    return +counted


def _where(organization_id: OrganizationId | None, replay: Replay) -> Where:
    where = Where()
    if organization_id is not None:
        where.add("d.organization_id = {}", organization_id)
    store.narrow(where, replay.wanted)
    if replay.delivery_ids is not None:
        where.add("d.id = ANY({}::uuid[])", list(replay.delivery_ids))
    if replay.from_block is not None:
        where.add("e.block_number >= {}", replay.from_block)
    if replay.to_block is not None:
        where.add("e.block_number <= {}", replay.to_block)
    if replay.after is not None:
        where.add("d.id > {}", replay.after)
    return where


def _refusal(replay: Replay) -> str:
    return _REFUSAL if replay.mode == "same" else _REFUSAL_AS_NEW


def as_new(record: asyncpg.Record, request_id: str, now: datetime) -> DeliveryDraft:
    """The same match told once more, to where the action leads now."""
    return DeliveryDraft(
        organization_id=record["organization_id"],
        trigger_id=record["trigger_id"],
        trigger_version=record["trigger_version"],
        environment=record["environment"],
        action_id=record["action_id"],
        action_type=record["type_now"],
        destination=record["destination_now"],
        priority=record["priority"],
        event_seq=record["event_seq"],
        event_id=record["event_id"],
        event_epoch=record["epoch"],
        event_created_at=now,
        chain_id=record["chain_id"],
        kind="replay",
        context=None if record["context"] is None else record["context"].encode(),
        parent_id=record["id"],
        request_id=request_id,
        # What was never tried may not have been deep enough yet.
        release=Release(tag, record["release_block"], record["release_depth"] or 0)
        if (tag := record["release_tag"]) is not None and record["attempts"] == 0
        else None,
    )
