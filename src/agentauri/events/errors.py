from __future__ import annotations

from agentauri.errors import NotFound


class EventNotFound(NotFound):
    code = "event_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such event.")
