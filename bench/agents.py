"""Reading about agents: the slowest of all pages of lists at its p99, and the contract's summary of 10,000 ratings.

1,000,000 agents on three chains and 10,000,000 ratings, made by `generate_series`: a tenth of the agents belong to one
owner, a few agents have most of the ratings, a few tags are on most of them. Every list is asked for with each of its
filters and orders, each such page is a line of the report.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from decimal import Decimal
from functools import partial
from typing import Any, Literal

import asyncpg

import harness
from agentauri.agents import AgentFilter, AgentReader, FeedbackFilter, ValidationFilter
from agentauri.database import Database, Transaction
from agentauri.paging import SearchTooSlow
from agentauri.types import ChainId, Page, Paged
from harness import Bench, Reading, Stage, must_count, percentile

CHAINS = (ChainId(8453), ChainId(1), ChainId(100))
FEEDBACK_PER_AGENT = 10
RATED = 10_000  # ratings of the agent whose summary is asked for
HOT = 2**40  # its id
ASKED, LEAST_ASKED, ENOUGH_MS = 100, 10, 3_000.0  # of each page
LIMIT_MS, SUMMARY_MS = 50.0, 20.0
MASS_OWNER = "0x" + "a" * 40

AGENTS = """
INSERT INTO agents (chain_id, agent_id, owner, agent_wallet, agent_uri, registered_block, registered_time,
                    updated_block, updated_log, updated_time, feedback_count, client_count, validation_count,
                    last_feedback_time)
SELECT CASE WHEN n % 20 = 0 THEN 100 WHEN n % 20 < 6 THEN 1 ELSE 8453 END, n, owner, owner,
       'https://agents.example/' || n || '.json', n, 1700000000 + n, n + (n * 7919) % 100000, 0,
       1700000000 + n + (n * 7919) % 100000, coalesce(f.count, 0), coalesce(f.clients, 0), (n % 10 = 0)::int,
       CASE WHEN f.count > 0 THEN 1700000000 + n END
FROM (SELECT n, CASE WHEN n % 10 = 3 THEN $2 ELSE '0x' || lpad(to_hex(n / 2), 40, '0') END AS owner
      FROM generate_series(1, $1::bigint) AS n) AS made
LEFT JOIN (SELECT agent_id, count(*), count(DISTINCT client_address) AS clients FROM feedback GROUP BY 1) AS f
       ON f.agent_id = made.n
"""
FEEDBACK = """
INSERT INTO feedback (chain_id, agent_id, client_address, feedback_index, value_raw, value_decimals, score, tag1, tag2,
                      endpoint, file_uri, file_hash, revoked, block_number, log_index, block_time, transaction_hash,
                      event_seq, incomplete)
SELECT CASE WHEN agent % 20 = 0 THEN 100 WHEN agent % 20 < 6 THEN 1 ELSE 8453 END, agent,
       '0x' || lpad(to_hex(n % 99991), 40, '0'), 1 + n / 99991, n % 10000, 2, (n % 10000) / 100.0,
       'tag' || (20 * power((n * 7919 % 1000003) / 1000003.0, 4))::int, 'tag' || n % 7, '', 'ipfs://' || n, '0x',
       n % 50 = 0, n, n % 100, 1700000000 + n, '0x' || lpad(to_hex(n), 64, '0'), n, false
FROM (SELECT n, 1 + (($1 - 1) * power((n * 104729 % 10000019) / 10000019.0, 3))::bigint AS agent
      FROM generate_series(1, $2::bigint) AS n) AS made
"""
OF_HOT = """
INSERT INTO feedback (chain_id, agent_id, client_address, feedback_index, value_raw, value_decimals, score, tag1, tag2,
                      revoked, block_number, log_index, block_time, transaction_hash, event_seq, incomplete)
SELECT 8453, $1::bigint, '0x' || lpad(to_hex(n % 500), 40, '0'), 1 + n / 500, n % 10000 - 3000, n % 3, 1,
       'tag' || n % 5, '', n % 50 = 0, n, 0, 1700000000 + n, '0x' || n, -n, false
