"""SQL of what conditions remember: one statement for all keys of a batch, whatever they are of.

A key is (trigger, leaf, scope). Rows of one key are only written under a lock on its row in `trigger_state`. Keys are
given in order, the same everywhere, and locked one by one in that order, so that nobody waits in a circle.
"""

# ruff: noqa: S608 (all that is put into these statements are our own words)

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

from agentauri.database import Transaction, array
from agentauri.triggers.state.folding import ZERO, Ask, Sample, Tally
from agentauri.types import ChainId, EventSeq

Key = tuple[str, int, str]

_KEY = ("text", "int", "text")


def _given(*types: str, first: int = 1) -> str:
    """Rows of these types, given as the columns that `_columns` makes, from parameter `first` on."""
    return "unnest(" + ", ".join(f"${place}::text::{name}[]" for place, name in enumerate(types, first)) + ")"


_KEYS = _given(*_KEY)


class Kept(NamedTuple):
    """A row of `trigger_state`: its JSON, the event that wrote it, the latest time of any."""

    state: str
    seq: EventSeq
    time: int


class Undo(NamedTuple):
    """A row of `state_undo`: how it was before one event, and what the event brought."""

    chain_id: ChainId
    block_number: int
    event_seq: EventSeq
    key: Key
    before: str | None
    input: str


class History(NamedTuple):
    """A row of `state_undo` on reading back; `undone` that its event is taken back by now."""

    id: int
    key: Key
    event_seq: EventSeq
    before: str | None
    input: str
    undone: bool


class Wanted(NamedTuple):
    """The samples of a key from a time on, that count and come before a place at another: the first `most`."""

    key: Key
    first: int
    time: int
    place: Decimal
    most: int


class Timer(NamedTuple):
    """A row of `timers`: one event of a key waits until `due_time` for another that must not come."""

    chain_id: ChainId
    due_time: int
    event_seq: EventSeq
    trigger_version: int
    key: Key
    context: str | None


def _columns(rows: Iterable[Sequence[object]], width: int) -> list[str]:
    columns = [array(column) for column in zip(*rows, strict=True)]
    return columns or ["{}"] * width


async def claim(tx: Transaction, keys: Collection[Key]) -> None:
    """Make rows for keys that several lanes write, so that the second to come waits for the first."""
    await tx.run(
        f"""INSERT INTO trigger_state (trigger_id, leaf_id, scope_key, state)
            SELECT *, 'null' FROM {_KEYS} AS k (trigger_id, leaf_id, scope_key)
            ON CONFLICT DO NOTHING""",
        *_columns(keys, 3),
    )


async def lock(tx: Transaction, keys: Collection[Key]) -> dict[Key, Kept]:
    """What is remembered under these keys, locked."""
    rows = await tx.fetch(
        f"""SELECT kept.* FROM {_KEYS} AS k (trigger_id, leaf_id, scope_key)
            CROSS JOIN LATERAL (
                SELECT s.trigger_id, s.leaf_id, s.scope_key, s.state::text, s.last_event_seq, s.last_event_time
                FROM trigger_state s
                WHERE s.trigger_id = k.trigger_id AND s.leaf_id = k.leaf_id AND s.scope_key = k.scope_key
                FOR UPDATE) AS kept""",
        *_columns(keys, 3),
    )
    return {(row[0], row[1], row[2]): Kept(row[3], row[4], row[5]) for row in rows if row[4] is not None}


def _keeping(first: int = 1) -> str:
    return f"""INSERT INTO trigger_state (trigger_id, leaf_id, scope_key, state, last_event_seq, last_event_time)
           SELECT * FROM {_given(*_KEY, "jsonb", "bigint", "bigint", first=first)}
           ON CONFLICT (trigger_id, leaf_id, scope_key) DO UPDATE SET state = excluded.state, updated_at = now(),
               last_event_seq = excluded.last_event_seq, last_event_time = excluded.last_event_time"""


def _taking(first: int = 1) -> str:
    # By their places, found key by key: a plan made while the table was empty would begin with all of it.
    return f"""UPDATE window_samples w SET consumed_by = found.seq
           FROM {_given(*_KEY, "bigint", "bigint", "bigint", first=first)}
               AS k (trigger_id, leaf_id, scope_key, event_time, event_seq, seq)
           CROSS JOIN LATERAL (
               SELECT o.ctid AS place, k.seq FROM window_samples o
               WHERE o.trigger_id = k.trigger_id AND o.leaf_id = k.leaf_id AND o.scope_key = k.scope_key
                 AND o.event_time = k.event_time AND o.event_seq = k.event_seq LIMIT 1) AS found
           WHERE w.ctid = found.place"""


