"""The door to deliveries: what the evaluator makes, what callers read and repeat. Sending is the dispatcher's."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from itertools import chain, zip_longest
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec

from agentauri import metrics
from agentauri.actions import depth, replaying, store
from agentauri.actions.errors import DeliveryNotFound
from agentauri.actions.identity import correlation_id
from agentauri.actions.preview import Preview
from agentauri.actions.queue import Queue
from agentauri.actions.types import (
    Action,
    Attempt,
    Delivery,
    DeliveryDetail,
    DeliveryDraft,
    DeliveryFilter,
    Json,
    Pair,
    Replay,
    Replayed,
    SettledEvent,
    TriggerFacts,
)
from agentauri.database import Transaction
from agentauri.errors import FieldError, Invalid
from agentauri.types import ActionId, ChainId, DeliveryId, EventSeq, OrganizationId, Page, Paged, TriggerId

_NOTHING: Mapping[str, int] = {}


class DeliveryService:
    """Writes and reads deliveries in the caller's transaction and tells the queue after its commit.

    Without a `preview`, details come without `rendered`.
    """

    def __init__(self, queue: Queue, preview: Preview | None = None) -> None:
        self._queue = queue
        self._preview = preview

    async def create(
        self,
        tx: Transaction,
        drafts: Sequence[DeliveryDraft],
        *,
        fresh: bool = False,
        reached: Mapping[str, int] = _NOTHING,
    ) -> int:
        """Write the deliveries that are not there yet and queue them after the commit; how many were new.

        Those that wait for a block which their chain has not `reached` are held.

        Those of environment `test` are kept as skipped. It is quicker where the caller knows that all are `fresh`.

        Raises:
            asyncpg.UniqueViolationError: one that was said to be fresh is there.
        """
        new = await store.insert(tx, drafts, fresh=fresh, reached=reached)
        self._push_later(tx, _interleaved(new.pending))
        tx.on_commit(lambda: _count(new.kinds))
        return new.kinds.total()

    async def hold_retracted(self, tx: Transaction, event_seqs: Collection[EventSeq]) -> int:
        """Keep what waits for these events from being sent until they are back or settled."""
        return await store.hold_retracted(tx, event_seqs)

    async def waiting_chains(self, tx: Transaction) -> list[ChainId]:
        """The chains on which any delivery waits until its event is deep enough."""
        return await depth.waiting_chains(tx)

    async def deep_chains(self, tx: Transaction, reached: Mapping[ChainId, Mapping[str, int]]) -> list[ChainId]:
        """Those of the chains on which any such delivery has waited long enough."""
        return await depth.due_chains(tx, reached)

    async def release(self, tx: Transaction, chain_id: ChainId, reached: Mapping[str, int], limit: int) -> bool:
        """Let go what has waited long enough, so many at most; whether there is more of it."""
        ids = await depth.due(tx, chain_id, reached, limit)
        if not ids:
            return False
        released, seen = await depth.release(tx, ids, reached)
        self._push_later(tx, _interleaved(released))
        return len(ids) == limit or len(seen) < len(ids)

    async def weigh(self, tx: Transaction, event_seqs: Collection[EventSeq], reached: Mapping[str, int]) -> None:
        """Count anew from the blocks where these events are now how long what waits for them has to wait."""
        self._push_later(tx, await depth.weigh(tx, event_seqs, reached))

    async def existing(self, tx: Transaction, events: Collection[SettledEvent]) -> dict[EventSeq, set[Pair]]:
        """Which (trigger, action) have a delivery for the event's present epoch, whatever the trigger's version."""
        facts = {event.seq: event for event in events}
        found: dict[EventSeq, set[Pair]] = {}
        for row in await store.matches_of(tx, events):
            if store.is_present(row, facts[row["event_seq"]]):
                found.setdefault(row["event_seq"], set()).add((row["trigger_id"], row["action_id"]))
        return found

    async def resume(self, tx: Transaction, reinstated: Mapping[EventSeq, Collection[Pair]]) -> int:
        """Let matches that were re-established go on where they were held. The others of these events are for
        `settle`, with these as `keep`."""
        ids = await store.resume(tx, reinstated)
        self._push_later(tx, ids)
        return len(ids)

    async def revive(
        self, tx: Transaction, events: Collection[SettledEvent], matched: Mapping[EventSeq, Collection[Pair]]
    ) -> int:
        """Let go on, under their old ids, matches that were skipped as void in the event's present epoch and are
        matches again: it moved more than once before it settled."""
        facts = {event.seq: event for event in events}
        ids = [
            row["id"]
            for row in await store.matches_of(tx, events)
            if (row["status"], row["reason"]) == ("skipped", "retracted")
            and (row["trigger_id"], row["action_id"]) in matched.get(row["event_seq"], ())
            and store.is_present(row, facts[row["event_seq"]])
        ]
        if ids:
            await store.revive(tx, ids)
            self._push_later(tx, ids)
        return len(ids)

    async def settle(
        self,
        tx: Transaction,
        events: Collection[SettledEvent],
        notify: Collection[TriggerId],
        keep: Mapping[EventSeq, Collection[Pair]] | None = None,
    ) -> set[EventSeq]:
        """Take it as real that the matches of these events, but for those to keep, are void: what waits is skipped, and
        what was delivered for a trigger in `notify` is followed by a retraction. An earlier epoch is history, but what
        waits of it, since it was delivered again, is skipped as well.

        An event with a delivery that is being sent just now is not among the answer: settle it again after the
        outcome.
        """
        facts = {event.seq: event for event in events}
        skipped, drafts, busy = [], [], set()
        for row in await store.matches_of(tx, events):
            event = facts[row["event_seq"]]
            if row["hold"] != "retraction" and not store.is_present(row, event):
                continue
            if keep is not None and (row["trigger_id"], row["action_id"]) in keep.get(event.seq, ()):
                continue
            if row["status"] == "pending" and row["claimed"]:
                busy.add(event.seq)
            elif row["status"] == "pending":
                skipped.append(row["id"])
            elif row["status"] == "delivered" and row["trigger_id"] in notify:
                drafts.append(_retraction(row, event))
        if busy:
            await store.hold_retracted(tx, busy)
        await store.skip(tx, skipped, "retracted")
        if drafts:
            await self.create(tx, drafts)
        return set(facts) - busy

    async def pause(self, tx: Transaction, trigger_id: TriggerId) -> int:
        """Show of the latest that they wait while the trigger is disabled; claims keep all of them from being sent."""
        return await store.pause(tx, await store.latest_pending(tx, trigger_id))

    async def unpause(self, tx: Transaction, trigger_id: TriggerId) -> int:
        """Let the latest go on whose trigger and action are enabled again. The dispatcher resumes older ones."""
        ids = await store.unpause(tx, store.LATEST, await store.latest_pending(tx, trigger_id))
        self._push_later(tx, ids)
        return len(ids)

    async def skip_pending(
        self, tx: Transaction, trigger_id: TriggerId, reason: str, action_ids: Collection[ActionId] | None = None
    ) -> int:
        """Give up the latest that wait, of some actions or of all, that are gone by now. What is older, or being sent
        just now, is given up when it is claimed."""
        return await store.skip_waiting(tx, await store.latest_pending(tx, trigger_id), reason, action_ids)

    async def held(self, tx: Transaction, trigger_id: TriggerId) -> int:
        """How many deliveries wait for the trigger's breaker."""
        return await store.held(tx, trigger_id)

    async def list(
        self, tx: Transaction, organization_id: OrganizationId | None, wanted: DeliveryFilter, page: Page
    ) -> Paged[Delivery]:
        """One page of the organization's deliveries; of everybody's where it is None, which is for operators.

        Raises:
            Invalid: the cursor belongs to another list.
        """
        tie = _tie(organization_id, wanted)
        records, total = await store.page(
            tx,
            organization_id,
            wanted,
            limit=page.limit + 1,
            offset=0 if page.cursor else page.offset,
            after=None if page.cursor is None else _read_cursor(page.cursor, tie),
        )
        more = len(records) > page.limit
        shown = [Delivery(**_shown(record)) for record in records[: page.limit]]
        return Paged(
            data=shown,
            total=min(total, store.COUNTED),
            has_more=more,
            next_cursor=_write_cursor(shown[-1].id, tie) if more else None,
            total_is_exact=total <= store.COUNTED,
        )

    async def get(self, tx: Transaction, organization_id: OrganizationId | None, id_: DeliveryId) -> DeliveryDetail:
        """One delivery with its attempts and what would be sent now.

        Raises:
            DeliveryNotFound: also where it is another organization's.
        """
        record = await store.one(tx, organization_id, id_)
        if record is None:
            raise DeliveryNotFound
        context = record["context"]
        return DeliveryDetail(
            **_shown(record),
            context=None if context is None else msgspec.json.decode(context, type=Json),
            rendered=None if self._preview is None else await self._preview.of(tx, record),
            attempt_log=[Attempt(**attempt) for attempt in await store.attempts_of(tx, id_)],
        )

    async def redeliver(self, tx: Transaction, organization_id: OrganizationId | None, id_: DeliveryId) -> Delivery:
        """Queue a finished delivery once more under its id; its attempts are kept, its schedule starts again.

        Raises:
            DeliveryNotFound, DeliveryPending
            EventRetracted: what it tells is not true any more.
            NotDeliverable: its action or event is gone, or it belongs to the test environment.
        """
        await replaying.lock_to_redeliver(tx, organization_id, id_)
        await store.revive(tx, [id_])
        self._push_later(tx, [id_])
        return await self._one(tx, id_)

    async def replay(self, tx: Transaction, organization_id: OrganizationId | None, wanted: Replay) -> Replayed:
        """Queue finished deliveries once more, oldest first: those of the organization that a filter describes.

        What may not be sent again is passed over and counted, so asking again goes on where this left off: with `same`
        because what was queued is finished no more, with `new` after `last`.
        """
        request_id = str(uuid4())
        rows, more = await replaying.select(tx, organization_id, wanted)
        last = rows[-1]["id"] if more else None
        refused = await replaying.refused(tx, organization_id, wanted, last)
        queued = len(rows)
        if wanted.mode == "same" and not wanted.dry_run:
            ids = [row["id"] for row in rows]
            await store.revive(tx, ids)
            self._push_later(tx, ids)
        elif not wanted.dry_run:
            now = await store.now(tx)
            queued = await self.create(tx, [replaying.as_new(row, request_id, now) for row in rows])
            refused["duplicate"] = len(rows) - queued
        return Replayed(request_id=request_id, queued=queued, refused=dict(+refused), last=last)

    async def send_test(
        self,
        tx: Transaction,
        organization_id: OrganizationId,
        trigger: TriggerFacts,
        action: Action,
        event: SettledEvent,
    ) -> Delivery:
        """Queue one real message to an action's target that tells of this event and says that it is a test. It is sent
        whether or not trigger and action are enabled."""
        draft = DeliveryDraft(
            organization_id=organization_id,
            trigger_id=trigger.id,
            trigger_version=trigger.version,
            environment="live",
            action_id=action.id,
            action_type=action.action_type,
            destination=action.destination,
            priority=action.priority,
            event_seq=event.seq,
            event_id=event.event_id,
            event_epoch=event.epoch,
            event_created_at=await store.now(tx),
            chain_id=event.chain_id,
            kind="test",
            request_id=str(uuid4()),
        )
        await self.create(tx, [draft])
        return await self._one(tx, store.id_of(draft))

    async def by_hold(self, tx: Transaction) -> dict[str, int]:
        """How many deliveries wait for what."""
        return await store.by_hold(tx)

    async def _one(self, tx: Transaction, id_: DeliveryId) -> Delivery:
        record = await store.one(tx, None, id_)
        assert record is not None
        return Delivery(**_shown(record))

    def _push_later(self, tx: Transaction, ids: Sequence[DeliveryId]) -> None:
        if ids:
            tx.on_commit(lambda: self._queue.push(ids))


