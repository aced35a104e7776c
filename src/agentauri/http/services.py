"""What the routes are built on: the services of the house, and reads that many callers share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from msgspec import Struct

from agentauri.accounts import ApiKeyService
from agentauri.actions import DeliveryService
from agentauri.chain import ChainService, ChainStatus
from agentauri.config import ServerConfig
from agentauri.database import Database
from agentauri.events import EventService
from agentauri.http.health import Checkup, ComponentState
from agentauri.http.shared import Shared
from agentauri.triggers import TriggerService

CHAINS_KEPT_SECONDS = 5.0


class Services(Struct, frozen=True, kw_only=True):
    """All that the routes need.

    `components` tells the state of each part of the process by name: `database`, `migrations`, `redis`, `listener`,
    `evaluator`, `dispatcher`, `janitor`, `indexer:<chain_id>`. `stopping` is true once the process drains.
    """

    server: ServerConfig
    environment: Literal["development", "production"]
    version: str
    database: Database
    keys: ApiKeyService
    chains: ChainService
    events: EventService
    triggers: TriggerService
    deliveries: DeliveryService
    components: Callable[[], Awaitable[Mapping[str, ComponentState]]]
    stopping: Callable[[], bool]


class Desk:
    """What one application keeps between requests."""

    def __init__(self, services: Services, document: Callable[[], Awaitable[str]]) -> None:
        self.services = services
        self.document = document
        self.chains: Shared[list[ChainStatus]] = Shared(CHAINS_KEPT_SECONDS, self._read_chains)
        self.checkup = Checkup(services.database, services.components, services.stopping, services.version)

    async def _read_chains(self) -> list[ChainStatus]:
        async with self.services.database.transaction() as tx:
            return await self.services.chains.status(tx)
