"""Stored events once more, in their order, for those who only look: no more of them, and of each, than a rule reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any
from zlib import crc32

import asyncpg
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from agentauri.database import Transaction
from agentauri.events import COLUMNS, Event
from agentauri.triggers.conditions import Leaf, Stateful, walk
from agentauri.triggers.fields import FIELDS, Kind, getter
from agentauri.triggers.matching import Definition, Key, necessary
from agentauri.types import EventSeq

FETCHED_AT_ONCE = 1_000

_ALWAYS = frozenset({"seq", "chain_id", "block_number", "log_index", "registry", "timestamp", "origin"})
_AS_TEXT: dict[str, Callable[[str], Any]] = {
    "agent_id": int, "feedback_index": int, "value_raw": int, "args": msgspec.json.Decoder(dict[str, object]).decode,
}  # fmt: skip
"""What the driver would be slow to decode."""

Place = tuple[int, EventSeq]
"""Where a reader has got to: the time of an event, and its number."""


class Range(Struct, frozen=True, kw_only=True):
    """Which stored events: blocks and seconds are inclusive, None restricts nothing. Of the equalities in `any_of` one
    has to hold, of those in `all_of` each."""

    chain_id: int | None = None
    registry: str | None = None
    from_block: int | None = None
    to_block: int | None = None
    from_time: int | None = None
    to_time: int | None = None
    after_seq: EventSeq | None = None
    to_seq: EventSeq | None = None
    any_of: frozenset[Key] | None = None
    all_of: tuple[tuple[str, int | str | Decimal], ...] = ()


def narrowed(wanted: Range, definitions: Sequence[Definition]) -> Range:
    """The part of a range in which there may be something for one of these rules."""
    chains = {one.chain_id for one in definitions} | {wanted.chain_id} - {None}
    registries = {one.registry for one in definitions}
    needed = [necessary(one.nodes) for one in definitions]
    known = [keys for keys in needed if keys is not None]
    return replace(
        wanted,
        chain_id=chains.pop() if len(chains) == 1 else wanted.chain_id,
        registry=registries.pop() if len(registries) == 1 else wanted.registry,
        any_of=frozenset().union(*known) if len(known) == len(needed) else None,
    )


def scope_of(definition: Definition, event: Event) -> tuple[tuple[str, int | str | Decimal], ...]:
    """What all events have in common of which it depends what a rule remembers when it meets this one: the values of
    the columns that are in the scope of every leaf. A cooldown looks at all matches of a trigger."""
    leaves = [node for node in walk(definition.nodes) if isinstance(node, Stateful)]
    if not leaves or definition.cooldown_seconds:
        return ()
    shared = set(leaves[0].scope).intersection(*(leaf.scope for leaf in leaves)) & FIELDS.keys()
    values = [(name, getter(name, folded=FIELDS[name].kind is Kind.HEX)(event)) for name in sorted(shared)]
    return tuple((name, value) for name, value in values if isinstance(value, int | str | Decimal))


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
    """Canonical events, by time or by number, those after a place; a part at a time, as the server hands them out. It
    is asked for the next part while this one is looked at, so until the end the transaction has no time for others."""
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
    make, fetch = _maker(names), f"FETCH {FETCHED_AT_ONCE} FROM {cursor}"
    coming: asyncio.Task[list[asyncpg.Record]] | None = asyncio.create_task(tx.fetch(fetch))
    try:
        while coming is not None:
            rows = await coming
            coming = asyncio.create_task(tx.fetch(fetch)) if len(rows) == FETCHED_AT_ONCE else None
            yield [make(row) for row in rows]
    finally:
        if coming is not None:
            with suppress(Exception):  # it was not waited for, and the transaction knows
                await coming
        await tx.run(f"CLOSE {cursor}")


async def count(tx: Transaction, wanted: Range, most: int, after: Place | None = None) -> int:
    """How many events `stream` would bring, up to so many."""
    where, arguments = _where(wanted, after)
    counted = f"SELECT count(*) FROM (SELECT FROM events WHERE {where} LIMIT {most:d}) AS first"  # noqa: S608
    return int(await tx.fetchval(counted, *arguments))


async def last_time(tx: Transaction, wanted: Range) -> dict[int, int]:
    """How far the events of a range of blocks of one chain come, whatever their kind."""
    where, arguments = _where(replace(wanted, registry=None, any_of=None, all_of=()), None)
    newest = f'SELECT chain_id, "timestamp" FROM events WHERE {where} ORDER BY block_number DESC LIMIT 1'  # noqa: S608
    return {row["chain_id"]: row["timestamp"] for row in await tx.fetch(newest, *arguments)}


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
    if wanted.any_of is not None:
        named = [_equal(column, arguments, values) for column, values in _by_column(wanted.any_of).items()]
        parts.append("(" + (" OR ".join(named) or "false") + ")")
    parts += [_equal(column, arguments, [value]) for column, value in wanted.all_of]
    if after is not None:
        arguments += after
        parts.append(f'("timestamp", seq) > (${len(arguments) - 1}::bigint, ${len(arguments)}::bigint)')
    return " AND ".join(parts), arguments


def _by_column(keys: Iterable[Key]) -> dict[str, list[int | str]]:
    found: dict[str, list[int | str]] = {}
    for column, value in sorted(keys, key=str):
        found.setdefault(column, []).append(value)
    return found


def _equal(column: str, arguments: list[object], values: Sequence[int | str | Decimal]) -> str:
    """A clause that is true where the column has one of these values, as conditions compare them."""
    kind = FIELDS[column].kind
    arguments.append([Decimal(value) for value in values] if kind is Kind.NUMBER else list(values))
    named = f'lower("{column}")' if kind is Kind.HEX else f'"{column}"'
    return f"{named} = ANY(${len(arguments)}::{'numeric' if kind is Kind.NUMBER else 'text'}[])"


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
