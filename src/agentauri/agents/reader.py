"""The door to what is known of agents, for those who ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from agentauri.agents import listing, sayings
from agentauri.agents.errors import AgentNotFound
from agentauri.agents.reputation import (
    MOST_DECIMALS,
    Entries,
    Summary,
    ValidationSummary,
    summarize,
    summarize_responses,
)
from agentauri.agents.views import (
    Agent,
    AgentDetail,
    AgentFilter,
    Feedback,
    FeedbackCounts,
    FeedbackFilter,
    Metadata,
    TagReputation,
    Validation,
    ValidationCounts,
    ValidationFilter,
    mean,
)
from agentauri.database import Transaction
from agentauri.types import ChainId, Page, Paged

TAGS = 20
KEYS = 1_000
"""An owner may set any number of metadata keys; so many are shown."""


class AgentReader:
    async def list(self, tx: Transaction, wanted: AgentFilter, page: Page) -> Paged[Agent]:
        """One page of the agents that fit; the total is counted up to 10,000.

        Raises:
            Invalid: the cursor belongs to another list.
            SearchTooSlow: they were not found in time.
        """
        return await listing.page_of(tx, wanted, page)

    async def detail(self, tx: Transaction, chain_id: ChainId, agent_id: int) -> AgentDetail:
        """An agent with its metadata, and what the other registries say of it in sum.

        Raises: AgentNotFound.
        """
        row = await tx.fetchrow("SELECT * FROM agents WHERE chain_id = $1 AND agent_id = $2", chain_id, agent_id)
        if row is None:
            raise AgentNotFound
        return AgentDetail(
            **listing.agent_fields(_Row(row)),
            metadata=await _metadata(tx, chain_id, agent_id),
            feedback=await _feedback(tx, chain_id, agent_id),
            validations=await _validations(tx, chain_id, agent_id),
        )

    async def feedback(
        self, tx: Transaction, chain_id: ChainId, agent_id: int, wanted: FeedbackFilter, page: Page
    ) -> Paged[Feedback]:
        """One page of the feedback about an agent; the total is counted up to 10,000.

        Raises:
            AgentNotFound: there is no such agent.
            Invalid: the cursor belongs to another list.
            SearchTooSlow: it was not found in time.
        """
        await _require(tx, chain_id, agent_id)
        return await sayings.feedback_page(tx, chain_id, agent_id, wanted, page)

    async def validations(
        self, tx: Transaction, chain_id: ChainId, agent_id: int, wanted: ValidationFilter, page: Page
    ) -> Paged[Validation]:
        """One page of the validations of an agent, latest request first. Raises: as `feedback`."""
        await _require(tx, chain_id, agent_id)
        return await sayings.validations_page(tx, chain_id, agent_id, wanted, page)

    async def reputation(
        self, tx: Transaction, chain_id: ChainId, agent_id: int, clients: Sequence[str] | None, tag1: str, tag2: str
    ) -> tuple[Summary, int]:
        """What the contract's `getSummary` returns for these clients, and how many they are.

        A client given twice counts twice; None is each that has given feedback. Clients are not checked to be any; a
        tag counts unless it is empty.

        Raises: AgentNotFound.
        """
        await _require(tx, chain_id, agent_id)
        times = None if clients is None else Counter(clients)
        rows = await tx.fetch(
            """SELECT f.value_decimals, sum(coalesce(asked.times, 1)), sum(f.value_raw * coalesce(asked.times, 1))
               FROM feedback f
               LEFT JOIN unnest($3::text[], $4::bigint[]) AS asked (client, times) ON asked.client = f.client_address
               WHERE f.chain_id = $1 AND f.agent_id = $2 AND ($3::text[] IS NULL OR f.client_address = ANY($3))
                     AND NOT f.revoked AND f.value_raw IS NOT NULL AND f.value_decimals <= $5
                     AND ($6 = '' OR f.tag1 = $6) AND ($7 = '' OR f.tag2 = $7)
               GROUP BY 1""",
            chain_id,
            agent_id,
            None if times is None else list(times),
            None if times is None else list(times.values()),
            MOST_DECIMALS,
            tag1,
            tag2,
        )
        found = {decimals: Entries(int(count), int(total)) for decimals, count, total in rows}
        if clients is not None:
            return summarize(found), len(clients)
        known: int = await tx.fetchval(
            "SELECT client_count FROM agents WHERE chain_id = $1 AND agent_id = $2", chain_id, agent_id
        )
        return summarize(found), known

    async def validation_summary(
        self, tx: Transaction, chain_id: ChainId, agent_id: int, validators: Sequence[str], tag: str
    ) -> ValidationSummary:
        """What the contract's `getSummary` returns for these validators; for all of them if none is given.

        Raises: AgentNotFound.
        """
        await _require(tx, chain_id, agent_id)
        row = await tx.fetchrow(
            """SELECT count(*), coalesce(sum(response), 0) FROM validations
               WHERE chain_id = $1 AND agent_id = $2 AND response IS NOT NULL
                     AND (cardinality($3::text[]) = 0 OR validator_address = ANY($3)) AND ($4 = '' OR tag = $4)""",
            chain_id,
            agent_id,
            list(validators),
            tag,
        )
        assert row is not None
        return summarize_responses(*row)


class _Row:
    """A record's columns by attribute, as those of a composed statement are."""

    def __init__(self, record: Any) -> None:
        self.__dict__.update(record)


