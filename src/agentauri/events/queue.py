"""The work that is left: one row for each event to evaluate, in arrival order per chain.

A row that waits for its first evaluation has no `due_at`. One that failed has, and gets rid of it when its time has
come; a parked one keeps it. So the lane index holds exactly what may be taken, and an empty poll reads an empty range.
Every function works in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from agentauri.database import Transaction, array
from agentauri.events.types import Audited, Depth, Event, Finished, Lane, select_list
from agentauri.log import get_logger
from agentauri.types import ChainId, EventId, EventSeq, TriggerId

log = get_logger(__name__)

RETRY_SECONDS = (1, 30, 300, 1800)
"""Wait after the 1st, 2nd, … failure of one event."""

ERROR_CHARACTERS = 1000

SETTLE_BLOCKS = 2
"""How far a chain must have gone beyond a retracted event's block before its absence is taken as real."""

SETTLE_SECONDS = 60
"""The same for a chain that nobody indexes."""

ABANDONED_HOURS = 24
"""A chain whose indexer has not said anything for so long is not indexed any more."""

SETTLED_AT_ONCE = 1000

COUNTED = 1_000_000
AUDITED_AT_ONCE = 50_000
AUDIT_MARGIN_SECONDS = 60
AUDIT_MARK = "audited_seq"


_BY_INDEX = "SET LOCAL enable_seqscan TO off; SET LOCAL enable_bitmapscan TO off; SET LOCAL enable_sort TO off"


