"""Where a request comes from."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from agentauri.accounts import counted_as
from agentauri.http.client import client_address

TRUSTED = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


def scope(peer: str | None, *forwarded: str) -> Any:
    headers = [(b"x-forwarded-for", line.encode()) for line in forwarded]
    headers += [(b"x-real-ip", b"203.0.113.66"), (b"forwarded", b"for=203.0.113.67")]
    return {"client": None if peer is None else (peer, 4711), "headers": headers}


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", (), "192.0.2.1"),
        ("192.0.2.1", ("203.0.113.5",), "192.0.2.1"),  # a stranger may write what she likes
        ("10.0.0.1", ("203.0.113.5",), "203.0.113.5"),
        ("10.0.0.1", ("198.51.100.9, 203.0.113.5",), "203.0.113.5"),  # and so may the client of our proxy
        ("10.0.0.1", ("198.51.100.9, 203.0.113.5, 10.0.0.7",), "203.0.113.5"),
        ("10.0.0.1", ("203.0.113.5", "10.0.0.7"), "203.0.113.5"),
        ("10.0.0.1", ("198.51.100.9, unknown",), "10.0.0.1"),
        ("10.0.0.1", ("10.0.0.7",), "10.0.0.1"),
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("2001:DB8::0:5",), "2001:db8::5"),
        ("fd00::1", ("203.0.113.5",), "203.0.113.5"),
        ("::ffff:10.0.0.1", ("203.0.113.5",), "203.0.113.5"),
        ("::ffff:192.0.2.1", (), "192.0.2.1"),
        (None, ("203.0.113.5",), ""),
    ],
)
def test_only_a_proxy_of_ours_is_believed(peer: str | None, forwarded: tuple[str, ...], client: str) -> None:
    assert client_address(scope(peer, *forwarded), TRUSTED) == client


def test_nobody_is_a_proxy_unless_named() -> None:
    assert client_address(scope("127.0.0.1", "203.0.113.5"), []) == "127.0.0.1"


def test_a_budget_counts_the_network_that_a_holder_of_ipv6_has() -> None:
    assert counted_as("2001:db8:1:2:3:4:5:6") == counted_as("2001:db8:1:2::") == "2001:db8:1:2::/64"
    assert counted_as("192.0.2.1") == "192.0.2.1"
    assert counted_as("") == ""
