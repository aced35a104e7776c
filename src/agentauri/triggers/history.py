"""Stored events once more, in their order, for those who only look: no more of each than a rule reads."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from typing import Any
from zlib import crc32

import asyncpg
import msgspec
from msgspec import Struct

from agentauri.database import Transaction
from agentauri.events import COLUMNS, Event
from agentauri.triggers.conditions import Leaf, Stateful, walk
from agentauri.triggers.matching import Definition
from agentauri.types import EventSeq

FETCHED_AT_ONCE = 1_000

_ALWAYS = frozenset(
    {"seq", "id", "chain_id", "block_number", "log_index", "registry", "event_type", "timestamp", "origin", "agent_id"}
)
_AS_TEXT: dict[str, Callable[[str], Any]] = {
    "agent_id": int, "feedback_index": int, "value_raw": int, "args": msgspec.json.Decoder(dict[str, object]).decode,
}  # fmt: skip
"""What the driver would be slow to decode."""

Place = tuple[int, EventSeq]
"""Where a reader has got to: the time of an event, and its number."""


class Range(Struct, frozen=True, kw_only=True):
    """Which stored events: blocks and seconds are inclusive, None restricts nothing."""

    chain_id: int | None = None
    registry: str | None = None
    from_block: int | None = None
    to_block: int | None = None
    from_time: int | None = None
    to_time: int | None = None
    after_seq: EventSeq | None = None
    to_seq: EventSeq | None = None


def columns_of(definition: Definition) -> frozenset[str]:
    """The columns that matching looks at."""
    if definition.dedupe_key is not None:
        return frozenset(COLUMNS)
    read = set(_ALWAYS)
    for node in walk(definition.nodes):
        if isinstance(node, Leaf | Stateful) and node.column:
            read.add("args" if node.column.startswith("args.") else node.column)
        if isinstance(node, Stateful):
            read |= {"args" if name.startswith("args.") else name for name in node.scope}
    return frozenset(read)


async def stream(
    tx: Transaction, wanted: Range, columns: Collection[str], *, by_time: bool, after: Place | None = None
) -> AsyncGenerator[list[Event]]:
    """Canonical events, by time or by number, those after a place; a part at a time, as the server hands them out."""
    names = [name for name in COLUMNS if name in columns and name not in ("topics", "data")]
    listed = ", ".join(f'"{name}"' + ("::text" if name in _AS_TEXT else "") for name in names)
    where, arguments = _where(wanted, after)
    order = '"timestamp", seq' if by_time else "seq"
    # A statement that the driver has prepared keeps the shape of its rows, so each shape has a cursor of its own name.
    cursor = f"history_{crc32(listed.encode()):08x}"
    await tx.run(
        f"DECLARE {cursor} NO SCROLL CURSOR FOR SELECT {listed} FROM events WHERE {where} ORDER BY {order}",  # noqa: S608
        *arguments,
    )
    make = _maker(names)
    try:
        while rows := await tx.fetch(f"FETCH {FETCHED_AT_ONCE} FROM {cursor}"):
            yield [make(row) for row in rows]
            if len(rows) < FETCHED_AT_ONCE:
                return
    finally:
        await tx.run(f"CLOSE {cursor}")


async def is_longer(tx: Transaction, wanted: Range, than: int) -> bool:
    where, arguments = _where(wanted, None)
    counted = f"SELECT count(*) FROM (SELECT FROM events WHERE {where} LIMIT {than + 1:d}) AS first"  # noqa: S608
    return bool(await tx.fetchval(counted, *arguments) > than)


def _where(wanted: Range, after: Place | None) -> tuple[str, list[object]]:
    given = {
        "chain_id = {}::bigint": wanted.chain_id,
        "registry = {}::text": wanted.registry,
        "block_number >= {}::bigint": wanted.from_block,
        "block_number <= {}::bigint": wanted.to_block,
        '"timestamp" >= {}::bigint': wanted.from_time,
        '"timestamp" <= {}::bigint': wanted.to_time,
        "seq > {}::bigint": wanted.after_seq,
        "seq <= {}::bigint": wanted.to_seq,
    }
    parts = ["retracted_at IS NULL"]
    arguments: list[object] = []
    for clause, value in given.items():
        if value is not None:
            arguments.append(value)
            parts.append(clause.format(f"${len(arguments)}"))
    if after is not None:
        arguments += after
        parts.append(f'("timestamp", seq) > (${len(arguments) - 1}::bigint, ${len(arguments)}::bigint)')
    return " AND ".join(parts), arguments


def _maker(names: Sequence[str]) -> Callable[[asyncpg.Record], Event]:
    places = [(COLUMNS.index(name), at) for at, name in enumerate(names) if name not in _AS_TEXT]
    converted = [(COLUMNS.index(name), at, _AS_TEXT[name]) for at, name in enumerate(names) if name in _AS_TEXT]
    blank: list[Any] = [None] * len(COLUMNS)
    blank[COLUMNS.index("args")] = {}
    blank[COLUMNS.index("epoch")] = 0

    def make(row: asyncpg.Record) -> Event:
        values = blank.copy()
        for place, at in places:
            values[place] = row[at]
        for place, at, convert in converted:
            if (value := row[at]) is not None:
                values[place] = convert(value)
        return Event(*values)

    return make
