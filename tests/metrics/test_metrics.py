"""Each metric moves when what it tells of really happens, and a gauge goes back when that is over."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from msgspec.structs import replace
from prometheus_client import Histogram

from agentauri import metrics
from agentauri.actions import ActionDraft
from agentauri.app import Application, Stores, assemble
from agentauri.chain import Step
from agentauri.chain.locks import ChainLocks
from agentauri.config import ChainSettings, Config
from agentauri.events import Listener
from agentauri.pulse import Pulse
from agentauri.triggers import TriggerDraft
from agentauri.types import ChainId, OrganizationId, Secret, TriggerId, UserId
from chains import logs
from chains.driving import FAST, drain
from chains.scripted import ScriptedChain, ScriptedNode, transaction
from support.events import insert_by_hand
from support.processes import until
from support.receiver import Answer, Receiver

CHAIN = "84532"
FEEDBACK = [{"condition_type": "event_type_equals", "value": "NewFeedback"}]
ELSEWHERE = {
    "contract_upgrades_total": "chain/test_self_check.py",
    "http_requests_total": "http/test_service_routes.py",
    "http_request_duration_seconds": "http/test_service_routes.py",
    "http_requests_in_flight": "http/test_service_routes.py",
    "auth_attempts_total": "http/test_service_routes.py",
    "janitor_rows_deleted_total": "test_janitor.py",
    "audit_rows_total": "accounts/test_members.py",
    "task_panicked_total": "test_supervisor.py",
    "worker_restarts_total": "test_supervisor.py",
    "endpoints_failing_total": "breaker/test_service.py",
    "rate_limit_decisions_total": "http/test_rate_limit.py",
    "password_hash_seconds": "accounts/test_users.py",
}


def total(name: str, **labels: str) -> float | None:
    """The sum over the samples that have these labels; None where there is none."""
    values = [
        sample.value
        for metric in metrics.REGISTRY.collect()
        for sample in metric.samples
        if sample.name == f"agentauri_{name}" and labels.items() <= sample.labels.items()
    ]
    return sum(values) if values else None


@contextmanager
def rises(*samples: str | tuple[str, dict[str, str]]) -> Iterator[None]:
    """Each of these counters is higher afterwards."""
    wanted = [(one, {}) if isinstance(one, str) else one for one in samples]
    before = [total(name, **labels) or 0.0 for name, labels in wanted]
    yield
    still = [(name, labels) for (name, labels), was in zip(wanted, before, strict=True)
             if (total(name, **labels) or 0.0) <= was]  # fmt: skip
    assert still == []


class House:
    """The product's parts in this process, driven step by step, on a chain that the test decides."""

    def __init__(self, app: Application, chain: ScriptedChain, receiver: Receiver) -> None:
        self.app, self.chain, self.receiver = app, chain, receiver

    async def index(self) -> None:
        await drain(self.app.indexers[0])

    async def trigger(self, **fields: Any) -> TriggerId:
        action = ActionDraft(action_type="webhook", config={"url": f"{self.receiver.url}/hook"})
        draft = TriggerDraft(name="all", registry="reputation", conditions=FEEDBACK, actions=[action], **fields)
        prepared = await self.app.triggers.prepare(draft)
        async with self.app.database.transaction() as tx:
            return (await self.app.triggers.create(tx, OrganizationId("org"), UserId("user"), prepared)).id

    async def happen(self, number: int = 1) -> None:
        """So many more pieces of feedback, written by somebody else than us."""
        async with self.app.database.transaction() as tx:
            for _ in range(number):
                seq = await tx.fetchval("SELECT coalesce(max(seq), 0) FROM events")
                await insert_by_hand(tx, f"event-{seq}", block_number=seq + 1, agent_id=1)

    async def evaluate(self) -> None:
        while await self.app.evaluator.step():
            pass

    async def deliver(self) -> None:
        while await self.app.dispatcher.step():
            pass

    async def run(self, sql: str) -> None:
        async with self.app.database.transaction() as tx:
            await tx.run(sql)


@pytest.fixture
async def house(config: Config, receiver: Receiver) -> AsyncIterator[House]:
    chain = ScriptedChain()
    chain.mine(transaction(logs.registered(1)), count=3)
    async with ScriptedNode.serve(chain) as node:
        settings = ChainSettings(chain_id=int(CHAIN), rpc_urls=(Secret(node.url),), start_block=1)
        evaluator = replace(config.evaluator, trigger_count_warning=1, event_timeout=0.5)
        config = replace(config, chains=(settings,), rpc=FAST, evaluator=evaluator)
        assert config.database is not None
        assert config.redis is not None
        async with assemble(config, Stores(database=config.database, redis=config.redis, embedded=None)) as app:
            yield House(app, chain, receiver)


