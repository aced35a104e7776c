"""What an operator does at the console: the commands beside `serve`, over all organizations.

Each function is one command's work. It gets the services, opens its own transactions and returns what to print.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from agentauri.accounts import Environment, KeyDraft, Permission
from agentauri.actions import DeliveryFilter, DeliveryNotFound
from agentauri.app import Application
from agentauri.chain import ChainStatus
from agentauri.errors import Conflict, Unavailable
from agentauri.triggers import TriggerNotFound
from agentauri.types import ChainId, DeliveryId, EventId, Page, TriggerId

Rows = list[tuple[str, ...]]


async def create_key(
    app: Application, organization: str, name: str, environment: Environment, permissions: Sequence[Permission]
) -> str:
    """The new key, in full."""
    async with app.database.transaction() as tx:
        owner = await app.organizations.find_or_create(tx, organization)
        draft = KeyDraft(
            name=name,
            created_by=owner.owner_id,
            environment=environment,
            key_type="admin" if "admin" in permissions else "standard",
            permissions=tuple(permissions),
        )
        made = await app.api_keys.create(tx, owner.id, draft)
    return made.secret.reveal()


async def list_keys(app: Application, organization: str | None) -> Rows:
    async with app.database.transaction() as tx:
        owner = await app.organizations.find(tx, organization) if organization else None
        keys = await app.api_keys.list(tx, owner.id if owner else None)
    return [
        (
            key.prefix,
            key.organization_id,
            key.name,
            key.environment,
            "active" if key.is_active else "ended",
            f"{key.created_at:%Y-%m-%d}",
        )
        for key in keys
    ]


async def revoke_key(app: Application, reference: str) -> str:
    """The prefix of the key that ended."""
    async with app.database.transaction() as tx:
        return (await app.api_keys.revoke(tx, None, reference)).prefix


async def chain_status(app: Application, chain_id: int | None) -> list[str]:
    """Every chain that is enabled, or the one asked for."""
    async with app.database.transaction() as tx:
        if chain_id is not None:
            return _status_lines(await app.chains.get(tx, ChainId(chain_id)))
        statuses = await app.chains.status(tx)
    return [line for status in statuses if status.enabled for line in _status_lines(status)]


def _status_lines(status: ChainStatus) -> list[str]:
    because = f" ({status.status_reason})" if status.status_reason else ""
    lines = [f"{status.chain_id} {status.name}: {status.status}{because}"]
    if status.indexed_block is not None:
        lines.append(f"  Latest indexed block: {status.indexed_block}")
    if status.latest_block is not None:
        lines.append(f"  Current chain block: {status.latest_block}")
    return lines + [
        f"  Provider {provider.name}: {'healthy' if provider.healthy else 'resting'}" for provider in status.providers
    ]


async def reset_chain(app: Application, chain_id: int, to_block: int | None, *, dry_run: bool) -> str:
    """Ask for the reset, and do it at once where no running process indexes the chain."""
    async with app.database.transaction() as tx:
        plan = await app.chains.request_reset(tx, ChainId(chain_id), to_block, dry_run=dry_run)
    told = (
        f"back from block {plan.from_block} to {plan.to_block}; {plan.events} events are read again under their ids, "
        f"none is delivered twice, and none at all that is older than {app.config.retention.deliveries_days} days"
    )
    if dry_run:
        return f"Chain {chain_id} would go {told}."
    indexer = app.indexer(chain_id)
    if indexer is not None:
        try:
            if await indexer.reset_if_idle():
                return f"Chain {chain_id} went {told}."
        except Unavailable as error:
            return f"Chain {chain_id} goes {told}, as soon as a provider answers ({error.message})."
    return f"Chain {chain_id} goes {told}. The process that indexes it does so within seconds."


async def retry_events(app: Application, event_id: str | None) -> int:
    """One event, or all that are parked; how many were queued."""
    async with app.database.transaction() as tx:
        if event_id is not None:
            await app.events.get(tx, EventId(event_id))
        return await app.event_queue.retry(tx, event_id=EventId(event_id) if event_id else None)


async def list_deliveries(app: Application, status: str | None, trigger_id: str | None, limit: int) -> Rows:
    wanted = msgspec.convert(
        {"status": [status] if status else [], "trigger_id": trigger_id}, type=DeliveryFilter, strict=False
    )
    async with app.database.transaction() as tx:
        page = await app.deliveries.list(tx, None, wanted, Page(limit=limit))
    return [
        (
            str(delivery.id),
            delivery.status,
            delivery.reason or delivery.hold or "",
            str(delivery.attempts),
            delivery.destination,
            delivery.event_id,
            f"{delivery.due_at:%Y-%m-%d %H:%M:%S}",
        )
        for delivery in page.data
    ]


async def show_delivery(app: Application, delivery_id: str) -> str:
    async with app.database.transaction() as tx:
        detail = await app.deliveries.get(tx, None, _delivery_id(delivery_id))
    return msgspec.json.format(msgspec.json.encode(detail, enc_hook=str)).decode()


async def redeliver(
    app: Application, delivery_id: str | None, trigger_id: str | None, since: datetime | None
) -> tuple[int, int]:
    """One delivery, or the dead ones of a trigger or since a time: how many were queued, and how many refused."""
    if delivery_id is not None:
        async with app.database.transaction() as tx:
            await app.deliveries.redeliver(tx, None, _delivery_id(delivery_id))
        return 1, 0
    if trigger_id is not None:
        async with app.database.transaction() as tx:
            if not await app.triggers.facts(tx, [TriggerId(trigger_id)]):
                raise TriggerNotFound
    wanted = DeliveryFilter(
        status=("dead",), trigger_id=TriggerId(trigger_id) if trigger_id else None, since=since, order="asc"
    )
    queued = refused = 0
    cursor: str | None = None
    while True:
        async with app.database.transaction() as tx:
            page = await app.deliveries.list(tx, None, wanted, Page(limit=100, cursor=cursor))
            for delivery in sorted(page.data, key=lambda one: one.id):
                try:
                    await app.deliveries.redeliver(tx, None, delivery.id)
                    queued += 1
                except Conflict:
                    refused += 1
        cursor = page.next_cursor
        if cursor is None:
            return queued, refused


def _delivery_id(text: str) -> DeliveryId:
    try:
        return DeliveryId(UUID(text.removeprefix("msg_")))
    except ValueError as error:
        raise DeliveryNotFound from error


async def list_breakers(app: Application, *, open_only: bool) -> Rows:
    async with app.database.transaction() as tx:
        breakers = await app.breakers.all(tx)
    return [
        (
            breaker.trigger_id,
            breaker.state,
            str(breaker.failure_count),
            f"{breaker.last_failure_at:%Y-%m-%d %H:%M:%S}" if breaker.last_failure_at else "",
            breaker.last_error or "",
        )
        for breaker in breakers
        if not open_only or breaker.state == "open"
    ]


async def reset_breaker(app: Application, trigger_id: str) -> None:
    async with app.database.transaction() as tx:
        if not await app.triggers.facts(tx, [TriggerId(trigger_id)]):
            raise TriggerNotFound
        await app.breakers.reset(tx, TriggerId(trigger_id))


async def queue_status(app: Application) -> list[str]:
    """What Redis holds, and what PostgreSQL keeps waiting."""
    async with app.database.transaction() as tx:
        held = await app.deliveries.by_hold(tx)
        events = await app.event_queue.depth(tx)
    lines = [f"events waiting: {events.waiting}", f"events parked: {events.parked}"]
    try:
        census = await app.queue.census()
        lines += [f"deliveries ready: {census.ready}", f"deliveries delayed: {census.delayed}"]
        lines += [f"deliveries leased: {census.leased}", f"consistent: {'yes' if census.consistent else 'no'}"]
    except Unavailable as error:
        lines.append(f"Redis is away ({error.message}); deliveries are sent straight from PostgreSQL")
    return lines + [f"deliveries held ({hold}): {count}" for hold, count in sorted(held.items())]


async def rebuild_queue(app: Application) -> int:
    """Make the set of known ids true again and put what is due into Redis; how many were put there.

    Claims keep a delivery that is being sent from being sent twice.
    """
    await app.queue.rebuild()
    return await app.dispatcher.sweep()
