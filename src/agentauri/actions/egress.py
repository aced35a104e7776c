"""Who may be called: the guard that every outbound request of a customer's passes.

A name is looked up by us, in threads of our own, and refused when *any* of its addresses is not globally routable. The
HTTP client connects to those very addresses, and the socket itself is checked once more, which also catches addresses
that were written as such and never looked up.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from agentauri.errors import FieldError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
LookUp = Callable[[str], list[str]]

LOOKUP_SECONDS = 5.0
CACHE_SECONDS = 30.0
CACHE_SIZE = 10_000
LOOKUPS_PER_ORGANIZATION = 2
LOOKUPS_AT_ONCE = 64
URL_LENGTH = 2048

NEVER = frozenset(map(ipaddress.ip_address, ("169.254.169.254", "fd00:ec2::254", "100.100.100.200")))
"""Cloud metadata services: refused whatever the settings say."""

# Our own lists and not `is_global`, whose answer changes with the Python version.
_REFUSED_4 = [ipaddress.IPv4Network(network) for network in (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
    "224.0.0.0/4", "240.0.0.0/4",
)]  # fmt: skip
_GLOBAL_6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_6 = [ipaddress.IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "3fff::/20")]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")


class EgressRefused(Exception):
    """A target that is not to be called; the message says which rule it breaks, never the address."""


class LookUpFailed(Exception):
    """The name has no address, or the name server did not answer in time."""


class SocketRefused(OSError):
    """Raised where a socket would be made for a refused address; an OSError, so that the client treats it as one."""


class Target(Struct, frozen=True):
    """A URL that is well formed and of an allowed scheme and port. `key` names its destination."""

    scheme: str
    host: str
    port: int

    @property
    def key(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


class Guard:
    """Decides about URLs, names, addresses and sockets."""

    def __init__(self, *, allow_insecure: bool, blocked_ports: frozenset[int], look_up: LookUp | None = None) -> None:
        self._allow_insecure = allow_insecure
        self._blocked_ports = blocked_ports
        self._look_up = look_up or _getaddrinfo
        self._known: OrderedDict[str, tuple[float, tuple[str, ...]]] = OrderedDict()
        self._asking: dict[str, asyncio.Future[tuple[str, ...]]] = {}
        self._all = _Slots(LOOKUPS_AT_ONCE)
        self._organizations: defaultdict[str, _Slots] = defaultdict(lambda: _Slots(LOOKUPS_PER_ORGANIZATION))

    def target(self, url: str) -> Target:
        """Check a URL's form.

        Raises:
            FieldError: with an empty field, for the caller to put its own path in front.
        """
        if len(url) > URL_LENGTH:
            raise FieldError("", f"must be at most {URL_LENGTH} characters")
        if not re.fullmatch(r"[!-~]*", url):
            raise FieldError("", "must be ASCII without spaces: percent-encode the path, write the host in punycode")
        parts, host, port = _split(url)
        if parts.scheme not in ("https", "http"):
            raise FieldError("", "must start with https://")
        if parts.scheme == "http" and not self._allow_insecure:
            raise FieldError("", "must use https")
        if parts.username is not None or parts.password is not None:
            raise FieldError("", "must not contain a user name or password")
        if not host or "%" in host or "{" in host:
            raise FieldError("", "must name a host")
        port = port or (443 if parts.scheme == "https" else 80)
        if port in self._blocked_ports:
            raise FieldError("", "names a port that is not allowed")
        return Target(parts.scheme, host, port)

    def allows(self, address: str) -> bool:
        """May we connect to this literal address?"""
        reach = _reach(address)
        return reach == "global" or (reach == "other" and self._allow_insecure)

    def known(self, host: str) -> tuple[str, ...] | None:
        """The host's addresses if they were looked up within the last 30 s, or are written as such. None also where one
        of them is not allowed: `addresses` says so."""
        known = self._known.get(host)
        found = known[1] if known and known[0] > time.monotonic() else (host,) if _is_literal(host) else None
        return found if found is not None and all(map(self.allows, found)) else None

    async def addresses(self, host: str, organization_id: str) -> tuple[str, ...]:
        """The host's addresses, all of them allowed; remembered for 30 s.

        Raises:
            EgressRefused: one of them is not.
            LookUpFailed: there is none, or the answer took longer than 5 s.
        """
        known = self._known.get(host)
        found = known[1] if known and known[0] > time.monotonic() else await self._ask(host, organization_id)
        if not all(map(self.allows, found)):
            raise EgressRefused("the target's address is not a public one")
        return found

    async def _ask(self, host: str, organization_id: str) -> tuple[str, ...]:
        if _is_literal(host):
            return (host.strip("[]"),)
        asking = self._asking.get(host)
        if asking is None:
            asking = asyncio.ensure_future(self._look_up_in_thread(host, organization_id))
            self._asking[host] = asking
            asking.add_done_callback(lambda done: self._answered(host, done))
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                return await asyncio.shield(asking)
        except TimeoutError as error:
            raise LookUpFailed("the look-up of the target's name took too long") from error
        except OSError as error:
            raise LookUpFailed(f"the target's name does not resolve: {error.strerror or error}") from error

    def _answered(self, host: str, done: asyncio.Future[tuple[str, ...]]) -> None:
        del self._asking[host]
        if done.cancelled() or done.exception() is not None:
            return
        self._known[host] = (time.monotonic() + CACHE_SECONDS, done.result())
        self._known.move_to_end(host)
        while len(self._known) > CACHE_SIZE:
            self._known.popitem(last=False)

    async def _look_up_in_thread(self, host: str, organization_id: str) -> tuple[str, ...]:
        # A slot is held until the thread ends, not until we lose patience: a name server that hangs must not
        # collect threads.
        mine = self._organizations[organization_id]
        async with mine, self._all:
            found = await _in_thread(self._look_up, host)
        if mine.idle:
            self._organizations.pop(organization_id, None)
        if not found:
            raise OSError("no address")
        return tuple(dict.fromkeys(found))

    def make_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """The HTTP client's socket factory: the last check, with the address that is about to be connected to."""
        family, kind, protocol, _, address = info
        if not self.allows(address[0]):
            raise SocketRefused("the target's address is not a public one")
        return socket.socket(family, kind, protocol)


