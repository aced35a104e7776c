"""What the chain package speaks: networks, blocks, logs, and how far each chain is indexed."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Literal

from msgspec import Struct, field

from agentauri.types import ChainId, Secret

ChainClass = Literal["mainnet", "testnet", "local"]
Registry = Literal["identity", "reputation", "validation"]
Finality = Literal["latest", "safe", "finalized"]
Status = Literal["starting", "backfill", "live", "degraded", "halted"]
STATUSES: tuple[Status, ...] = ("starting", "backfill", "live", "degraded", "halted")
RawReason = Literal["unknown_topic", "malformed", "ambiguous"]

NO_BLOCK = -1
"""The block number of a checkpoint that has not begun."""


class Chain(Struct, frozen=True, kw_only=True):
    """A network: packaged facts with what the environment says on top.

    `start_block` None means that it has to be found. `finality_depth` counts even where finality is by tags: for
    a node that does not answer them. Without `rpc_urls` the chain is known and not indexed. One that is not `confirmed`
    is not among those that the registries' authors list: only the self-check tells whether they are there.
    """

    id: ChainId
    name: str
    class_: ChainClass = field(name="class")
    block_time: float
    identity: str
    reputation: str
    validation: str
    earliest: int
    start_block: int | None
    finality: Literal["tags", "depth"]
    finality_depth: int
    max_range: int
    explorer_url: str | None
    rpc_urls: tuple[Secret, ...] = ()
    ws_url: Secret | None = None
    confirmed: bool = True

    @property
    def enabled(self) -> bool:
        return bool(self.rpc_urls)

    @property
    def local(self) -> bool:
        return self.class_ == "local"

    @property
    def registries(self) -> dict[str, Registry]:
        """Which registry an address is; addresses are lower case."""
        return {self.identity: "identity", self.reputation: "reputation", self.validation: "validation"}


class Header(Struct, frozen=True, gc=False):
    """A block's header, as far as we look at it. `bloom` is 0 where the node does not keep one."""

    number: int
    hash: str
    parent_hash: str
    time: int
    bloom: int


class Log(Struct, frozen=True, gc=False):
    """A log as a provider gave it, nothing decoded: `topics` are 32 bytes each, text is lower case.

    `block_time` is there only where the provider tells it.
    """

    address: str
    topics: bytes
    data: bytes
    block_number: int
    block_hash: str
    transaction_hash: str
    transaction_index: int
    log_index: int
    block_time: int | None = None


class RawLog(Struct, frozen=True):
    """A stored log that is no event."""

    id: int
    log: Log
    block_time: int


class Anchor(Struct, frozen=True, gc=False):
    """A block whose hash we remember."""

    number: int
    hash: str
    time: int
    parent_hash: str | None = None


class Heads(Struct, frozen=True, kw_only=True):
    """The top of a chain: its newest block, and how far it is final. None is unknown, not absent."""

    head: int
    time: int
    safe: int | None = None
    finalized: int | None = None
    finalized_hash: str | None = None


class Undecoded(Struct, frozen=True):
    """Why a log is no event. `alarming`: something that must not occur on this chain at all."""

    reason: RawReason
    detail: str
    alarming: bool = False


class Checkpoint(Struct, frozen=True, kw_only=True):
    """How far a chain is indexed: everything from `first_block` to `block` has been read."""

    block: Anchor
    first_block: int
    head: int | None
    safe: int | None
    finalized: int | None
    finalized_hash: str | None
    status: Status
    status_reason: str | None
    reset_to: int | None

    @property
    def begun(self) -> bool:
        return self.block.number != NO_BLOCK


class Step(Enum):
    """What one step of an indexer came to."""

    ADVANCED = "advanced"
    CAUGHT_UP = "caught_up"
    IDLE = "idle"
    RETRY = "retry"
    CONTENDED = "contended"  # somebody else holds or moved what we wanted to write
    UNSETTLED = "unsettled"  # what it was before it began anew is not settled yet
    DOUBTFUL = "doubtful"  # it looks like a reorg, and nobody has confirmed it yet
    REORGED = "reorged"
    RESET = "reset"
    REFUSED = "refused"
    DEGRADED = "degraded"
    HALTED = "halted"


class RegistryAddress(Struct, frozen=True, kw_only=True):
    address: str
    start_block: int | None


class FinalityView(Struct, frozen=True, kw_only=True):
    mode: Literal["tags", "depth"]
    depth: int | None


class ProviderStatus(Struct, frozen=True, kw_only=True):
    """A provider's health. It goes by `rpc-1`, `rpc-2`, … in the order of RPC_URLS: a URL may hold a key."""

    name: str
    healthy: bool
    latency_ms: float | None
    last_ok_at: datetime | None


class ChainStatus(Struct, frozen=True, kw_only=True):
    """A network and where its indexer stands; block numbers are None until it has begun."""

    chain_id: ChainId
    name: str
    class_: ChainClass = field(name="class")
    enabled: bool
    registries: dict[Registry, RegistryAddress]
    finality: FinalityView
    block_time_seconds: float
    status: Literal["starting", "backfill", "live", "degraded", "halted", "disabled"]
    status_reason: str | None
    latest_block: int | None
    safe_block: int | None
    finalized_block: int | None
    indexed_block: int | None
    lag_blocks: int | None
    lag_seconds: int | None
    last_sync_at: datetime | None
    last_event_at: datetime | None
    total_events: int
    providers: list[ProviderStatus]


class Standing(Struct, frozen=True, kw_only=True):
    """The last block that is indexed, and how final it is."""

    block_number: int
    block_hash: str
    finality: Finality


class EventCount(Struct, frozen=True, kw_only=True):
    chain_id: ChainId
    event_name: str
    count: int


class ResetPlan(Struct, frozen=True, kw_only=True):
    """What a reset would do: read again everything above `to_block`."""

    chain_id: ChainId
    from_block: int
    to_block: int
    events: int
