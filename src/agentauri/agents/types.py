"""What is said about the state of agents."""

from __future__ import annotations

from msgspec import Struct

from agentauri.types import ChainId


class Gap(Struct, frozen=True):
    """Feedback that its successor proves, and that nobody has seen: indexes `first` to `last`."""

    agent_id: int
    client_address: str
    first: int
    last: int


class Miscount(Struct, frozen=True):
    """A counter that said `counted` where `correct` is right."""

    chain_id: ChainId
    registry: str
    event_type: str
    counted: int
    correct: int
