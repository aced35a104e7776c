"""The actions that users configured: checked by the channel that will send them, secrets apart and sealed."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence

import asyncpg
import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace

from agentauri.actions import action_store as store
from agentauri.actions.channels import Channel, Prepared, StoredAction
from agentauri.actions.channels.channel import MASK
from agentauri.actions.errors import ActionNotFound, Changed, DeliveryFailed, NotAWebhook, Permanent
from agentauri.actions.resealing import SECRETS_PURPOSE, START, Position, Resealed, reseal
from agentauri.actions.signing import key_of
from agentauri.actions.signing_secrets import Rotation, SecretHint, SharedSecret, SigningSecrets
from agentauri.actions.types import Action, ActionDraft, ActionPatch, CheckedAction, Environment, Json, MatchAction
from agentauri.database import Transaction
from agentauri.errors import FieldError, Invalid
from agentauri.sealing import Sealer, Unreadable
from agentauri.types import ActionId, OrganizationId, Page, Paged, TriggerId

LOWEST, HIGHEST = -32768, 32767
PREPARED_KEPT = 10_000
MAX_ACTIONS = 20

NO_ORGANIZATION = OrganizationId("")


class Ready(Struct, frozen=True):
    """An action compiled for sending; `prepared` is the reason instead, where it cannot be."""

    trigger_id: TriggerId
    action_type: str
    enabled: bool
    prepared: Prepared | DeliveryFailed


class ActionService:
    """The door to `trigger_actions` and their signing secrets."""

    def __init__(self, sealer: Sealer, channels: Mapping[str, Channel]) -> None:
        self._sealer = sealer
        self._signing = SigningSecrets(sealer)
        self._channels = channels
        self._ready: OrderedDict[ActionId, tuple[asyncpg.Record, Ready]] = OrderedDict()

    async def check(
        self,
        drafts: Sequence[ActionDraft],
        organization_id: OrganizationId = NO_ORGANIZATION,
        *,
        anonymous: bool = False,
    ) -> list[CheckedAction]:
        """Look at drafts with the eyes that will send them. Asks name servers, so never inside a transaction.

        An `anonymous` draft may be one that is stored although it has no id, so it may keep a secret.

        Raises:
            Invalid: with fields like `actions[0].config.url`.
        """
        if len(drafts) > MAX_ACTIONS:
            raise Invalid.fields(FieldError("actions", f"must be at most {MAX_ACTIONS} items"))
        results = await asyncio.gather(
            *(self._check(position, draft, organization_id, anonymous) for position, draft in enumerate(drafts)),
            return_exceptions=True,
        )
        checked, refused = [], []
        for position, result in enumerate(results):
            match result:
                case Invalid():
                    refused += [error.under(f"actions[{position}]") for error in result.errors]
                case BaseException():
                    raise result
                case _:
                    checked.append(result)
        if refused:
            raise Invalid.fields(*refused)
        return checked

    async def _check(
        self, position: int, draft: ActionDraft, organization_id: OrganizationId, anonymous: bool
    ) -> CheckedAction:
        channel = self._channels.get(draft.action_type)
        if channel is None:
            raise Invalid.fields(FieldError("action_type", "is not a known type"))
        if not LOWEST <= draft.priority <= HIGHEST:
            raise Invalid.fields(FieldError("priority", f"must be a number from {LOWEST} to {HIGHEST}"))
        try:
            accepted = await channel.check(draft.config, organization_id)
        except Invalid as error:
            raise Invalid.fields(*(fault.under("config") for fault in error.errors)) from error
        if draft.id is None and not anonymous and (missing := _missing(accepted.secrets, {})):
            raise Invalid.fields(*missing)
        return CheckedAction(
            draft=draft,
            position=position,
            config=accepted.config,
            secrets=accepted.secrets,
            destination=accepted.destination,
        )

    async def create(
        self,
        tx: Transaction,
        trigger_id: TriggerId,
        checked: Sequence[CheckedAction],
        shared: SharedSecret | None = None,
    ) -> list[Action]:
        """Add actions to a trigger, in this order. Those that sign show their `signing_secret`, this once, unless it is
        a `shared` one."""
        made = []
        for action in checked:
            if missing := _missing(action.secrets, {}):
                raise Invalid.fields(*(fault.under(f"actions[{action.position}]") for fault in missing))
            record = await store.insert(tx, trigger_id, action, self._seal(action.secrets))
            made.append(await self._with_signing_secret(tx, record, shared))
        return made

    async def replace(
        self,
        tx: Transaction,
        trigger_id: TriggerId,
        checked: Sequence[CheckedAction],
        shared: SharedSecret | None = None,
    ) -> list[Action]:
        """Make these the trigger's only actions. One with a known id stays itself and keeps its secrets.

        Raises:
            Invalid: an id that is not one of this trigger's, or `***` where nothing is stored or what is stored was
                given for another target.
        """
        known = await store.lock_of(tx, trigger_id)
        self._refuse_strangers(known, checked)
        kept = {action.draft.id for action in checked}
        await store.delete(tx, [action_id for action_id in known if action_id not in kept])
        made = []
        for action in checked:
            if action.draft.id is None:
                made += await self.create(tx, trigger_id, [action], shared)
            else:
                made.append(await self._update(tx, action.draft.id, action, known[action.draft.id], shared))
        return made

    async def change(self, tx: Transaction, trigger_id: TriggerId, checked: CheckedAction, read: Action) -> Action:
        """Write a draft that was made of an action as it was `read`.

        Raises:
            ActionNotFound
            Changed: somebody was quicker.
            Invalid: it keeps a secret that is not stored, or was given for another target.
        """
        row = (await store.lock_of(tx, trigger_id)).get(read.id)
        if row is None:
            raise ActionNotFound
        if row["action_type"] != read.action_type or msgspec.json.decode(row["config"]) != read.config:
            raise Changed
        return await self._update(tx, read.id, checked, row, None)

    async def delete(self, tx: Transaction, trigger_id: TriggerId, action_id: ActionId) -> None:
        """Raises: ActionNotFound."""
        if action_id not in await store.lock_of(tx, trigger_id):
            raise ActionNotFound
        await store.delete(tx, [action_id])

    async def _update(
        self,
        tx: Transaction,
        action_id: ActionId,
        checked: CheckedAction,
        row: asyncpg.Record,
        shared: SharedSecret | None,
    ) -> Action:
        record = await store.update(tx, action_id, checked, self._seal(self._merged(checked, row)))
        return _action(record) if row["signs"] else await self._with_signing_secret(tx, record, shared)

    def recognised(self, checked: Sequence[CheckedAction], among: Sequence[Action]) -> list[CheckedAction]:
        """The drafts with the ids of the actions that they seem to be: the same if there is one, else one to the same
        target."""
        left, found = list(among), []
        for action in checked:
            alike = [one for one in left if self._leads_where(one.action_type, one.config, action)]
            same = next((one for one in alike if one.config == action.config), alike[0] if alike else None)
            if same is not None:
                left.remove(same)
                action = replace(action, draft=replace(action.draft, id=same.id))
            found.append(action)
        return found

    async def shared_secret(self, tx: Transaction, trigger_ids: Collection[TriggerId]) -> SharedSecret:
        """What the actions of these triggers sign with, whichever of them they will be."""
        return await self._signing.shared_by(tx, trigger_ids)

    async def rotate_secret(
        self,
        tx: Transaction,
        organization_id: OrganizationId,
        environment: Environment | None,
        action_id: ActionId,
        overlap: float,
    ) -> Rotation:
        """A new signing secret, shown this once; for an action of a follow it is that of all its actions.

        Raises:
            ActionNotFound: also where it is another organization's.
            NotAWebhook: it signs nothing.
        """
        group = {row["id"]: row for row in await store.locked_group(tx, organization_id, environment, action_id)}
        if action_id not in group:
            raise ActionNotFound
        if not self._signs(group[action_id]["action_type"]):
            raise NotAWebhook
        signing = [id_ for id_, row in group.items() if self._signs(row["action_type"])]
        return await self._signing.rotate(tx, signing, overlap)

    async def secret_hints(
        self, tx: Transaction, organization_id: OrganizationId, environment: Environment | None, page: Page
    ) -> Paged[SecretHint]:
        """Which signing secrets are in force, newest first."""
        found, total = await self._signing.hints(tx, organization_id, environment, page.limit, page.offset)
        return Paged(data=found, total=total, has_more=page.offset + len(found) < total)

    async def reseal(self, tx: Transaction, position: Position = START) -> Resealed:
        """Put the next secrets under the first key that are under another one."""
        return await reseal(tx, self._sealer, position)

    def any_signs(self, checked: Sequence[CheckedAction]) -> bool:
        return any(self._signs(action.draft.action_type) for action in checked)

    def _signs(self, action_type: str) -> bool:
        channel = self._channels.get(action_type)
        return channel is not None and channel.signs

    async def of(self, tx: Transaction, trigger_ids: Collection[TriggerId]) -> dict[TriggerId, list[Action]]:
        """Actions by trigger, lower priority first; triggers without any are absent."""
        found: dict[TriggerId, list[Action]] = {}
        for record in await store.of_triggers(tx, trigger_ids):
            found.setdefault(record["trigger_id"], []).append(_action(record))
        return found

    async def for_matching(
        self, tx: Transaction, trigger_ids: Collection[TriggerId]
    ) -> dict[TriggerId, list[MatchAction]]:
        """Enabled actions by trigger, as the evaluator drafts deliveries from them."""
        found: dict[TriggerId, list[MatchAction]] = {}
        for trigger_id, action_id, action_type, destination, priority in await store.enabled_of(tx, trigger_ids):
            found.setdefault(trigger_id, []).append(
                MatchAction(id=action_id, action_type=action_type, destination=destination, priority=priority)
            )
        return found

    async def to_send(self, tx: Transaction, action_ids: Collection[ActionId]) -> dict[ActionId, Ready]:
        """Actions compiled as they are configured now. Compiling is done once for each change."""
        ready = {}
        for record in await store.to_send(tx, action_ids):
            action_id = record["id"]
            kept = self._ready.get(action_id)
            if kept is None or kept[0] != record:
                kept = self._ready[action_id] = (record, self._prepare(record))
            self._ready.move_to_end(action_id)
            ready[action_id] = kept[1]
        while len(self._ready) > PREPARED_KEPT:
            self._ready.popitem(last=False)
        return ready

    def try_out(self, action: CheckedAction) -> Prepared | DeliveryFailed:
        """A draft compiled to be looked at, not to be sent: what it does not tell of its secrets is masked."""
        draft = action.draft
        secrets = {name.lower(): MASK if value is None else value for name, value in action.secrets.items()}
        try:
            return self._channels[draft.action_type].prepare(
                StoredAction(
                    id=draft.id or ActionId(0),
                    action_type=draft.action_type,
                    config=action.config,
                    secrets=secrets,
                    signing_keys=(),
                )
            )
        except DeliveryFailed as error:
            return error

    def _prepare(self, record: asyncpg.Record) -> Ready:
        return Ready(record["trigger_id"], record["action_type"], record["enabled"], self._prepared(record))

    def _prepared(self, record: asyncpg.Record) -> Prepared | DeliveryFailed:
        channel = self._channels.get(record["action_type"])
        if channel is None:
            return Permanent("configuration", "the action's type is not available in this version")
        try:
            return channel.prepare(
                StoredAction(
                    id=record["id"],
                    action_type=record["action_type"],
                    config=msgspec.json.decode(record["config"], type=Json),
                    secrets=self._open(record["secrets"]),
                    signing_keys=tuple(key_of(self._signing.open(sealed)) for sealed in record["keys"] or ()),
                )
            )
        except DeliveryFailed as error:
            return error
        except Unreadable as error:
            return Permanent("secret", f"a secret of the action cannot be read: {error}")
        except (ValueError, msgspec.MsgspecError) as error:
            return Permanent("configuration", f"the stored action cannot be used: {error}")

    async def _with_signing_secret(
        self, tx: Transaction, record: asyncpg.Record, shared: SharedSecret | None
    ) -> Action:
        action = _action(record)
        if not self._signs(action.action_type):
            return action
        if shared is not None:
            await self._signing.share(tx, action.id, shared)
            return action
        return replace(action, signing_secret=await self._signing.make(tx, action.id))

    def _merged(self, action: CheckedAction, row: asyncpg.Record) -> dict[str, str]:
        """The secrets as they are to be, those that are kept taken from the stored action.

        They are kept for the target they were given for, and for no other: whoever may point the action elsewhere must
        not be able to read them there.
        """
        keeps = None in action.secrets.values()
        stored = self._stored(row["secrets"]) if keeps else {}
        faults = _missing(action.secrets, stored)
        if keeps and not faults and self._moves(action, row):
            told = "cannot be kept, because the target changed: give the value again"
            faults = [FieldError(f"config.{name}", told) for name, value in action.secrets.items() if value is None]
        if faults:
            raise Invalid.fields(*(fault.under(f"actions[{action.position}]") for fault in faults))
        return {name: stored[name.lower()] if value is None else value for name, value in action.secrets.items()}

    def _moves(self, action: CheckedAction, row: asyncpg.Record) -> bool:
        config = msgspec.json.decode(row["config"])
        return not (isinstance(config, dict) and self._leads_where(row["action_type"], config, action))

    def _leads_where(self, action_type: str, config: Json, action: CheckedAction) -> bool:
        """Whether an action that is stored like this leads to the target of the draft."""
        before = self._channels.get(action_type)
        target = None if before is None else before.target(config)
        return target is not None and target == self._channels[action.draft.action_type].target(action.config)

    def _refuse_strangers(self, known: Collection[ActionId], checked: Sequence[CheckedAction]) -> None:
        seen: set[ActionId] = set()
        for action in checked:
            wanted = action.draft.id
            if wanted is not None and (wanted not in known or wanted in seen):
                raise Invalid.fields(FieldError(f"actions[{action.position}].id", "is not an action of this trigger"))
            if wanted is not None:
                seen.add(wanted)

    def _seal(self, secrets: Mapping[str, str | None]) -> bytes | None:
        """Names are kept in lower case: a header is the same header in any."""
        lower = {name.lower(): value for name, value in secrets.items()}
        return self._sealer.seal(msgspec.json.encode(lower), SECRETS_PURPOSE) if secrets else None

    def _stored(self, sealed: bytes | None) -> dict[str, str]:
        try:
            return self._open(sealed)
        except Unreadable:
            return {}  # what cannot be read cannot be kept: its owner has to say it again

    def _open(self, sealed: bytes | None) -> dict[str, str]:
        if sealed is None:
            return {}
        return msgspec.json.decode(self._sealer.open(sealed, SECRETS_PURPOSE), type=dict[str, str])


def patched(action: Action, patch: ActionPatch) -> ActionDraft:
    """The action as the patch wants it: `config` merges key by key, where null takes a key away."""
    config = action.config
    if patch.config is not UNSET:
        config = {name: value for name, value in (config | patch.config).items() if value is not None}
    return ActionDraft(
        id=action.id,
        action_type=action.action_type if patch.action_type is UNSET else patch.action_type,
        config=config,
        priority=action.priority if patch.priority is UNSET else patch.priority,
        enabled=action.enabled if patch.enabled is UNSET else patch.enabled,
    )


def _action(record: asyncpg.Record) -> Action:
    return Action(**{**record, "config": msgspec.json.decode(record["config"])})


def _missing(wanted: Mapping[str, str | None], stored: Mapping[str, str]) -> list[FieldError]:
    return [
        FieldError(f"config.{name}", "has no stored value to keep")
        for name, value in wanted.items()
        if value is None and name.lower() not in stored
    ]
