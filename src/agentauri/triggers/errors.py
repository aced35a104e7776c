"""What callers are told about triggers."""

from __future__ import annotations

from agentauri.errors import Invalid, NotFound


class TriggerNotFound(NotFound):
    code = "trigger_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such trigger.")


class UnsupportedChain(Invalid):
    code = "unsupported_chain"
