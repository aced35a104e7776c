"""PromQL over our own metrics. A metric is named by its object and a label is checked against it, so that an expression
can neither be misspelt nor outlive what it asks for."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SUFFIX = {"counter": "_total", "gauge": "", "histogram": ""}


def name(metric: Counter | Gauge | Histogram) -> str:
    """As Prometheus scrapes it; of a histogram the stem that `_bucket`, `_sum` and `_count` follow."""
    (family,) = metric.describe()
    return family.name + SUFFIX[family.type]


def labels(metric: Counter | Gauge | Histogram) -> tuple[str, ...]:
    names: tuple[str, ...] = metric._labelnames  # describe() has no labels
    return names


def rate(counter: Counter, over: str, *by: str, where: str = "") -> str:
    """Per second over that time, summed over processes."""
    return f"{_group('sum', counter, by)}(rate({selector(counter, where)}[{over}]))"


def increase(counter: Counter, over: str, *by: str) -> str:
    """How much it rose over that time, summed over processes."""
    return f"{_group('sum', counter, by)}(increase({selector(counter)}[{over}]))"


def highest(gauge: Gauge, *by: str, where: str = "") -> str:
    """The largest that any process tells: gauges read from the stores are the same in each."""
    return f"{_group('max', gauge, by)}({selector(gauge, where)})"


def quantile(share: float, histogram: Histogram, over: str, *by: str, where: str = "") -> str:
    """In seconds, over all processes."""
    _check(histogram, by)
    grouped = ", ".join(("le", *by))
    return f"histogram_quantile({share}, sum by ({grouped}) (rate({selector(histogram, where, '_bucket')}[{over}])))"


def selector(metric: Counter | Gauge | Histogram, where: str = "", suffix: str = "") -> str:
    return f"{name(metric)}{suffix}" + (f"{{{where}}}" if where else "")


def _group(aggregate: str, metric: Counter | Gauge | Histogram, by: tuple[str, ...]) -> str:
    _check(metric, by)
    return f"{aggregate} by ({', '.join(by)}) " if by else aggregate


def _check(metric: Counter | Gauge | Histogram, by: tuple[str, ...]) -> None:
    if unknown := set(by) - set(labels(metric)):
        raise ValueError(f"{name(metric)} has no label {', '.join(sorted(unknown))}")