class EventQueue:
    """`instance` is written into the ledger of what was processed."""

    def __init__(self, instance: str) -> None:
        self._instance = instance

    async def lanes(self, tx: Transaction, floor: int = 0) -> list[Lane]:
        """The chains with something to take at or above position `floor`.

        With a floor, an empty poll is cheap even while a transaction elsewhere keeps dead rows in the indexes. A late
        commit may bring a row below it: now and then, ask without one.
        """
        # A plan that was made while the table was empty would read it from end to end, with all that is dead in it.
        await tx.run(_BY_INDEX)
        # The recursion hops from chain to chain. Over the dead rows of a chain without living ones it would walk one by
        # one, so the primary key is asked first whether there is anything at all; ordered, lest the table be scanned.
        rows = await tx.fetch(
            """WITH RECURSIVE lane AS (
                   (SELECT chain_id, position FROM event_queue
                    WHERE due_at IS NULL AND position >= $1
                      AND (SELECT position FROM event_queue WHERE position >= $1 ORDER BY position LIMIT 1) IS NOT NULL
                    ORDER BY chain_id, position LIMIT 1)
                   UNION ALL
                   SELECT further.chain_id, further.position FROM lane CROSS JOIN LATERAL (
                       SELECT chain_id, position FROM event_queue
                       WHERE due_at IS NULL AND position >= $1 AND chain_id > lane.chain_id
                       ORDER BY chain_id, position LIMIT 1) AS further
               ) SELECT chain_id, position FROM lane""",
            floor,
        )
        return [Lane(*row) for row in rows]

    async def release_due(self, tx: Transaction) -> int | None:
        """Put failed rows whose wait is over back into their lanes; the lowest position among them."""
        lowest: int | None = await tx.fetchval(
            """WITH released AS (
                   UPDATE event_queue SET due_at = NULL
                   WHERE position IN (SELECT position FROM event_queue
                                      WHERE due_at <= clock_timestamp() AND parked_at IS NULL
                                      ORDER BY due_at LIMIT 1000 FOR UPDATE SKIP LOCKED)
                   RETURNING position
               ) SELECT min(position) FROM released"""
        )
        return lowest

    async def finish(self, tx: Transaction, rows: Sequence[Finished]) -> None:
        """Enter what was evaluated into the ledger and drop the queue rows.

        A repeated evaluation overwrites the counts of the one before; one for a single trigger adds to them. A
        retraction leaves the ledger alone.
        """
        positions = [row.position for row in rows]
        for adds in (False, True):
            entered = [row for row in rows if row.kind == "assert" and (row.trigger_id is not None) is adds]
            if entered:
                await self._enter(tx, entered, positions, adds=adds)
                positions = []
        if positions:
            await tx.run("DELETE FROM event_queue WHERE position = ANY($1::bigint[])", positions)

    async def _enter(self, tx: Transaction, rows: Sequence[Finished], dropped: Sequence[int], *, adds: bool) -> None:
        """One statement for all, so an event that was evaluated more than once is summed up first."""
        totals: dict[EventSeq, tuple[EventId, int, int, int, int]] = {}
        for row in rows:
            _, _, matched, enqueued, times = totals.get(row.event_seq, (row.event_id, 0, 0, 0, 0))
            if not adds:
                matched = enqueued = 0
            totals[row.event_seq] = (
                row.event_id,
                row.duration_ms,
                matched + row.triggers_matched,
                enqueued + row.actions_enqueued,
                times + 1,
            )
        ids, durations, matches, actions, evaluations = zip(*totals.values(), strict=True)
        await tx.run(
            """WITH dropped AS (DELETE FROM event_queue WHERE position = ANY($9::text::bigint[]))
               INSERT INTO processed_events AS known (event_seq, event_id, processing_duration_ms, triggers_matched,
                                                      actions_enqueued, evaluations, processor_instance)
               SELECT *, $7 FROM unnest($1::text::bigint[], $2::text::text[], $3::text::int[], $4::text::int[],
                                        $5::text::int[], $6::text::int[])
               ON CONFLICT (event_seq) DO UPDATE SET
                   processed_at = clock_timestamp(),
                   processing_duration_ms = excluded.processing_duration_ms,
                   triggers_matched = excluded.triggers_matched + CASE WHEN $8 THEN known.triggers_matched ELSE 0 END,
                   actions_enqueued = excluded.actions_enqueued + CASE WHEN $8 THEN known.actions_enqueued ELSE 0 END,
                   evaluations = known.evaluations + excluded.evaluations,
                   processor_instance = excluded.processor_instance""",
            array(totals), array(ids), array(durations), array(matches), array(actions), array(evaluations),
            self._instance, adds, array(dropped),
        )  # fmt: skip

    async def fail(
        self, tx: Transaction, positions: Collection[int], error: str, max_attempts: int
    ) -> list[tuple[int, EventSeq]]:
        """Count a failure of these rows, each on its own: they wait 1 s, 30 s, 5 min, 30 min, then they are parked.

        The positions and events that were parked now; logged once committed.
        """
        rows = await tx.fetch(
            """UPDATE event_queue SET
                   attempts = attempts + 1,
                   last_error = $2,
                   due_at = clock_timestamp()
                       + make_interval(secs => ($3::int[])[least(attempts + 1, cardinality($3))]),
                   parked_at = CASE WHEN attempts + 1 >= $4 THEN clock_timestamp() END
               WHERE position = ANY($1::bigint[])
               RETURNING position, event_seq, trigger_id, attempts, parked_at IS NOT NULL AS parked""",
            list(positions),
            error[:ERROR_CHARACTERS],
            list(RETRY_SECONDS),
            max_attempts,
        )
        parked = [row for row in rows if row["parked"]]

        def tell() -> None:
            for row in parked:
                log.error(
                    "event.parked",
                    code="EVENT_PARKED",
                    event_seq=row["event_seq"],
                    trigger_id=row["trigger_id"],
                    attempts=row["attempts"],
                    error=error[:ERROR_CHARACTERS],
                    remedy="agentauri events retry --parked",
                )

        if parked:
            tx.on_commit(tell)
        return [(row["position"], row["event_seq"]) for row in parked]

    async def requeue_pair(
        self,
        tx: Transaction,
        event_seq: EventSeq,
        chain_id: ChainId,
        trigger_id: TriggerId,
        error: str,
        *,
        returned: bool = False,
    ) -> None:
        """Give one event back for one trigger alone, as failed once; the event itself may be finished."""
        await tx.run(
            """INSERT INTO event_queue (event_seq, chain_id, kind, trigger_id, attempts, due_at, last_error, returned)
               VALUES ($1, $2, 'assert', $3, 1, clock_timestamp() + make_interval(secs => $4), $5, $6)""",
            event_seq,
            chain_id,
            trigger_id,
            RETRY_SECONDS[0],
            error[:ERROR_CHARACTERS],
            returned,
        )

    async def retry(self, tx: Transaction, *, event_id: EventId | None = None) -> int:
        """Put every parked row, or every failed one of `event_id`, back into its lane with a clean slate; how many."""
        which, *arguments = (
            ("parked_at IS NOT NULL",)
            if event_id is None
            else ("due_at IS NOT NULL AND event_seq = (SELECT seq FROM events WHERE id = $1)", event_id)
        )
        count = await tx.run(
            f"""UPDATE event_queue SET attempts = 0, due_at = NULL, parked_at = NULL, last_error = NULL
                WHERE {which}""",  # noqa: S608 (our own words)
            *arguments,
        )
        if count:
            await tx.run("SELECT pg_notify('new_event', '')")
        return count

    async def unsettled(self, tx: Transaction, chain_id: ChainId) -> list[Event]:
        """Retracted events of a chain whose absence is to be taken as real by now, a thousand at most; locked.

        What somebody else is writing just now is left out: it may be coming back.
        Once its indexer has taken back everything, to read another chain under that number, that is all of its events.
        """
        rows = await tx.fetch(
            f"""SELECT {select_list("e")} FROM events e LEFT JOIN checkpoints c USING (chain_id)
                WHERE e.chain_id = $1 AND e.retracted_at IS NOT NULL AND e.settled_at IS NULL
                  AND CASE WHEN c.last_block_number >= 0
                           AND c.updated_at > clock_timestamp() - make_interval(hours => $4)
                      THEN c.last_block_number >= e.block_number + $3
                      ELSE (c.last_block_number < 0 AND e.origin = 'chain')
                           OR e.retracted_at <= clock_timestamp() - make_interval(secs => $2) END
                ORDER BY e.seq LIMIT $5 FOR NO KEY UPDATE OF e SKIP LOCKED""",  # noqa: S608 (our own column names)
            chain_id,
            SETTLE_SECONDS,
            SETTLE_BLOCKS,
            ABANDONED_HOURS,
            SETTLED_AT_ONCE,
        )
        return [Event.from_row(row) for row in rows]

    async def mark_settled(self, tx: Transaction, seqs: Collection[EventSeq]) -> None:
        """From now on these retracted events would come back in a new epoch."""
        await tx.run(
            "UPDATE events SET settled_at = now() WHERE seq = ANY($1::bigint[]) AND retracted_at IS NOT NULL",
            list(seqs),
        )

    async def audit(self, tx: Transaction) -> Audited:
        """Queue stored events that neither the queue nor the ledger knows: their writer bypassed the triggers.

        Looks at what was stored since the last audit, the last minute aside, and at so many rows at most; `complete`
        says whether that was all. What it queues is logged once committed.
        """
        since: int = await tx.fetchval("SELECT value FROM pipeline_marks WHERE name = $1 FOR UPDATE", AUDIT_MARK) or 0
        seen = await tx.fetchrow(
            """SELECT max(seq) AS until, count(*) AS events FROM (
                   SELECT seq FROM events WHERE seq > $1 AND created_at < now() - make_interval(secs => $2)
                   ORDER BY seq LIMIT $3) AS seen""",
            since,
            AUDIT_MARGIN_SECONDS,
            AUDITED_AT_ONCE,
        )
        assert seen is not None
        if (until := seen["until"]) is None:
            return Audited([], complete=True)
        rows = await tx.fetch(
            """INSERT INTO event_queue (event_seq, chain_id, kind)
               SELECT seq, chain_id, 'assert' FROM events e
               WHERE seq > $1 AND seq <= $2
                 AND NOT EXISTS (SELECT FROM processed_events p WHERE p.event_seq = e.seq)
                 AND NOT EXISTS (SELECT FROM event_queue q WHERE q.event_seq = e.seq)
               ORDER BY seq RETURNING event_seq""",
            since,
            until,
        )
        await tx.run(
            """INSERT INTO pipeline_marks (name, value) VALUES ($1, $2)
               ON CONFLICT (name) DO UPDATE SET value = excluded.value""",
            AUDIT_MARK,
            until,
        )
        missed = [EventSeq(row["event_seq"]) for row in rows]
        if missed:
            tx.on_commit(
                lambda: log.error("event.requeued", code="EVENT_REQUEUED", events=len(missed), first_seq=missed[0])
            )
        return Audited(missed, complete=seen["events"] < AUDITED_AT_ONCE)

    async def depth(self, tx: Transaction) -> Depth:
        """How much waits, for gauges and watchdogs; counted up to a million, to bound its price."""
        row = await tx.fetchrow(
            """SELECT (SELECT count(*) FROM (SELECT FROM event_queue WHERE parked_at IS NULL LIMIT $1) AS counted)
                          AS waiting,
                      (SELECT count(*) FROM (SELECT FROM event_queue WHERE parked_at IS NOT NULL LIMIT $1) AS counted)
                          AS parked,
                      (SELECT extract(epoch FROM clock_timestamp() - e.created_at)::float
                       FROM event_queue q JOIN events e ON e.seq = q.event_seq
                       WHERE q.due_at IS NULL ORDER BY q.position LIMIT 1) AS oldest""",
            COUNTED,
        )
        assert row is not None
        return Depth(waiting=row["waiting"], parked=row["parked"], oldest_seconds=max(row["oldest"] or 0.0, 0.0))