def _taken(rows: Iterable[tuple[Key, Sample]]) -> list[str]:
    return _columns([(*key, one.time, one.seq, one.consumed_by) for key, one in rows], 6)


async def write(tx: Transaction, rows: Sequence[tuple[Key, Kept]]) -> None:
    await tx.run(_keeping(), *_columns([(*key, *kept) for key, kept in rows], 6))


_PUT = f"""
    WITH kept AS ({_keeping()}), taken AS ({_taking(14)}), sampled AS (
        INSERT INTO window_samples (trigger_id, leaf_id, scope_key, event_time, event_seq, value, consumed_by)
        SELECT * FROM {_given(*_KEY, "bigint", "bigint", "numeric", "bigint", first=7)} ON CONFLICT DO NOTHING
    ) INSERT INTO state_undo (chain_id, block_number, event_seq, trigger_id, leaf_id, scope_key, before, input)
    SELECT * FROM {_given("bigint", "bigint", "bigint", *_KEY, "jsonb", "jsonb", first=20)}"""


async def put(
    tx: Transaction,
    kept: Sequence[tuple[Key, Kept]],
    samples: Sequence[tuple[Key, Sample]],
    taken: Sequence[tuple[Key, Sample]],
    undo: Sequence[Undo],
) -> None:
    """What a batch leaves, in one statement: states, new samples, stored samples that are consumed now, and how to undo
    all of it, under ids in the order of the rows."""
    await tx.run(
        _PUT,
        *_columns([(*key, *one) for key, one in kept], 6),
        *_columns([(*key, *one) for key, one in samples], 7),
        *_taken(taken),
        *_columns([(*one[:3], *one.key, one.before, one.input) for one in undo], 8),
    )


async def forget(tx: Transaction, keys: Collection[Key]) -> None:
    await tx.run(
        f"""DELETE FROM trigger_state s USING {_KEYS} AS k (trigger_id, leaf_id, scope_key)
            WHERE s.trigger_id = k.trigger_id AND s.leaf_id = k.leaf_id AND s.scope_key = k.scope_key""",
        *_columns(keys, 3),
    )


async def tallies(tx: Transaction, asks: Sequence[tuple[Key, str, Ask]]) -> list[Tally]:
    """The samples of windows that count, summed up as their kinds need it."""
    rows = await tx.fetch(
        f"""SELECT ask.place, summed.*
           FROM {_given(*_KEY, "text", "bigint", "bigint", "bigint")}
               WITH ORDINALITY AS ask (trigger_id, leaf_id, scope_key, kind, first, last, most, place)
           CROSS JOIN LATERAL (
               SELECT count(*) AS number, sum(value) FILTER (WHERE ask.kind IN ('sum', 'avg')) AS total,
                      CASE ask.kind WHEN 'min' THEN min(ARRAY[value, -event_time]) FILTER (WHERE ask.kind = 'min')
                                    WHEN 'max' THEN max(ARRAY[value, event_time]) FILTER (WHERE ask.kind = 'max')
                      END AS extreme
               FROM (SELECT value, event_time FROM window_samples w
                     WHERE w.trigger_id = ask.trigger_id AND w.leaf_id = ask.leaf_id AND w.scope_key = ask.scope_key
                       AND event_time BETWEEN ask.first AND ask.last AND consumed_by IS NULL
                     ORDER BY event_time DESC, event_seq DESC LIMIT ask.most) AS within) AS summed""",
        *_columns([(*key, kind, *ask) for key, kind, ask in asks], 7),
    )
    found = []
    for _, number, total, extreme in sorted(rows, key=lambda row: int(row[0])):
        value, at = extreme or (None, 0)
        found.append(Tally(number, ZERO if total is None else total, value, abs(int(at))))
    return found


async def oldest(tx: Transaction, wanted: Sequence[tuple[Key, int, int]]) -> dict[Key, list[Sample]]:
    """The first samples that count of each key, from a time on and at most so many, in order."""
    rows = await tx.fetch(
        f"""SELECT k.trigger_id, k.leaf_id, k.scope_key, first.*
           FROM {_given(*_KEY, "bigint", "bigint")}
               AS k (trigger_id, leaf_id, scope_key, since, most)
           CROSS JOIN LATERAL (
               SELECT event_time, event_seq, value FROM window_samples w
               WHERE w.trigger_id = k.trigger_id AND w.leaf_id = k.leaf_id AND w.scope_key = k.scope_key
                 AND event_time >= k.since AND consumed_by IS NULL
               ORDER BY event_time, event_seq LIMIT k.most) AS first""",
        *_columns([(*key, since, most) for key, since, most in wanted], 5),
    )
    found: dict[Key, list[Sample]] = {}
    for row in rows:
        found.setdefault((row[0], row[1], row[2]), []).append(Sample(row[3], row[4], row[5]))
    return found


