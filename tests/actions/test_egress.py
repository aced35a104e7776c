"""Nobody makes us call what is not public."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable

import pytest
from yarl import URL

from agentauri.actions.egress import LOOKUPS_PER_ORGANIZATION, EgressRefused, Guard, LookUpFailed
from agentauri.actions.errors import DeliveryFailed, Permanent, Retryable
from agentauri.actions.outbound import Outbound
from agentauri.errors import FieldError
from support.receiver import Receiver

PORTS = frozenset({22, 25, 465, 587})
PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"]
METADATA = [
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "64:ff9b::169.254.169.254",
    "2002:a9fe:a9fe::",
    "fd00:ec2::254",
    "fd00:ec2:0:0::254",
    "100.100.100.200",
]
PRIVATE = [
    *("127.0.0.1", "127.255.255.255", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("169.254.1.1", "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "240.0.0.1", "255.255.255.255", "192.88.99.1"),
    *("::", "::1", "fe80::1", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1", "2001::1", "3fff::1", "100::1"),
    *("::ffff:127.0.0.1", "::ffff:7f00:1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1"),
]


def a_guard(*, insecure: bool = False, look_up: Callable[[str], list[str]] | None = None) -> Guard:
    return Guard(allow_insecure=insecure, blocked_ports=PORTS, look_up=look_up)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    assert a_guard().allows(address)


@pytest.mark.parametrize("address", [*PRIVATE, *METADATA, "fe80::1%eth0", "2606:4700::1%1", "localhost", "", "1.2.3"])
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not a_guard().allows(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "::1"])
def test_insecure_targets_may_be_allowed(address: str) -> None:
    assert a_guard(insecure=True).allows(address)


@pytest.mark.parametrize("address", METADATA)
def test_metadata_services_never_are(address: str) -> None:
    assert not a_guard(insecure=True).allows(address)


@pytest.mark.parametrize(
    "url",
    [
        *("http://example.com/", "ftp://example.com/", "//example.com", "example.com", "https://", "https:///x", ""),
        *("https://user@example.com/", "https://user:pw@example.com/", "https://:pw@example.com/"),
        *(
            "https://example.com:22/",
            "https://example.com:587/",
            "https://example.com:0x50/",
            "https://example.com:99999/",
        ),
        *(
            "https://exa mple.com/",
            "https://example.com/\r\nx",
            "https://exämple.com/",
            "https://[::1/",
            "https://{{x}}/",
        ),
        "https://example.com/" + "a" * 2048,
    ],
)
def test_a_url_of_another_form_is_refused(url: str) -> None:
    with pytest.raises(FieldError):
        a_guard().target(url)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://example.com/hook?x=1", "https://example.com:443"),
        ("https://Example.com:8443", "https://example.com:8443"),
        ("https://[2606:4700::1]/x", "https://2606:4700::1:443"),
    ],
)
def test_a_destination_is_scheme_host_and_port(url: str, key: str) -> None:
    assert a_guard().target(url).key == key


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost", "::1", "[::1]", "0"]
)
async def test_odd_forms_of_an_address_pass_the_same_gate(host: str) -> None:
    with pytest.raises((EgressRefused, LookUpFailed)):
        await a_guard().addresses(host, "org")


async def test_one_private_address_among_public_ones_refuses_the_name() -> None:
    guard = a_guard(look_up=lambda _: ["8.8.8.8", "10.0.0.1"])

    with pytest.raises(EgressRefused):
        await guard.addresses("mixed.example", "org")


async def test_an_answer_is_remembered_and_a_failure_is_not() -> None:
    asked: list[str] = []

    def look_up(host: str) -> list[str]:
        asked.append(host)
        if host == "gone.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ["8.8.8.8"]

    guard = a_guard(look_up=look_up)
    for _ in range(2):
        assert await guard.addresses("here.example", "org") == ("8.8.8.8",)
        with pytest.raises(LookUpFailed):
            await guard.addresses("gone.example", "org")

    assert asked == ["here.example", "gone.example", "gone.example"]


async def test_a_name_server_that_hangs_takes_two_threads_of_an_organization(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentauri.actions.egress.LOOKUP_SECONDS", 0.05)
    release, asked = threading.Event(), []

    def look_up(host: str) -> list[str]:
        if host.startswith("hang"):
            asked.append(host)
            release.wait(10)
        return ["8.8.8.8"]

    guard = a_guard(look_up=look_up)
    results = await asyncio.gather(
        *(guard.addresses(f"hang-{number}.example", "busy") for number in range(6)), return_exceptions=True
    )

    assert all(isinstance(result, LookUpFailed) for result in results)
    assert len(asked) == LOOKUPS_PER_ORGANIZATION
    assert await guard.addresses("fine.example", "other") == ("8.8.8.8",)
    release.set()
    monkeypatch.setattr("agentauri.actions.egress.LOOKUP_SECONDS", 10)
    assert await guard.addresses("hang-5.example", "busy") == ("8.8.8.8",)


async def send(guard: Guard, url: str) -> DeliveryFailed | int:
    async with Outbound.open(guard) as outbound:
        try:
            reply = await outbound.exchange("GET", url, {}, None, organization_id="org", timeout=5)
        except DeliveryFailed as failed:
            return failed
    return reply.status


async def test_a_literal_address_is_refused_before_anything_is_sent(receiver: Receiver) -> None:
    failed = await send(a_guard(), receiver.url)

    assert isinstance(failed, Permanent)
    assert failed.kind == "egress_refused"
    assert receiver.requests == []


async def test_a_name_that_changes_its_mind_is_refused(receiver: Receiver) -> None:
    answers = iter([["8.8.8.8"], ["127.0.0.1"]])
    guard = a_guard(look_up=lambda _: next(answers))
    port = URL(receiver.url).port
    await guard.addresses("rebinding.example", "org")
    guard._known.clear()  # as if the 30 s had passed

    failed = await send(guard, f"http://rebinding.example:{port}/")

    assert isinstance(failed, Permanent)
    assert receiver.requests == []


async def test_the_socket_itself_is_checked(receiver: Receiver) -> None:
    guard = a_guard()
    with pytest.raises(OSError, match="not a public one"):
        guard.make_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 80)))
    guard.make_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("8.8.8.8", 80))).close()


async def test_redirects_are_not_followed(receiver: Receiver) -> None:
    from support.receiver import Answer

    receiver.answers.append(Answer(302, {"Location": f"{receiver.url}/elsewhere"}))

    assert await send(a_guard(insecure=True), receiver.url) == 302
    assert len(receiver.requests) == 1


async def test_a_proxy_of_the_environment_is_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    assert await send(a_guard(insecure=True), receiver.url) == 200


async def test_a_name_is_connected_to_at_its_checked_address(receiver: Receiver) -> None:
    guard = a_guard(insecure=True, look_up=lambda _: ["127.0.0.1"])

    assert await send(guard, f"http://some.example:{URL(receiver.url).port}/") == 200
    assert receiver.requests[0].headers["Host"].startswith("some.example")


@pytest.mark.parametrize(("look_up", "kind"), [(lambda _: [], "dns"), (lambda _: ["127.0.0.2"], "connection")])
async def test_what_cannot_be_reached_may_be_tried_again(look_up: Callable[[str], list[str]], kind: str) -> None:
    failed = await send(a_guard(insecure=True, look_up=look_up), "http://some.example:1/")

    assert isinstance(failed, Retryable)
    assert failed.kind == kind


async def test_a_server_without_tls_is_a_tls_failure(receiver: Receiver) -> None:
    failed = await send(a_guard(insecure=True), receiver.url.replace("http://", "https://"))

    assert isinstance(failed, Retryable)
    assert failed.kind == "tls"


async def test_the_peer_is_the_address_that_answered(receiver: Receiver) -> None:
    guard = a_guard(insecure=True, look_up=lambda _: ["127.0.0.2", "127.0.0.1"])  # nobody is at the first
    url = URL(receiver.url).with_host("two.test")

    async with Outbound.open(guard) as outbound:
        replies = [
            await outbound.exchange("POST", str(url), {}, b"x", organization_id="org-1", timeout=20) for _ in range(2)
        ]

    assert [reply.peer for reply in replies] == ["127.0.0.1", "127.0.0.1"]
