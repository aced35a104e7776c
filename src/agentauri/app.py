"""The composition root: the only module that knows everything.

`assemble` wires services to stores. What depends on what is to be read here and nowhere else.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING

import aiohttp
from msgspec import Struct
from redis.asyncio import Redis

from agentauri import migrations
from agentauri.accounts import (
    AccessTokens,
    ApiKeyService,
    AuditTrail,
    MemberService,
    OrganizationService,
    PasswordHasher,
    Sessions,
    Standings,
    UserService,
)
from agentauri.actions import (
    ActionService,
    BackPressure,
    BotApi,
    ChainLabel,
    DeliveryService,
    Dispatcher,
    Guard,
    Outbound,
    Preview,
    Queue,
    Rehearsing,
    Subjects,
    connect_redis,
    make_channels,
)
from agentauri.agents import AgentReader
from agentauri.billing import CreditService
from agentauri.breaker import BreakerService
from agentauri.chain import Chain, ChainService, Indexer, Registry, Verdict, call_at, indexers, load_chains, verify
from agentauri.config import Config, DatabaseConfig, RedisConfig
from agentauri.database import Database, Transaction
from agentauri.doctor import Patient, Report
from agentauri.embedded import Embedded
from agentauri.events import EventQueue, EventService
from agentauri.http import Services, answer_headers
from agentauri.log import get_logger
from agentauri.sealing import Sealer
from agentauri.triggers import (
    Backtester,
    Catalog,
    Evaluator,
    Explainer,
    FollowService,
    Rules,
    TriggerParts,
    TriggerService,
)
from agentauri.types import EventSeq, TriggerId

if TYPE_CHECKING:
    from agentauri.http import ComponentState

log = get_logger(__name__)

VERSION = version("agentauri")
PIPELINE_CONNECTIONS = 10
"""Of the pool: dispatcher 4, evaluator 2, indexers 3, upkeep 1. HTTP never takes them, however many callers it has."""
ACCOUNT_CONNECTIONS = 2
"""Of what is left to HTTP: a login waits for its hash anyway, and however many there are, nobody else waits for it."""


class Stores(Struct, frozen=True):
    """Where the truth and the hints are. `embedded` are the servers of our own, when there are any."""

    database: DatabaseConfig
    redis: RedisConfig
    embedded: Embedded | None


class Application:
    """Every service of this process. Making it connects to nothing."""

    def __init__(
        self,
        config: Config,
        database: Database,
        redis: Redis,
        queue: Queue,
        outbound: Outbound,
        own: Outbound,
        session: aiohttp.ClientSession,
    ) -> None:
        self.config = config
        self.instance = f"{config.instance_name}-{os.getpid()}-{secrets.token_hex(3)}"
        self.database = database
        self.queue = queue
        self._session = session
        self.redis = redis
        self.known_chains = load_chains(config)
        self.labels = {chain.id: ChainLabel(chain.name, chain.explorer_url) for chain in self.known_chains.values()}
        self._make_pipeline(outbound, own)
        self._make_accounts()

    def _make_pipeline(self, outbound: Outbound, own: Outbound) -> None:
        """What is seen, whom it concerns, and how they are told."""
        config = self.config
        channels = make_channels(
            outbound,
            webhook_timeout=config.dispatcher.webhook_timeout,
            bot_api=BotApi(
                outbound=own, url=config.dispatcher.telegram_api_url, token=config.dispatcher.telegram_bot_token
            ),
        )
        self.actions = ActionService(Sealer(config.secrets.encryption_keys), channels)
        self.events = EventService()
        self.agent_reader = AgentReader()
        self.event_queue = EventQueue(self.instance)
        self.breakers = BreakerService()
        self.deliveries = DeliveryService(self.queue, Preview(self.actions, self.load_subjects, self.labels))
        self.triggers = TriggerService(self.actions, self.deliveries, self.breakers, self.known_chains)
        self.parts = TriggerParts(self.triggers, self.actions, self.deliveries)
        self.follows = FollowService(self.triggers, self.actions)
        self.rules = Rules(self.actions, Rehearsing(self.actions, self.labels))
        self.explainer = Explainer(self.triggers, self.deliveries, self.rules)
        self.backtester = Backtester(self.rules, self.events)
        self.chains = ChainService(self.known_chains)

    def _make_accounts(self) -> None:
        """Who asks, and what they may."""
        config = self.config
        self.sessions, self.standings, self.audit = Sessions(), Standings(), AuditTrail()
        self.api_keys = ApiKeyService(config.secrets.api_key_pepper, self.audit)
        self.organizations = OrganizationService(
            self.api_keys, self.standings, self.audit, self.follows.end_organization
        )
        self.members = MemberService(self.standings, self.audit)
        self.credits = CreditService()
        self.tokens = AccessTokens(config.secrets.jwt_secret, config.secrets.jwt_secret_previous)
        left = config.database_pool[0] - PIPELINE_CONNECTIONS
        self.http_database = self.database.limited(left - ACCOUNT_CONNECTIONS)
        self.users = UserService(
            self.database.limited(ACCOUNT_CONNECTIONS),
            PasswordHasher(config.server.password_hash_concurrency),
            self.tokens,
            self.sessions,
            self.standings,
            self.audit,
            self.organizations,
        )

    def services(
        self,
        *,
        components: Callable[[], Awaitable[Mapping[str, ComponentState]]],
        examine: Callable[[], Awaitable[Report]],
        stopping: Callable[[], bool],
    ) -> Services:
        """All that the routes need; what they tell of the process is its own to say."""
        return Services(
            server=self.config.server,
            environment=self.config.environment,
            version=VERSION,
            database=self.http_database,
            redis=self.redis,
            keys=self.api_keys,
            users=self.users,
            sessions=self.sessions,
            tokens=self.tokens,
            standings=self.standings,
            audit=self.audit,
            organizations=self.organizations,
            members=self.members,
            credits=self.credits,
            chains=self.chains,
            events=self.events,
            agents=self.agent_reader,
            triggers=self.triggers,
            parts=self.parts,
            follows=self.follows,
            explainer=self.explainer,
            backtester=self.backtester,
            actions=self.actions,
            deliveries=self.deliveries,
            components=components,
            examine=examine,
            stopping=stopping,
        )

    async def load_subjects(
        self, tx: Transaction, seqs: Collection[EventSeq], trigger_ids: Collection[TriggerId]
    ) -> Subjects:
        """What deliveries are about: `actions` may know neither events nor triggers, so they are handed to it."""
        events = await self.events.by_seqs(tx, seqs)
        return Subjects(
            {seq: event.fields() for seq, event in events.items()}, await self.triggers.facts(tx, trigger_ids)
        )

    @cached_property
    def dispatcher(self) -> Dispatcher:
        return Dispatcher(
            self.database.limited(4),
            self.queue,
            self.breakers,
            self.actions,
            load_subjects=self.load_subjects,
            chains=self.labels,
            config=self.config.dispatcher,
            instance=self.instance,
        )

    @cached_property
    def evaluator(self) -> Evaluator:
        database = self.database.limited(2)
        pressure = BackPressure(
            self.queue,
            database,
            max_depth=self.config.evaluator.max_queue_depth,
            critical_depth=self.config.evaluator.critical_queue_depth,
        )
        return Evaluator(
            database,
            self.event_queue,
            self.deliveries,
            Catalog(database, self.actions),
            pressure.is_open,
            self.config.evaluator,
            self.config.retention.deliveries_days,
            {chain.id: chain.finality_depth for chain in self.known_chains.values()},
        )

    @cached_property
    def indexers(self) -> list[Indexer]:
        return indexers(self.database, self.events, self.known_chains.values(), self._session, self.config.rpc)

    def indexer(self, chain_id: int) -> Indexer | None:
        return next((indexer for indexer in self.indexers if indexer.chain.id == chain_id), None)

    async def verify(self, chain: Chain) -> list[Verdict]:
        """The self-check of a chain at each of its providers, now."""
        return await verify(chain, self._session, self.config.rpc)

    async def call_at(self, chain: Chain, block: int, calls: Sequence[tuple[Registry, bytes]]) -> list[bytes | None]:
        """What a chain's registries answer as of a block; None is a refusal."""
        return await call_at(chain, self._session, self.config.rpc, block, calls)

    def patient(self, stores: Stores, url: str | None = None, served_by: int | None = None) -> Patient:
        """This installation, for the doctor; `url` is where its HTTP side is reached from outside, and `served_by` the
        process that runs on servers of our own."""
        return Patient(
            config=self.config,
            database_settings=stores.database,
            redis_url=stores.redis.url,
            embedded=stores.embedded is not None,
            served_by=served_by,
            database=self.database.limited(1),
            queue=self.queue,
            event_queue=self.event_queue,
            chains=self.chains,
            session=self._session,
            headers=answer_headers(self.config.server),
            url=url,
        )


@asynccontextmanager
async def assemble(config: Config, stores: Stores) -> AsyncIterator[Application]:
    """The services on these stores; closed in reverse on leaving.

    What customers chose is called past a guard, what the operator chose is not.
    """
    guard = Guard(
        allow_insecure=config.dispatcher.allow_insecure_targets, blocked_ports=config.dispatcher.blocked_ports
    )
    async with (
        Database.open(stores.database) as database,
        Outbound.open(guard) as outbound,
        Outbound.open(Guard(allow_insecure=True, blocked_ports=frozenset())) as own,
        aiohttp.ClientSession(trust_env=False) as session,
        aclosing(connect_redis(stores.redis.url.reveal())) as redis,
        aclosing(Queue(redis)) as queue,
    ):
        yield Application(config, database, redis, queue, outbound, own, session)


async def schema_fault(database: Database) -> str | None:
    """Why this version cannot work on this schema, and what to do; None when it can."""
    schema = await migrations.state(database)
    if schema.ok:
        return None
    return (
        f"The database schema is at {schema.current or 'nothing'}, and this version needs {schema.head}. "
        "Run: agentauri migrate"
    )
