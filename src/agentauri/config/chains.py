"""Which chains to index, through whom, and what the environment says about each."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from msgspec import Struct

from agentauri.config.reader import Reader, within
from agentauri.types import Secret

CHAIN_ALIASES = {
    "ETHEREUM": 1, "BASE": 8453, "LINEA": 59144, "POLYGON": 137,
    "ETHEREUM_SEPOLIA": 11155111, "BASE_SEPOLIA": 84532, "LINEA_SEPOLIA": 59141, "POLYGON_AMOY": 80002,
}  # fmt: skip


class ChainSettings(Struct, frozen=True, kw_only=True):
    """What the environment says about one chain; None leaves the packaged value."""

    chain_id: int
    rpc_urls: tuple[Secret, ...]
    ws_url: Secret | None = None
    start_block: int | None = None
    finality_depth: int | None = None
    identity: str | None = None
    reputation: str | None = None
    validation: str | None = None


class RpcConfig(Struct, frozen=True, kw_only=True):
    timeout: float = 10.0
    requests_per_second: float = 25.0
    max_range: int = 10_000
    rest: float = 60.0
    stall: float = 60.0
    quorum: int = 1


def read_chains(r: Reader) -> tuple[ChainSettings, ...]:
    urls: dict[int, str] = {}
    for alias, chain_id in CHAIN_ALIASES.items():
        if value := r.raw(f"{alias}_RPC_URL"):
            urls[chain_id] = value
    named = {name.removesuffix("_FILE") for name in r.values if name.startswith(("RPC_URLS_", "RPC_URL_"))}
    for name in sorted(named):  # RPC_URLS_ before RPC_URL_
        match = re.fullmatch(r"RPC_URLS?_([1-9][0-9]{0,15})", name)
        if match is None:
            r.faults.append(f"{name}: ends in a chain id, such as RPC_URLS_8453")
        elif value := r.raw(name):
            urls[int(match[1])] = value if name.startswith("RPC_URLS_") else urls.get(int(match[1]), value)
    wanted = r.parse(
        "CHAINS", None, lambda raw: [int(part) for part in raw.split(",") if part.strip()], "comma-separated chain ids"
    )
    chains = []
    for chain_id, value in sorted(urls.items()):
        if wanted is not None and chain_id not in wanted:
            continue
        chains.append(_read_chain(r, chain_id, value))
    return tuple(chains)


def _read_chain(r: Reader, chain_id: int, urls: str) -> ChainSettings:
    def address(raw: str) -> str:
        if not re.fullmatch(r"0x[0-9a-fA-F]{40}", raw):
            raise ValueError
        return raw.lower()

    parts = [part.strip() for part in urls.split(",") if part.strip()]
    for part in parts:
        if urlsplit(part).scheme not in ("http", "https") or not urlsplit(part).hostname:
            r.faults.append(f"RPC_URLS_{chain_id}: takes comma-separated http:// or https:// URLs")
            break

    def socket(raw: str) -> Secret:
        if urlsplit(raw).scheme not in ("ws", "wss") or not urlsplit(raw).hostname:
            raise ValueError
        return Secret(raw)

    takes = "an address, 0x and 40 hex digits"
    return ChainSettings(
        chain_id=chain_id,
        rpc_urls=tuple(Secret(part) for part in parts),
        ws_url=r.parse(f"RPC_WS_{chain_id}", None, socket, "a ws:// or wss:// URL"),
        start_block=r.parse(f"START_BLOCK_{chain_id}", None, lambda raw: within(int(raw), 0, 2**53), "a block number"),
        finality_depth=r.parse(
            f"FINALITY_DEPTH_{chain_id}", None, lambda raw: within(int(raw), 0, 100_000), "a number of blocks"
        ),
        identity=r.parse(f"IDENTITY_ADDRESS_{chain_id}", None, address, takes),
        reputation=r.parse(f"REPUTATION_ADDRESS_{chain_id}", None, address, takes),
        validation=r.parse(f"VALIDATION_ADDRESS_{chain_id}", None, address, takes),
    )


def read_rpc(r: Reader) -> RpcConfig:
    return RpcConfig(
        timeout=r.number("RPC_TIMEOUT_SECONDS", 10, 1, 60),
        requests_per_second=r.number("RPC_REQUESTS_PER_SECOND", 25, 1, 1000),
        max_range=r.number("RPC_MAX_RANGE", 10_000, 1, 100_000),
        rest=r.number("RPC_REST_SECONDS", 60, 1, 3600),
        stall=r.number("CHAIN_STALL_SECONDS", 60, 1, 3600),
        quorum=r.number("RPC_QUORUM", 1, 1, 2),
    )
