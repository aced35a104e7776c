"""Delivery ids: derived, so that inserting twice is a no-op; ordered by time; carrying the tenant's lane.

A UUID of version 8: 48 bits of milliseconds of the origin's `created_at`, 12 bits of the organization's hash, 62 bits
of the hash of what is delivered.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as FastUUID  # noqa: N811 (the driver's own, ten times cheaper to make)

from agentauri.types import ActionId, DeliveryId, TriggerId

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_62_BITS = (1 << 62) - 1
_SEPARATOR = "\x1f"


def delivery_id(
    *,
    origin: datetime,
    organization_id: str,
    event_id: str,
    epoch: int,
    trigger_id: TriggerId,
    trigger_version: int,
    action_id: ActionId,
    kind: str,
    request_id: str | None = None,
) -> DeliveryId:
    """The id of one action for one match. `request_id` tells replays of the same delivery apart."""
    parts = f"{event_id}\x1f{epoch}\x1f{trigger_id}\x1f{trigger_version}\x1f{action_id}\x1f{kind}"
    if request_id is not None:
        parts += _SEPARATOR + request_id
    low = int.from_bytes(sha256(parts.encode()).digest()[:8]) & _62_BITS
    number = (_milliseconds(origin) << 80) | (0x8 << 76) | (_lane(organization_id) << 64) | (0b10 << 62) | low
    made: UUID = FastUUID(number.to_bytes(16))
    return DeliveryId(made)


@lru_cache(maxsize=100_000)
def _lane(organization_id: str) -> int:
    return int.from_bytes(sha256(organization_id.encode()).digest()[:2]) >> 4


def _milliseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MILLISECOND


_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = [high + low for high in _BASE32 for low in _BASE32]


def correlation_id(trigger_id: TriggerId, event_id: str) -> str:
    """What a match, its retraction and its digest have in common."""
    digest = sha256(f"{trigger_id}{_SEPARATOR}{event_id}".encode()).digest()
    bits = (
        int.from_bytes(digest[:17]) >> 6
    )  # 130 of them are 26 letters; the library's b32encode takes ten times longer
    return "corr_" + "".join([_PAIRS[bits >> shift & 0x3FF] for shift in range(120, -1, -10)])


def correlation_prefix(value: str) -> str | None:
    """The first 32 hex digits of the hash behind a correlation id, to look for it in SQL; None when it is none."""
    try:
        raw = base64.b32decode(value.removeprefix("corr_").upper() + "A" * 6)
    except ValueError:
        return None
    return raw[:16].hex() if value.startswith("corr_") and len(value) == 31 else None


def parse_id(text: str) -> DeliveryId:
    """
    Raises:
        ValueError: it is not a UUID.
    """
    made: UUID = FastUUID(text)
    return DeliveryId(made)


def webhook_id(delivery: DeliveryId) -> str:
    return f"msg_{delivery}"
