"""How the product does, in a few lines that stay at the bottom of a terminal: read off its own API and metrics."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from msgspec import Struct

from agentauri.demo.product import Product, ProductFailed
from agentauri.demo.screen import Screen

EVERY = 0.5
RATES_OVER = 10  # looks

Labels = frozenset[tuple[str, str]]
Sample = tuple[str, Labels]


class Metrics:
    """One answer of /metrics."""

    def __init__(self, text: str) -> None:
        self._values = dict(_samples(text))

    def total(self, name: str, **labels: str) -> float:
        """The sum over all samples of the metric that have these labels."""
        wanted = frozenset(labels.items())
        return sum(value for (of, has), value in self._values.items() if of == f"agentauri_{name}" and wanted <= has)

    def quantiles(self, name: str, *parts: float) -> list[float] | None:
        """These quantiles of a histogram, straight lines assumed within a bucket; None when it is empty."""
        buckets: defaultdict[float, float] = defaultdict(float)
        for (of, labels), value in self._values.items():
            if of == f"agentauri_{name}_bucket":
                buckets[float(dict(labels)["le"])] += value
        bounds = [(0.0, 0.0), *sorted(buckets.items())]
        count = bounds[-1][1]
        return [_quantile(bounds, part * count) for part in parts] if count else None


def _samples(text: str) -> Iterator[tuple[Sample, float]]:
    # No label of ours holds a quote, a comma or a brace.
    for line in text.splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.rpartition(" ")
            name, _, inner = key.rstrip("}").partition("{")
            pairs = (pair.partition("=") for pair in inner.split(",") if pair)
            yield (name, frozenset((label, quoted.strip('"')) for label, _, quoted in pairs)), float(value)


def _quantile(bounds: Sequence[tuple[float, float]], rank: float) -> float:
    for (low, below), (high, upto) in pairwise(bounds):
        if upto >= rank and upto > below:
            return low if high == float("inf") else low + (high - low) * (rank - below) / (upto - below)
    return bounds[-1][0]


class Look(Struct, frozen=True):
    """What can be seen at one moment."""

    at: float
    breaker: str
    metrics: Metrics

    @property
    def counts(self) -> Mapping[str, float]:
        total = self.metrics.total
        return {
            "events": total("events_ingested_total"),
            "matches": total("triggers_matched_total"),
            "delivered": total("deliveries_finished_total", status="delivered"),
            "dead": total("deliveries_finished_total", status="dead"),
            "pending": total("deliveries_created_total") - total("deliveries_finished_total"),
            "head": total("chain_head_block"),
            "indexed": total("chain_indexed_block"),
            "lag": total("chain_lag_blocks"),
            "reorgs": total("chain_reorgs_total"),
        }


class Panel:
    """Looks twice a second, until cancelled, and shows it; what cannot be had just now is left as it was."""

    def __init__(self, product: Product, screen: Screen, trigger_id: str) -> None:
        self._product, self._screen, self._trigger_id = product, screen, trigger_id
        self._looks: deque[Look] = deque(maxlen=RATES_OVER)

    async def run(self) -> None:
        while True:
            try:
                self._looks.append(await self._look())
            except ProductFailed:
                pass  # whoever tells the story will say so
            else:
                self._screen.panel(lines(self._looks))
            await asyncio.sleep(EVERY)

    async def _look(self) -> Look:
        breaker = await self._product.get(f"/triggers/{self._trigger_id}/circuit-breaker")
        return Look(time.monotonic(), breaker["state"], Metrics(await self._product.metrics()))


def lines(looks: Sequence[Look]) -> list[str]:
    """The newest look, with the rates since the oldest one."""
    first, last = looks[0], looks[-1]
    counts, before = last.counts, first.counts
    seconds = last.at - first.at

    def moving(name: str) -> str:
        rate = f" ({(counts[name] - before[name]) / seconds:.1f}/s)" if seconds else ""
        return f"{counts[name]:.0f}{rate}"

    found = last.metrics.quantiles("delivery_latency_seconds", 0.5, 0.99)
    latency = f"p50 {found[0] * 1000:.0f} ms · p99 {found[1] * 1000:.0f} ms" if found else "nothing sent yet"
    return [
        f"  chain      head {counts['head']:.0f} · indexed {counts['indexed']:.0f} · lag {counts['lag']:.0f}"
        f" · reorgs {counts['reorgs']:.0f}",
        f"  events     {moving('events')} · matches {moving('matches')}",
        f"  webhooks   delivered {moving('delivered')} · pending {counts['pending']:.0f} · dead {counts['dead']:.0f}",
        f"  latency    commit to request {latency} · breaker {last.breaker}",
    ]
