"""Each bench at a hundredth of its size. It counts its rows itself, and ends with 1 when they are not all there."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.mark.parametrize("name", ["index", "evaluate", "deliver", "latency"])
async def test_a_bench_leaves_the_rows_that_its_work_must_leave(name: str, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(BENCH / f"{name}.py"), "--scale", "0.01", "--runs", "1"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()

    assert process.returncode == 0, err.decode()
    line = json.loads(out.decode().splitlines()[-1])
    assert set(line) == {"bench", "value", "unit", "ceiling", "ratio"}
    assert line["bench"] == name
    assert line["value"] > 0 < line["ceiling"]
