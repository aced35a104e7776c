from __future__ import annotations

import pytest

from agentauri.chain.dialects import classify
from agentauri.chain.errors import BatchTooLarge, Lagging, ProviderFailed, RangeTooLarge, Throttled

OFFER = (
    "Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range and no limit on the "
    "response size, or you can request any block range with a cap of 10K logs in the response. Based on your "
    "parameters and the response size limit, this block range should work: [0x1, 0x3e8]"
)


@pytest.mark.parametrize(
    ("status", "code", "message", "blocks", "fixed"),
    [
        (200, -32602, OFFER, 1000, False),
        (200, -32005, "query returned more than 10000 results. Try with this block range [0x10, 0x15].", 6, False),
        (200, -32602, "query exceeds max results 20000, retry with the range 24000000-24000500", 501, False),
        (200, -32614, "eth_getLogs is limited to a 10,000 range", 10_000, True),
        (200, -32000, "exceed maximum block range: 5000", 5_000, True),
        (200, -32000, "requested too many blocks from 1 to 5000, maximum is set to 2048", 2_048, True),
        (200, -32000, "eth_getLogs range is too large, max is 1k blocks", 1_000, True),
        (200, -32000, "Maximum allowed number of requested blocks is 500", 500, True),
        (400, 35, "ranges over 10000 blocks are not supported on freetier", 10_000, True),
        (200, -32062, "Block range is too large", None, False),
        (200, -32000, "block range too wide", None, False),
        (200, -32000, "logs matched by query exceeds limit of 10000", None, False),
        (200, -32603, "query timeout exceeded", None, False),
        (200, -32000, "backend response too large", None, False),
        (413, None, "", None, False),
    ],
)
def test_a_range_that_is_too_large_is_told_in_many_ways(
    status: int, code: int | None, message: str, blocks: int | None, fixed: bool
) -> None:
    error = classify(status, code, message)

    assert isinstance(error, RangeTooLarge)
    assert (error.blocks, error.fixed) == (blocks, fixed)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (429, None, ""),
        (200, -32005, "limit exceeded"),
        (200, -32005, "daily request count exceeded, request rate limited"),
        (200, 429, "Your app has exceeded its compute units per second capacity."),
        (200, -32007, "50/second request limit reached - reduce calls per second"),
        (403, -32000, "Too Many Requests"),
    ],
)
def test_a_limit_on_requests_is_told_in_many_ways(status: int, code: int | None, message: str) -> None:
    error = classify(status, code, message, retry_after=7.0)

    assert isinstance(error, Throttled)
    assert error.after == 7.0


@pytest.mark.parametrize(
    "message",
    [
        "header not found",
        "Unknown block",
        "block range extends beyond current head block",
        "One of the blocks specified in filter (fromBlock, toBlock or blockHash) cannot be found.",
    ],
)
def test_a_block_that_is_not_known_yet_is_lag_and_no_limit(message: str) -> None:
    assert isinstance(classify(200, -32000, message), Lagging)


@pytest.mark.parametrize(
    "message",
    ["batch size too large, max 10", "Batch of more than 3 requests are not allowed", "too many requests in batch"],
)
def test_a_limit_on_batches_is_one_of_its_own(message: str) -> None:
    assert isinstance(classify(200, -32600, message), BatchTooLarge)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [(200, -32601, "the method eth_foo does not exist"), (503, None, ""), (200, 3, "execution reverted")],
)
def test_anything_else_is_a_failure(status: int, code: int | None, message: str) -> None:
    assert isinstance(classify(status, code, message), ProviderFailed)