class _Slots:
    """A semaphore that knows whether it is idle."""

    def __init__(self, count: int) -> None:
        self._semaphore = asyncio.Semaphore(count)
        self._users = 0

    @property
    def idle(self) -> bool:
        return self._users == 0

    async def __aenter__(self) -> None:
        self._users += 1
        try:
            await self._semaphore.acquire()
        except BaseException:
            self._users -= 1
            raise

    async def __aexit__(self, *_: object) -> None:
        self._users -= 1
        self._semaphore.release()


async def _in_thread(look_up: LookUp, host: str) -> list[str]:
    """Run the look-up in a daemon thread: one that hangs must not keep the process from ending."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def settle(found: list[str] | None, error: OSError | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(found or [])

    def work() -> None:
        found, fault = None, None
        try:
            found = look_up(host)
        except (OSError, UnicodeError) as error:  # a label that is too long is a UnicodeError
            fault = error if isinstance(error, OSError) else OSError("not a host name")
        try:
            loop.call_soon_threadsafe(settle, found, fault)
        except RuntimeError:
            return  # the loop ended while we were asking

    threading.Thread(target=work, name="look-up", daemon=True).start()
    return await answer


def _getaddrinfo(host: str) -> list[str]:
    return [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


def _split(url: str) -> tuple[SplitResult, str, int | None]:
    try:
        parts = urlsplit(url)
        return parts, parts.hostname or "", parts.port
    except ValueError as error:
        raise FieldError("", "is not a URL") from error


@lru_cache(maxsize=CACHE_SIZE)
def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


@lru_cache(maxsize=CACHE_SIZE)
def _reach(address: str) -> Literal["global", "other", "never"]:
    """How far an address reaches; "never" also where it is none."""
    try:
        actual = _unwrapped(ipaddress.ip_address(address))
    except ValueError:
        return "never"
    if actual in NEVER or "%" in address:  # a zone makes two spellings of one address unequal
        return "never"
    return "global" if _is_global(actual) else "other"


def _unwrapped(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _SIX_TO_FOUR:
        return ipaddress.IPv4Address((int(address) >> 80) & 0xFFFFFFFF)
    return address


def _is_global(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _REFUSED_4)
    return address in _GLOBAL_6 and not any(address in network for network in _REFUSED_6)
