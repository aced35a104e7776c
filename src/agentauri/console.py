"""What an operator does at the console: the commands beside `serve`, over all organizations.

Each function is one command's work. It gets the services, opens its own transactions and returns what to print.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from agentauri.accounts import SYSTEM, Environment, KeyDraft, Permission, Target
from agentauri.actions import DeliveryFilter, DeliveryNotFound, Replay
from agentauri.agents import Projections, sample
from agentauri.app import Application
from agentauri.billing import TransactionType, read_usdc, write_usdc
from agentauri.chain import Chain, ChainNotFound, ChainStatus, Redecoder, Verdict
from agentauri.errors import Unavailable
from agentauri.triggers import TriggerNotFound
from agentauri.types import ChainId, DeliveryId, EventId, Page, Plan, TriggerId

Rows = list[tuple[str, ...]]

REPLAYED_AT_ONCE = 1000


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
        slugs = {one.id: one.slug for one in await app.organizations.all(tx)}
    return [
        (
            key.prefix,
            slugs[key.organization_id],
            key.name,
            key.environment,
            "active" if key.is_active else "ended",
            _day(key.created_at),
            _day(key.last_used_at),
        )
        for key in keys
    ]


async def revoke_key(app: Application, reference: str) -> str:
    """The prefix of the key that ended."""
    async with app.database.transaction() as tx:
        return (await app.api_keys.revoke(tx, None, reference)).prefix


async def list_organizations(app: Application) -> Rows:
    async with app.database.transaction() as tx:
        organizations = await app.organizations.all(tx)
        names = {user.id: user.username for user in await app.users.list(tx)}
    return [(one.slug, one.id, one.name, one.plan, names[one.owner_id], _day(one.created_at)) for one in organizations]


async def set_plan(app: Application, reference: str, plan: Plan) -> str:
    async with app.database.transaction() as tx:
        found = await app.organizations.find(tx, reference)
        before = await app.organizations.hold(tx, found.id)
        await app.organizations.set_plan(tx, SYSTEM, before, plan)
    return f"{before.slug}: {before.plan} -> {plan}"


async def book_credit(
    app: Application,
    reference: str,
    amount: str,
    kind: TransactionType,
    description: str | None,
    reference_id: str | None,
) -> str:
    micro = read_usdc(amount)
    async with app.database.transaction() as tx:
        found = await app.organizations.find(tx, reference)
        booked = await app.credits.book(tx, found.id, micro, kind, description=description, reference_id=reference_id)
        details = {"amount": micro, "transaction_type": kind, "transaction_id": booked.id}
        target = Target("organization", found.id)
        await app.audit.record(tx, SYSTEM, "credits.changed", organization_id=found.id, target=target, details=details)
    return f"{found.slug}: {write_usdc(micro)}, now {write_usdc(booked.balance_after)}"


async def list_users(app: Application) -> Rows:
    async with app.database.transaction() as tx:
        users = await app.users.list(tx)
    return [
        (
            user.username,
            user.id,
            user.email or "",
            "active" if user.is_active else "disabled",
            _day(user.created_at),
            _day(user.last_login_at),
        )
        for user in users
    ]


async def switch_user(app: Application, reference: str, *, active: bool) -> str:
    """The name of the user."""
    async with app.database.transaction() as tx:
        return (await app.users.set_active(tx, reference, active=active)).username


async def reset_password(app: Application, reference: str) -> str:
    """The new password."""
    _, password = await app.users.reset_password(reference)
    return password.reveal()


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d}" if moment else ""


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


async def list_chains(app: Application, *, configured_only: bool) -> Rows:
    """Every network, or those with a URL."""
    async with app.database.transaction() as tx:
        statuses = await app.chains.status(tx)
    return [_listed(app.known_chains[one.chain_id], one) for one in statuses if one.enabled or not configured_only]


def _listed(chain: Chain, status: ChainStatus) -> tuple[str, ...]:
    start, depth = status.registries["identity"].start_block, chain.finality_depth
    return (
        str(chain.id),
        chain.name,
        chain.class_,
        status.status,
        "by time" if start is None else str(start),
        "tags" if chain.finality == "tags" else f"{depth} blocks",
        "" if chain.confirmed else "unconfirmed",
    )


async def verify_chains(app: Application, chain_id: int | None) -> tuple[list[str], int]:
    """What the self-check finds at every provider, and the exit code: 1 for warnings, 2 where it refuses."""
    lines, code = [], 0
    for chain in _chosen(app, chain_id):
        lines.append(f"{chain.id} {chain.name}")
        if not chain.enabled:
            lines.append(f"  no provider; RPC_URLS_{chain.id}=https://… names one")
            code = 2
        for verdict in await app.verify(chain):
            lines.append(f"  {verdict.provider}: {_judged(verdict)}")
            lines += [f"    {'REFUSES' if one.refuses else 'warns'}: {one.message}" for one in verdict.findings]
            code = max(code, 2 if verdict.refused else 1 if verdict.findings else 0)
    return lines, code


def _judged(verdict: Verdict) -> str:
    if verdict.refused:
        return "refused"
    versions = [f"{one.registry} {one.version or 'unknown'}" for one in verdict.contracts if one.exists]
    skipped = f"; skipped: {', '.join(verdict.skipped)}" if verdict.skipped else ""
    return f"ok ({', '.join(versions)}){skipped}"


async def redecode(app: Application, chain_id: int | None, *, dry_run: bool) -> list[str]:
    """What became of the raw logs of one chain, or of all that have any; a removed URL does not matter."""
    lines = []
    for chain in [*app.known_chains.values()] if chain_id is None else _chosen(app, chain_id):
        done = await Redecoder(app.database, app.events, chain).run(dry_run=dry_run)
        if done.seen or chain_id is not None:
            became = "would become events" if dry_run else "became events"
            lines.append(f"{chain.id} {chain.name}: {done.decoded} of {done.seen} raw logs {became}")
    return lines or ["No log is kept raw."]


async def rebuild_projections(app: Application, chain_id: int | None, agent_id: int | None) -> list[str]:
    """Part by part, each in a transaction of its own, so that whoever indexes meanwhile waits for no more than one."""
    projections = Projections()
    if chain_id is not None and agent_id is not None:
        async with app.database.transaction() as tx:
            await projections.remake_agent(tx, ChainId(chain_id), agent_id)
        return [f"{chain_id}: agent {agent_id} was made afresh."]
    async with app.database.transaction() as tx:
        chains = await projections.chains(tx) if chain_id is None else [ChainId(chain_id)]
    lines = []
    for chain in chains:
        agents, after = 0, None
        while True:
            async with app.database.transaction() as tx:
                await tx.run("SET LOCAL statement_timeout TO 0; SET LOCAL lock_timeout TO 0")
                made = await projections.remake(tx, chain, after)
            if not made:
                break
            agents, after = agents + len(made), made[-1]
        async with app.database.transaction() as tx:
            await tx.run("SET LOCAL statement_timeout TO 0; SET LOCAL lock_timeout TO 0")
            await projections.remake_operators(tx, chain)
        async with app.database.transaction() as tx:
            wrong = await projections.recount(tx, chain)
        lines.append(f"{chain}: {agents} agents were made afresh, {len(wrong)} counters corrected.")
    return lines or ["Nothing is stored of any chain."]


async def verify_projections(app: Application, chain_id: int | None, size: int) -> tuple[list[str], int]:
    """What is told of some agents against what the contracts say, and the exit code: 1 where they differ."""
    lines, code = [], 0
    for chain in _chosen(app, chain_id):
        async with app.database.transaction() as tx:
            sampled = await sample(tx, chain.id, size)
        about = f"{chain.id} {chain.name}"
        if sampled.block is None:
            lines.append(f"{about}: nothing is indexed yet")
            continue
        calls = [(claim.registry, claim.data) for claim in sampled.claims]
        try:
            answers = await app.call_at(chain, sampled.block, calls)
        except Unavailable as error:
            lines, code = [*lines, f"{about}: cannot be verified: {error.message}"], 1
            continue
        pairs = zip(sampled.claims, answers, strict=True)
        different = [line for claim, answer in pairs if (line := claim.difference(answer))]
        told = f"{sampled.agents} agents, {len(calls)} answers at block {sampled.block}"
        lines.append(f"{about}: {told}, {len(different)} different")
        lines += [f"  {line}" for line in different]
        code = 1 if different else code
    return lines or ["No chain is configured: RPC_URLS_<chain id>=https://… adds one."], code


def _chosen(app: Application, chain_id: int | None) -> list[Chain]:
    """The chain of this id, or those that are configured."""
    if chain_id is None:
        return [chain for chain in app.known_chains.values() if chain.enabled]
    if ChainId(chain_id) not in app.known_chains:
        raise ChainNotFound
    return [app.known_chains[ChainId(chain_id)]]


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
    app: Application, delivery_id: str | None, trigger_id: str | None, since: datetime | None, *, dry_run: bool
) -> tuple[int, int]:
    """One delivery, or the dead ones of a trigger or since a time: how many were queued, and how many refused. With
    `dry_run`, how many would be."""
    if delivery_id is not None and not dry_run:
        async with app.database.transaction() as tx:
            await app.deliveries.redeliver(tx, None, _delivery_id(delivery_id))
        return 1, 0
    if trigger_id is not None:
        async with app.database.transaction() as tx:
            if not await app.triggers.facts(tx, [TriggerId(trigger_id)]):
                raise TriggerNotFound
    which = DeliveryFilter(
        status=("dead",) if delivery_id is None else (),
        trigger_id=TriggerId(trigger_id) if trigger_id else None,
        since=since,
    )
    ids = None if delivery_id is None else (_delivery_id(delivery_id),)
    queued = refused = 0
    wanted = Replay(wanted=which, delivery_ids=ids, limit=REPLAYED_AT_ONCE, dry_run=dry_run)
    while True:
        async with app.database.transaction() as tx:
            done = await app.deliveries.replay(tx, None, wanted)
        queued, refused = queued + done.queued, refused + sum(done.refused.values())
        if done.last is None:
            return queued, refused
        wanted = msgspec.structs.replace(wanted, after=done.last)  # what died again meanwhile is not taken up anew


async def reencrypt(app: Application) -> tuple[int, list[str]]:
    """Put every secret under the first key: how many were under another one, and which no key opens."""
    position: tuple[int, int] | None = (0, 0)
    changed, unreadable = 0, []
    while position is not None:
        async with app.database.transaction() as tx:
            done = await app.actions.reseal(tx, position)
        changed, position = changed + done.changed, done.position
        unreadable += done.unreadable
    return changed, unreadable


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
