"""An installation under fire: real processes on this test's stores, an endpoint, and the books of what is due.

A test says what happens (`happen`, or logs of a scripted chain), lets processes run and die, and asks at the end
whether everything came (`finish`). What is due is worked out here, by rules written down beside each trigger in plain
Python, so that the product is compared with something that it did not make.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import redis.asyncio
from aiohttp import web

from agentauri.actions import ActionDraft
from agentauri.app import Application, Stores, assemble
from agentauri.config import Config
from agentauri.database import Transaction
from agentauri.triggers import TriggerDraft
from agentauri.types import OrganizationId, UserId
from chains import logs
from chains.scripted import ScriptedChain, transaction
from support.processes import Child, until
from support.receiver import Receiver

CHAIN = 84532
SECONDS = 60.0
"""How long a test waits before it gives up: processes share a busy machine."""

UNNOTICED_SECONDS = 0.3

Row = tuple[str, int, int, int, int, str]
"""Id, chain, block, agent, score and tag."""

Key = tuple[str, str]
"""What is due once: an event's id and the path that an action posts to."""


class Fact(NamedTuple):
    """What the rules look at."""

    agent_id: int
    score: int
    tag1: str


class Rule(NamedTuple):
    """A trigger, and the same in Python."""

    paths: tuple[str, ...]
    trigger: dict[str, Any]
    matches: Callable[[Fact], bool]


RULES = (
    Rule(("/all",), {"match_all": True}, lambda _: True),
    Rule(
        ("/nested",),
        {
            "conditions": [
                {
                    "any": [
                        {"condition_type": "score_threshold", "operator": "lt", "value": 30},
                        {
                            "all": [
                                {"condition_type": "tag_equals", "field": "tag1", "operator": "eq", "value": "uptime"},
                                {"not": {"condition_type": "agent_id_equals", "value": "3"}},
                            ]
                        },
                    ]
                }
            ]
        },
        lambda fact: fact.score < 30 or (fact.tag1 == "uptime" and fact.agent_id != 3),
    ),
    Rule(
        ("/first", "/second"),
        {"conditions": [{"condition_type": "field", "field": "agent_id", "operator": "in", "value": [1, 2]}]},
        lambda fact: fact.agent_id in (1, 2),
    ),
)


class Left(NamedTuple):
    """What there is in the stores and at the receiver, in numbers."""

    processed: int
    deliveries: int
    claimed: int
    delivered: int
    attempts: int
    known: int
    ready: int
    leased: int
    received: int


