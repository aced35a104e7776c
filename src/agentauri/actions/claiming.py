"""Transaction C: which of the leased deliveries are ours to send now, and what becomes of the others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter

import asyncpg
from msgspec import Struct, field

from agentauri import metrics
from agentauri.actions import claims
from agentauri.actions.channels import Pace, Prepared
from agentauri.actions.claims import Refusal
from agentauri.actions.configuration import ActionService, Ready
from agentauri.actions.destinations import Destinations
from agentauri.actions.errors import DeliveryFailed
from agentauri.actions.message import Message, compose
from agentauri.actions.queue import Due
from agentauri.actions.types import ChainLabel, LoadSubjects, Subjects, TriggerFacts
from agentauri.breaker import BreakerService
from agentauri.config import DispatcherConfig
from agentauri.database import Transaction
from agentauri.log import get_logger
from agentauri.types import ActionId, ChainId, DeliveryId

log = get_logger(__name__)

LOOK_AGAIN_MS = 1000
TOLD_OF_RETRACTED = frozenset({"retraction", "test"})
"""Kinds that are sent although their event is not on the chain."""


class Waiting(Struct, frozen=True, kw_only=True):
    """A delivery that finds no room now, or whose channel keeps to a pace and has to ask first. `crowd` is whom it
    waits with; they go one each `interval` seconds. Once it is its turn, it keeps to the paces in `then`."""

    id: DeliveryId
    crowd: str
    interval: float
    paced: bool = False
    then: tuple[Pace, ...] = ()

    @classmethod
    def turn(cls, id_: DeliveryId, paces: tuple[Pace, ...]) -> Waiting:
        first, *then = paces
        return cls(id=id_, crowd=first.key, interval=first.interval, paced=True, then=tuple(then))


class Others(Struct, frozen=True):
    """What else waits to be sent: work of other organizations, work that is not for slow destinations."""

    of_others: bool
    faster: bool


class Send(Struct, frozen=True, kw_only=True):
    """A claimed delivery. `target` is where it has taken a slot, None where it cannot be sent at all."""

    message: Message
    action_type: str
    prepared: Prepared | DeliveryFailed
    target: str | None
    claim_seconds: float

    @property
    def id(self) -> DeliveryId:
        return self.message.delivery_id


class Claimed(Struct):
    """What to send, which ids the queue may forget, which it should bring again and when, and which wait for a turn.
    `sends` have taken slots, also while it is still being decided which of them may go."""

    sends: list[Send] = field(default_factory=list)
    forget: list[str] = field(default_factory=list)
    later: list[Due] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    now: int = 0
    refused: bool = False
    """Open breakers refused all of it."""


class Claimer:
    """Decides over a batch inside the caller's transaction."""

    def __init__(
        self,
        *,
        actions: ActionService,
        breakers: BreakerService,
        load_subjects: LoadSubjects,
        chains: Mapping[ChainId, ChainLabel],
        destinations: Destinations,
        config: DispatcherConfig,
        instance: str,
    ) -> None:
        self._actions = actions
        self._breakers = breakers
        self._load_subjects = load_subjects
        self._chains = chains
        self._destinations = destinations
        self._config = config
        self._instance = instance

    @contextmanager
    def batch(self) -> Iterator[Claimed]:
        """What one transaction is to claim. Unless it is committed, the room that it took is free again."""
        claimed = Claimed()
        try:
            yield claimed
        except BaseException:
            for send in claimed.sends:
                self.give_back(send)
            raise

    async def claim(
        self,
        tx: Transaction,
        claimed: Claimed,
        ids: Sequence[DeliveryId],
        is_busy: Callable[[DeliveryId], bool],
        *,
        permitted: Collection[DeliveryId] = (),
        contended: bool = False,
    ) -> None:
        """Claim what may go. `is_busy` tells those that this process is sending, `permitted` are those whose action's
        rate lets them go now; `contended` says that more than one organization waits, whoever is in this batch."""
        rows = await claims.lock_for_claim(tx, ids)
        await self._sort_out_missing(tx, ids, rows, claimed)
        if not rows:
            return
        claimed.now = rows[0]["now"]
        rows = [row for row in rows if self._is_ours(row, is_busy, claimed)]
        if not rows:
            return
        rows = _by_turns(rows)
        if lapsed := [row for row in rows if row["tried"]]:
            await claims.note_abandoned(tx, lapsed)
            _report_abandoned(tx, lapsed)
        subjects = await self._load_subjects(
            tx, {row["event_seq"] for row in rows}, {row["trigger_id"] for row in rows}
        )
        ready = await self._actions.to_send(tx, {row["action_id"] for row in rows})
        retracted = [row["parent_id"] for row in rows if row["kind"] == "retraction"]
        receipts = await claims.receipts(tx, retracted) if retracted else {}
        others = self._others(rows, ready, contended)
        refusals: list[Refusal] = []
        for row in rows:
            receipt = receipts.get(row["parent_id"])
            verdict = self._consider(row, subjects, ready.get(row["action_id"]), permitted, others, receipt)
            match verdict:
                case Refusal():
                    claimed.forget.append(str(verdict.id))
                    refusals.append(verdict)
                case Waiting():
                    claimed.waiting.append(verdict)
                case Send():
                    claimed.sends.append(verdict)
        await self._admit(tx, claimed, refusals)
        await self._write(tx, claimed, refusals)

    async def _sort_out_missing(
        self, tx: Transaction, ids: Sequence[DeliveryId], rows: Sequence[asyncpg.Record], claimed: Claimed
    ) -> None:
        if len(rows) == len(ids):
            return
        missing = list(set(ids).difference(row["id"] for row in rows))
        locked = await claims.existing(tx, missing)
        now = await claims.now_ms(tx)
        claimed.later += [(str(id_), now + LOOK_AGAIN_MS) for id_ in locked]
        claimed.now = now
        if unknown := [str(id_) for id_ in missing if id_ not in locked]:
            claimed.forget += unknown
            report_unknown(unknown)

    def _is_ours(self, row: asyncpg.Record, is_busy: Callable[[DeliveryId], bool], claimed: Claimed) -> bool:
        """Pending, not held, due, and nobody's. A claim of our own that we are not sending was lost with its commit's
        answer; nobody else will take it up before it lapses."""
        taken = row["taken"] and (row["lease_owner"] != self._instance or is_busy(row["id"]))
        if row["status"] != "pending" or row["hold"] is not None or taken:
            claimed.forget.append(str(row["id"]))
            return False
        if row["due"] > row["now"]:
            self._later(claimed, row, row["due"])
            return False
        return True

    def _later(self, claimed: Claimed, row: asyncpg.Record, due: int) -> None:
        if due - row["now"] > self._config.horizon * 1000:
            claimed.forget.append(str(row["id"]))  # the sweep brings it when its time is near
        else:
            claimed.later.append((str(row["id"]), due))

    def _others(self, rows: Sequence[asyncpg.Record], ready: Mapping[ActionId, Ready], contended: bool) -> Others:
        targets = {one.prepared.target for one in ready.values() if not isinstance(one.prepared, DeliveryFailed)}
        return Others(
            of_others=contended or len({row["organization_id"] for row in rows}) > 1,
            faster=not all(map(self._destinations.is_slow, targets)),
        )

    def _consider(
        self,
        row: asyncpg.Record,
        subjects: Subjects,
        ready: Ready | None,
        permitted: Collection[DeliveryId],
        others: Others,
        retracts: str | None,
    ) -> Send | Waiting | Refusal:
        """A send, or why not, or not yet."""
        trigger = subjects.triggers.get(row["trigger_id"])
        event = subjects.events.get(row["event_seq"])
        if (refusal := self._obstacle(row, trigger, event, ready)) is not None:
            return refusal
        assert trigger is not None and event is not None and ready is not None  # noqa: PT018
        prepared = ready.prepared
        target, timeout = None, 0.0
        if not isinstance(prepared, DeliveryFailed):
            target, timeout = prepared.target, prepared.timeout
            if prepared.paces and row["id"] not in permitted:
                return Waiting.turn(row["id"], prepared.paces)
            if not self._destinations.enter(
                target, row["organization_id"], others=others.of_others, faster=others.faster
            ):
                crowd = f"{row['organization_id']} {target}"
                return Waiting(id=row["id"], crowd=crowd, interval=self._destinations.interval(target))
        return Send(
            message=compose(row, event, trigger, self._chains.get(row["chain_id"]), row["attempts"] + 1, retracts),
            action_type=ready.action_type,
            prepared=prepared,
            target=target,
            claim_seconds=timeout + claims.CLAIM_MARGIN,
        )

    def _obstacle(
        self,
        row: asyncpg.Record,
        trigger: TriggerFacts | None,
        event: Mapping[str, object] | None,
        ready: Ready | None,
    ) -> Refusal | None:
        if trigger is None or event is None:
            return Refusal(row["id"], "skipped", "trigger_deleted")
        if ready is None:
            return Refusal(row["id"], "skipped", "action_deleted")
        if event.get("retracted_at") is not None and row["kind"] not in TOLD_OF_RETRACTED:
            return Refusal(row["id"], hold="retraction")
        if row["release_block"] is not None and _has_risen(row, event):
            return Refusal(row["id"], hold="depth")
        if not (trigger.enabled and ready.enabled) and row["kind"] != "test":
            return Refusal(row["id"], hold="paused")
        if row["attempts"] - row["schedule_from"] > len(self._config.retry_schedule):
            return Refusal(row["id"], "dead", "attempts_exhausted")
        return None

    async def _admit(self, tx: Transaction, claimed: Claimed, refusals: list[Refusal]) -> None:
        """Ask the breakers, and refuse what they refuse, the youngest first."""
        candidates = claimed.sends
        waiting: defaultdict[str, list[Send]] = defaultdict(list)
        for send in candidates:
            waiting[send.message.trigger.id].append(send)
        admissions = await self._breakers.admit(
            tx,
            {sends[0].message.trigger.id: (sends[0].message.trigger.breaker, len(sends)) for sends in waiting.values()},
        )
        refused: set[DeliveryId] = set()
        for sends in waiting.values():
            trigger = sends[0].message.trigger
            admission = admissions[trigger.id]
            for send in sends[admission.go :]:
                refused.add(send.id)
                if admission.busy:
                    claimed.later.append((str(send.id), claimed.now + LOOK_AGAIN_MS))
                    continue
                claimed.forget.append(str(send.id))
                refusals.append(
                    Refusal(send.id, "skipped", "breaker_open")
                    if trigger.on_open == "skip"
                    else Refusal(send.id, hold="breaker")
                )
        if refused:
            claimed.sends = [send for send in candidates if send.id not in refused]
            for send in candidates:
                if send.id in refused:
                    self.give_back(send)
        claimed.refused = bool(candidates) and not claimed.sends

    def give_back(self, send: Send) -> None:
        """Free the slot of a send that does not begin."""
        if send.target is not None:
            self._destinations.unused(send.target, send.message.organization_id)

    async def _write(self, tx: Transaction, claimed: Claimed, refusals: Sequence[Refusal]) -> None:
        if refusals:
            await claims.refuse(tx, refusals)
            ended = Counter(refusal.status for refusal in refusals if refusal.status != "pending")
            for status, count in ended.items():
                metrics.DELIVERIES_FINISHED.labels(status, "none").inc(count)
        if claimed.sends:
            await claims.claim(
                tx,
                [send.id for send in claimed.sends],
                [send.claim_seconds for send in claimed.sends],
                self._instance,
            )