async def begun(tx: Transaction, wanted: Sequence[Wanted]) -> list[tuple[Key, Sample]]:
    """The samples that are wanted, in no order, and some more than once."""
    rows = await tx.fetch(
        f"""SELECT k.trigger_id, k.leaf_id, k.scope_key, begun.*
           FROM {_given(*_KEY, "bigint", "bigint", "numeric", "bigint")}
               AS k (trigger_id, leaf_id, scope_key, first, time, place, most)
           CROSS JOIN LATERAL (
               SELECT event_time, event_seq, value FROM window_samples w
               WHERE w.trigger_id = k.trigger_id AND w.leaf_id = k.leaf_id AND w.scope_key = k.scope_key
                 AND event_time BETWEEN k.first AND k.time AND consumed_by IS NULL
                 AND (event_time < k.time OR value < k.place)
               ORDER BY event_time, value, event_seq LIMIT k.most) AS begun""",
        *_columns([(*one.key, *one[1:]) for one in wanted], 7),
    )
    return [((row[0], row[1], row[2]), Sample(row[3], row[4], row[5])) for row in rows]


async def set_timers(tx: Transaction, timers: Sequence[Timer]) -> None:
    await tx.run(
        f"""INSERT INTO timers (chain_id, due_time, event_seq, trigger_version, context, trigger_id, leaf_id, scope_key)
           SELECT * FROM {_given("bigint", "bigint", "bigint", "int", "jsonb", *_KEY)} ON CONFLICT DO NOTHING""",
        *_columns([(*one[:4], one.context, *one.key) for one in timers], 8),
    )


async def cancel_timers(tx: Transaction, spans: Sequence[tuple[Key, int, int, int]]) -> None:
    """Let those timers of a key that are due from one time to another be cancelled by what came while they ran, a span
    of seconds."""
    await tx.run(
        f"""UPDATE timers t SET cancelled_by = came.by FROM (
               SELECT o.id, (SELECT event_seq FROM window_samples w
                             WHERE w.trigger_id = o.trigger_id AND w.leaf_id = o.leaf_id AND w.scope_key = o.scope_key
                               AND event_time > o.due_time - k.span AND event_time <= o.due_time
                             ORDER BY event_time, event_seq LIMIT 1) AS by
               FROM {_given(*_KEY, "bigint", "bigint", "bigint")}
                   AS k (trigger_id, leaf_id, scope_key, span, first, last)
               JOIN timers o ON o.trigger_id = k.trigger_id AND o.leaf_id = k.leaf_id AND o.scope_key = k.scope_key
                   AND o.due_time BETWEEN k.first AND k.last AND o.cancelled_by IS NULL) AS came
           WHERE t.id = came.id AND came.by IS NOT NULL""",
        *_columns([(*key, *rest) for key, *rest in spans], 6),
    )


async def revive_timers(tx: Transaction, gone: Sequence[tuple[Key, int, EventSeq]]) -> None:
    """Events that are gone, of keys with their spans, have set no timers, and cancelled none."""
    rows = _columns([(*key, span, seq) for key, span, seq in gone], 5)
    given = f"{_given(*_KEY, 'bigint', 'bigint')} AS k (trigger_id, leaf_id, scope_key, span, seq)"
    same = "t.trigger_id = k.trigger_id AND t.leaf_id = k.leaf_id AND t.scope_key = k.scope_key"
    await tx.run(f"DELETE FROM timers t USING {given} WHERE {same} AND t.event_seq = k.seq", *rows)
    revived = await tx.fetch(
        f"""UPDATE timers t SET cancelled_by = NULL FROM {given} WHERE {same} AND t.cancelled_by = k.seq
           RETURNING t.trigger_id, t.leaf_id, t.scope_key, k.span, t.due_time""",
        *rows,
    )
    if revived:
        await cancel_timers(tx, [((row[0], row[1], row[2]), row[3], row[4], row[4]) for row in revived])


async def consume(
    tx: Transaction, consumers: Sequence[tuple[Key, EventSeq]], sparing: Collection[EventSeq] = ()
) -> None:
    """Let every sample of a key that counts be consumed by an event, but for those of the events to spare."""
    await tx.run(
        f"""UPDATE window_samples w SET consumed_by = k.seq
           FROM {_given(*_KEY, "bigint")} AS k (trigger_id, leaf_id, scope_key, seq)
           WHERE w.trigger_id = k.trigger_id AND w.leaf_id = k.leaf_id AND w.scope_key = k.scope_key
             AND w.consumed_by IS NULL AND w.event_seq <> ALL($5::bigint[])""",
        *_columns([(*key, seq) for key, seq in consumers], 4),
        list(sparing),
    )


