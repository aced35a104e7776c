"""What a busy tenant and hanging endpoints cost another tenant: the p99 of the delay they add to its webhooks."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from contextlib import ExitStack
from datetime import UTC, datetime

import harness
import scene
from agentauri.actions import ActionDraft, DeliveryDraft, delivery_id
from agentauri.app import Application
from agentauri.triggers import TriggerDraft
from agentauri.types import ActionId, EventSeq, OrganizationId, TriggerId, UserId
from harness import Bench, Orders, Peer, Reading, Stage, WrongTotals, percentile, until, watched, working
from sink import Got, Receiver

BUSY, OTHER, QUIET = OrganizationId("busy"), OrganizationId("other"), OrganizationId("quiet")
HANGING, OF_EACH = 20, 50
RATE = 20
ALONE, TOGETHER = 5.0, 20.0
"""Seconds for which the quiet tenant is watched, alone and with the others; the second at full size."""

LATE = 12.0  # seconds to wait for its last webhooks


class Fairness(Bench):
    name = "fairness"
    unit = "ms p99 added"
    what = f"a tenant's webhooks, {RATE}/s, beside another's backlog and {HANGING} endpoints that never answer"
    bare = "the same webhooks alone; p99"
    size = 50_000

    def start(self, stack: ExitStack) -> None:
        self._sink = Receiver(stack)
        self._hanging = Peer(stack, _hang)

    async def prepare(self, stage: Stage) -> None:
        async with stage.application(harness.TEMPLATE) as application:
            await scene.add_events(application, 1)
            await _add_trigger(application, QUIET, "quiet", self._sink.url)
            await _add_trigger(application, BUSY, "backlog", self._sink.url)
            for number, url in enumerate(self._hanging.ask("urls")):
                await _add_trigger(application, (BUSY, OTHER)[number % 2], f"hanging {number}", url)

    async def measure(self, stage: Stage) -> Reading:
        self._sink.take()
        together = max(1.0, TOGETHER * self.count / self.size)
        async with stage.fresh(), stage.application() as application:
            world = await _World.of(application)
            async with working(application.dispatcher.run):
                alone = await world.probe(min(ALONE, together))
                await asyncio.sleep(0.5)
                await world.add("backlog", self.count)
                for number in range(HANGING):
                    await world.add(f"hanging {number}", OF_EACH)
                async with watched() as watch:
                    beside = await world.probe(together)
                await asyncio.sleep(0.5)
                left = await world.waiting("backlog")
                self._hanging.ask("end")  # or stopping would wait for them
        got = self._sink.take()
        before, after = _delays(alone, got), _delays(beside, got)
        added = percentile(after, 99) - statistics.median(before)
        note = (
            f"alone p50 {statistics.median(before):.1f}, beside p50 {statistics.median(after):.1f}, "
            f"max {max(after):.1f}; {left:,} of the backlog left; loop lag p99 {watch.lag * 1000:.0f} ms"
        )
        return Reading(max(0.01, added), percentile(before, 99), note)


class _World:
    """Makes deliveries of triggers by their names."""

    def __init__(
        self, application: Application, actions: dict[str, tuple[TriggerId, OrganizationId, ActionId]]
    ) -> None:
        self._application = application
        self._actions = actions
        self._made = 0

    @classmethod
    async def of(cls, application: Application) -> _World:
        async with application.database.transaction() as tx:
            rows = await tx.fetch(
                """SELECT t.name, t.id, t.organization_id, a.id AS action_id
                   FROM triggers t JOIN trigger_actions a ON a.trigger_id = t.id"""
            )
        return cls(application, {row["name"]: (row["id"], row["organization_id"], row["action_id"]) for row in rows})

    async def add(self, name: str, count: int) -> list[str]:
        """Commit so many deliveries; their webhook ids."""
        drafts = [self._draft(name) for _ in range(count)]
        async with self._application.database.transaction() as tx:
            await self._application.deliveries.create(tx, drafts)
        return [f"msg_{_id_of(draft)}" for draft in drafts]

    async def probe(self, seconds: float) -> dict[str, float]:
        """Have the quiet tenant's webhooks made at an even pace; when each was, by its id."""
        made = {}
        started = time.monotonic()
        for number in range(max(1, round(seconds * RATE))):
            await asyncio.sleep(max(0.0, started + number / RATE - time.monotonic()))
            began = time.monotonic()
            (name,) = await self.add("quiet", 1)
            made[name] = began
        async with asyncio.timeout(LATE):
            await until(self._quiet_is_done)
        return made

    async def _quiet_is_done(self) -> bool:
        return not await self.waiting("quiet")

    async def waiting(self, name: str) -> int:
        async with self._application.database.transaction(durable=False) as tx:
            number: int = await tx.fetchval(
                "SELECT count(*) FROM deliveries WHERE trigger_id = $1 AND status = 'pending'", self._actions[name][0]
            )
        return number

    def _draft(self, name: str) -> DeliveryDraft:
        trigger_id, organization_id, action_id = self._actions[name]
        self._made += 1
        return DeliveryDraft(
            organization_id=organization_id,
            trigger_id=trigger_id,
            trigger_version=1,
            environment="live",
            action_id=action_id,
            action_type="webhook",
            destination="127.0.0.1",
            priority=0,
            event_seq=EventSeq(1),
            event_id=f"made-up-{self._made}",  # one event is enough for all: only ids are made of it
            event_epoch=0,
            event_created_at=datetime.now(UTC),
            chain_id=scene.CHAIN,
        )


def _id_of(draft: DeliveryDraft) -> object:
    return delivery_id(
        origin=draft.event_created_at,
        organization_id=draft.organization_id,
        event_id=draft.event_id,
        epoch=draft.event_epoch,
        trigger_id=draft.trigger_id,
        trigger_version=draft.trigger_version,
        action_id=draft.action_id,
        kind=draft.kind,
    )


def _delays(made: dict[str, float], got: Got) -> list[float]:
    """Milliseconds until each was received.

    Raises:
        WrongTotals: one was not.
    """
    missing = [name for name in made if name.encode() not in got.ids]
    if missing:
        raise WrongTotals(f"{len(missing):,} of {len(made):,} webhooks of the quiet tenant were not received")
    return [(got.ids[name.encode()] - began) * 1000 for name, began in made.items()]


async def _add_trigger(application: Application, organization: OrganizationId, name: str, url: str) -> None:
    prepared = await application.triggers.prepare(
        TriggerDraft(
            name=name,
            registry="reputation",
            conditions=[{"condition_type": "agent_id_equals", "value": "999999"}],
            actions=[ActionDraft(action_type="webhook", config={"url": url})],
        )
    )
    async with application.database.transaction() as tx:
        await application.triggers.create(tx, organization, UserId("bench"), prepared)


async def _hang(orders: Orders) -> None:
    """Endpoints that take connections and never say a word, until told to end."""
    listening = [_listen(0) for _ in range(HANGING)]
    ports = [one.getsockname()[1] for one in listening]

    def end() -> None:
        for place, port in enumerate(ports):
            listening[place].close()  # with it go the connections that wait
            listening[place] = _listen(port)

    await orders.obey({"urls": lambda: [f"http://127.0.0.1:{port}/" for port in ports], "end": end})


def _listen(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=1024)


if __name__ == "__main__":
    harness.run(Fairness)
