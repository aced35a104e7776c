"""Keeps the index in step with the tables, change by change.

`trigger_catalog.version` counts the statements that touched triggers or actions, and `trigger_changes` says which
triggers each touched, in commit order. Whoever takes events reads the version in the same statement; `catch_up` then
applies what is missing before anything is matched, so that an event meets every change that was committed before it.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

import msgspec

from agentauri import metrics
from agentauri.actions import ActionService, MatchAction
from agentauri.database import Database, DatabaseBusy, Transaction
from agentauri.errors import Invalid
from agentauri.log import get_logger
from agentauri.triggers import store
from agentauri.triggers.conditions import parse
from agentauri.triggers.drafts import cooldown_faults, depth_of
from agentauri.triggers.index import Index
from agentauri.triggers.matching import Definition
from agentauri.triggers.store import TriggerRow
from agentauri.types import TriggerId

log = get_logger(__name__)

MAX_CHANGES = 1000
"""How many changed triggers a batch of events waits for; more are caught up with outside of it."""
PAGE = 500
BREATH = 0.005
"""Seconds of reading triggers after which others get their turn."""
LOG_KEPT = timedelta(days=6)
"""Changes are kept for seven days; an index that lay idle for so long starts afresh."""

_decode = msgspec.json.Decoder(float_hook=Decimal).decode
_decode_blocks = msgspec.json.Decoder(dict[int, int]).decode


class _Page(NamedTuple):
    rows: Sequence[TriggerRow]
    actions: Mapping[TriggerId, Sequence[MatchAction]]


class Catalog:
    """Owns the index of one process, and marks triggers that cannot run."""

    def __init__(self, database: Database, actions: ActionService) -> None:
        self._database = database
        self._actions = actions
        self.index = Index()
        self._version: int | None = None
        self._synced: datetime | None = None
        self._behind = True
        self._verdicts: dict[TriggerId, str | None] = {}

    async def prepare(self) -> None:
        """Load what is missing and catch up after a hint, so that a batch need not."""
        if self._behind:
            await self._refresh()

    @property
    def behind(self) -> bool:
        """Whether `prepare` has to be called before any batch can be evaluated."""
        return self._behind

    def hint(self) -> None:
        """Some trigger has changed, somebody says."""
        self._behind = True

    async def catch_up(self, tx: Transaction, version: int) -> bool:
        """Bring the index to `version` or beyond, within the caller's transaction.

        False when that is too much for a batch: give it back and `prepare` once more.
        """
        if version == self._version:
            return True
        seen = await store.changes(tx, self._version or 0, MAX_CHANGES + 1)
        if not self._reaches(seen) or len(seen.ids) > MAX_CHANGES:
            self._behind = True
            return False
        await self._apply(tx, seen.ids)
        self._at(seen)
        self._behind = self.index.worn
        return True

    async def _refresh(self) -> None:
        self._behind = False
        limit = max(10 * MAX_CHANGES, len(self.index) // 4)
        try:
            async with self._database.transaction() as tx:
                seen = await store.changes(tx, self._version or 0, limit + 1)
            if not self._reaches(seen) or len(seen.ids) > limit or self.index.worn:
                await self._load(seen)
            else:
                for start in range(0, len(seen.ids), PAGE):
                    async with self._database.transaction() as tx:
                        await self._apply(tx, seen.ids[start : start + PAGE])
        except BaseException:
            self._behind = True
            raise
        self._at(seen)

    def _reaches(self, seen: store.Changes) -> bool:
        """Whether the log of changes goes back to where the index stands."""
        if self._version is None or self._synced is None or seen.version < self._version:
            return False
        return seen.moment - self._synced < LOG_KEPT

    def _at(self, seen: store.Changes) -> None:
        self._version, self._synced = seen.version, seen.moment
        metrics.TRIGGER_INDEX_SIZE.set(len(self.index))

    async def _load(self, seen: store.Changes) -> None:
        """Read everything. Pages need no common snapshot: what changes meanwhile is in the log after `seen`."""
        started = asyncio.get_running_loop().time()
        self._version = None
        self.index = Index()  # the old one goes first: two would not fit
        # A collection walks all that was ever made, every pause longer; what a start or a load makes is here to stay.
        gc.freeze()
        page = asyncio.ensure_future(self._page(""))
        try:
            while (read := await page).rows:
                page = asyncio.ensure_future(self._page(read.rows[-1].id))
                await self._consider(read)
        finally:
            page.cancel()
            await asyncio.wait([page])
        gc.freeze()
        took = asyncio.get_running_loop().time() - started
        log.info("index.loaded", triggers=len(self.index), version=seen.version, took_ms=round(took * 1000))

    async def _apply(self, tx: Transaction, trigger_ids: Sequence[TriggerId]) -> None:
        rows = await store.trigger_rows(tx, trigger_ids)
        for gone in set(trigger_ids).difference(row.id for row in rows):
            self.index.drop(gone)
        await self._consider(_Page(rows, await self._actions.for_matching(tx, trigger_ids)))

    async def _page(self, after: str) -> _Page:
        async with self._database.transaction() as tx:
            rows = await store.trigger_page(tx, after, PAGE)
            return _Page(rows, await self._actions.for_matching(tx, [row.id for row in rows]) if rows else {})

    async def _consider(self, page: _Page) -> None:
        started = time.perf_counter()
        for row in page.rows:
            self._file(row, page.actions.get(row.id, ()))
            if time.perf_counter() - started > BREATH:
                await asyncio.sleep(0)
                started = time.perf_counter()

    def _file(self, row: TriggerRow, actions: Sequence[MatchAction]) -> None:
        """Put one trigger into the index if it can fire, and note a verdict that its row does not carry yet."""
        reason, definition = None, None
        if row.condition != "null":
            try:
                definition = definition_of(row, actions)
            except (Invalid, msgspec.MsgspecError) as error:
                reason = reason_of(error)
        if reason != row.invalid_reason:
            self._verdicts[row.id] = reason
        if definition is not None and row.enabled and actions:
            self.index.put(definition)
        else:
            self.index.drop(row.id)

    async def mark(self) -> None:
        """Write down which triggers cannot run, and which can again.

        Whoever has the catalog locked for long is not waited for: it is written the next time.
        """
        verdicts = self._verdicts
        if not verdicts:
            return
        try:
            async with self._database.transaction() as tx:
                await store.mark_invalid(tx, verdicts)
        except DatabaseBusy:
            return
        self._verdicts = {}
        for trigger_id, reason in verdicts.items():
            if reason is not None:
                log.error("trigger.invalid", code="TRIGGER_INVALID", trigger_id=trigger_id, reason=reason)


def definition_of(row: TriggerRow, actions: Sequence[MatchAction]) -> Definition:
    """What matching needs of a stored trigger.

    Raises:
        Invalid: the row cannot run. Only one that was written by hand cannot.
        msgspec.MsgspecError: its JSON has another shape than ours.
    """
    tree = parse(_decode(row.condition), path="condition")
    depth = depth_of(_decode(row.fire_at))
    if faults := cooldown_faults(row.cooldown_seconds, row.dedupe_key):
        raise Invalid.fields(*faults)
    blocks = _decode_blocks(row.start_blocks)
    if row.chain_id is not None:
        blocks = {chain_id: block for chain_id, block in blocks.items() if chain_id == row.chain_id}
    return Definition(
        trigger_id=row.id,
        organization_id=row.organization_id,
        version=row.version,
        environment=row.environment,
        chain_id=row.chain_id,
        registry=row.registry,
        start_seq=row.start_seq,
        start_blocks=blocks,
        created=row.created,
        nodes=tree.nodes,
        actions=tuple(actions),
        cooldown_seconds=row.cooldown_seconds,
        dedupe_key=row.dedupe_key,
        fire_at=depth,
    )


def reason_of(error: Exception) -> str:
    """One line about why a row cannot run."""
    faults = error.errors if isinstance(error, Invalid) else ()
    return ("; ".join(str(fault) for fault in faults) or str(error))[:500]