async def test_a_chain_that_is_read(house: House) -> None:
    moved = ("events_ingested_total", {"chain": CHAIN, "origin": "chain"})
    asked = ("rpc_requests_total", {"chain": CHAIN, "provider": "rpc-1", "method": "eth_getLogs", "outcome": "ok"})
    with rises(moved, asked, "rpc_request_seconds_count", "db_commit_seconds_count", "db_pool_wait_seconds_count"):
        await house.index()
    with rises(("logs_undecoded_total", {"chain": CHAIN})):
        house.chain.mine(transaction(logs.unknown()))
        await house.index()

    assert total("chain_head_block", chain=CHAIN) == total("chain_indexed_block", chain=CHAIN) == 4
    assert total("chain_lag_blocks", chain=CHAIN) == 0
    assert total("chain_status", chain=CHAIN, status="live") == 1 == total("chain_status", chain=CHAIN)


async def test_a_reorg(house: House) -> None:
    house.chain.mine(count=5)
    await house.index()
    with rises(("chain_reorgs_total", {"chain": CHAIN})):
        house.chain.fork(2)
        house.chain.mine(count=3)
        while await house.app.indexers[0].step() is not Step.REORGED:
            pass

    assert total("chain_reorg_depth", chain=CHAIN) == 2


async def test_a_chain_that_another_process_indexes_is_told_of_there_alone(house: House) -> None:
    await house.index()
    others, stopping = ChainLocks(house.app.database), asyncio.Event()
    assert await others.take(ChainId(int(CHAIN)))

    running = asyncio.create_task(house.app.indexers[0].run(stopping))
    await until(lambda: total("chain_lag_blocks", chain=CHAIN) is None, 10, "the gauges to go")
    stopping.set()
    await running
    await others.release(ChainId(int(CHAIN)))

    gauges = ("chain_head_block", "chain_indexed_block", "chain_status")
    assert [total(name, chain=CHAIN) for name in gauges] == [None] * 3


async def test_an_event_that_is_matched_and_delivered(house: House) -> None:
    await house.trigger()
    await house.trigger()
    await house.happen()
    with rises(
        ("events_ingested_total", {"chain": CHAIN, "origin": "external"}),
        "events_processed_total",
        "event_processing_seconds_count",
        "triggers_evaluated_total",
        "triggers_matched_total",
        "trigger_count_exceeded_total",
        ("deliveries_created_total", {"kind": "match"}),
        "redis_command_seconds_count",
    ):
        await house.evaluate()
    with rises(
        ("delivery_attempts_total", {"channel": "webhook", "outcome": "delivered"}),
        ("delivery_attempt_seconds_count", {"channel": "webhook"}),
        ("deliveries_finished_total", {"status": "delivered", "channel": "webhook"}),
        "delivery_latency_seconds_count",
    ):
        await house.deliver()

    assert total("trigger_index_size") == 2
    assert total("active_tasks") == 0
    assert total("db_pool_in_use") == 0


async def test_a_match_that_is_suppressed(house: House) -> None:
    await house.trigger(cooldown_seconds=3600)
    await house.happen(2)
    with rises("matches_suppressed_total"):
        await house.evaluate()


async def test_what_is_skipped_for_a_trigger_that_goes(house: House) -> None:
    trigger_id = await house.trigger()
    await house.happen()
    await house.evaluate()
    with rises(("deliveries_finished_total", {"status": "skipped"})):
        async with house.app.database.transaction() as tx:
            await house.app.triggers.delete(tx, OrganizationId("org"), trigger_id)


async def test_an_endpoint_that_fails_until_its_breaker_opens(house: House) -> None:
    house.receiver.answer = lambda _: Answer(503)
    await house.trigger()
    await house.run("""UPDATE triggers SET circuit_breaker_config = '{"failure_threshold": 1}'""")
    await house.happen(2)
    await house.evaluate()
    assert total("breaker_transitions_total", to="open") is not None  # it is there before there is one

    with rises(
        ("delivery_attempts_total", {"channel": "webhook", "outcome": "retryable"}),
        ("breaker_transitions_total", {"to": "open"}),
    ):
        await house.deliver()
        await house.happen()
        await house.evaluate()
        await house.deliver()
    await house.app.dispatcher.tidy()

    assert total("breakers_open") == 1
    assert (total("deliveries_held", hold="breaker") or 0) >= 1
    await house.run("UPDATE circuit_breaker_state SET state = 'closed'")
    await house.run("UPDATE deliveries SET hold = NULL")
    await house.app.dispatcher.tidy()
    assert total("breakers_open") == total("deliveries_held") == 0


