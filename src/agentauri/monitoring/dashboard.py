"""A dashboard for Grafana: what an operator looks at first, then a panel for every metric there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from agentauri import metrics
from agentauri.monitoring.promql import highest, labels, name, quantile, rate

Metric = Counter | Gauge | Histogram
WINDOW = "$__rate_interval"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT, COLUMNS = 8, 7, 24
SECTIONS = {
    "Chains": "chain_|contract_|logs_|rpc_",
    "Events and rules": "event_queue|events_|event_processing|active_|task_|trigger|match",
    "Deliveries": "deliver|action_|queue_|breaker|endpoints_",
    "HTTP and accounts": "http_|auth_|password_|rate_limit|audit_",
    "Stores and process": "",
}
"""Rows, and how the names of their metrics begin; the last takes the rest."""


def dashboard() -> str:
    """The dashboard as JSON, for Grafana's import or its folder of provisioned dashboards."""
    document = {
        "title": "AgentAuri",
        "uid": "agentauri",
        "description": "Printed by `agentauri monitoring dashboard`.",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_datasource(), _chain()]},
        "panels": list(_placed(_rows())),
    }
    return json.dumps(document, indent=1) + "\n"


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _chain() -> dict[str, Any]:
    query = f"label_values({name(metrics.CHAIN_STATUS)}, chain)"
    return {
        "name": "chain", "label": "Chain", "type": "query", "datasource": DATASOURCE,
        "query": {"query": query, "refId": "chain"}, "definition": query,
        "refresh": 2, "multi": True, "includeAll": True, "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip


def _rows() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    yield "At a glance", list(_glance())
    rest = dict(_metrics())
    for title, beginning in SECTIONS.items():
        chosen = {stem: rest.pop(stem) for stem in tuple(rest) if re.match(beginning, stem)}
        yield title, [_panel(stem, metric) for stem, metric in chosen.items()]


def _metrics() -> Iterator[tuple[str, Metric]]:
    """In the order in which they are written down, by their names without the common beginning."""
    for value in vars(metrics).values():
        if isinstance(value, Metric):
            yield name(value).removeprefix("agentauri_"), value


def _glance() -> Iterator[dict[str, Any]]:
    failed = rate(metrics.DELIVERY_ATTEMPTS, "10m", where='outcome!="delivered"')
    ratio = f"{failed} / {rate(metrics.DELIVERY_ATTEMPTS, '10m')}"
    yield _stat("Blocks behind", f"max({highest(metrics.CHAIN_LAG, 'chain')})", "short", 1000)
    yield _stat("Oldest waiting event", highest(metrics.EVENT_QUEUE_OLDEST), "s", 60)
    yield _stat("Ready deliveries", highest(metrics.ACTION_QUEUE_DEPTH), "short", 10_000)
    yield _stat("Failing attempts", ratio, "percentunit", 0.1)
    yield _stat("Events set aside", highest(metrics.EVENTS_PARKED), "short", 1)
    yield _stat("Open breakers", highest(metrics.BREAKERS_OPEN), "short", 1)


def _stat(title: str, expression: str, unit: str, alarming: float) -> dict[str, Any]:
    steps = [{"color": "green", "value": None}, {"color": "red", "value": alarming}]
    defaults = {"unit": unit, "thresholds": {"mode": "absolute", "steps": steps}}
    return {
        "type": "stat", "title": title, "datasource": DATASOURCE, "targets": [_target(expression, "", 0)],
        "fieldConfig": {"defaults": defaults, "overrides": []}, "gridPos": {"w": 4, "h": 4},
    }  # fmt: skip


def _panel(stem: str, metric: Metric) -> dict[str, Any]:
    (family,) = metric.describe()
    by = labels(metric)
    where = 'chain=~"$chain"' if "chain" in by else ""
    legend = " ".join(f"{{{{{label}}}}}" for label in by)
    unit = "bytes" if stem.endswith("bytes") else "s" if stem.endswith("seconds") else "short"
    match metric:
        case Counter():
            unit, targets = "cps", [_target(rate(metric, WINDOW, *by, where=where), legend, 0)]
        case Histogram():
            targets = [
                _target(quantile(share, metric, WINDOW, *by, where=where), f"p{share * 100:.0f} {legend}".strip(), i)
                for i, share in enumerate((0.5, 0.99))
            ]
        case Gauge():
            targets = [_target(highest(metric, *by, where=where), legend, 0)]
    return {
        "type": "timeseries", "title": name(metric), "description": family.documentation, "datasource": DATASOURCE,
        "targets": targets, "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "gridPos": {"w": WIDTH, "h": HEIGHT},
    }  # fmt: skip


def _target(expression: str, legend: str, index: int) -> dict[str, Any]:
    return {"refId": "AB"[index], "datasource": DATASOURCE, "expr": expression, "legendFormat": legend or "__auto"}


def _placed(rows: Iterator[tuple[str, list[dict[str, Any]]]]) -> Iterator[dict[str, Any]]:
    """Give every panel its id and place, left to right, a heading above each row of them."""
    number, y = 0, 0
    for title, panels in rows:
        number, x, y = number + 1, 0, y
        yield {"type": "row", "title": title, "id": number, "collapsed": False, "panels": [],
               "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}}  # fmt: skip
        y += 1
        tallest = 0
        for panel in panels:
            size = panel["gridPos"]
            if x + size["w"] > COLUMNS:
                x, y = 0, y + tallest
            number, tallest = number + 1, size["h"]
            yield panel | {"id": number, "gridPos": size | {"x": x, "y": y}}
            x += size["w"]
        y += tallest
