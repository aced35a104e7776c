"""Sends under way: begun a few at a time, each followed to its end without a task of its own."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from agentauri import metrics
from agentauri.actions.channels import Sent, UnderWay
from agentauri.actions.claiming import Send
from agentauri.actions.clock import DatabaseClock
from agentauri.actions.errors import DeliveryFailed, Retryable
from agentauri.actions.recording import Outcome
from agentauri.faults import reach
from agentauri.log import get_logger
from agentauri.types import DeliveryId

log = get_logger(__name__)

PORTION = 16
"""Sends that begin in one turn of the loop, so that others get their turn."""


class Sends:
    """Claimed deliveries until they are sent: `ended` is told what came of each; or given up: then `unsent` is."""

    def __init__(
        self, clock: DatabaseClock, *, ended: Callable[[Outcome], None], unsent: Callable[[Send], None]
    ) -> None:
        self._clock = clock
        self._ended = ended
        self._unsent = unsent
        self._claimed: deque[Send] = deque()
        self._under_way: dict[DeliveryId, tuple[Send, UnderWay]] = {}
        self._beginning: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self._over.set()

    def __len__(self) -> int:
        return len(self._claimed) + len(self._under_way)

    def has(self, id_: DeliveryId) -> bool:
        return id_ in self._under_way or any(send.id == id_ for send in self._claimed)

    def add(self, sends: Sequence[Send]) -> None:
        """Have these begin, beside whatever is next."""
        self._claimed += sends
        if self._claimed and (self._beginning is None or self._beginning.done()):
            self._over.clear()
            self._beginning = asyncio.create_task(self._begin_all())

    async def over(self) -> None:
        """Return when none is left."""
        await self._over.wait()

    def give_up(self) -> None:
        """Leave what is claimed to its claims' end."""
        if self._beginning is not None:
            self._beginning.cancel()
        for send, way in self._under_way.values():
            way.cancel()
            self._unsent(send)
        for send in self._claimed:
            self._unsent(send)
        self._under_way.clear()
        self._claimed.clear()
        self._over.set()

    async def _begin_all(self) -> None:
        while self._claimed:
            portion = [self._claimed.popleft() for _ in range(min(PORTION, len(self._claimed)))]
            self._note_latency(portion)
            for send in portion:
                self._begin(send)
            await asyncio.sleep(0)

    def _begin(self, send: Send) -> None:
        started = time.monotonic()
        if isinstance(send.prepared, DeliveryFailed):
            self._end(send, started, send.prepared)
            return
        try:
            way = send.prepared.begin(send.message, partial(self._end, send, started))
        except Exception as error:  # noqa: BLE001 (it ends this send, and no other)
            self._end(send, started, error)
        else:
            self._under_way[send.id] = send, way

    def _end(self, send: Send, started: float, came: Sent | Exception) -> None:
        ended = time.monotonic()
        self._under_way.pop(send.id, None)
        if not isinstance(came, Sent | DeliveryFailed):
            log.error("delivery.crashed", delivery_id=str(send.id), trigger_id=send.message.trigger.id, exc_info=came)
            came = Retryable("internal", f"a fault of ours: {type(came).__name__}")
        reach("dispatcher.sent")
        self._ended(Outcome(send, came, started, ended))
        if not self._under_way and not self._claimed:
            self._over.set()

    def _note_latency(self, sends: Sequence[Send]) -> None:
        now = self._clock.now() / 1000
        first_tries = [
            max(0.0, now - send.message.created_at.timestamp())
            for send in sends
            if send.message.attempt == 1 and not isinstance(send.prepared, DeliveryFailed)
        ]
        metrics.observe_each(metrics.DELIVERY_LATENCY, first_tries)