def _by_turns(rows: Sequence[asyncpg.Record]) -> list[asyncpg.Record]:
    """The organizations by turns, each in the order of its due times, and within one event of priorities: where they
    share a destination, they share its slots."""
    turns: Counter[str] = Counter()
    ranked = []
    for row in sorted(rows, key=lambda row: (row["due"], row["event_seq"], row["priority"])):
        ranked.append((turns[row["organization_id"]], row))
        turns[row["organization_id"]] += 1
    ranked.sort(key=itemgetter(0))
    return [row for _, row in ranked]


def _has_risen(row: asyncpg.Record, event: Mapping[str, object]) -> bool:
    """Whether a reorg has moved the event up since the delivery was found to be deep enough."""
    return int(str(event["block_number"])) + (row["release_depth"] or 0) > int(row["release_block"])


def report_unknown(ids: Sequence[str]) -> None:
    """Somebody else's ids, or those of deliveries past their retention, in the list."""
    log.warning("queue.unknown_id", code="QUEUE_UNKNOWN_ID", count=len(ids), ids=[id_[:36] for id_ in ids[:5]])


def _report_abandoned(tx: Transaction, rows: Sequence[asyncpg.Record]) -> None:
    def report() -> None:
        for row in rows:
            metrics.DELIVERY_ATTEMPTS.labels(row["action_type"], "abandoned").inc()
            log.error(
                "delivery.attempted",
                trigger_id=row["trigger_id"],
                delivery_id=str(row["id"]),
                organization_id=row["organization_id"],
                channel=row["action_type"],
                attempt=row["attempts"],
                outcome="abandoned",
                error="the claim lapsed without an outcome",
                instance=row["lease_owner"],
            )

    tx.on_commit(report)