def _interleaved(ids: Sequence[DeliveryId]) -> list[DeliveryId]:
    """By turns of the tenants' lanes, so that none of them is at the head alone."""
    lanes: dict[bytes, list[DeliveryId]] = {}
    for id_ in ids:
        lanes.setdefault(id_.bytes[6:8], []).append(id_)
    if len(lanes) < 2:
        return list(ids)
    return [id_ for id_ in chain.from_iterable(zip_longest(*lanes.values())) if id_ is not None]


def _count(kinds: Counter[str]) -> None:
    for kind, number in kinds.items():
        metrics.DELIVERIES_CREATED.labels(kind).inc(number)


def _retraction(row: asyncpg.Record, event: SettledEvent) -> DeliveryDraft:
    return DeliveryDraft(
        organization_id=row["organization_id"],
        trigger_id=row["trigger_id"],
        trigger_version=row["trigger_version"],
        environment=row["environment"],
        action_id=row["action_id"],
        action_type=row["action_type"],
        destination=row["destination"],
        priority=row["priority"],
        event_seq=event.seq,
        event_id=event.event_id,
        event_epoch=event.epoch,
        event_created_at=event.created_at,
        chain_id=event.chain_id,
        kind="retraction",
        context=None if row["context"] is None else row["context"].encode(),
        parent_id=row["id"],
    )


def _shown(record: asyncpg.Record) -> dict[str, Any]:
    """The wire fields of a row that was read with its event."""
    row = dict(record)
    event_id = row["event_id"] or ""
    shown = {name: row[name] for name in Delivery.__struct_fields__ if name in row}
    return shown | {
        "event_id": event_id,
        "agent_id": None if row["agent_id"] is None else str(int(row["agent_id"])),
        "correlation_id": correlation_id(row["trigger_id"], event_id),
    }


def _tie(organization_id: OrganizationId | None, wanted: DeliveryFilter) -> bytes:
    """Ties a cursor to its list; no secret, since a forged one shows nothing its forger could not ask for."""
    return sha256((organization_id or "").encode() + msgspec.json.encode(wanted)).digest()[:8]


def _write_cursor(id_: DeliveryId, tie: bytes) -> str:
    return base64.urlsafe_b64encode(id_.bytes + tie).decode()


def _read_cursor(cursor: str, tie: bytes) -> UUID:
    try:
        raw = base64.b64decode(cursor, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 24 or raw[16:] != tie:
        raise Invalid.fields(FieldError("query.cursor", "must be the next_cursor of a page of this same list"))
    return UUID(bytes=raw[:16])
