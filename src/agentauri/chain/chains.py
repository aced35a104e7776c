"""The networks: packaged facts, overridden by settings."""

from __future__ import annotations

import math
import tomllib
from functools import cache
from importlib import resources
from typing import Literal

import msgspec
from msgspec import Struct, field

from agentauri.chain.types import Chain, ChainClass
from agentauri.config import ChainSettings, Config, ConfigError
from agentauri.types import ChainId

MAX_RANGE = 10_000
FINAL_AFTER = 1800  # seconds of blocks that count as final where neither the file nor the node says: rollups take this


class _Addresses(Struct, frozen=True):
    identity: str
    reputation: str
    validation: str


class _Network(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    class_: ChainClass = field(name="class")
    block_time: float
    finality: Literal["tags", "depth"]
    depth: int | None = None
    start_block: int | None = None
    max_range: int = MAX_RANGE
    explorer: str | None = None
    identity: str | None = None
    reputation: str | None = None
    validation: str | None = None
    confirmed: bool = True


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    addresses: dict[ChainClass, _Addresses]
    earliest: dict[ChainClass, int]
    networks: dict[int, _Network]


@cache
def _file() -> _File:
    text = resources.files("agentauri.chain").joinpath("chains.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), _File, strict=False)


def load_chains(config: Config) -> dict[ChainId, Chain]:
    """Every network we know, and those that the settings add; `enabled` tells which are to be indexed.

    Raises:
        ConfigError: a network that we do not know comes without the address of its Identity registry.
    """
    settings = {chain.chain_id: chain for chain in config.chains}
    faults = [
        f"IDENTITY_ADDRESS_{chain_id}: required, since chain {chain_id} is not one we know; "
        "name its Identity registry (and REPUTATION_ADDRESS, VALIDATION_ADDRESS likewise)"
        for chain_id, chain in settings.items()
        if chain_id not in _file().networks and chain.identity is None
    ]
    if faults:
        raise ConfigError(faults)
    return {
        ChainId(chain_id): _chain(chain_id, settings.get(chain_id), config.rpc.max_range)
        for chain_id in sorted({*_file().networks, *settings})
    }


def _chain(chain_id: int, settings: ChainSettings | None, max_range: int) -> Chain:
    file = _file()
    network = file.networks.get(chain_id) or _Network(
        name=f"Chain {chain_id}", class_="testnet", block_time=2.0, finality="tags"
    )
    settings = settings or ChainSettings(chain_id=chain_id, rpc_urls=())
    usual = file.addresses[network.class_]
    start_block = network.start_block if settings.start_block is None else settings.start_block
    depth = network.depth or min(max(64, math.ceil(FINAL_AFTER / network.block_time)), 20_000)
    return Chain(
        id=ChainId(chain_id),
        name=network.name,
        class_=network.class_,
        block_time=network.block_time,
        identity=settings.identity or network.identity or usual.identity,
        reputation=settings.reputation or network.reputation or usual.reputation,
        validation=settings.validation or network.validation or usual.validation,
        earliest=file.earliest.get(network.class_, 0),
        start_block=start_block,
        finality=network.finality if settings.finality_depth is None else "depth",
        finality_depth=depth if settings.finality_depth is None else settings.finality_depth,
        max_range=min(network.max_range, max_range),
        explorer_url=network.explorer,
        rpc_urls=settings.rpc_urls,
        ws_url=settings.ws_url,
        confirmed=network.confirmed,
    )
