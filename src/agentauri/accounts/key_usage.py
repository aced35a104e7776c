"""How often keys are used: counted in memory, written every ten seconds. What a crash takes is no more than that."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from agentauri.accounts import store
from agentauri.accounts.audit import SYSTEM, AuditTrail, Target
from agentauri.accounts.types import KeyId
from agentauri.database import Database
from agentauri.errors import Unavailable
from agentauri.supervisor import wait_until

WRITTEN_EVERY = 10.0


class Use(Struct):
    calls: int = 0
    limited: int = 0
    address: str | None = None


class KeyUsage:
    def __init__(self, audit: AuditTrail) -> None:
        self._audit = audit
        self._uses: dict[KeyId, Use] = {}

    def used(self, key_id: KeyId, address: str) -> None:
        """A request came with this key, from there."""
        use = self._uses.setdefault(key_id, Use())
        use.calls += 1
        use.address = address

    def limited(self, key_id: KeyId) -> None:
        """That request was one too many."""
        self._uses.setdefault(key_id, Use()).limited += 1

    async def run(self, database: Database, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await wait_until(stopping, WRITTEN_EVERY)
            await self.write(database)

    async def write(self, database: Database) -> None:
        """Write what was counted; in an outage it is kept for the next time. A key that was limited for the first time
        in an hour is told of in the audit trail."""
        uses, self._uses = self._uses, {}
        if not uses:
            return
        try:
            async with database.transaction(durable=False) as tx:
                for key in await store.write_usage(tx, uses):
                    await self._audit.record(
                        tx,
                        SYSTEM,
                        "api_key.rate_limited",
                        organization_id=key.organization_id,
                        target=Target("api_key", key.key_id),
                    )
        except Unavailable:
            self._take_back(uses)

    def _take_back(self, uses: dict[KeyId, Use]) -> None:
        for key_id, use in uses.items():
            newer = self._uses.setdefault(key_id, Use())
            newer.calls += use.calls
            newer.limited += use.limited
            newer.address = newer.address or use.address
