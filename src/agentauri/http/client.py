"""Where a request comes from. The one place that reads X-Forwarded-For; no other header is believed."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from litestar.types import HTTPScope

from agentauri.config import Network

Address = IPv4Address | IPv6Address


def client_address(scope: HTTPScope, trusted: Sequence[Network]) -> str:
    """The peer; or, where that is a proxy of ours, whom it and the proxies of ours before it name as theirs. A word
    that is no address ends the search: what stands left of it may be anybody's invention."""
    peer = scope["client"][0] if scope["client"] else ""
    address = _parse(peer)
    if address is None or not _within(address, trusted):
        return peer if address is None else str(address)
    lines = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    for word in reversed(",".join(lines).split(",")):
        named = _parse(word.strip())
        if named is None:
            break
        if not _within(named, trusted):
            return str(named)
    return str(address)


def _parse(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
