"""A provider that fails in every way there is: its chain waits and goes on where it was, and no other chain notices."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from msgspec.structs import replace

from agentauri import metrics
from agentauri.chain import Indexer, Step
from agentauri.database import Database
from chains import logs
from chains.driving import FAST, Open, Serve, checkpoint, contents, drain, rows, truth, wake
from chains.scripted import ScriptedChain, ScriptedNode, transaction

SICK, WELL = 84532, 10
IMPATIENT = replace(FAST, timeout=0.1)
REGISTRIES = {"identity": logs.IDENTITY, "reputation": logs.REPUTATION, "validation": logs.VALIDATION}
Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def dead(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def hanging(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    return web.Response()


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 65_536)


async def dripping(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.01)


def says(status: int, body: bytes, **headers: str) -> Fault:
    async def answer(_: web.Request) -> web.StreamResponse:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=body, headers=names)

    return answer


FAULTS: dict[str, Fault] = {
    "dead": dead,
    "hanging": hanging,
    "endless": endless,
    "dripping": dripping,
    "429": says(429, b"Too Many Requests"),
    "429 with Retry-After": says(429, b"", Retry_After="7"),
    "429 in a 200": says(200, b'{"jsonrpc":"2.0","id":0,"error":{"code":-32005,"message":"rate limit"}}'),
    "error in a 200": says(200, b'{"jsonrpc":"2.0","id":0,"error":{"code":-32603,"message":"internal error"}}'),
    "half an answer": says(200, b'{"jsonrpc":"2.0","id":0,"result":[{"address":"0x80'),
    "garbage": says(200, b"\xff\xfe<html>"),
    "another shape": says(200, b'{"jsonrpc":"2.0","id":0,"result":[{"address":7}]}'),
    "500": says(500, b"oops"),
    "redirect": says(302, b"", Location="http://127.0.0.1:1/"),
}


def only_logs(fault: Fault) -> Callable[[web.Request, list[str]], Awaitable[web.StreamResponse | None]]:
    """In the middle of a range: headers are served well, and what asks for logs is not."""

    async def instead(request: web.Request, methods: list[str]) -> web.StreamResponse | None:
        return await fault(request) if "eth_getLogs" in methods else None

    return instead


def busy(chain: ScriptedChain, blocks: int) -> None:
    for number in range(blocks):
        chain.mine(*([transaction(logs.registered(number), logs.feedback(number))] if number % 5 == 0 else []))


async def until_resting(indexer: Indexer) -> list[Step]:
    steps: list[Step] = []
    while len(steps) < 60:
        steps.append(await indexer.step())
        if steps[-1] is Step.DEGRADED:
            return steps
    raise AssertionError(f"never at rest: {steps}")


@pytest.fixture
async def two(serve: Serve) -> tuple[ScriptedNode, ScriptedNode]:
    """Nodes of two chains; the first one gives few blocks at once."""
    nodes = [await serve(ScriptedChain(chain_id)) for chain_id in (SICK, WELL)]
    for node in nodes:
        busy(node.chain, 40)
    nodes[0].range_limit, nodes[0].range_dialect = 20, "names_its_limit"
    return nodes[0], nodes[1]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_sick_provider_stops_its_own_chain_alone_which_goes_on_where_it_was(
    fault: Fault, two: tuple[ScriptedNode, ScriptedNode], database: Database, open_indexer: Open,
    monkeypatch: pytest.MonkeyPatch, log_lines: list[dict[str, object]],
) -> None:  # fmt: skip
    monkeypatch.setattr("agentauri.chain.rpc.MOST_BYTES", 1_000_000)
    sick, well = two
    indexer = open_indexer(sick, rpc=IMPATIENT)
    other = open_indexer(well, chain_id=WELL, class_="testnet", **REGISTRIES)
    await drain(indexer)
    before, at = await contents(database, SICK), (await checkpoint(database, SICK))["last_block_number"]
    for node in two:
        busy(node.chain, 90)
    sick.instead = only_logs(fault)

    assert Step.ADVANCED not in await until_resting(indexer)
    assert await drain(other)

    assert await contents(database, WELL) == truth(well.chain)
    assert await contents(database, SICK) == before
    now = await checkpoint(database, SICK)
    assert (now["last_block_number"], now["status"]) == (at, "degraded")
    assert [await indexer.step() for _ in range(3)] == [Step.DEGRADED] * 3
    assert len([line for line in log_lines if line.get("code") == "RPC_UNAVAILABLE"]) == 1
    sick.instead = None
    sick.ranges.clear()
    wake(indexer)
    await drain(indexer)
    assert await contents(database, SICK) == truth(sick.chain)
    read = sorted(set(sick.ranges))
    assert read[0][0] == at + 1
    assert all(after[0] <= before[1] + 1 for before, after in itertools.pairwise(read))
    assert (await checkpoint(database, SICK))["status"] == "live"


@pytest.mark.parametrize("fault", ["dead", "429", "error in a 200", "another shape"])
async def test_after_its_rest_one_probe_decides(
    fault: str, two: tuple[ScriptedNode, ScriptedNode], open_indexer: Open
) -> None:
    sick, _ = two
    indexer = open_indexer(sick, rpc=IMPATIENT)
    await drain(indexer)
    busy(sick.chain, 90)
    sick.instead = only_logs(FAULTS[fault])
    await until_resting(indexer)
    wake(indexer)
    sick.requests.clear()

    assert await until_resting(indexer) == [Step.RETRY, Step.DEGRADED]

    assert sum("eth_getLogs" in methods for methods in sick.requests) == 1
    sick.instead = None
    wake(indexer)
    assert await indexer.step() is Step.ADVANCED


@pytest.mark.parametrize("fault", ["dead", "hanging", "endless", "429", "error in a 200", "half an answer"])
async def test_a_second_provider_takes_over_from_a_sick_one(
    fault: str, database: Database, serve: Serve, open_indexer: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentauri.chain.rpc.MOST_BYTES", 1_000_000)
    chain = ScriptedChain()
    busy(chain, 90)
    sick, well = await serve(chain), await serve(chain)
    sick.instead = only_logs(FAULTS[fault])

    await drain(open_indexer(sick, well, rpc=IMPATIENT))

    assert await contents(database) == truth(chain)


async def test_a_provider_that_throttles_is_left_alone_for_as_long_as_it_says(
    two: tuple[ScriptedNode, ScriptedNode], open_indexer: Open, log_lines: list[dict[str, object]]
) -> None:
    sick, _ = two
    indexer = open_indexer(sick, rpc=IMPATIENT)
    sick.throttled, sick.retry_after = True, "7"

    assert await until_resting(indexer) == [Step.RETRY, Step.DEGRADED]
    assert 6 < indexer._rest <= 7
    sick.retry_after = None
    rests = []
    for _ in range(3):
        wake(indexer)
        await until_resting(indexer)
        rests.append(round(indexer._rest))

    assert rests == [1, 1, 1]  # at most RPC_REST_SECONDS, which is a second here
    assert {line["message"] for line in log_lines if line.get("code") == "RPC_RATE_LIMITED"} == {
        "RPC rate limit exceeded"
    }


async def test_what_a_provider_did_can_be_read_from_outside(
    two: tuple[ScriptedNode, ScriptedNode], database: Database, open_indexer: Open
) -> None:
    sick, _ = two

    def counted(method: str, outcome: str) -> float:
        name, labels = "agentauri_rpc_requests_total", {"provider": "rpc-1", "method": method, "outcome": outcome}
        return metrics.REGISTRY.get_sample_value(name, {"chain": str(SICK), **labels}) or 0.0

    indexer = open_indexer(sick, rpc=IMPATIENT)
    await drain(indexer)
    before = {outcome: counted("eth_getLogs", outcome) for outcome in ("ok", "error", "rate_limited")}
    busy(sick.chain, 20)
    for fault in ("error in a 200", "429"):
        sick.instead = only_logs(FAULTS[fault])
        await indexer.step()
    sick.instead = None
    wake(indexer)
    indexer._reported = float("-inf")
    await drain(indexer)

    assert counted("eth_getLogs", "error") == before["error"] + 1
    assert counted("eth_getLogs", "rate_limited") == before["rate_limited"] + 1
    assert counted("eth_getLogs", "ok") == before["ok"] + 1
    ((name, score, latency, failures, state, error, ok_at),) = await rows(
        database,
        """SELECT name, score, latency_ms, failures, state, last_error, last_ok_at FROM rpc_providers
           WHERE chain_id = $1""",
        SICK,
    )
    assert (name, failures, state, error) == ("rpc-1", 2, "ok", "HTTP 429")
    assert score > 0
    assert latency > 0
    assert ok_at is not None
