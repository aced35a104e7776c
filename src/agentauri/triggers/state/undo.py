"""Taking events back: what they left in memory is undone as if they had never been.

Per key, things are put back to how they were before the earliest event that goes, and what other events brought later
is folded in once more. What was said of those is not revised; but on one chain all that came later has gone as well,
and comes again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby

import msgspec
from msgspec import Struct, field

from agentauri.database import Transaction
from agentauri.triggers.state import store
from agentauri.triggers.state.folding import Ask, Ema, fold_ema
from agentauri.triggers.state.programs import COOLDOWN_LEAF
from agentauri.triggers.state.slots import Before, Entry, Fired, encode, raw, window_state
from agentauri.triggers.state.store import History, Kept, Key
from agentauri.types import EventSeq, TriggerId

_decode_entry = msgspec.json.Decoder(Entry).decode
_decode_before = msgspec.json.Decoder(Before).decode
_decode_ema = msgspec.json.Decoder(Ema).decode


class Refold(Struct):
    """One key without the events that go. A window's `kept` has no sum yet."""

    key: Key
    last: Entry
    kept: Kept | None
    gone: list[tuple[History, Entry]] = field(default_factory=list)
    changed: list[tuple[int, str | None]] = field(default_factory=list)
    """How it was before events that stay, where that is another thing now."""
    consumers: list[tuple[EventSeq, list[EventSeq]]] = field(default_factory=list)
    """Events that stay and consumed all there was, each with those that came after it."""

    @property
    def is_window(self) -> bool:
        return self.last.kind not in ("ema", "cooldown")


async def remembered(tx: Transaction, seqs: Collection[EventSeq]) -> set[EventSeq]:
    """Which of these events have left something that can be undone."""
    return {seq for seq, _ in await store.recorded(tx, seqs)}


async def undo(tx: Transaction, seqs: Collection[EventSeq], fired: TriggerId | None = None) -> None:
    """Take back what these events left, wherever that was, or only that a trigger `fired` by them. Everything is
    written on return."""
    touched = sorted(
        {key for _, key in await store.recorded(tx, seqs) if fired is None or key[:2] == (fired, COOLDOWN_LEAF)}
    )
    if not touched:
        return
    await store.lock(tx, touched)
    found = [line for line in await store.history(tx, seqs) if fired is None or line.key in touched]
    refolds = [refold(list(lines)) for _, lines in groupby(found, key=lambda line: line.key)]
    windows = [one for one in refolds if one.is_window]
    await _take_samples_back(tx, windows)
    await _sum_up(tx, windows)
    absences = [one for one in windows if one.last.kind == "absence"]
    if timed := [(one.key, one.last.span, line.event_seq) for one in absences for line, _ in one.gone]:
        await store.revive_timers(tx, timed)
    await store.write(tx, [(one.key, one.kept) for one in refolds if one.kept is not None])
    await store.forget(tx, [one.key for one in refolds if one.kept is None])
    await store.amend(
        tx,
        [line.id for one in refolds for line, _ in one.gone],
        [change for one in refolds for change in one.changed],
    )


def refold(lines: Sequence[History]) -> Refold:
    """Fold one key's history, which begins with the earliest event that goes, without those that go."""
    entries = [_decode_entry(line.input) for line in lines]
    made = Refold(lines[0].key, entries[-1], _kept(lines[0].before))
    for number, (line, entry) in enumerate(zip(lines, entries, strict=True)):
        if line.undone:
            made.gone.append((line, entry))
            continue
        if made.gone:
            made.changed.append((line.id, _before(made.kept, entry)))
        if entry.took == "all":
            made.consumers.append((line.event_seq, [later.event_seq for later in lines[number + 1 :]]))
        made.kept = _folded(made.kept, line.event_seq, entry)
    return made


def _folded(kept: Kept | None, seq: EventSeq, entry: Entry) -> Kept | None:
    if entry.kind == "cooldown":
        return Kept(encode(Fired(entry.t)).decode(), seq, entry.t) if entry.held else kept
    if entry.kind == "ema":
        assert entry.x is not None
        before = None if kept is None else _decode_ema(kept.state)
        return Kept(encode(fold_ema(before, entry.span, entry.x, entry.t)).decode(), seq, entry.t)
    return Kept("", seq, entry.t if kept is None else max(kept.time, entry.t))


def _kept(before: str | None) -> Kept | None:
    if before is None:
        return None
    document = _decode_before(before)
    return Kept(bytes(document.state).decode(), document.seq, document.time)


def _before(kept: Kept | None, entry: Entry) -> str | None:
    if kept is None:
        return None
    if entry.kind in ("ema", "cooldown"):
        return encode(Before(kept.seq, kept.time, raw(kept.state))).decode()
    return encode(Before(kept.seq, kept.time)).decode()


async def _take_samples_back(tx: Transaction, windows: Sequence[Refold]) -> None:
    if gone := [(one.key, entry.t, line.event_seq) for one in windows for line, entry in one.gone]:
        await store.drop_samples(tx, gone)
    released = [(one.key, line.event_seq) for one in windows for line, entry in one.gone if entry.took is not None]
    if not released:
        return
    await store.release(tx, released)
    for one in windows:
        for seq, later in one.consumers:
            await store.consume(tx, [(one.key, seq)], later)


async def _sum_up(tx: Transaction, windows: Sequence[Refold]) -> None:
    """Make the sums of these windows anew, each as of the newest event that is left."""
    left = [(one, one.kept) for one in windows if one.kept is not None]
    if not left:
        return
    asks = [(one.key, one.last.kind, Ask(kept.time - one.last.span, kept.time)) for one, kept in left]
    for (one, kept), tally in zip(left, await store.tallies(tx, asks), strict=True):
        one.kept = kept._replace(state=window_state(one.last.kind, one.last.span, tally))
