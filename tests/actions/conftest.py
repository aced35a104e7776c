"""A world with triggers, events and actions, made by plain SQL and by the services under test."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import redis.asyncio
from hypothesis import settings

from agentauri.actions import (
    ActionDraft,
    ActionService,
    ChainLabel,
    DeliveryDraft,
    DeliveryService,
    Dispatcher,
    Guard,
    Outbound,
    Preview,
    Queue,
    Subjects,
    TriggerFacts,
    connect_redis,
    make_channels,
)
from agentauri.breaker import BreakerConfig, BreakerService
from agentauri.config import DispatcherConfig
from agentauri.database import Database, Transaction
from agentauri.sealing import Sealer
from agentauri.types import ActionId, ChainId, DeliveryId, EventSeq, OrganizationId, TriggerId
from support.receiver import Receiver
from support.reused import reused_database

settings.register_profile("patient", deadline=None)  # a busy machine is no failure
settings.load_profile("patient")

LABELS = {ChainId(84532): ChainLabel("Base Sepolia", "https://sepolia.basescan.org")}


async def load_subjects(tx: Transaction, seqs: Collection[EventSeq], trigger_ids: Collection[TriggerId]) -> Subjects:
    events = await tx.fetch("SELECT * FROM events WHERE seq = ANY($1::bigint[])", list(seqs))
    triggers = await tx.fetch("SELECT * FROM triggers WHERE id = ANY($1::text[])", list(trigger_ids))
    return Subjects(
        {event["seq"]: {**event, "args": msgspec.json.decode(event["args"])} for event in events},
        {
            row["id"]: TriggerFacts(
                id=row["id"],
                name=row["name"],
                version=row["version"],
                organization_id=row["organization_id"],
                enabled=row["enabled"],
                on_open=row["on_open"],
                breaker=msgspec.json.decode(row["circuit_breaker_config"], type=BreakerConfig),
            )
            for row in triggers
        },
    )


class World:
    """Makes things and looks at rows."""

    def __init__(
        self,
        database: Database,
        actions: ActionService,
        deliveries: DeliveryService,
        receiver: Receiver,
        client: redis.asyncio.Redis,
    ) -> None:
        self.client = client
        self.database = database
        self.actions = actions
        self.deliveries = deliveries
        self.receiver = receiver
        self._numbers = itertools.count(1)
        self.secrets: dict[TriggerId, str] = {}
        self.action_of: dict[TriggerId, ActionId] = {}

    async def trigger(
        self,
        *,
        organization_id: str = "org-1",
        on_open: str = "hold",
        breaker: dict[str, int] | None = None,
        config: dict[str, object] | None = None,
        enabled: bool = True,
    ) -> TriggerId:
        """A trigger with one webhook action to the receiver."""
        trigger_id = TriggerId(f"trigger-{next(self._numbers)}")
        async with self.database.transaction() as tx:
            await tx.run(
                """INSERT INTO triggers (id, organization_id, user_id, name, on_open, circuit_breaker_config, enabled)
                   VALUES ($1, $2, 'user', 'Low scores', $3, $4::jsonb, $5)""",
                trigger_id,
                organization_id,
                on_open,
                msgspec.json.encode(breaker or {}).decode(),
                enabled,
            )
        checked = await self.actions.check(
            [ActionDraft(action_type="webhook", config={"url": f"{self.receiver.url}/hook"} | (config or {}))]
        )
        async with self.database.transaction() as tx:
            (action,) = await self.actions.create(tx, trigger_id, checked)
        self.action_of[trigger_id] = action.id
        self.secrets[trigger_id] = str(action.signing_secret)
        return trigger_id

    async def event(self, **columns: object) -> EventSeq:
        number = next(self._numbers)
        row: dict[str, object] = {
            "id": f"reputation-84532-0x{number:064x}-0",
            "chain_id": 84532,
            "block_number": number,
            "block_hash": f"0x{number:064x}",
            "transaction_hash": f"0x{number:064x}",
            "log_index": 0,
            "registry": "reputation",
            "event_type": "NewFeedback",
            "timestamp": 1702425600,
            "agent_id": 42,
            "score": 85,
            "created_at": datetime.now(UTC),
        } | columns
        names = ", ".join(f'"{name}"' for name in row)
        places = ", ".join(f"${place}" for place in range(1, len(row) + 1))
        async with self.database.transaction() as tx:
            seq: int = await tx.fetchval(f"INSERT INTO events ({names}) VALUES ({places}) RETURNING seq", *row.values())
        return EventSeq(seq)

    async def draft(self, trigger_id: TriggerId, seq: EventSeq | None = None, **changes: Any) -> DeliveryDraft:
        seq = seq or await self.event()
        async with self.database.transaction() as tx:
            event = await tx.fetchrow("SELECT * FROM events WHERE seq = $1", seq)
            trigger = await tx.fetchrow("SELECT * FROM triggers WHERE id = $1", trigger_id)
        assert event is not None
        assert trigger is not None
        fields: dict[str, Any] = {
            "organization_id": OrganizationId(trigger["organization_id"]),
            "trigger_id": trigger_id,
            "trigger_version": 1,
            "environment": "live",
            "action_id": self.action_of[trigger_id],
            "action_type": "webhook",
            "destination": "127.0.0.1",
            "priority": 0,
            "event_seq": seq,
            "event_id": event["id"],
            "event_epoch": event["epoch"],
            "event_created_at": event["created_at"],
            "chain_id": ChainId(84532),
        }
        return DeliveryDraft(**(fields | changes))

    async def delivery(self, trigger_id: TriggerId, seq: EventSeq | None = None, **changes: Any) -> DeliveryId:
        """A delivery that is committed and pushed."""
        draft = await self.draft(trigger_id, seq, **changes)
        async with self.database.transaction() as tx:
            await self.deliveries.create(tx, [draft])
            found: DeliveryId = await tx.fetchval(
                "SELECT id FROM deliveries WHERE event_seq = $1 AND trigger_id = $2 AND action_id = $3 AND kind = $4",
                draft.event_seq,
                trigger_id,
                draft.action_id,
                draft.kind,
            )
        return found

    async def row(self, id_: DeliveryId) -> dict[str, Any]:
        async with self.database.transaction() as tx:
            record = await tx.fetchrow(
                "SELECT *, extract(epoch FROM due_at - now())::float8 AS wait FROM deliveries WHERE id = $1", id_
            )
        assert record is not None
        return dict(record)

    async def attempts(self, id_: DeliveryId) -> list[dict[str, Any]]:
        async with self.database.transaction() as tx:
            records = await tx.fetch("SELECT * FROM attempts WHERE delivery_id = $1 ORDER BY number", id_)
        return [dict(record) for record in records]

    async def breaker(self, trigger_id: TriggerId) -> dict[str, Any] | None:
        async with self.database.transaction() as tx:
            record = await tx.fetchrow("SELECT * FROM circuit_breaker_state WHERE trigger_id = $1", trigger_id)
        return None if record is None else dict(record)

    async def sql(self, statement: str, *arguments: object) -> None:
        async with self.database.transaction() as tx:
            await tx.run(statement, *arguments)

    async def make_due(self, *ids: DeliveryId) -> None:
        """Time passes for these deliveries; Redis, whose times are older, is emptied."""
        await self.client.flushall()
        await self.sql("UPDATE deliveries SET due_at = now() - interval '1 minute' WHERE id = ANY($1::uuid[])", ids)


@pytest.fixture
async def database_url(admin_url: str, template: str) -> str:
    return await reused_database(admin_url, template, "actions")


@pytest.fixture
def tuning() -> DispatcherConfig:
    return DispatcherConfig(allow_insecure_targets=True)


@pytest.fixture
def guard(tuning: DispatcherConfig) -> Guard:
    return Guard(allow_insecure=tuning.allow_insecure_targets, blocked_ports=tuning.blocked_ports)


@pytest.fixture
async def outbound(guard: Guard) -> AsyncIterator[Outbound]:
    async with Outbound.open(guard) as opened:
        yield opened


@pytest.fixture
def actions(outbound: Outbound, tuning: DispatcherConfig) -> ActionService:
    return ActionService(Sealer((b"k" * 32,)), make_channels(outbound, webhook_timeout=tuning.webhook_timeout))


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[Queue]:
    async with aclosing(connect_redis(redis_url)) as client, aclosing(Queue(client)) as queue:
        yield queue


@pytest.fixture
def deliveries(queue: Queue, actions: ActionService) -> DeliveryService:
    return DeliveryService(queue, Preview(actions, load_subjects, LABELS))


@pytest.fixture
def world(
    database: Database,
    actions: ActionService,
    deliveries: DeliveryService,
    receiver: Receiver,
    client: redis.asyncio.Redis,
) -> World:
    return World(database, actions, deliveries, receiver, client)


@pytest.fixture
def breakers() -> BreakerService:
    return BreakerService()


MakeDispatcher = Callable[..., Dispatcher]


@pytest.fixture
def make_dispatcher(
    database: Database,
    queue: Queue,
    actions: ActionService,
    breakers: BreakerService,
    tuning: DispatcherConfig,
) -> MakeDispatcher:
    def make(**changes: Any) -> Dispatcher:
        parts: dict[str, Any] = {
            "database": database,
            "queue": queue,
            "breakers": breakers,
            "actions": actions,
            "load_subjects": load_subjects,
            "chains": LABELS,
            "config": tuning,
            "instance": "test-1",
        }
        return Dispatcher(**(parts | changes))

    return make


@pytest.fixture
def dispatcher(make_dispatcher: MakeDispatcher) -> Dispatcher:
    return make_dispatcher()


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with aclosing(redis.asyncio.from_url(redis_url, decode_responses=True)) as opened:
        yield opened