async def _require(tx: Transaction, chain_id: ChainId, agent_id: int) -> None:
    if not await tx.fetchval("SELECT true FROM agents WHERE chain_id = $1 AND agent_id = $2", chain_id, agent_id):
        raise AgentNotFound


async def _metadata(tx: Transaction, chain_id: ChainId, agent_id: int) -> list[Metadata]:
    """Cleared keys are as if they had never been set, as they are for the contract."""
    rows = await tx.fetch(
        """SELECT key, value, value_text, updated_block FROM agent_metadata
           WHERE chain_id = $1 AND agent_id = $2 AND value <> '' ORDER BY key LIMIT $3""",
        chain_id,
        agent_id,
        KEYS,
    )
    return [
        Metadata(
            key=row["key"],
            value="0x" + row["value"].hex(),
            text=row["value_text"],
            updated_block=row["updated_block"],
        )
        for row in rows
    ]


async def _feedback(tx: Transaction, chain_id: ChainId, agent_id: int) -> FeedbackCounts:
    mine = "chain_id = $1 AND agent_id = $2 AND NOT incomplete"
    counts = await tx.fetchrow(
        f"""SELECT count(*), count(*) FILTER (WHERE revoked), count(DISTINCT client_address)
            FROM feedback WHERE {mine}""",  # noqa: S608 (our own words)
        chain_id,
        agent_id,
    )
    assert counts is not None
    count, revoked, clients = counts
    tags = await tx.fetch(
        f"""SELECT tag1, count(*), count(DISTINCT client_address), sum(score), count(score), min(score), max(score)
            FROM feedback WHERE {mine} AND NOT revoked AND tag1 IS NOT NULL
            GROUP BY tag1 HAVING count(score) > 0 ORDER BY 2 DESC, 1 LIMIT $3""",  # noqa: S608
        chain_id,
        agent_id,
        TAGS,
    )
    by_tag = [
        TagReputation(
            tag1=tag,
            count=number,
            clients=raters,
            mean=mean(total, scored),
            min=format(least, "f"),
            max=format(most, "f"),
        )
        for tag, number, raters, total, scored, least, most in tags
    ]
    return FeedbackCounts(count=count, active=count - revoked, revoked=revoked, clients=clients, by_tag1=by_tag)


async def _validations(tx: Transaction, chain_id: ChainId, agent_id: int) -> ValidationCounts:
    row = await tx.fetchrow(
        """SELECT count(*), count(response), sum(response)::numeric FROM validations
           WHERE chain_id = $1 AND agent_id = $2""",
        chain_id,
        agent_id,
    )
    assert row is not None
    requests, answered, total = row
    return ValidationCounts(requests=requests, answered=answered, average=mean(total, answered) if answered else None)
