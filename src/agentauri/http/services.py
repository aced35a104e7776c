"""What the routes are built on: the services of the house, and reads that many callers share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, cast

from litestar.types import HTTPScope
from msgspec import Struct
from redis.asyncio import Redis

from agentauri.accounts import (
    AccessTokens,
    ApiKeyService,
    AuditTrail,
    MemberService,
    OrganizationService,
    Sessions,
    Standings,
    UserService,
)
from agentauri.actions import ActionService, DeliveryService
from agentauri.agents import AgentReader
from agentauri.billing import CreditService
from agentauri.chain import ChainService, ChainStatus, EventCount
from agentauri.config import ServerConfig
from agentauri.database import Database
from agentauri.doctor import Report
from agentauri.events import EventService
from agentauri.http.auth import Authenticator
from agentauri.http.health import Checkup, ComponentState
from agentauri.http.shared import Shared
from agentauri.triggers import Backtester, Explainer, FollowService, TriggerParts, TriggerService

CHAINS_KEPT_SECONDS = 5.0
EXAMINATION_KEPT_SECONDS = 10.0


class Services(Struct, frozen=True, kw_only=True):
    """All that the routes need.

    `components` tells the state of each part of the process by name: `database`, `migrations`, `redis`, `listener`,
    `evaluator`, `dispatcher`, `janitor`, `indexer:<chain_id>`. `examine` is the doctor's look at everything.
    `stopping` is true once the process drains.
    """

    server: ServerConfig
    environment: Literal["development", "production"]
    version: str
    database: Database
    redis: Redis
    keys: ApiKeyService
    users: UserService
    sessions: Sessions
    tokens: AccessTokens
    standings: Standings
    audit: AuditTrail
    organizations: OrganizationService
    members: MemberService
    credits: CreditService
    chains: ChainService
    events: EventService
    agents: AgentReader
    triggers: TriggerService
    parts: TriggerParts
    follows: FollowService
    explainer: Explainer
    backtester: Backtester
    actions: ActionService
    deliveries: DeliveryService
    components: Callable[[], Awaitable[Mapping[str, ComponentState]]]
    examine: Callable[[], Awaitable[Report]]
    stopping: Callable[[], bool]


class Desk:
    """What one application keeps between requests."""

    def __init__(self, services: Services, document: Callable[[], Awaitable[str]]) -> None:
        self.services = services
        self.authenticator = Authenticator(
            services.database, services.keys, services.tokens, services.sessions, services.standings
        )
        self.document = document
        self.chains: Shared[list[ChainStatus]] = Shared(CHAINS_KEPT_SECONDS, self._read_chains)
        self.event_counts: Shared[list[EventCount]] = Shared(CHAINS_KEPT_SECONDS, self._read_event_counts)
        self.examination: Shared[Report] = Shared(EXAMINATION_KEPT_SECONDS, services.examine)
        self.checkup = Checkup(services.database, services.components, services.stopping, services.version)

    def bind(self, scope: HTTPScope) -> None:
        """Be what the handler of this request works with."""
        cast(dict[str, object], cast(object, scope))["desk"] = self

    @staticmethod
    def of(scope: HTTPScope) -> Desk:
        return cast(Desk, cast(dict[str, object], cast(object, scope))["desk"])

    async def _read_chains(self) -> list[ChainStatus]:
        async with self.services.database.transaction() as tx:
            return await self.services.chains.status(tx)

    async def _read_event_counts(self) -> list[EventCount]:
        async with self.services.database.transaction() as tx:
            return await self.services.chains.event_counts(tx)
