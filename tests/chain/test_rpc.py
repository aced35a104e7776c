from __future__ import annotations

from collections.abc import Callable

import aiohttp
import pytest
from msgspec.structs import replace

from agentauri.chain import node as calls
from agentauri.chain.errors import Lagging, ProviderFailed, RangeTooLarge, RpcUnavailable, Throttled
from agentauri.chain.providers import Providers
from agentauri.chain.rpc import Call, Provider, read_text
from agentauri.types import ChainId, Secret
from chains.driving import FAST, Serve, network
from chains.scripted import ScriptedChain, ScriptedNode
from support.receiver import Answer, Receiver

Make = Callable[..., Provider]
CHAIN_ID = Call("eth_chainId")


@pytest.fixture
async def make_provider(session: aiohttp.ClientSession) -> Make:
    def make(url: str, name: str = "rpc-1") -> Provider:
        return Provider(name, Secret(url), ChainId(84532), session, replace(FAST, timeout=1))

    return make


def says(receiver: Receiver, body: str, status: int = 200, **headers: str) -> None:
    receiver.answer = lambda _: Answer(status, {name.replace("_", "-"): value for name, value in headers.items()},
                                       body.encode())  # fmt: skip


async def test_calls_are_answered_in_their_order(serve: Serve, make_provider: Make) -> None:
    chain = ScriptedChain()
    chain.mine(count=9)
    node = await serve(chain)
    node.batch_limit = 2

    found = await calls.headers(make_provider(node.url), [9, 3, 7, 1, 0])

    assert [header.number for header in found if header] == [9, 3, 7, 1, 0]
    assert [len(request) for request in node.requests] == [5, 2, 2, 1]


async def test_answers_may_come_in_any_order(receiver: Receiver, make_provider: Make) -> None:
    says(receiver, '[{"id":1,"result":"0xb"},{"id":0,"result":"0xa"}]')

    answers = await make_provider(receiver.url).ask(CHAIN_ID, CHAIN_ID)

    assert [answer.read(read_text) for answer in answers] == ["0xa", "0xb"]


async def test_one_error_for_a_whole_batch_is_everybodys(receiver: Receiver, make_provider: Make) -> None:
    says(receiver, '{"id":null,"error":{"code":-32000,"message":"header not found"}}')

    answers = await make_provider(receiver.url).ask(CHAIN_ID, CHAIN_ID)

    assert [type(answer.error) for answer in answers] == [Lagging, Lagging]


async def test_a_rate_limit_hidden_in_a_200_is_found(receiver: Receiver, make_provider: Make) -> None:
    says(receiver, '{"id":0,"error":{"code":-32005,"message":"limit exceeded"}}', Retry_After="3")
    provider = make_provider(receiver.url)

    with pytest.raises(Throttled) as caught:
        await provider.ask(CHAIN_ID)

    assert caught.value.after == 3.0
    assert provider.health.consecutive_failures == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [("<html>", 200), ("", 502), ("{}", 200), ("[]", 200), ('{"id":0,"result":{}}', 200), ("moved", 301)],
)
async def test_what_is_no_answer_is_a_failure(body: str, status: int, receiver: Receiver, make_provider: Make) -> None:
    says(receiver, body, status, Location="http://127.0.0.1:9/")

    with pytest.raises(ProviderFailed):
        (await make_provider(receiver.url).ask(CHAIN_ID))[0].read(read_text)


async def test_an_answer_without_end_is_too_large(
    receiver: Receiver, make_provider: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentauri.chain.rpc.MOST_BYTES", 10_000)
    says(receiver, "x" * 20_000)

    with pytest.raises(RangeTooLarge):
        await make_provider(receiver.url).ask(CHAIN_ID)


async def test_an_error_never_tells_the_url(receiver: Receiver, make_provider: Make) -> None:
    key = "0123456789abcdef"
    says(receiver, f'{{"id":0,"error":{{"code":-32000,"message":"invalid key {key} for http://h/{key}"}}}}')
    provider, gone = make_provider(f"{receiver.url}/v3/{key}"), make_provider(f"http://localhost:1/{key}")

    (answer,) = await provider.ask(CHAIN_ID)
    with pytest.raises(ProviderFailed) as caught:
        await gone.ask(CHAIN_ID)

    assert answer.error is not None
    assert answer.error.message == "invalid key … for …"
    assert key not in str(caught.value)
    assert "localhost" not in str(caught.value)
    assert "ClientConnectorError" in str(gone.health.last_error)


async def test_a_range_error_of_another_call_is_just_a_failure(receiver: Receiver, make_provider: Make) -> None:
    says(receiver, '{"id":0,"error":{"code":-32000,"message":"request timed out"}}')

    (answer,) = await make_provider(receiver.url).ask(CHAIN_ID)

    assert isinstance(answer.error, ProviderFailed)


@pytest.fixture
async def two(serve: Serve, make_provider: Make) -> tuple[Providers, list[Provider]]:
    nodes: list[ScriptedNode] = [await serve(ScriptedChain()) for _ in range(2)]
    providers = [make_provider(node.url, f"rpc-{place}") for place, node in enumerate(nodes, start=1)]
    return Providers(network(), providers), providers


async def test_the_first_provider_is_kept_until_another_is_a_fifth_better(
    two: tuple[Providers, list[Provider]],
) -> None:
    pool, (first, second) = two
    for _ in range(50):
        first.health.answered(0.115)
        second.health.answered(0.1)
    assert pool.pick() is first

    for _ in range(50):
        first.health.answered(0.5)
    assert pool.pick() is second
    for _ in range(50):
        first.health.answered(0.09)
    assert pool.pick() is second


async def test_a_resting_provider_is_passed_over_and_comes_back(two: tuple[Providers, list[Provider]]) -> None:
    pool, (first, second) = two
    first.health.throttled(1e12, "slow down", 5.0)

    assert pool.pick() is second
    second.health.throttled(1e12, "slow down", 7.0)
    with pytest.raises(RpcUnavailable):
        pool.pick()
    first.health.resting_until = 0.0
    assert pool.pick() is first


async def test_a_provider_to_avoid_is_asked_only_when_there_is_no_other(two: tuple[Providers, list[Provider]]) -> None:
    pool, (first, second) = two

    assert pool.pick({"rpc-1"}) is second
    second.health.lied(1e12, "a lie")
    assert pool.pick({"rpc-1"}) is first


async def test_one_that_is_down_or_not_vetted_does_not_count_for_second_opinions(
    two: tuple[Providers, list[Provider]],
) -> None:
    pool, (first, second) = two

    assert pool.others(first) == []
    second.vetted = True
    assert pool.others(first) == [second]
    for _ in range(5):
        second.health.failed(0.0, "no")
    assert pool.others(first) == []
