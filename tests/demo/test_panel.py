"""What the panel says is what the metrics say."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from agentauri.demo.panel import Look, Metrics, lines


class Product:
    """The metrics of a product that does something."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.finished = Counter("agentauri_deliveries_finished", "-", ["status", "channel"], registry=registry)
        self.created = Counter("agentauri_deliveries_created", "-", ["kind"], registry=registry)
        self.head = Gauge("agentauri_chain_head_block", "-", ["chain"], registry=registry)
        self.latency = Histogram("agentauri_delivery_latency_seconds", "-", registry=registry, buckets=(0.01, 0.02))
        self._registry = registry

    def metrics(self) -> Metrics:
        return Metrics(generate_latest(self._registry).decode())


def test_samples_are_summed_over_the_labels_that_are_not_asked_for() -> None:
    product = Product()
    product.finished.labels("delivered", "webhook").inc(3)
    product.finished.labels("delivered", "none").inc(2)
    product.finished.labels("dead", "webhook").inc()

    metrics = product.metrics()

    assert metrics.total("deliveries_finished_total", status="delivered") == 5
    assert metrics.total("deliveries_finished_total") == 6
    assert metrics.total("nothing_of_the_kind") == 0


def test_quantiles_lie_within_their_bucket_and_those_beyond_the_last_at_its_end() -> None:
    product = Product()
    assert product.metrics().quantiles("delivery_latency_seconds", 0.5) is None
    for _ in range(10):
        product.latency.observe(0.005)
    product.latency.observe(5.0)

    assert product.metrics().quantiles("delivery_latency_seconds", 0.5, 0.999) == pytest.approx([0.0055, 0.02])


def test_rates_are_over_the_looks_at_hand_and_what_is_not_finished_is_pending() -> None:
    product = Product()
    product.head.labels("31337").set(12)
    first = Look(10.0, "closed", product.metrics())
    product.created.labels("match").inc(9)
    product.finished.labels("delivered", "webhook").inc(6)
    product.latency.observe(0.005)

    text = lines([first, Look(13.0, "half_open", product.metrics())])

    assert "head 12 " in text[0]
    assert "delivered 6 (2.0/s) · pending 3 · dead 0" in text[2]
    assert "breaker half_open" in text[3]
