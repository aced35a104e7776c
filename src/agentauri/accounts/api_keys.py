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
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import uuid4

from msgspec import UNSET, Struct, structs

from agentauri import metrics
from agentauri.accounts import key_rules, store
from agentauri.accounts.audit import SYSTEM, Actor, AuditTrail, Target
from agentauri.accounts.errors import InvalidApiKey, KeyEnded, KeyNotFound, NotYours
from agentauri.accounts.key_usage import KeyUsage
from agentauri.accounts.scopes import granted
from agentauri.accounts.types import (
    ApiKey,
    ApiKeyPrincipal,
    AuthFailure,
    Environment,
    KeyDraft,
    KeyFilter,
    KeyPatch,
    KeyRotation,
    KeyStats,
    NewKey,
    RotatedKey,
    Standing,
)
from agentauri.database import Transaction
from agentauri.errors import Unavailable
from agentauri.log import get_logger
from agentauri.types import OrganizationId, Page, Paged, Secret, utc_now

log = get_logger(__name__)

FORM: Final = re.compile(r"sk_(live|test)_[A-Za-z0-9_-]{43}")
PREFIX_LENGTH: Final = 16
NO_PREFIX: Final = "-" * PREFIX_LENGTH
"""Looked up for a malformed key; no key begins like this."""

REMEMBERED_SECONDS: Final = 5.0
REMEMBERED_KEYS: Final = 10_000
ENDED_AT_ONCE: Final = 1000


class _Accepted(Struct, frozen=True):
    principal: ApiKeyPrincipal
    ends_at: datetime | None
    believed_until: float


