"""Alert rules for Prometheus and a dashboard for Grafana, both made from the metrics that the code has.

docker/prometheus/alerts.yaml and docker/grafana/agentauri.json are what these print; a test holds them to it.
"""

from __future__ import annotations

from agentauri.monitoring.alerts import alert_rules
from agentauri.monitoring.dashboard import dashboard

__all__ = ["alert_rules", "dashboard"]
