"""Triggers and events of the usual kind: a thousand customers' rules, each on one agent, and feedback for those."""

from __future__ import annotations

import time
from collections.abc import Iterator
from decimal import Decimal
from hashlib import sha256

from agentauri.actions import ActionDraft
from agentauri.app import Application
from agentauri.events import NewEvent
from agentauri.triggers import Condition, TriggerDraft
from agentauri.types import ChainId, EventId, OrganizationId, UserId

CHAIN = ChainId(84532)
REPUTATION = "0x8004b663056a597dffe9eccc1965a193b7388713"
TRIGGERS, ORGANIZATIONS = 1_000, 50
BATCH = 2_000
SCORED: Condition = {"condition_type": "score_threshold", "operator": "gte", "value": "50"}
STARRED: Condition = {"condition_type": "tag_equals", "field": "tag1", "value": "starred"}
TWICE: Condition = {"condition_type": "sequence", "config": {"first": STARRED, "then": STARRED, "within": "1h"}}


def agents(events: int) -> int:
    """How many agents so many events are about; one in twenty, as long as that is not too many."""
    return max(1, min(TRIGGERS, events // 20))


async def add_triggers(application: Application, url: str, count: int, *, sequences: bool = False) -> None:
    """One for each agent number below `count`: that agent, and a score that all feedback here has. With `sequences`
    every tenth looks as well for two pieces of feedback within an hour."""
    drafts = [
        await application.triggers.prepare(
            TriggerDraft(
                name=f"Feedback for agent {agent}",
                registry="reputation",
                conditions=[
                    {"condition_type": "agent_id_equals", "value": str(agent)},
                    {"any": [SCORED, TWICE]} if sequences and agent % 10 == 0 else SCORED,
                ],
                actions=[ActionDraft(action_type="webhook", config={"url": url})],
            )
        )
        for agent in range(count)
    ]
    async with application.database.transaction() as tx:
        for agent, prepared in enumerate(drafts):
            organization = OrganizationId(f"organization-{agent % ORGANIZATIONS:02}")
            await application.triggers.create(tx, organization, UserId("bench"), prepared)


async def add_events(application: Application, count: int) -> None:
    """Commit so many pieces of feedback, as the indexer commits them."""
    for first in range(0, count, BATCH):
        events = list(feedback(first, min(count, first + BATCH), agents(count)))
        async with application.database.transaction() as tx:
            await application.events.record(tx, CHAIN, events)


def feedback(first: int, last: int, about: int) -> Iterator[NewEvent]:
    """Feedback number `first` to `last`, about so many agents in turn."""
    now = int(time.time())
    for number in range(first, last):
        digest = sha256(b"%d" % number).hexdigest()
        block_hash, transaction, client = f"0x{number:064x}", f"0x{digest}", f"0x{digest[:40]}"
        agent, value = number % about, 5_000 + number % 5_000
        yield NewEvent(
            id=EventId(f"reputation-{CHAIN}-{transaction}-0"),
            chain_id=CHAIN,
            block_number=number,
            block_hash=block_hash,
            transaction_hash=transaction,
            log_index=0,
            registry="reputation",
            event_type="NewFeedback",
            timestamp=now,
            transaction_index=0,
            contract_address=REPUTATION,
            agent_id=agent,
            client_address=client,
            feedback_index=1 + number // about,
            value_raw=value,
            value_decimals=2,
            score=Decimal(value).scaleb(-2),
            tag1="starred",
            tag2="support",
            endpoint=f"https://agent-{agent}.example/a2a",
            file_uri=f"ipfs://{digest}",
            file_hash=block_hash,
            args={
                "agentId": str(agent), "clientAddress": client, "feedbackIndex": str(1 + number // about),
                "value": str(value), "valueDecimals": "2", "indexedTag1": block_hash, "tag1": "starred",
                "tag2": "support", "endpoint": f"https://agent-{agent}.example/a2a", "feedbackURI": f"ipfs://{digest}",
                "feedbackHash": block_hash,
            },
            topics=bytes(128),
            data=bytes(640),
        )  # fmt: skip