class ApiKeyService:
    """Makes, recognises, changes and ends keys."""

    def __init__(self, pepper: Secret, audit: AuditTrail) -> None:
        self.usage = KeyUsage(audit)
        self._audit = audit
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

    async def create(
        self, tx: Transaction, organization_id: OrganizationId, draft: KeyDraft, actor: Actor = SYSTEM
    ) -> NewKey:
        """
        Raises:
            Invalid: permissions, scopes and type do not fit each other.
        """
        scopes = granted(draft.key_type, draft.permissions, draft.scopes)
        made = await self._insert(tx, organization_id, structs.replace(draft, scopes=scopes))
        await self._record(tx, actor, "api_key.created", made.key, _told(made.key))
        return made

    async def issue(
        self, tx: Transaction, actor: Actor, maker: Standing, draft: KeyDraft, highest_override: int
    ) -> NewKey:
        """As `create`, for somebody who may grant no more than she has.

        Raises:
            Invalid: a field breaks a rule.
            NotYours: a scope that she does not hold, or not her key's environment.
        """
        scopes = granted(draft.key_type, draft.permissions, draft.scopes)
        self._check(maker, scopes, draft.environment)
        key_rules.check(draft.name, draft.expires_at, draft.rate_limit_override, highest_override)
        return await self.create(tx, maker.organization_id, structs.replace(draft, name=draft.name.strip()), actor)

    async def list(self, tx: Transaction, organization_id: OrganizationId | None) -> Sequence[ApiKey]:
        """All keys, newest first; of every organization for None, which only an operator at the console may pass."""
        return await store.list_keys(tx, organization_id)

    async def page(self, tx: Transaction, viewer: Standing, wanted: KeyFilter, page: Page) -> Paged[ApiKey]:
        """The organization's keys, newest first: for a key, those of its environment."""
        if not viewer.sees(wanted.environment):
            return Paged(data=[], total=0, has_more=False)
        environment = viewer.environment or wanted.environment
        return await store.page(tx, viewer.organization_id, environment, page, include_revoked=wanted.include_revoked)

    async def get(self, tx: Transaction, viewer: Standing, key_id: str) -> ApiKey:
        """Raises: KeyNotFound, also for another organization's, or of the environment that the viewer does not see."""
        return _seen(viewer, await store.get_key(tx, viewer.organization_id, key_id))

    async def update(
        self, tx: Transaction, actor: Actor, changer: Standing, key_id: str, patch: KeyPatch, highest_override: int
    ) -> ApiKey:
        """Change what is given. A key that has expired works again when it is given more time.

        Raises:
            KeyNotFound
            KeyEnded: it is revoked.
            Invalid: as on creation.
            NotYours: the key may do, or would then, what the changer may not.
        """
        key = _seen(changer, await store.get_key(tx, changer.organization_id, key_id, lock=True))
        if key.is_revoked:
            raise KeyEnded("A revoked key cannot be changed.")
        changed = {
            name: value
            for name in KeyPatch.__struct_fields__
            if (value := getattr(patch, name)) is not UNSET and value != getattr(key, name)
        }
        if "scopes" in changed:
            changed["scopes"] = granted(key.key_type, key.permissions, changed["scopes"])
        self._check(changer, {*key.scopes, *changed.get("scopes", ())}, key.environment)
        key_rules.check(
            changed.get("name"), changed.get("expires_at"), changed.get("rate_limit_override"), highest_override
        )
        if not changed:
            return key
        after = await store.update_key(tx, key.id, changed)
        details = {name: {"old": getattr(key, name), "new": value} for name, value in changed.items()}
        await self._record(tx, actor, "api_key.updated", key, details)
        self.forget_after(tx)
        return after

    async def rotate(
        self, tx: Transaction, actor: Actor, changer: Standing, key_id: str, wanted: KeyRotation
    ) -> RotatedKey:
        """A new key that may do the same; the old one stops when the overlap is over.

        Raises:
            KeyNotFound
            KeyEnded: it is revoked, replaced already, or has expired and no other end is given.
            Invalid: as on creation.
            NotYours: the key may do what the changer may not.
        """
        key = _seen(changer, await store.get_key(tx, changer.organization_id, key_id, lock=True))
        if key.is_revoked or key.replaced_by is not None:
            raise KeyEnded("This key is revoked, or was replaced.")
        if not key.is_active and wanted.expires_at is None:
            raise KeyEnded("This key has expired; give the new one an end of its own.")
        self._check(changer, key.scopes, key.environment)
        key_rules.check(wanted.name, wanted.expires_at, None, 0)
        draft = KeyDraft(
            name=wanted.name.strip() if wanted.name is not None else key.name,
            created_by=changer.user_id,
            environment=key.environment,
            key_type=key.key_type,
            permissions=key.permissions,
            scopes=key.scopes,
            rate_limit_override=key.rate_limit_override,
            expires_at=wanted.expires_at or key.expires_at,
        )
        made = await self._insert(tx, changer.organization_id, draft)
        until = await store.replace_key(tx, key.id, made.key.id, wanted.overlap)
        details = {"replaced_by": made.key.id, "works_until": until}
        await self._record(tx, actor, "api_key.rotated", key, details)
        self.forget_after(tx)
        return RotatedKey(made=made, old_key_id=key.id, old_key_revoked_at=until)

    async def revoke(
        self,
        tx: Transaction,
        organization_id: OrganizationId | None,
        reference: str,
        *,
        actor: Actor = SYSTEM,
        environment: Environment | None = None,
        reason: str | None = None,
    ) -> ApiKey:
        """End the key with this id or prefix; a revoked one stays as it is. None as organization is the operator's;
        an environment is the only one that a key sees.

        Raises:
            KeyNotFound: also when the key is another organization's.
        """
        key = await store.lock_key(tx, organization_id, reference)
        if key is None or environment not in (None, key.environment):
            raise _not_found()
        if not key.is_revoked:
            key = await store.revoke_key(tx, key.id, reason)
            await self._record(tx, actor, "api_key.revoked", key, {"reason": reason} if reason else {})
            self.forget_after(tx)
        return key

    async def end_due(self, tx: Transaction) -> bool:
        """Switch off keys whose time or overlap is over, which nobody accepts any more; whether there are more."""
        ended = await store.end_due(tx, ENDED_AT_ONCE)
        for key in ended:
            event = "api_key.revoked" if key.is_revoked else "api_key.expired"
            await self._record(tx, SYSTEM, event, key, {"replaced_by": key.replaced_by} if key.replaced_by else {})
        return len(ended) == ENDED_AT_ONCE

    async def count_active(self, tx: Transaction, organization_id: OrganizationId) -> int:
        """How many keys are accepted, without those that have a successor."""
        return await store.count_active(tx, organization_id)

    async def stats(self, tx: Transaction, viewer: Standing) -> KeyStats:
        """Of the organization's keys; for a key, of those of its environment."""
        return await store.stats(tx, viewer.organization_id, viewer.environment)

    async def record_failure(self, tx: Transaction, failure: AuthFailure) -> None:
        """Note a refused key, and tell the organization whose key it looks like: once in ten minutes for each key and
        address. The statements are the same where there is no such key."""
        await store.insert_failure(tx, failure)
        if await store.tell_failure(tx, failure):
            metrics.AUDIT_ROWS.labels(store.FAILED).inc()

    def forget_after(self, tx: Transaction) -> None:
        """Believe nothing remembered once this transaction has committed."""
        tx.on_commit(self._forget)

    async def _insert(self, tx: Transaction, organization_id: OrganizationId, draft: KeyDraft) -> NewKey:
        while True:
            secret = _generate(draft.environment)
            value = secret.reveal()
            prefix, digest = value[:PREFIX_LENGTH], self._digest(value)
            key = await store.insert_key(tx, str(uuid4()), organization_id, draft, prefix, digest)
            if key is not None:  # else the prefix, 48 random bits, was taken
                return NewKey(key=key, secret=secret)

    def _check(self, maker: Standing, scopes: Iterable[str], environment: Environment) -> None:
        if not maker.sees(environment):
            raise NotYours("A key makes keys of its own environment only.")
        if not all(maker.may(scope) for scope in scopes):
            raise NotYours("A key cannot be given what its maker may not do herself.")

    async def _record(
        self, tx: Transaction, actor: Actor, event: str, key: ApiKey, details: Mapping[str, object]
    ) -> None:
        target = Target("api_key", key.id)
        named = {"name": key.name, "prefix": key.prefix, **details}
        await self._audit.record(tx, actor, event, organization_id=key.organization_id, target=target, details=named)

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


def _not_found() -> KeyNotFound:
    return KeyNotFound("There is no such API key.")


def _seen(viewer: Standing, key: ApiKey | None) -> ApiKey:
    if key is None or not viewer.sees(key.environment):
        raise _not_found()
    return key


def _told(key: ApiKey) -> dict[str, object]:
    return {
        "environment": key.environment,
        "key_type": key.key_type,
        "scopes": key.scopes,
        "rate_limit_override": key.rate_limit_override,
        "expires_at": key.expires_at,
    }
