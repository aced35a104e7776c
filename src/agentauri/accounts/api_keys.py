"""API keys: how they look, how they are recognised, and how long we believe what we saw.

Every refusal takes the same steps: one digest, one select by prefix, one comparison. A digest of random bytes stands in
where no row is found, so that neither the answer nor its time tells whether a prefix exists.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
from datetime import datetime
from typing import Final
from uuid import uuid4

from msgspec import Struct

from agentauri.accounts import store
from agentauri.accounts.errors import InvalidApiKey, KeyNotFound
from agentauri.accounts.scopes import granted
from agentauri.accounts.types import ApiKey, ApiKeyPrincipal, AuthFailure, Environment, KeyDraft, NewKey
from agentauri.database import Transaction
from agentauri.errors import Unavailable
from agentauri.log import get_logger
from agentauri.types import OrganizationId, Secret, utc_now

log = get_logger(__name__)

FORM: Final = re.compile(r"sk_(live|test)_[A-Za-z0-9_-]{43}")
PREFIX_LENGTH: Final = 16
NO_PREFIX: Final = "-" * PREFIX_LENGTH
"""Looked up for a malformed key; no key begins like this."""

REMEMBERED_SECONDS: Final = 5.0
REMEMBERED_KEYS: Final = 10_000


class _Accepted(Struct, frozen=True):
    principal: ApiKeyPrincipal
    ends_at: datetime | None
    believed_until: float


class ApiKeyService:
    """Makes, recognises and revokes keys."""

    def __init__(self, pepper: Secret) -> None:
        self._pepper = pepper.reveal().encode()
        self.dummy_digest = os.urandom(hashlib.sha256().digest_size)
        self._accepted: dict[bytes, _Accepted] = {}
        self._changes = 0

    def remembered(self, presented: str) -> ApiKeyPrincipal | None:
        """Whom `authenticate` saw in this key within the last 5 s; None when it has to look again."""
        accepted = self._accepted.get(self._digest(presented))
        if accepted is None or accepted.believed_until <= time.monotonic():
            return None
        return None if accepted.ends_at and accepted.ends_at <= utc_now() else accepted.principal

    async def authenticate(self, tx: Transaction, presented: str) -> ApiKeyPrincipal:
        """
        Raises:
            InvalidApiKey: whatever is wrong with the key.
        """
        changes = self._changes
        digest = self._digest(presented)
        well_formed = FORM.fullmatch(presented) is not None
        known = await store.recognise(tx, presented[:PREFIX_LENGTH] if well_formed else NO_PREFIX)
        if len(self.dummy_digest) != len(digest):
            log.critical("api_key.unverifiable", message="Failed to verify API key due to missing dummy hash")
            raise Unavailable("API keys cannot be checked at the moment.")
        same = hmac.compare_digest(digest, known.digest if known else self.dummy_digest)
        if known is None or not same or not known.usable:
            raise InvalidApiKey
        if changes == self._changes:  # else what we read may be older than the change
            self._remember(digest, known)
        return known.principal

    async def create(self, tx: Transaction, organization_id: OrganizationId, draft: KeyDraft) -> NewKey:
        """
        Raises:
            Invalid: permissions, scopes and type do not fit each other.
        """
        scopes = granted(draft.key_type, draft.permissions, draft.scopes)
        while True:
            secret = _generate(draft.environment)
            value = secret.reveal()
            prefix, digest = value[:PREFIX_LENGTH], self._digest(value)
            key = await store.insert_key(tx, str(uuid4()), organization_id, draft, scopes, prefix, digest)
            if key is not None:  # else the prefix, 48 random bits, was taken
                return NewKey(key=key, secret=secret)

    async def list(self, tx: Transaction, organization_id: OrganizationId | None) -> list[ApiKey]:
        """All keys, newest first; of every organization for None, which only an operator at the console may pass."""
        return await store.list_keys(tx, organization_id)

    async def revoke(self, tx: Transaction, organization_id: OrganizationId | None, reference: str) -> ApiKey:
        """End the key with this id or prefix; a revoked one stays as it is. None as organization is the operator's.

        Raises:
            KeyNotFound: also when the key is another organization's.
        """
        key = await store.lock_key(tx, organization_id, reference)
        if key is None:
            raise KeyNotFound("There is no such API key.")
        if not key.is_revoked:
            key = await store.revoke_key(tx, key.id)
            tx.on_commit(self._forget)
        return key

    async def record_failure(self, tx: Transaction, failure: AuthFailure) -> None:
        await store.insert_failure(tx, failure)

    def _digest(self, key: str) -> bytes:
        return hmac.digest(self._pepper, key.encode(errors="replace"), "sha256")

    def _remember(self, digest: bytes, known: store.Recognised) -> None:
        if len(self._accepted) >= REMEMBERED_KEYS:
            self._accepted.clear()
        until = time.monotonic() + REMEMBERED_SECONDS
        self._accepted[digest] = _Accepted(known.principal, known.ends_at, until)

    def _forget(self) -> None:
        self._changes += 1
        self._accepted.clear()


def _generate(environment: Environment) -> Secret:
    return Secret(f"sk_{environment}_{secrets.token_urlsafe(32)}")
