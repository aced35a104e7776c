"""Events evaluated a second by triggers that remember: an EMA and a rate limit each, 10,000 scopes, one match each."""

from __future__ import annotations

from msgspec.structs import replace

import harness
import scene
from agentauri.actions import ActionDraft
from agentauri.app import Application
from agentauri.triggers import TriggerDraft
from agentauri.types import OrganizationId, UserId
from evaluate import URL, evaluate_all, pass_through
from harness import Bench, Reading, Stage, must_count, watched

CLIENTS = 10
"""Clients of each agent: what a trigger remembers of one of them is a scope."""
SCOPE = ["chain_id", "agent_id", "client_address"]


class Stateful(Bench):
    name = "stateful"
    unit = "events/s"
    what = "from queued events to committed state, undo log, deliveries and ledger, through the evaluator"
    bare = "as for evaluate: without any state"
    size = 100_000

    async def prepare(self, stage: Stage) -> None:
        async with stage.application(harness.TEMPLATE) as application:
            await add_triggers(application, scene.agents(self.count))
            await add_events(application, self.count)

    async def measure(self, stage: Stage) -> Reading:
        agents = scene.agents(self.count)
        scopes = min(self.count, agents * CLIENTS)
        async with stage.fresh(), stage.application() as application:
            seconds, note = await evaluate_all(stage, application)
            await must_count(
                application.database,
                self.count,
                "SELECT count(*) FROM deliveries WHERE status = 'pending' AND context IS NOT NULL",
                "SELECT count(*) FROM processed_events WHERE triggers_matched = 1 AND actions_enqueued = 1",
                "SELECT count(*) FROM window_samples",
                "SELECT count(*) / 2 FROM state_undo",
                "SELECT sum((state ->> 'count')::int) FROM trigger_state WHERE state ? 'ema'",
            )
            await must_count(application.database, 2 * scopes, "SELECT count(*) FROM trigger_state")
        async with stage.fresh(), stage.application() as application, watched() as bare:
            await pass_through(application.database)
        return Reading(self.count / seconds, self.count / bare.seconds, note)


async def add_triggers(application: Application, count: int) -> None:
    """One for each agent number below `count`, true of every piece of its feedback."""
    drafts = [
        await application.triggers.prepare(
            TriggerDraft(
                name=f"What clients think of agent {agent}",
                registry="reputation",
                conditions=[
                    {"condition_type": "agent_id_equals", "value": str(agent)},
                    {
                        "condition_type": "ema_threshold", "operator": "gt", "value": "1",
                        "config": {"window_size": 10, "scope": SCOPE},
                    },
                    {
                        "condition_type": "rate_limit", "operator": "gte", "value": "1",
                        "config": {"time_window": "1h", "scope": SCOPE},
                    },
                ],
                actions=[ActionDraft(action_type="webhook", config={"url": URL})],
            )
        )
        for agent in range(count)
    ]  # fmt: skip
    async with application.database.transaction() as tx:
        for agent, prepared in enumerate(drafts):
            organization = OrganizationId(f"organization-{agent % scene.ORGANIZATIONS:02}")
            await application.triggers.create(tx, organization, UserId("bench"), prepared)


async def add_events(application: Application, count: int) -> None:
    """Feedback a second apart, so that windows move, from a few clients of each agent in turn."""
    agents = scene.agents(count)
    for first in range(0, count, scene.BATCH):
        last = min(count, first + scene.BATCH)
        events = [
            replace(
                event,
                client_address=f"0x{number // agents % CLIENTS:040x}",
                timestamp=event.timestamp + number,
            )
            for number, event in enumerate(scene.feedback(first, last, agents), first)
        ]
        async with application.database.transaction() as tx:
            await application.events.record(tx, scene.CHAIN, events)


if __name__ == "__main__":
    harness.run(Stateful)
