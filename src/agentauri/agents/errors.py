from __future__ import annotations

from agentauri.errors import NotFound


class AgentNotFound(NotFound):
    code = "agent_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such agent.")