async def evict(tx: Transaction, rows: Sequence[tuple[Key, Sample]]) -> None:
    """Note of these samples by which event they are consumed."""
    await tx.run(_taking(), *_taken(rows))


async def release(tx: Transaction, rows: Sequence[tuple[Key, EventSeq]]) -> None:
    """Let samples count again that an event had consumed."""
    await tx.run(
        f"""UPDATE window_samples w SET consumed_by = NULL
           FROM {_given(*_KEY, "bigint")} AS k (trigger_id, leaf_id, scope_key, seq)
           WHERE w.trigger_id = k.trigger_id AND w.leaf_id = k.leaf_id AND w.scope_key = k.scope_key
             AND w.consumed_by = k.seq""",
        *_columns([(*key, seq) for key, seq in rows], 4),
    )


async def drop_samples(tx: Transaction, rows: Sequence[tuple[Key, int, EventSeq]]) -> None:
    await tx.run(
        f"""DELETE FROM window_samples w
           USING {_given(*_KEY, "bigint", "bigint")}
               AS k (trigger_id, leaf_id, scope_key, event_time, event_seq)
           WHERE w.trigger_id = k.trigger_id AND w.leaf_id = k.leaf_id AND w.scope_key = k.scope_key
             AND w.event_time = k.event_time AND w.event_seq = k.event_seq""",
        *_columns([(*key, time, seq) for key, time, seq in rows], 5),
    )


async def sampled(tx: Transaction, rows: Sequence[tuple[Key, int, EventSeq]]) -> set[tuple[EventSeq, Key]]:
    """Which of these samples exist."""
    found = await tx.fetch(
        f"""SELECT w.event_seq, w.trigger_id, w.leaf_id, w.scope_key
           FROM {_given(*_KEY, "bigint", "bigint")}
               AS k (trigger_id, leaf_id, scope_key, event_time, event_seq)
           JOIN window_samples w USING (trigger_id, leaf_id, scope_key, event_time, event_seq)""",
        *_columns([(*key, time, seq) for key, time, seq in rows], 5),
    )
    return {(row[0], (row[1], row[2], row[3])) for row in found}


async def recorded(tx: Transaction, seqs: Collection[EventSeq]) -> dict[tuple[EventSeq, Key], str]:
    """What these events brought to which keys, as far as that can still be undone."""
    rows = await tx.fetch(
        """SELECT event_seq, trigger_id, leaf_id, scope_key, input FROM state_undo
           WHERE event_seq = ANY($1::bigint[])""",
        list(seqs),
    )
    return {(row[0], (row[1], row[2], row[3])): row[4] for row in rows}


async def history(tx: Transaction, seqs: Collection[EventSeq]) -> list[History]:
    """All that happened to the keys of these events since the first of them, by key and in order.

    Whatever has been taken back since then counts as undone, so that a long fork is folded once, not once a batch.
    """
    rows = await tx.fetch(
        """WITH touched AS (
               SELECT trigger_id, leaf_id, scope_key, min(id) AS first FROM state_undo
               WHERE event_seq = ANY($1::bigint[]) GROUP BY 1, 2, 3
           )
           SELECT u.id, trigger_id, leaf_id, scope_key, u.event_seq, u.before, u.input,
                  u.event_seq = ANY($1::bigint[]) OR e.seq IS NULL OR e.retracted_at IS NOT NULL
           FROM touched t JOIN state_undo u USING (trigger_id, leaf_id, scope_key)
           LEFT JOIN events e ON e.seq = u.event_seq
           WHERE u.id >= t.first""",
        list(seqs),
    )
    found = [History(row[0], (row[1], row[2], row[3]), *row[4:]) for row in rows]
    return sorted(found, key=lambda line: (line.key, line.id))


async def amend(tx: Transaction, dropped: Collection[int], changed: Sequence[tuple[int, str | None]]) -> None:
    """Drop rows of the undo log, and correct how it was before others."""
    await tx.run("DELETE FROM state_undo WHERE id = ANY($1::bigint[])", list(dropped))
    if changed:
        await tx.run(
            f"""UPDATE state_undo u SET before = c.before
               FROM {_given("bigint", "jsonb")} AS c (id, before) WHERE u.id = c.id""",
            *_columns(changed, 2),
        )
