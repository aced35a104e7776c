"""Ids in addresses. One of the wrong form names nothing, so it is not found, like any other that names nothing."""

from __future__ import annotations

import re
from uuid import UUID

from agentauri.actions import DeliveryNotFound
from agentauri.events import EventNotFound
from agentauri.triggers import TriggerNotFound
from agentauri.types import DeliveryId, EventId, TriggerId

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def trigger_id_of(text: str) -> TriggerId:
    if "\0" in text:  # ids made by hand may be any text
        raise TriggerNotFound
    return TriggerId(text)


def delivery_id_of(text: str) -> DeliveryId:
    if not _UUID.fullmatch(text):
        raise DeliveryNotFound
    return DeliveryId(UUID(text))


def event_id_of(text: str) -> EventId:
    if "\0" in text or not 1 <= len(text) <= 200:
        raise EventNotFound
    return EventId(text)
