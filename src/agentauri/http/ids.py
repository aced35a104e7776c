"""Ids in addresses. One of the wrong form names nothing, so it is not found, like any other that names nothing."""

from __future__ import annotations

import re
from uuid import UUID

from agentauri.accounts import KeyId, KeyNotFound, MemberNotFound
from agentauri.actions import ActionNotFound, DeliveryNotFound
from agentauri.agents import AgentNotFound
from agentauri.events import EventNotFound
from agentauri.http.fields import uint256
from agentauri.triggers import ConditionNotFound, TriggerNotFound
from agentauri.types import ActionId, ChainId, DeliveryId, EventId, TriggerId, UserId

_CHAIN = re.compile(r"[1-9][0-9]{0,15}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

_NUMBER = re.compile(r"[1-9][0-9]{0,18}")


def trigger_id_of(text: str) -> TriggerId:
    if "\0" in text:  # ids made by hand may be any text
        raise TriggerNotFound
    return TriggerId(text)


def action_id_of(text: str) -> ActionId:
    if not _NUMBER.fullmatch(text) or int(text) >= 2**63:
        raise ActionNotFound
    return ActionId(int(text))


def condition_id_of(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ConditionNotFound
    return int(text)


def delivery_id_of(text: str) -> DeliveryId:
    if not _UUID.fullmatch(text):
        raise DeliveryNotFound
    return DeliveryId(UUID(text))


def key_id_of(text: str) -> KeyId:
    if not _UUID.fullmatch(text):
        raise KeyNotFound("There is no such API key.")
    return KeyId(text)


def member_id_of(text: str) -> UserId:
    if not _UUID.fullmatch(text):
        raise MemberNotFound
    return UserId(text)


def event_id_of(text: str) -> EventId:
    if "\0" in text or not 1 <= len(text) <= 200:
        raise EventNotFound
    return EventId(text)


def agent_of(chain_id: str, agent_id: str) -> tuple[ChainId, int]:
    if not _CHAIN.fullmatch(chain_id):
        raise AgentNotFound
    try:
        return ChainId(int(chain_id)), uint256(agent_id)
    except ValueError as error:
        raise AgentNotFound from error
