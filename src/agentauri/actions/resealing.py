"""Everything that is sealed, under the first key: afterwards the others can go."""

from __future__ import annotations

from msgspec import Struct

from agentauri.actions import action_store as store
from agentauri.actions import signing_secrets
from agentauri.actions.action_store import Place
from agentauri.database import Transaction
from agentauri.sealing import Sealer, Unreadable

SECRETS_PURPOSE = "trigger_actions.secrets"

PLACES: tuple[tuple[Place, str], ...] = (
    (Place("trigger_actions", "secrets"), SECRETS_PURPOSE),
    (Place("signing_secrets", "secret"), signing_secrets.PURPOSE),
)
BATCH = 500

Position = tuple[int, int]
"""A place, and the id of the last row that was looked at there."""

START: Position = (0, 0)


class Resealed(Struct, frozen=True, kw_only=True):
    """What was done on the way to `position`, which is None at the end. `unreadable` names rows that no key opens."""

    changed: int
    unreadable: list[str]
    position: Position | None


async def reseal(tx: Transaction, sealer: Sealer, position: Position) -> Resealed:
    """Seal the next rows anew that are not under the first key."""
    number, after = position
    place, purpose = PLACES[number]
    rows = await store.lock_sealed_otherwise(tx, place, sealer.current, after, BATCH)
    fresh: list[tuple[int, bytes]] = []
    unreadable = []
    for id_, sealed in rows:
        try:
            fresh.append((id_, sealer.seal(sealer.open(sealed, purpose), purpose)))
        except Unreadable:
            unreadable.append(f"{place.table} {id_}")
    await store.replace_sealed(tx, place, fresh)
    following: Position | None = (number, rows[-1][0]) if len(rows) == BATCH else (number + 1, 0)
    if number + 1 == len(PLACES) and len(rows) < BATCH:
        following = None
    return Resealed(changed=len(fresh), unreadable=unreadable, position=following)
