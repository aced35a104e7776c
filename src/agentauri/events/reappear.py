"""Which stored event a fetched log is: pure, for a batch of logs and the rows that any of them might be.

A log's index is its place in the block, and shifts when its transaction moves to another one. So a log is known by its
place only while its block stands; after a reorg it is known by its content, and by its id last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, groupby
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from agentauri.events.types import NewEvent
from agentauri.types import EventId, EventSeq

MOVED, REBORN, NEW = range(3)

Content = tuple[str, str | None, bytes | None, bytes | None]


class Stored(Struct, frozen=True):
    """What is to be known of a stored row."""

    seq: EventSeq
    id: EventId
    block_hash: str
    log_index: int
    content: Content
    state: Literal["living", "retracted", "settled"]


class Plan(Struct, frozen=True):
    """`moved` and `reborn` pair a row with the log that it is now: with its old content, or out of a settled past."""

    unchanged: list[Stored]
    moved: list[tuple[Stored, NewEvent]]
    reborn: list[tuple[Stored, NewEvent]]
    new: list[NewEvent]

    def in_order(self) -> Iterator[Plan]:
        """The same in parts that follow the chain, each with changes of one kind alone; what is unchanged left out."""
        changes: list[tuple[int, Stored | None, NewEvent]] = [
            *((MOVED, row, log) for row, log in self.moved),
            *((REBORN, row, log) for row, log in self.reborn),
            *((NEW, None, log) for log in self.new),
        ]
        changes.sort(key=lambda change: (change[2].block_number, change[2].log_index))
        for kind, run in groupby(changes, key=lambda change: change[0]):
            part = list(run)
            pairs = [(row, log) for _, row, log in part if row is not None]
            new = [log for _, row, log in part if row is None]
            yield Plan([], pairs if kind == MOVED else [], pairs if kind == REBORN else [], new)


def content(log: NewEvent) -> Content:
    return (log.transaction_hash, log.contract_address, log.topics, log.data)


def plan(logs: Sequence[NewEvent], rows: Iterable[Stored]) -> Plan:
    """Sort `logs` into those stored as they are, those that come back, and new ones under ids that are free.

    `rows` are all rows of the logs' transactions, and those that hold an id that a log asks for.
    """
    rows = sorted(rows, key=lambda row: (row.log_index, row.seq), reverse=True)
    places = {(row.block_hash, row.log_index, row.content): row for row in rows if row.state == "living"}
    gone: dict[Content, list[Stored]] = defaultdict(list)
    for row in rows:
        if row.state == "retracted":
            gone[row.content].append(row)
    holders: dict[EventId, Stored | None] = {row.id: row for row in rows}
    made = Plan([], [], [], [])
    left: list[NewEvent] = []
    for log in logs:
        if here := places.get((log.block_hash, log.log_index, content(log))):
            made.unchanged.append(here)
            holders[here.id] = None
        else:
            left.append(log)
    unmatched: list[NewEvent] = []
    for log in sorted(left, key=lambda log: (log.block_number, log.log_index)):
        if same := gone[content(log)]:
            row = same.pop()
            made.moved.append((row, log))
            holders[row.id] = None
        else:
            unmatched.append(log)
    for log in unmatched:
        _by_id(made, log, holders)
    return made


def _by_id(made: Plan, log: NewEvent, holders: dict[EventId, Stored | None]) -> None:
    """Give `log` the row that holds its id, where it may take it over, or else the first id that nobody holds.

    A holder of None is spoken for.
    """
    for attempt in count(1):
        event_id = log.id if attempt == 1 else EventId(f"{log.id}-{attempt}")
        if event_id not in holders:
            made.new.append(replace(log, id=event_id))
            break
        holder = holders[event_id]
        if holder is None:
            continue
        if holder.state == "settled":
            made.reborn.append((holder, log))
            break
        if holder.state == "living" and holder.content == content(log) and holder.block_hash != log.block_hash:
            made.moved.append((holder, log))
            break
    holders[event_id] = None