class World:
    def __init__(
        self,
        app: Application,
        start: Callable[..., Child],
        receiver: Receiver,
        client: redis.asyncio.Redis,
        settings: Mapping[str, str],
    ) -> None:
        self.app = app
        self.receiver = receiver
        self.redis = client
        self.due: set[Key] = set()
        self.rules: list[Rule] = []
        self.children: list[Child] = []
        self.events = 0
        self._start = start
        self._settings = dict(settings)
        self._numbers = count(1)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        config: Config,
        start: Callable[..., Child],
        receiver: Receiver,
        *,
        settings: Mapping[str, str] | None = None,
        moved_from: World | None = None,
    ) -> AsyncIterator[World]:
        """On the stores of `config`, with the triggers of `RULES`, or with what was moved to them. Every process gets
        `settings`."""
        assert config.database is not None
        assert config.redis is not None
        client = redis.asyncio.from_url(config.redis.url.reveal(), decode_responses=True)
        async with assemble(config, Stores(database=config.database, redis=config.redis, embedded=None)) as app:
            world = cls(app, start, receiver, client, settings or {})
            if moved_from is None:
                for rule in RULES:
                    await world.add(rule)
            else:
                world._take_over(moved_from)
            yield world
            await client.aclose()

    # What happens.

    async def happen(self, number: int, *, chain_id: int = CHAIN) -> None:
        """So many events, inserted by SQL in one statement."""
        async with self.app.database.transaction() as tx:
            await insert(tx, self.rows(number, chain_id))

    async def happen_unnoticed(self, number: int = 5) -> None:
        """So many events that lie there: every process has nothing to do and is not about to look. Where one was still
        at it and came upon them, others follow."""
        while True:
            await self.happen(number)
            await asyncio.sleep(UNNOTICED_SECONDS)
            if (await self.left()).processed == self.events - number:
                return
            await self.processed(self.events)

    def rows(self, number: int, chain_id: int = CHAIN) -> list[Row]:
        """Events that are due from now on; the caller inserts them."""
        rows = []
        for n in (next(self._numbers) for _ in range(number)):
            fact = Fact(n % 5, n * 37 % 100, ("uptime", "starred", "")[n % 3])
            self.expect(f"event-{n}", fact)
            rows.append((f"event-{n}", chain_id, n, *fact))
        return rows

    def expect(self, event_id: str, fact: Fact) -> None:
        """Enter an event into the books."""
        self.events += 1
        self.due |= {(event_id, path) for rule in self.rules if rule.matches(fact) for path in rule.paths}

    async def add(self, rule: Rule, *, base: str | None = None, organization: str = "org-1") -> None:
        """A trigger for what happens from now on. `base` is another name of the receiver."""
        actions = [
            ActionDraft(action_type="webhook", config={"url": (base or self.receiver.url) + path})
            for path in rule.paths
        ]
        prepared = await self.app.triggers.prepare(TriggerDraft(name=rule.paths[0], **rule.trigger, actions=actions))
        async with self.app.database.transaction() as tx:
            await self.app.triggers.create(tx, OrganizationId(organization), UserId("user-1"), prepared)
        self.rules.append(rule)

    # Processes and time.

    async def start(self, roles: str = "evaluator,dispatcher", **settings: str) -> Child:
        """A process that runs; or, if it is to crash soon, one that has begun to."""
        child = self._start("--only", roles, **(self._settings | settings))
        self.children.append(child)
        if "AGENTAURI_CRASH_AT" not in settings:
            await child.logged(SECONDS, event="process.started")
        return child

    async def pass_time(self, seconds: int = 300) -> None:
        """Make everything that is stored so much older: leases and claims lapse, and what waits is due. Only while no
        process is sending."""
        async with self.app.database.transaction() as tx:
            for table, columns in (
                ("deliveries", ("due_at", "leased_until")),
                ("event_queue", ("due_at",)),
                ("circuit_breaker_state", ("opened_at", "next_probe_at", "half_open_at")),
            ):
                moved = ", ".join(f"{column} = {column} - make_interval(secs => $1)" for column in columns)
                await tx.run(f"UPDATE {table} SET {moved}", seconds)
        for key in ("agentauri:queue:delayed", "agentauri:queue:leased"):
            for id_ in await self.redis.zrange(key, 0, -1):
                await self.redis.zincrby(key, -seconds * 1000, str(id_))

    async def evaluate(self) -> None:
        """Evaluate here what is queued, so that a process finds nothing but deliveries."""
        while await self.app.evaluator.step():
            pass

    # Looking.

    async def fetch(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        async with self.app.database.transaction() as tx:
            return [tuple(row) for row in await tx.fetch(sql, *arguments)]

    async def left(self) -> Left:
        [(processed, deliveries, claimed, delivered, attempts)] = await self.fetch(
            """SELECT (SELECT count(*) FROM processed_events), count(*), count(leased_until),
                      count(*) FILTER (WHERE status = 'delivered'), (SELECT count(*) FROM attempts) FROM deliveries"""
        )
        known = await self.redis.scard("agentauri:queue:known")
        ready = await self.redis.llen("action_jobs")
        leased = await self.redis.zcard("agentauri:queue:leased")
        received = len(self.receiver.requests)
        return Left(processed, deliveries, claimed, delivered, attempts, known, ready, leased, received)

    async def until(self, condition: Callable[[], bool | Awaitable[bool]], what: str, seconds: float = SECONDS) -> None:
        """Wait while there is somebody to wait for; on giving up, say how things stand."""

        async def holds() -> bool:
            running = [child for child in self.children if child.alive]
            answer = condition()
            held = answer if isinstance(answer, bool) else await answer
            assert held or running, f"no process is left: {self.children[-1].log.read_text()[-2000:]}"
            return held

        try:
            await until(holds, seconds, what)
        except AssertionError as error:
            error.add_note(str(await self.left()))
            raise

    def missing(self) -> set[Key]:
        """What is due and has not come yet."""
        return self.due - {
            (request.headers["x-agentauri-event-id"], request.path) for request in self.receiver.requests
        }

    async def received(self, number: int) -> None:
        """Wait until the endpoint has had so many requests."""
        await self.until(lambda: len(self.receiver.requests) >= number, f"{number} requests")

    async def processed(self, number: int) -> None:
        """Wait until so many events have been evaluated."""

        async def enough() -> bool:
            return (await self.left()).processed >= number

        await self.until(enough, f"{number} evaluated events")

    async def waits_for_a_lock(self, statement: str) -> bool:
        """A transaction is stopped in the middle, at a statement that matches this pattern."""
        found = await self.fetch(
            """SELECT pid FROM pg_stat_activity
               WHERE datname = current_database() AND wait_event_type = 'Lock' AND query ~ $1""",
            statement,
        )
        return found != []

    async def is_done(self) -> bool:
        """Nothing waits any more, and nothing is missing."""
        [(processed, unfinished)] = await self.fetch(
            """SELECT (SELECT count(*) FROM processed_events),
                      (SELECT count(*) FROM event_queue) + (SELECT count(*) FROM deliveries WHERE status = 'pending')"""
        )
        return bool(processed >= self.events and unfinished == 0)

    # The end.

    async def finish(self, *, repeats: int = 0, seconds: float = SECONDS) -> None:
        """Wait until all is done, stop the processes as an operator would, and compare the books."""
        await self.until(self.is_done, "everything to be processed and delivered", seconds)
        await self.stop()
        await self.check(repeats=repeats)

    async def stop(self) -> None:
        """Tell every process that is alive to drain; each must end well."""
        running = [child for child in self.children if child.alive]
        for child in running:
            child.signal(signal.SIGTERM)
        for child in running:
            assert await child.ended(SECONDS) == 0

    async def check(self, *, repeats: int = 0) -> None:
        """All events processed once, all deliveries made once and received; so many requests may be repetitions."""
        assert await self.fetch("SELECT count(*) FROM event_queue") == [(0,)]
        ledger = await self.fetch(
            "SELECT e.id, p.evaluations FROM events e LEFT JOIN processed_events p ON p.event_seq = e.seq"
        )
        assert len(ledger) == self.events
        assert {times for _, times in ledger} == {1}
        made = await self.fetch(
            """SELECT e.id, a.config ->> 'url', d.trigger_version, d.kind, d.status, 'msg_' || d.id
               FROM deliveries d JOIN events e ON e.seq = d.event_seq JOIN trigger_actions a ON a.id = d.action_id"""
        )
        twice = [key for key, times in Counter(row[:4] for row in made).items() if times > 1]
        assert twice == []
        assert {row[4] for row in made} == {"delivered"}
        ids = {(event_id, urlsplit(url).path): id_ for event_id, url, *_, id_ in made}
        assert set(ids) == self.due
        received: dict[Key, list[str]] = defaultdict(list)
        for request in self.receiver.requests:
            received[request.headers["x-agentauri-event-id"], request.path].append(request.headers["webhook-id"])
        assert {key: set(found) for key, found in received.items()} == {key: {id_} for key, id_ in ids.items()}
        assert len(self.receiver.requests) - len(self.due) <= repeats

    def _take_over(self, other: World) -> None:
        """The books of another one."""
        self.due, self.rules, self.events, self._numbers = other.due, other.rules, other.events, other._numbers


async def insert(tx: Transaction, rows: list[Row]) -> None:
    """With no more than the required columns and what the rules look at."""
    await tx.run(
        """INSERT INTO events (id, chain_id, block_number, block_hash, transaction_hash, log_index, registry,
                               event_type, timestamp, agent_id, score, tag1)
           SELECT id, chain_id, block, '0xb' || block, '0xt' || block, 0, 'reputation', 'NewFeedback', 1700000000,
                  agent_id, score, tag1
           FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::numeric[], $5::numeric[], $6::text[])
                AS e (id, chain_id, block, agent_id, score, tag1)""",
        *map(list, zip(*rows, strict=True)),
    )


def mine(world: World, chain: ScriptedChain, blocks: int) -> None:
    """So many blocks with an event each, entered into the books."""
    for _ in range(blocks):
        n = chain.head.number + 1
        fact = Fact(n % 5, n * 37 % 100, ("uptime", "starred")[n % 2])
        chain.mine(transaction(logs.feedback(fact.agent_id, fact.score, tag1=fact.tag1)))
        [(_, log)] = chain.blocks[n].logs
        world.expect(f"reputation-84532-{log['transactionHash']}-0", fact)


class Gate:
    """Lets the receiver answer nobody until it is opened."""

    def __init__(self, receiver: Receiver, status: int = 200) -> None:
        self._open = asyncio.Event()
        self._status = status
        receiver.handle = self._answer

    def open(self) -> None:
        self._open.set()

    async def _answer(self, _: web.Request) -> web.Response:
        await self._open.wait()
        return web.Response(status=self._status)
