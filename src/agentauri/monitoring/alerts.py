"""When somebody has to look, as rules for Prometheus."""

from __future__ import annotations

import json
from typing import NamedTuple

from agentauri import metrics
from agentauri.monitoring.promql import highest, increase, rate, selector

HEADER = """\
# Alert rules for Prometheus, as `agentauri monitoring alerts` prints them (src/agentauri/monitoring/alerts.py).
# docs/reference/metrics.md lists the metrics, docs/runbook.md says what to do about each alert.
groups:
  - name: agentauri
    rules:
"""


class Alert(NamedTuple):
    name: str
    severity: str
    expression: str
    lasting: str
    """How long it has to hold; empty: at once."""
    summary: str
    """What is wrong, with Prometheus' placeholders."""


def alerts() -> tuple[Alert, ...]:
    return (*_queues(), *_chains(), *_work())


def _queues() -> tuple[Alert, ...]:
    ready, oldest = highest(metrics.ACTION_QUEUE_DEPTH), highest(metrics.EVENT_QUEUE_OLDEST)
    return (
        Alert("AgentAuriQueueHigh", "warning", f"{ready} > 10000", "5m",
              "{{ $value }} deliveries are ready: dispatchers fall behind"),
        Alert("AgentAuriQueueCritical", "critical", f"{ready} > 50000", "5m",
              "{{ $value }} deliveries are ready: evaluation waits until they are fewer"),
        Alert("AgentAuriEventsWaiting", "warning", f"{oldest} > 60", "2m",
              "The oldest event has waited {{ $value }} s for its evaluation"),
        Alert("AgentAuriEventsParked", "warning", f"{highest(metrics.EVENTS_PARKED)} > 0", "",
              "{{ $value }} events were set aside after failing too often"),
    )  # fmt: skip


def _chains() -> tuple[Alert, ...]:
    lag = highest(metrics.CHAIN_LAG, "chain")
    degraded, halted = (highest(metrics.CHAIN_STATUS, "chain", where=f'status="{s}"') for s in ("degraded", "halted"))
    still = f"max by (chain) (changes({selector(metrics.CHAIN_INDEXED)}[10m])) == 0"
    return (
        Alert("AgentAuriChainLag", "warning", f"{lag} > 1000", "10m",
              "Chain {{ $labels.chain }} is {{ $value }} blocks behind"),
        Alert("AgentAuriChainStalled", "critical", f"{still} and ({lag} > 0 or {degraded} == 1)", "",
              "Chain {{ $labels.chain }} has not moved for 10 minutes"),
        Alert("AgentAuriChainHalted", "critical", f"{halted} == 1", "",
              "Chain {{ $labels.chain }} is halted: its finalized blocks changed"),
        Alert("AgentAuriContractUpgraded", "critical", f"{increase(metrics.CONTRACT_UPGRADES, '1h', 'chain')} > 0", "",
              "A registry of chain {{ $labels.chain }} has new code"),
    )  # fmt: skip


def _work() -> tuple[Alert, ...]:
    failed = rate(metrics.DELIVERY_ATTEMPTS, "10m", where='outcome!="delivered"')
    breakers, triggers = highest(metrics.BREAKERS_OPEN), highest(metrics.TRIGGER_INDEX_SIZE)
    return (
        Alert("AgentAuriAttemptsFail", "warning", f"{failed} / {rate(metrics.DELIVERY_ATTEMPTS, '10m')} > 0.1", "10m",
              "{{ $value | humanizePercentage }} of the attempts fail"),
        Alert("AgentAuriTaskPanic", "critical", f"{increase(metrics.TASK_PANICKED, '10m', 'worker')} > 0", "",
              "Worker {{ $labels.worker }} crashed and was restarted: a bug"),
        Alert("AgentAuriBreakersOpen", "warning", f"{breakers} > 0.1 * {triggers}", "10m",
              "{{ $value }} breakers are open, more than a tenth of all triggers"),
    )  # fmt: skip


def alert_rules() -> str:
    """The rules file. Its values are JSON strings, which YAML reads as they are."""
    return HEADER + "\n".join(map(_rule, alerts()))


def _rule(alert: Alert) -> str:
    lines = [f"      - alert: {alert.name}", f"        expr: {json.dumps(alert.expression)}"]
    if alert.lasting:
        lines.append(f"        for: {alert.lasting}")
    lines += [
        f"        labels: {{severity: {alert.severity}}}",
        "        annotations:",
        f"          summary: {json.dumps(alert.summary)}",
        "",
    ]
    return "\n".join(lines)
