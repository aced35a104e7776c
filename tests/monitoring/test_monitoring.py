"""Alert rules and the dashboard say what the metrics of the code can answer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import promql_parser
import pytest
import yaml

from agentauri import metrics
from agentauri.monitoring import alert_rules, dashboard
from agentauri.monitoring.promql import rate
from support.promql import alert_expressions, dashboard_expressions, selectors

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("path", "printed"),
    [("docker/prometheus/alerts.yaml", alert_rules), ("docker/grafana/agentauri.json", dashboard)],
)
def test_the_files_are_what_the_command_prints(path: str, printed: type[str]) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == printed()


def test_every_metric_has_one_panel_of_its_own() -> None:
    panels = json.loads(dashboard())["panels"]

    titles = [panel["title"] for panel in panels if panel["type"] == "timeseries"]

    families = metrics.REGISTRY.collect()
    assert sorted(titles) == sorted(f"{f.name}_total" if f.type == "counter" else f.name for f in families)


def test_no_panel_covers_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(dashboard())["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_alert_has_its_place_in_the_runbook() -> None:
    rules = yaml.safe_load(alert_rules())["groups"][0]["rules"]
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")

    assert {rule["alert"] for rule in rules} == set(re.findall(r"^## (AgentAuri\w+)$", runbook, re.MULTILINE))


@pytest.mark.parametrize("expression", [*alert_expressions(), *dashboard_expressions()])
def test_every_expression_is_promql_over_our_metrics(expression: str) -> None:
    names = {selector.name for selector in selectors(promql_parser.parse(expression))}

    scraped = {sample.name for family in metrics.REGISTRY.collect() for sample in family.samples}
    labelled = {family.name for family in metrics.REGISTRY.collect()}
    assert names
    assert all(name in scraped or re.sub(r"_(total|bucket)$", "", name) in labelled for name in names)


def test_a_label_that_a_metric_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="agentauri_chain_reorgs_total has no label colour"):
        rate(metrics.CHAIN_REORGS, "5m", "colour")
