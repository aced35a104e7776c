"""What an operator types and greps for."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Coroutine
from typing import Any

from support.processes import Child

Command = Callable[..., Coroutine[Any, Any, str]]
MakeTrigger = Callable[..., Coroutine[Any, Any, dict[str, Any]]]

INSERT = (
    "INSERT INTO events (id, chain_id, block_number, block_hash, transaction_hash, log_index, registry, event_type,"
    " timestamp) VALUES ('{id}', 84532, 1, '0xb', '0xt', 0, 'reputation', 'NewFeedback', 1767225600)"
)


def grep(child: Child, *words: str) -> str:
    """The lines of the process's log that hold all of `words`, as `grep a | grep b` prints them."""
    text = child.log.read_text()
    for word in words:
        done = subprocess.run(["grep", word], input=text, capture_output=True, text=True)
        text = done.stdout
    return text