FROM generate_series(1, $2::bigint) AS n
"""
REST = (
    """INSERT INTO agents (chain_id, agent_id, updated_block, updated_log, updated_time, feedback_count, client_count)
       VALUES (8453, 1099511627776, 1, 0, 1700000000, 10000, 500)""",
    """INSERT INTO agent_words SELECT chain_id, agent_id, text_words(agent_uri) FROM agents
       WHERE agent_uri IS NOT NULL""",
    """INSERT INTO agent_metadata (chain_id, agent_id, key, value, value_text, updated_block)
       SELECT chain_id, agent_id, 'name', '\\x41', 'Agent number ' || agent_id, 1 FROM agents""",
    """INSERT INTO validations (chain_id, agent_id, request_hash, validator_address, request_uri, requested_block,
                                requested_log, requested_time, response, tag, incomplete)
       SELECT chain_id, agent_id, '0x' || agent_id, owner, '', 1, 0, 1700000000, 100, 'hard', false
       FROM agents WHERE validation_count > 0""",
)

Ask = Callable[[Transaction], Awaitable[Paged[Any]]]


class Agents(Bench):
    name = "agents"
    unit = "ms p99"
    what = "the slowest page of all lists about agents"
    bare = "21 agents of a chain in the order of their registration, as often, by a bare connection"
    size = 1_000_000
    runs = 1

    async def prepare(self, stage: Stage) -> None:
        connection = await asyncpg.connect(stage.database_url(harness.TEMPLATE))
        tables = ["agents", "feedback", "agent_metadata", "agent_words", "validations"]
        # Filled first and indexed then: it is what the pages read that counts here, not how it came about.
        indexes = await connection.fetch(
            """SELECT indexname, indexdef FROM pg_indexes WHERE tablename = ANY($1)
               AND NOT EXISTS (SELECT FROM pg_constraint WHERE conname = indexname)""",
            tables,
        )
        for index in indexes:
            await connection.execute(f"DROP INDEX {index['indexname']}")
        await connection.execute("SET maintenance_work_mem = '1GB'; SET work_mem = '256MB'")
        await connection.execute(FEEDBACK, self.count, self.count * FEEDBACK_PER_AGENT, timeout=None)
        await connection.execute(AGENTS, self.count, MASS_OWNER, timeout=None)
        await connection.execute(OF_HOT, HOT, RATED, timeout=None)
        for statement in REST:
            await connection.execute(statement, timeout=None)
        for index in indexes:
            await connection.execute(index["indexdef"], timeout=None)
        await connection.close()

    async def measure(self, stage: Stage) -> Reading:
        async with stage.application(harness.TEMPLATE) as application:
            database, reader = application.database, application.agent_reader
            await must_count(database, self.count + 1, "SELECT count(*) FROM agents")
            await must_count(database, self.count * FEEDBACK_PER_AGENT + RATED, "SELECT count(*) FROM feedback")
            worst, slowest = 0.0, ""
            for name, ask in self._pages(reader):
                took = await _timed(database, ask)
                p99 = percentile(took, 99)
                print(
                    f"  {'over' if p99 > LIMIT_MS else '':<8} {p99:7.1f} ms p99 {percentile(took, 50):7.1f} p50  {name}"
                )
                worst, slowest = max((worst, slowest), (p99, name))
            summary = await _timed(database, lambda tx: reader.reputation(tx, CHAINS[0], HOT, None, "", ""))
            detail = await _timed(database, lambda tx: reader.detail(tx, CHAINS[0], HOT))
        bare = await _bare(stage.database_url(harness.TEMPLATE))
        note = (
            f"{slowest}, wanted {LIMIT_MS:.0f} at most; p50 of the detail of an agent with {RATED:,} ratings "
            f"{percentile(detail, 50):.1f} ms; its summary {percentile(summary, 99):.1f} ms p99 "
            f"({percentile(summary, 50):.1f} p50), wanted {SUMMARY_MS:.0f} at most"
        )
        return Reading(worst, percentile(bare, 99), note)

    def _pages(self, reader: AgentReader) -> list[tuple[str, Ask]]:
        return (
            [(name, _agents(reader, page, wanted)) for name, page, wanted in self._agent_pages()]
            + [(f"feedback {name}", _feedback(reader, page, wanted)) for name, page, wanted in _FEEDBACK_PAGES]
            + [("validations", lambda tx: reader.validations(tx, ChainId(100), 20, ValidationFilter(), Page()))]
        )

    def _agent_pages(self) -> list[tuple[str, Page, Callable[[], AgentFilter]]]:
        def owner() -> str:
            return f"0x{random.randrange(1, self.count // 2):040x}"

        def since() -> int:
            return 1_700_000_000 + random.randrange(self.count)

        first = Page()
        pages: list[tuple[str, Page, Callable[[], AgentFilter]]] = [
            ("agents", first, AgentFilter),
            ("agents, 100", Page(limit=100), AgentFilter),
            ("agents after 5,000", Page(offset=5_000), AgentFilter),
            ("agents of a small chain", first, lambda: AgentFilter(chain_ids=(ChainId(100),))),
            ("agents of two chains", first, lambda: AgentFilter(chain_ids=CHAINS[:2])),
            ("agents of an owner", first, lambda: AgentFilter(owner=owner())),
            ("agents of a wallet", first, lambda: AgentFilter(wallet=owner())),
            ("agents of the largest owner", first, lambda: AgentFilter(owner=MASS_OWNER)),
            ("agents of the largest owner, updated", first, lambda: AgentFilter(owner=MASS_OWNER, sort="updated_at")),
            ("agents with feedback", first, lambda: AgentFilter(has_feedback=True)),
            ("agents without feedback", first, lambda: AgentFilter(has_feedback=False)),
            ("agents registered since", first, lambda: AgentFilter(registered_since=since())),
            ("agents updated since", first, lambda: AgentFilter(updated_since=since())),
            ("agents updated since, updated", first, lambda: AgentFilter(updated_since=since(), sort="updated_at")),
        ]
        for sort in _SORTS:
            pages += [
                (f"agents by {sort}", first, partial(AgentFilter, sort=sort)),
                (f"agents by {sort}, least first", first, partial(AgentFilter, sort=sort, order="asc")),
            ]
        for tag in ("tag0", "tag5", "tag20", "none"):
            pages += [
                (f"agents with {tag}", first, partial(AgentFilter, tag=tag)),
                (f"agents with {tag} by feedback", first, partial(AgentFilter, tag=tag, sort="feedback_count")),
                (f"agents with {tag} >= 60", first, partial(AgentFilter, tag=tag, min_score=Decimal(60))),
            ]
        return pages


_SORTS: tuple[Literal["registered_at", "updated_at", "feedback_count"], ...] = (
    "registered_at",
    "updated_at",
    "feedback_count",
)
_FEEDBACK_PAGES: list[tuple[str, Page, FeedbackFilter]] = [
    ("", Page(), FeedbackFilter()),
    ("oldest", Page(), FeedbackFilter(order="asc")),
    ("with revoked", Page(limit=100), FeedbackFilter(include_revoked=True)),
    ("after 5,000", Page(offset=5_000), FeedbackFilter()),
    ("of a client", Page(), FeedbackFilter(client="0x" + "7".zfill(40))),
    ("of a tag", Page(), FeedbackFilter(tag1="tag3")),
    ("of a tag that is not", Page(), FeedbackFilter(tag1="none")),
    ("of a second tag that is not", Page(), FeedbackFilter(tag2="none")),
]


def _agents(reader: AgentReader, page: Page, wanted: Callable[[], AgentFilter]) -> Ask:
    return lambda tx: reader.list(tx, wanted(), page)


def _feedback(reader: AgentReader, page: Page, wanted: FeedbackFilter) -> Ask:
    return lambda tx: reader.feedback(tx, CHAINS[0], HOT, wanted, page)


async def _timed(database: Database, ask: Callable[[Transaction], Awaitable[Any]]) -> list[float]:
    """Milliseconds that each asking took; fewer of them where they take long."""
    took: list[float] = []
    while len(took) < ASKED and (len(took) < LEAST_ASKED or sum(took) < ENOUGH_MS):
        started = time.perf_counter()
        with suppress(SearchTooSlow):  # which shows in how long it took
            async with database.transaction() as tx:
                await ask(tx)
        took.append((time.perf_counter() - started) * 1000)
    return took


async def _bare(url: str) -> list[float]:
    connection = await asyncpg.connect(url)
    took = []
    for _ in range(ASKED):
        started = time.perf_counter()
        async with connection.transaction():
            await connection.fetch(
                """SELECT * FROM agents WHERE chain_id = 8453
                   ORDER BY coalesce(registered_time, 0) DESC, agent_id DESC LIMIT 21"""
            )
        took.append((time.perf_counter() - started) * 1000)
    await connection.close()
    return took


if __name__ == "__main__":
    harness.run(Agents)
