"""The Prometheus registry and every metric, in one place.

Labels are bounded: no trigger, organization, host or URL is ever one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry(auto_describe=True)
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"agentauri_{name}", text, labels, registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(f"agentauri_{name}", text, labels, registry=REGISTRY)


def _seconds(name: str, text: str, *labels: str) -> Histogram:
    return Histogram(f"agentauri_{name}", text, labels, registry=REGISTRY, buckets=SECONDS)


EVENTS_INGESTED = _counter("events_ingested_total", "Events stored by this process.", "chain", "origin")
EVENTS_PROCESSED = _counter("events_processed_total", "Events evaluated.")
EVENT_PROCESSING = _seconds("event_processing_seconds", "From taking an event to writing its outcome.")
EVENT_QUEUE_DEPTH = _gauge("event_queue_depth", "Events waiting for evaluation.")
EVENT_QUEUE_OLDEST = _gauge("event_queue_oldest_seconds", "Age of the oldest waiting event.")
EVENTS_PARKED = _gauge("events_parked", "Events set aside after too many failures.")
ACTIVE_TASKS = _gauge("active_tasks", "Events in evaluation; never above 100.")
TASK_PANICKED = _counter("task_panicked_total", "Exceptions that left a worker.", "worker")
TASK_TIMEOUT = _counter("task_timeout_total", "Evaluations that made no progress in time.")
TRIGGERS_EVALUATED = _counter("triggers_evaluated_total", "Candidate triggers evaluated.")
TRIGGERS_MATCHED = _counter("triggers_matched_total", "Triggers that said yes.")
MATCHES_SUPPRESSED = _counter("matches_suppressed_total", "Matches that made no delivery.")
TRIGGER_INDEX_SIZE = _gauge("trigger_index_size", "Triggers in the index.")
TRIGGER_COUNT_EXCEEDED = _counter("trigger_count_exceeded_total", "Events that matched unusually many triggers.")
DELIVERIES_CREATED = _counter("deliveries_created_total", "Deliveries written.", "kind")
DELIVERIES_FINISHED = _counter("deliveries_finished_total", "Deliveries that ended.", "status", "channel")
DELIVERY_ATTEMPTS = _counter("delivery_attempts_total", "Tries at a delivery.", "channel", "outcome")
DELIVERY_ATTEMPT = _seconds("delivery_attempt_seconds", "One try, from connect to last byte.", "channel")
DELIVERY_LATENCY = _seconds("delivery_latency_seconds", "From event commit to request sent.")
DELIVERIES_HELD = _gauge("deliveries_held", "Pending deliveries that wait for something.", "hold")
ACTION_QUEUE_DEPTH = _gauge("action_queue_depth", "Ready delivery ids in Redis.")
QUEUE_RESTORED = _counter("queue_restored_total", "Delivery ids put back into Redis by the sweep.")
BREAKER_TRANSITIONS = _counter("breaker_transitions_total", "Breaker state changes.", "to")
ENDPOINTS_FAILING = _counter("endpoints_failing_total", "Triggers whose endpoint keeps failing, once a day each.")
BREAKERS_OPEN = _gauge("breakers_open", "Breakers that are open.")
CHAIN_HEAD = _gauge("chain_head_block", "Newest block that a provider named.", "chain")
CHAIN_INDEXED = _gauge("chain_indexed_block", "Newest block indexed.", "chain")
CHAIN_LAG = _gauge("chain_lag_blocks", "Head minus indexed block.", "chain")
CHAIN_REORGS = _counter("chain_reorgs_total", "Reorgs followed.", "chain")
CHAIN_REORG_DEPTH = _gauge("chain_reorg_depth", "Depth of the newest reorg, in blocks.", "chain")
CHAIN_STATUS = _gauge("chain_status", "1 for the status that holds.", "chain", "status")
CONTRACT_UPGRADES = _counter("contract_upgrades_total", "Registries that got new code.", "chain")
LOGS_UNDECODED = _counter("logs_undecoded_total", "Logs kept raw.", "chain", "reason")
RPC_REQUESTS = _counter("rpc_requests_total", "Requests to providers.", "chain", "provider", "method", "outcome")
RPC_SECONDS = _seconds("rpc_request_seconds", "One request to a provider.", "chain", "provider")
DB_POOL_IN_USE = _gauge("db_pool_in_use", "Connections out of the pool.")
DB_POOL_WAIT = _seconds("db_pool_wait_seconds", "Wait for a connection.")
DB_COMMIT = _seconds("db_commit_seconds", "One commit.")
REDIS_COMMAND = _seconds("redis_command_seconds", "One script call.")
LISTENER_CONNECTED = _gauge("listener_connected", "1 while LISTEN is up.")
LISTENER_RECONNECTS = _counter("listener_reconnects_total", "Connections of the listener after its first.")
LOOP_LAG = _seconds("event_loop_lag_seconds", "How late the event loop runs a timer.")
LOOP_TASKS = _gauge("event_loop_tasks", "Tasks of the event loop, running or waiting.")
WORKER_RESTARTS = _counter("worker_restarts_total", "Restarts after a crash.", "worker")
RESIDENT_BYTES = _gauge("process_resident_bytes", "Resident memory.")
HTTP_REQUESTS = _counter("http_requests_total", "Requests answered.", "method", "route", "status")
HTTP_SECONDS = _seconds("http_request_duration_seconds", "Time to answer.", "method", "route")
HTTP_IN_FLIGHT = _gauge("http_requests_in_flight", "Requests being answered.")
JANITOR_DELETED = _counter("janitor_rows_deleted_total", "Rows that had outlived their use.", "job")
AUDIT_ROWS = _counter("audit_rows_total", "Audit rows written.", "event")
PASSWORD_HASH = _seconds("password_hash_seconds", "One password hashed or compared, with the wait for a thread.")
AUTH_ATTEMPTS = _counter("auth_attempts_total", "Credentials looked at.", "kind", "outcome")
RATE_LIMIT_DECISIONS = _counter("rate_limit_decisions_total", "Requests charged or refused.", "plan", "decision")


def observe(histogram: Histogram, value: float, times: int) -> None:
    """Observe the same value so many times at once; the library has no such method, and a loop over a batch costs as
    much as evaluating it."""
    histogram._sum.inc(value * times)
    bucket = bisect_left(histogram._upper_bounds, value)
    histogram._buckets[bucket].inc(times)


def observe_each(histogram: Histogram, values: Sequence[float]) -> None:
    """Observe many values at once, for a fraction of what each would cost."""
    histogram._sum.inc(sum(values))
    for bucket, times in Tally(bisect_left(histogram._upper_bounds, value) for value in values).items():
        histogram._buckets[bucket].inc(times)
