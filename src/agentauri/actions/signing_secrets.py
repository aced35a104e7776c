"""The secrets that webhooks are signed with: one for each action, or one for all the actions of a follow.

The newest signs first. Those that it replaced sign as well until they expire, so that receivers can change over.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from msgspec import Struct

from agentauri.actions import action_store as store
from agentauri.actions.action_store import StoredSecret
from agentauri.actions.signing import PREFIX, new_secret
from agentauri.database import Transaction
from agentauri.sealing import Sealer, Unreadable
from agentauri.types import ActionId, OrganizationId, TriggerId

PURPOSE = "signing_secrets.secret"
HINT = 4
"""Characters of a secret that tell it from another: 24 of its 256 bits."""


class SharedSecret(Struct, frozen=True, kw_only=True):
    """What several actions sign with, the secrets that are running out included. `shown` is the new secret where none
    of them had one."""

    stored: Sequence[StoredSecret]
    shown: str | None = None


class Rotation(Struct, frozen=True, kw_only=True):
    """A secret that has replaced another one, shown this once."""

    action_ids: list[ActionId]
    signing_secret: str
    created_at: datetime
    previous_expires_at: datetime | None


class SecretHint(Struct, frozen=True, kw_only=True):
    """A signing secret without the secret. `follow_id` is set where the actions of a follow share it."""

    action_id: ActionId
    follow_id: str | None
    hint: str
    created_at: datetime
    expires_at: datetime | None


class SigningSecrets:
    """Rows of `signing_secrets`, sealed."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    async def make(self, tx: Transaction, action_id: ActionId) -> str:
        """The action's first secret, to be shown this once."""
        secret = new_secret()
        await store.insert_signing_secrets(tx, [action_id], [StoredSecret(self._seal(secret))])
        return secret

    async def shared_by(self, tx: Transaction, trigger_ids: Collection[TriggerId]) -> SharedSecret:
        """What the actions of these triggers sign with; a new secret where none of them signs."""
        if stored := await store.signing_secrets_of(tx, trigger_ids):
            return SharedSecret(stored=stored)
        secret = new_secret()
        return SharedSecret(stored=[StoredSecret(self._seal(secret))], shown=secret)

    async def share(self, tx: Transaction, action_id: ActionId, shared: SharedSecret) -> None:
        await store.insert_signing_secrets(tx, [action_id], shared.stored)

    async def rotate(self, tx: Transaction, action_ids: Sequence[ActionId], overlap: float) -> Rotation:
        """A new secret for these actions together; what they signed with so far goes on beside it for `overlap`
        seconds."""
        secret = new_secret()
        expires_at = await store.expire_signing_secrets(tx, action_ids, overlap)
        created_at = await store.insert_signing_secrets(tx, action_ids, [StoredSecret(self._seal(secret))])
        return Rotation(
            action_ids=list(action_ids),
            signing_secret=secret,
            created_at=created_at,
            previous_expires_at=expires_at,
        )

    async def hints(
        self, tx: Transaction, organization_id: OrganizationId, environment: str | None, limit: int, offset: int
    ) -> tuple[list[SecretHint], int]:
        """The secrets in force, newest first, and how many there are in all."""
        records, total = await store.signing_secrets_page(tx, organization_id, environment, limit, offset)
        return [
            SecretHint(
                action_id=record["action_id"],
                follow_id=record["managed_by"],
                hint=self._hint(record["secret"]),
                created_at=record["created_at"],
                expires_at=record["expires_at"],
            )
            for record in records
        ], total

    def _hint(self, sealed: bytes) -> str:
        try:
            return f"{self.open(sealed)[: len(PREFIX) + HINT]}…"
        except Unreadable:
            return f"{PREFIX}…"

    def open(self, sealed: bytes) -> str:
        """
        Raises:
            Unreadable
        """
        return self._sealer.open(sealed, PURPOSE).decode()

    def _seal(self, secret: str) -> bytes:
        return self._sealer.seal(secret.encode(), PURPOSE)
