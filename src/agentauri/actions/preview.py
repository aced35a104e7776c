"""What a stored delivery would send now, for its owner to read."""

from __future__ import annotations

from collections.abc import Mapping

import asyncpg

from agentauri.actions.configuration import ActionService
from agentauri.actions.errors import DeliveryFailed
from agentauri.actions.message import compose
from agentauri.actions.types import ChainLabel, Json, LoadSubjects
from agentauri.database import Transaction
from agentauri.types import ChainId


class Preview:
    """Renders without sending; the same code renders what is sent."""

    def __init__(
        self, actions: ActionService, load_subjects: LoadSubjects, chains: Mapping[ChainId, ChainLabel]
    ) -> None:
        self._actions = actions
        self._load_subjects = load_subjects
        self._chains = chains

    async def of(self, tx: Transaction, delivery: asyncpg.Record) -> Json | None:
        """None where the action, its trigger or the way to render it is gone."""
        ready = (await self._actions.to_send(tx, [delivery["action_id"]])).get(delivery["action_id"])
        subjects = await self._load_subjects(tx, [delivery["event_seq"]], [delivery["trigger_id"]])
        event = subjects.events.get(delivery["event_seq"])
        trigger = subjects.triggers.get(delivery["trigger_id"])
        if ready is None or event is None or trigger is None or isinstance(ready.prepared, DeliveryFailed):
            return None
        message = compose(delivery, event, trigger, self._chains.get(delivery["chain_id"]), delivery["attempts"] + 1)
        try:
            return ready.prepared.preview(message)
        except DeliveryFailed:
            return None
