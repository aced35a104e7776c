"""Tricks to make us call what is not public, by webhook and by MCP: no connection is made, and the attempt says why."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from aiohttp import web

from agentauri.actions import ChainLabel, Guard, Outbound, TriggerFacts, make_channels
from agentauri.actions.channels import Channel, Sent, StoredAction, mcp_client
from agentauri.actions.channels.mcp import ToolCall
from agentauri.actions.errors import DeliveryFailed, Permanent, Retryable
from agentauri.actions.message import Message
from agentauri.certificates import generate
from agentauri.errors import Invalid
from agentauri.types import ActionId, ChainId, DeliveryId, OrganizationId, TriggerId
from support.receiver import Receiver

from .test_egress import METADATA, PORTS, PRIVATE

CHANNELS = ["webhook", "mcp"]
TAG = "@127.0.0.1:80/?"
MESSAGE = Message(
    delivery_id=DeliveryId(uuid4()),
    organization_id=OrganizationId("org"),
    action_id=ActionId(1),
    kind="match",
    attempt=1,
    trigger=TriggerFacts(id=TriggerId("t"), name="t", version=1, organization_id=OrganizationId("org")),
    trigger_version=1,
    chain_id=ChainId(84532),
    chain=ChainLabel("Base Sepolia", None),
    event={"id": "e", "tag1": TAG},
    event_id="e",
    correlation_id="corr",
    context=None,
    parent_id=None,
    created_at=datetime.now(UTC),
)

_connected: list[object] = []
_watching = False


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and event == "socket.connect":
        _connected.append(arguments[1])


sys.addaudithook(_watch)


@pytest.fixture
def connected() -> Iterator[list[object]]:
    """The addresses that anybody in this process connects to."""
    global _watching
    _connected.clear()
    _watching = True
    yield _connected
    _watching = False


def url_of(address: str) -> str:
    return f"https://[{address}]/" if ":" in address else f"https://{address}/"


NAMES: dict[str, list[str]] = {
    "mixed.example": ["8.8.8.8", "10.0.0.1"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "nat64.example": ["64:ff9b::a9fe:a9fe"],
    "sixtofour.example": ["2002:7f00:1::"],
    "many.example": [*(f"8.8.{n // 250}.{n % 250 + 1}" for n in range(1000)), "192.168.0.1"],
    "metadata.google.internal": ["169.254.169.254"],
    "instance-data": ["169.254.169.254"],
    "public.example": ["127.0.0.1"],
    "zone.example": ["fe80::1%eth0"],
    "nonsense.example": ["not an address"],
    "xn--bcher-kva.example": ["127.0.0.1"],
}
ODD = ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1", "017700000001", "0", "localhost", "127.0.0.1."]
BY_ADDRESS = [
    *map(url_of, [*PRIVATE, *METADATA]),
    *(f"https://{host}/" for host in [*ODD, *NAMES]),
    "https://127.0.0.1:8443/",
    "https://public.example#@8.8.8.8/",
    "https://public.example/{{tag1}}",
    "https://public.example?{{tag1}}",
]
"""Well formed, and what they lead to is not public."""

BY_FORM = [
    *("http://public.example/", "ftp://public.example/", "file:///etc/passwd", "gopher://127.0.0.1:6379/_INFO"),
    *("//public.example/", "https:public.example", "https://", "javascript:alert(1)", "data:,x"),
    *("https://8.8.8.8@127.0.0.1/", "https://user:pw@public.example/", "https://:@public.example/"),
    *("https://public.example\\@127.0.0.1/", "https://127.0.0.1%2f@public.example/", "https://%31%32%37.0.0.1/"),
    *("https://public.example:22/", "https://public.example:25/", "https://public.example:65536/"),
    *("https://public.example:-1/", "https://public.example:0x50/"),
    *("https://public.example\r\nHost: 127.0.0.1/", "https://public.example\t/", "https:// 127.0.0.1/"),
    *("https://①②⑦.0.0.1/", "https://ⓛocalhost/", "https://bücher.example/", "https://[::1/", "https://[::1%25lo]/"),
    *("https://{{tag1}}/", "https://{{tag1}}.example/", "https://public.example{{tag1}}", "{{tag1}}"),
    *("https://public.example:{{tag1}}/", "https://public.example/" + "a" * 2048),
]
"""Refused before anybody is asked where they lead."""


def test_the_battery_is_as_large_as_it_should_be() -> None:
    assert len(set(BY_ADDRESS)) + len(set(BY_FORM)) > 90


def look_up(host: str) -> list[str]:
    if host in NAMES:
        return NAMES[host]
    return [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


def stored(action_type: str, url: str, timeout: float = 5.0) -> StoredAction:
    """An action as somebody might write it into the table by hand."""
    config: dict[str, object] = {"url": url} if action_type == "webhook" else {"server_url": url, "tool_name": "t"}
    return StoredAction(
        id=ActionId(1),
        action_type=action_type,
        config=config | {"timeout_seconds": timeout},
        secrets={},
        signing_keys=(b"k" * 32,),
    )


@asynccontextmanager
async def channel(action_type: str, guard: Guard) -> AsyncIterator[Channel]:
    async with Outbound.open(guard) as outbound:
        yield make_channels(outbound, webhook_timeout=10)[action_type]


async def verdict(opened: Channel, action: StoredAction) -> DeliveryFailed | None:
    ended: asyncio.Future[Sent | Exception] = asyncio.get_running_loop().create_future()
    try:
        opened.prepare(action).begin(MESSAGE, ended.set_result)
        outcome = await ended
    except DeliveryFailed as failed:
        return failed
    if isinstance(outcome, Exception) and not isinstance(outcome, DeliveryFailed):
        raise outcome
    return outcome if isinstance(outcome, DeliveryFailed) else None


async def accepts(opened: Channel, action: StoredAction) -> bool:
    """False where it is refused for its URL, and for nothing else."""
    config = {name: value for name, value in action.config.items() if name != "timeout_seconds"}
    try:
        await opened.check(config, OrganizationId("org"))
    except Invalid as error:
        return [fault.field for fault in error.errors] != ["url" if action.action_type == "webhook" else "server_url"]
    return True


@pytest.mark.parametrize("action_type", CHANNELS)
@pytest.mark.parametrize("url", BY_ADDRESS)
async def test_nobody_is_called_who_is_not_public(action_type: str, url: str, connected: list[object]) -> None:
    guard = Guard(allow_insecure=False, blocked_ports=PORTS, look_up=look_up)
    async with channel(action_type, guard) as opened:
        accepted = await accepts(opened, stored(action_type, url))
        failed = await verdict(opened, stored(action_type, url))

    assert connected == []
    if isinstance(failed, Retryable):  # some resolvers know no odd forms
        assert (accepted, failed.kind) == (True, "dns")
        return
    assert isinstance(failed, Permanent)
    assert (accepted, failed.kind, failed.reason) == (False, "egress_refused", "permanent")
    assert failed.message == "the target's address is not a public one"


@pytest.mark.parametrize("action_type", CHANNELS)
@pytest.mark.parametrize("url", BY_FORM)
async def test_a_url_that_is_none_is_refused_by_its_form(action_type: str, url: str, connected: list[object]) -> None:
    asked: list[str] = []

    def remember(host: str) -> list[str]:
        asked.append(host)
        return ["8.8.8.8"]

    guard = Guard(allow_insecure=False, blocked_ports=PORTS, look_up=remember)
    async with channel(action_type, guard) as opened:
        accepted = await accepts(opened, stored(action_type, url))
        failed = await verdict(opened, stored(action_type, url))

    assert (accepted, connected, asked) == (False, [], [])
    assert isinstance(failed, Permanent)
    assert failed.kind == "egress_refused"
    assert failed.message.startswith("the url " if action_type == "webhook" else "the server_url ")


@pytest.mark.parametrize("action_type", CHANNELS)
@pytest.mark.parametrize("address", METADATA)
async def test_metadata_services_are_never_called(action_type: str, address: str, connected: list[object]) -> None:
    guard = Guard(allow_insecure=True, blocked_ports=PORTS)
    async with channel(action_type, guard) as opened:
        failed = await verdict(opened, stored(action_type, url_of(address).replace("https", "http")))

    assert (type(failed), connected) == (Permanent, [])


@pytest.mark.parametrize("action_type", CHANNELS)
@pytest.mark.parametrize("later", ["127.0.0.1", "10.0.0.1", "::1", "169.254.169.254"])
async def test_a_name_that_changes_its_mind_is_not_followed(
    action_type: str, later: str, connected: list[object]
) -> None:
    answers = iter([["8.8.8.8"], [later]])
    guard = Guard(allow_insecure=False, blocked_ports=PORTS, look_up=lambda _: next(answers))
    async with channel(action_type, guard) as opened:
        action = stored(action_type, "https://rebinding.example/")
        assert await accepts(opened, action)
        guard._known.clear()  # as if the 30 s had passed

        failed = await verdict(opened, action)

    assert (type(failed), connected) == (Permanent, [])
    assert failed is not None
    assert failed.kind == "egress_refused"


@pytest.mark.parametrize("action_type", CHANNELS)
async def test_a_name_is_connected_to_where_it_was_checked(
    action_type: str, receiver: Receiver, connected: list[object]
) -> None:
    """Asked once: between check and connection there is no second answer."""
    answers = iter([["127.0.0.1"], ["127.0.0.9"]])
    guard = Guard(allow_insecure=True, blocked_ports=PORTS, look_up=lambda _: next(answers))
    port = int(receiver.url.rpartition(":")[2])
    async with channel(action_type, guard) as opened:
        await verdict(opened, stored(action_type, f"http://pinned.example:{port}/"))

    assert set(connected) == {("127.0.0.1", port)}


@pytest.mark.parametrize("action_type", CHANNELS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["http://169.254.169.254/latest/", "http://127.0.0.9/", "/elsewhere"])
async def test_a_redirect_is_not_followed(
    action_type: str, status: int, location: str, receiver: Receiver, connected: list[object]
) -> None:
    async def redirect(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": location})

    receiver.handle = redirect
    port = int(receiver.url.rpartition(":")[2])
    async with channel(action_type, Guard(allow_insecure=True, blocked_ports=PORTS)) as opened:
        failed = await verdict(opened, stored(action_type, receiver.url))

    assert isinstance(failed, Permanent)
    assert (failed.kind, failed.status, len(receiver.requests)) == ("status", status, 1)
    assert set(connected) == {("127.0.0.1", port)}


async def test_what_connects_for_mcp_asks_for_itself(connected: list[object]) -> None:
    """Whatever was looked at before: the SDK may be led elsewhere."""
    guard = Guard(allow_insecure=False, blocked_ports=PORTS, look_up=look_up)
    call = ToolCall(
        url="https://public.example/", headers={}, tool="t", arguments=b"{}", meta={}, organization_id="org",
        timeout=5, retry_on_tool_error=False, secrets=(),
    )  # fmt: skip
    backend = mcp_client._Backend(mcp_client._Attempt(call, guard), guard, "org")

    for host in ("127.0.0.1", "::1", "public.example", "mixed.example"):
        with pytest.raises(Permanent, match="not a public one"):
            await backend.connect_tcp(host, 443)

    assert connected == []


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def hang(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


async def drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    while True:
        await response.write(b":\n")
        await asyncio.sleep(0.05)


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    while True:
        await response.write(b":" + b"x" * 65536 + b"\n")


async def huge_line(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b"x" * 65536)


async def huge_head(_: web.Request) -> web.StreamResponse:
    return web.Response(headers={"X-Big": "x" * 200_000})


@pytest.mark.parametrize("action_type", CHANNELS)
@pytest.mark.parametrize(
    ("handler", "kinds"),
    [
        (hang, {"timeout"}),
        (drip, {"timeout"}),
        (endless, {"protocol", None}),
        (huge_line, {"protocol", None}),
        (huge_head, {"protocol"}),
    ],
)
async def test_an_answer_without_end_has_one(
    action_type: str, handler: Handler, kinds: set[str | None], receiver: Receiver
) -> None:
    receiver.handle = handler
    timeout = 0.3 if kinds == {"timeout"} else 20.0
    async with channel(action_type, Guard(allow_insecure=True, blocked_ports=PORTS)) as opened:
        failed = await verdict(opened, stored(action_type, receiver.url, timeout))

    assert (failed.kind if failed else None) in kinds
    assert failed is not None or action_type == "webhook"  # its status was good, and that is all that counts


@pytest.mark.parametrize("action_type", CHANNELS)
async def test_a_name_server_that_hangs_costs_the_attempt_its_time(action_type: str, connected: list[object]) -> None:
    release = threading.Event()
    guard = Guard(allow_insecure=False, blocked_ports=PORTS, look_up=lambda _: [str(release.wait(20))])
    async with channel(action_type, guard) as opened:
        failed = await verdict(opened, stored(action_type, "https://hanging.example/", 0.2))

    release.set()
    assert isinstance(failed, Retryable)
    assert (failed.kind, connected) == ("timeout", [])


@pytest.mark.parametrize("action_type", CHANNELS)
@pytest.mark.parametrize(
    ("addresses", "kind"), [([], "dns"), (["127.0.0.2", "127.0.0.3"], "connection"), (["::1"], "connection")]
)
async def test_nobody_there_is_weather(action_type: str, addresses: list[str], kind: str) -> None:
    guard = Guard(allow_insecure=True, blocked_ports=PORTS, look_up=lambda _: addresses)
    async with channel(action_type, guard) as opened:
        failed = await verdict(opened, stored(action_type, "http://nobody.example:1/"))

    assert isinstance(failed, Retryable)
    assert failed.kind == kind


@asynccontextmanager
async def tls_server(folder: Path) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Certified for other.example by an authority in `folder`, answers 404; its port, and what it was asked."""
    generate(folder, ["other.example"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if said := await reader.read(100):
            asked.append(said)
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], asked


@pytest.mark.parametrize("action_type", CHANNELS)
async def test_bad_tls_is_weather_and_says_so(action_type: str, tmp_path: Path, receiver: Receiver) -> None:
    guard = Guard(allow_insecure=True, blocked_ports=PORTS, look_up=lambda _: ["127.0.0.1"])
    async with tls_server(tmp_path) as (port, asked), channel(action_type, guard) as opened:
        unknown = await verdict(opened, stored(action_type, f"https://other.example:{port}/"))
        none = await verdict(opened, stored(action_type, receiver.url.replace("http://", "https://")))

    assert isinstance(unknown, Retryable)
    assert isinstance(none, Retryable)
    assert (unknown.kind, unknown.message) == ("tls", "the certificate was not accepted")
    assert (none.kind, asked) == ("tls", [])


@pytest.mark.parametrize("action_type", CHANNELS)
async def test_a_certificate_is_checked_for_the_name_and_not_the_address(
    action_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = Guard(allow_insecure=True, blocked_ports=PORTS, look_up=lambda _: ["127.0.0.1"])
    async with tls_server(tmp_path) as (port, asked), channel(action_type, guard) as opened:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "root.crt"))
        mcp_client._tls.cache_clear()
        right = await verdict(opened, stored(action_type, f"https://other.example:{port}/"))
        wrong = await verdict(opened, stored(action_type, f"https://some.example:{port}/"))
    mcp_client._tls.cache_clear()

    assert right is not None
    assert wrong is not None
    assert (right.kind, right.status, wrong.kind, len(asked)) == ("status", 404, "tls", 1)
