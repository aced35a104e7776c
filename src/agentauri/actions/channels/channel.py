"""What every channel can do, and what it is given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Protocol

from msgspec import Struct

from agentauri.actions.message import Message
from agentauri.actions.types import Json
from agentauri.types import ActionId, OrganizationId

MASK = "***"
"""What stands where a secret is, in what is stored, shown and taken back."""


class Accepted(Struct, frozen=True, kw_only=True):
    """A configuration that the channel takes. `config` holds `***` where a secret was; a secret that is None is the one
    that is stored already."""

    config: Json
    secrets: dict[str, str | None]
    destination: str


class StoredAction(Struct, frozen=True, kw_only=True):
    """An action as it is stored, its secrets opened, their names in lower case. `signing_keys` are newest first."""

    id: ActionId
    action_type: str
    config: Json
    secrets: Mapping[str, str]
    signing_keys: tuple[bytes, ...]


class Sent(Struct, frozen=True, kw_only=True):
    """What the other side said. `receipt` is what a later message may have to refer to."""

    status: int | None
    excerpt: str
    peer: str | None
    receipt: Json | None = None


class Pace(Struct, frozen=True):
    """At most one message each `interval` seconds among all that share the key, in all processes."""

    key: str
    interval: float


Ended = Callable[[Sent | Exception], None]
"""Told what came of a send: a `DeliveryFailed`, or another exception where it is a fault of ours."""


class UnderWay(Protocol):
    def cancel(self) -> object:
        """Nobody is told of its end any more."""


class Prepared(Protocol):
    """One action, compiled. Made once for each change of its configuration."""

    @property
    def target(self) -> str:
        """What shares its capacity: scheme, host and port, or whatever fits the channel."""

    @property
    def timeout(self) -> float:
        """Seconds for one whole exchange."""

    @property
    def paces(self) -> tuple[Pace, ...]:
        """The limits on how many messages go in a time. A message waits for its turn in each, in this order."""

    def begin(self, message: Message, ended: Ended) -> UnderWay:
        """Begin to send; `ended` is told what came of it once, some time after this call.

        Raises:
            DeliveryFailed: nothing will be sent, and `ended` not be told.
        """

    def preview(self, message: Message) -> Json:
        """What `send` would send, secrets masked.

        Raises:
            DeliveryFailed: it cannot be rendered.
        """


class Channel(Protocol):
    action_types: frozenset[str]
    schema: Json
    """The JSON Schema of a configuration, for those who read about it: `check` decides."""
    signs: bool
    """Its actions have a signing secret of their own."""

    async def check(self, config: Json, organization_id: OrganizationId) -> Accepted:
        """Look at a configuration with the eyes that will send it. Talks to name servers.

        Raises:
            Invalid: with fields relative to the configuration.
        """

    def target(self, config: Json) -> str | None:
        """Who would receive the secrets of an action that is configured like this; None where that cannot be told."""

    def prepare(self, action: StoredAction) -> Prepared:
        """
        Raises:
            DeliveryFailed: the stored configuration cannot be used.
        """


def in_task(send: Coroutine[object, object, Sent], ended: Ended) -> UnderWay:
    """For a channel whose send is several exchanges, one after the other: they run in a task of their own."""

    async def run() -> None:
        outcome: Sent | Exception
        try:
            outcome = await send
        except Exception as error:  # noqa: BLE001 (told)
            outcome = error
        ended(outcome)

    return asyncio.create_task(run())
