"""Many lines at once read as they would one by one."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import get_args

import pytest
import structlog

from agentauri import log
from agentauri.log import LogFormat, get_logger, info_each

LINES: list[dict[str, object]] = [
    {"delivery_id": "a", "took_ms": 1.5},
    {"delivery_id": "b", "status": None, "said": "é"},
]


@pytest.fixture
def restored() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("log_format", get_args(LogFormat))
def test_lines_that_are_written_together_read_as_they_would_alone(log_format: LogFormat) -> None:
    def said(level: str, *, together: bool) -> list[list[str]]:
        """The words of each line; in which order context and fields stand is nobody's concern."""
        stream = io.StringIO()
        log.configure(log_format, level, stream)
        logger = get_logger("agentauri.somewhere")
        with structlog.contextvars.bound_contextvars(request_id="r"):
            if together:
                info_each(logger, "delivery.attempted", LINES)
            else:
                for line in LINES:
                    logger.info("delivery.attempted", **line)
        text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "then", stream.getvalue())
        return [sorted(re.split(r"[ ,{}]+", line)) for line in text.splitlines()]

    assert len(said("INFO", together=True)) == len(LINES)
    assert said("INFO", together=True) == said("INFO", together=False)
    assert said("ERROR", together=True) == []
