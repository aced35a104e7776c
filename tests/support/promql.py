"""The expressions that we ship, and what they ask for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

import promql_parser
import yaml

from agentauri.monitoring import alert_rules, dashboard


class Selector(NamedTuple):
    """A metric by the name that is scraped, and the labels that are asked of it there."""

    name: str
    labels: frozenset[str]


def alert_expressions() -> list[str]:
    rules = yaml.safe_load(alert_rules())["groups"][0]["rules"]
    return [rule["expr"] for rule in rules]


def dashboard_expressions() -> list[str]:
    """With Grafana's variables set as Grafana would."""
    panels = json.loads(dashboard())["panels"]
    written = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [text.replace("$__rate_interval", "5m").replace("$chain", ".*") for text in written]


def selectors(expression: promql_parser.Expr, grouped: frozenset[str] = frozenset()) -> Iterator[Selector]:
    """Every selector below an expression; the labels are those it matches and those it is grouped by."""
    match expression:
        case promql_parser.VectorSelector():
            matched = {matcher.name for matcher in expression.matchers.matchers}
            yield Selector(expression.name or "", grouped | matched)
        case promql_parser.MatrixSelector():
            yield from selectors(expression.vector_selector, grouped)
        case promql_parser.AggregateExpr():
            by = frozenset(expression.modifier.labels) if expression.modifier else frozenset[str]()
            yield from selectors(expression.expr, grouped | by)
        case promql_parser.BinaryExpr():
            yield from selectors(expression.lhs, grouped)
            yield from selectors(expression.rhs, grouped)
        case promql_parser.Call():
            for argument in expression.args:
                yield from selectors(argument, grouped)
        case promql_parser.ParenExpr():
            yield from selectors(expression.expr, grouped)
        case promql_parser.NumberLiteral():
            pass
        case _:
            raise AssertionError(f"{expression} is of a kind that no expression of ours was")
