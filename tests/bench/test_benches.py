"""Each bench at a hundredth of its size. It counts its rows itself, and ends with 1 when they are not all there."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog

import harness
from agentauri.embedded import Embedded
from backtest import Remembering, Stateless
from deliver import Deliver
from evaluate import Evaluate
from fairness import Fairness
from harness import Bench, Reading, Stage, WrongTotals
from http_api import Key, Limiter, Read, Storm
from idle import Help, Idle, Memory, Start
from index import Index
from latency import Latency
from poll import Poll
from recovery import Backlog, Restore
from scale import Scale
from stateful import Stateful
from whole_path import WholePath

SMALL = ["--scale", "0.01", "--runs", "1"]
SLOW = [
    pytest.param(bench, marks=pytest.mark.soak) for bench in (Backlog, Fairness, Idle, Memory, Restore, Start, Storm)
]
"""These wait, whatever their size."""


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """A bench sets the log up as its process does."""
    yield
    structlog.reset_defaults()


LIKE_ANOTHER = [pytest.param(bench, marks=pytest.mark.soak) for bench in (Remembering, Limiter, Key)]
ALL = [Index, Evaluate, Scale, Deliver, Latency, Stateful, Stateless, WholePath, Read, Poll, Help, *SLOW, *LIKE_ANOTHER]


@pytest.mark.parametrize("bench", ALL)
def test_a_bench_finds_the_rows_that_its_work_must_leave(
    bench: type[Bench], servers: Embedded, capsys: pytest.CaptureFixture[str]
) -> None:
    harness.run(bench, SMALL, servers)

    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(line) == {"bench", "value", "unit", "ceiling", "ratio"}
    assert (line["bench"], line["unit"]) == (bench.name, bench.unit)
    assert line["value"] > 0 < line["ceiling"]


def test_wrong_totals_are_no_figure(servers: Embedded, capsys: pytest.CaptureFixture[str]) -> None:
    class Careless(Evaluate):
        async def measure(self, stage: Stage) -> Reading:
            raise WrongTotals("99 instead of 100")

    with pytest.raises(SystemExit) as ended:
        harness.run(Careless, SMALL, servers)

    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "99 instead of 100" in said.err
    assert '"value"' not in said.out