async def test_events_that_wait_and_events_that_were_parked(house: House) -> None:
    await house.happen(3)
    await house.run("UPDATE event_queue SET parked_at = now(), due_at = now() WHERE event_seq % 3 = 0")
    await house.run("UPDATE events SET created_at = now() - interval '1 minute'")

    await house.app.evaluator.gauge()

    assert (total("event_queue_depth"), total("events_parked")) == (2, 1)
    assert (total("event_queue_oldest_seconds") or 0) >= 60
    await house.evaluate()
    await house.app.evaluator.gauge()
    assert total("event_queue_depth") == total("event_queue_oldest_seconds") == 0


async def test_an_evaluation_that_hangs(house: House) -> None:
    await house.happen()
    await house.run(
        """CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(20); RETURN NEW; END $$;
           CREATE TRIGGER hang BEFORE INSERT ON processed_events FOR EACH ROW EXECUTE FUNCTION hang()"""
    )

    with rises("task_timeout_total"):
        step = asyncio.create_task(house.app.evaluator.step())
        await until(lambda: total("active_tasks") == 1, 10, "an evaluation")
        await step

    assert total("active_tasks") == 0


async def test_a_queue_that_was_wiped_and_restored_and_whose_server_went_away(
    house: House, redis_client: redis.asyncio.Redis
) -> None:
    await house.trigger()
    await house.happen(3)
    await house.evaluate()
    await house.run("UPDATE deliveries SET due_at = due_at - interval '1 minute'")
    await redis_client.flushdb()

    with rises("queue_restored_total"):
        await house.app.dispatcher.sweep()
        await house.app.dispatcher.sweep()
    await house.app.evaluator.step()  # it asks for the depth before it takes any

    assert total("action_queue_depth") == 3
    await house.deliver()
    assert total("action_queue_depth") == 0
    await redis_client.set("action_jobs", "not a list")
    with pytest.raises(Exception, match="Redis"):
        await house.app.dispatcher.take()
    assert math.isnan(total("action_queue_depth") or 0)


async def test_a_listener_that_loses_its_connection(house: House) -> None:
    listener, stopping = Listener(house.app.database, []), asyncio.Event()
    running = asyncio.create_task(listener.run(stopping))
    await until(lambda: total("listener_connected") == 1, 10, "the listener")

    with rises("listener_reconnects_total"):
        await house.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query ILIKE 'listen%'"
        )
        await until(lambda: total("listener_connected") == 0, 10, "the loss")
        await until(lambda: total("listener_connected") == 1, 10, "the listener to be back")
    stopping.set()
    await running

    assert total("listener_connected") == 0


async def test_a_process_that_lives(house: House) -> None:
    async def states() -> dict[str, str]:
        return {}

    pulse = Pulse(
        house.app.database,
        instance="test",
        version="0",
        roles=("http",),
        states=states,
        restarts=lambda: 0,
        embedded=None,
    )
    stopping = asyncio.Event()

    with rises("event_loop_lag_seconds_count"):
        running = asyncio.create_task(pulse.run(stopping))
        await until(lambda: (total("process_resident_bytes") or 0) > 1e6, 10, "a heartbeat")
        assert (total("event_loop_tasks") or 0) > 0
        stopping.set()
        await running


def test_every_metric_is_moved_by_a_test() -> None:
    names = {
        metric.name.removeprefix("agentauri_") + ("_total" if metric.type == "counter" else "")
        for metric in metrics.REGISTRY.collect()
    }
    here = Path(__file__)
    seen = re.findall(r'"([a-z_]+?)(?:_count)?"', here.read_text())
    for name, test in ELSEWHERE.items():
        assert name in (here.parents[1] / test).read_text(), f"{test} says nothing of {name}"

    assert names - set(seen) - set(ELSEWHERE) == set()


@pytest.mark.parametrize("value", [0.0, 0.001, 0.0011, 60.0, 1e9])
def test_the_same_value_observed_often_is_as_if_observed_one_by_one(value: float) -> None:
    loop, once = (Histogram("seconds", "A histogram.", registry=None, buckets=metrics.SECONDS) for _ in range(2))
    for _ in range(3):
        loop.observe(value)

    metrics.observe(once, value, 3)

    assert figures(once) == figures(loop)


def figures(histogram: Histogram) -> list[tuple[str, dict[str, str], float]]:
    [family] = histogram.collect()
    return [(one.name, one.labels, one.value) for one in family.samples if not one.name.endswith("_created")]
