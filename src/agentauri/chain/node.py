"""The calls that we make, typed: what a chain looks like through one provider."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from agentauri.chain.errors import Lagging, ProviderFailed, Untruthful
from agentauri.chain.rpc import Answer, Call, Provider
from agentauri.chain.types import Header, Log

SLICE = 50  # logs handled between two turns of the event loop; few, since the COPY of the range before is fed meanwhile
_LARGEST = 1 << 53


class _WireHeader(Struct, rename="camel"):
    number: str
    hash: str
    parent_hash: str
    timestamp: str
    logs_bloom: str | None = None


class _WireLog(Struct, rename="camel", gc=False):
    address: str
    topics: list[str]
    data: str
    block_number: str
    block_hash: str
    transaction_hash: str
    transaction_index: str
    log_index: str
    block_timestamp: str | None = None
    removed: bool = False


_read_header = msgspec.json.Decoder(_WireHeader | None).decode
_read_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read_log = msgspec.json.Decoder(_WireLog).decode


class Look(Struct, frozen=True):
    """A provider's idea of the head. `at` is its block where ours is, `final` what it knows of the others asked for."""

    head: Header
    at: Header | None
    final: dict[int | str, Header | None]


def header_call(block: int | str) -> Call:
    return Call("eth_getBlockByNumber", (hex(block) if isinstance(block, int) else block, False))


def read_header(answer: Answer) -> Header | None:
    """None where the provider has no such block.

    Raises:
        RpcError: it did not answer.
    """
    if isinstance(answer.error, Lagging):
        return None
    wire = answer.read(_read_header)
    if wire is None:
        return None
    try:
        header = Header(
            int(wire.number, 16),
            _hash(wire.hash),
            _hash(wire.parent_hash),
            int(wire.timestamp, 16),
            int(wire.logs_bloom[2:] or "0", 16) if wire.logs_bloom else 0,
        )
        if max(header.number, header.time) > _LARGEST:
            raise ValueError("a number out of bounds")
    except ValueError as error:
        raise ProviderFailed(f"a header that cannot be read: {error}") from error
    return header


def _hash(text: str) -> str:
    if len(bytes.fromhex(text[2:])) != 32:
        raise ValueError("a hash that is none")
    return text.lower()


async def look(provider: Provider, at: int, *final: int | str) -> Look:
    """The head, the block at `at`, and those in `final`, by tag or number, as far as the node has them."""
    answers = await provider.ask(*(header_call(block) for block in ("latest", at, *final)))
    head, ours = read_header(answers[0]), read_header(answers[1])
    if head is None:
        raise Lagging("it has no head")
    found = [None if one.error else read_header(one) for one in answers[2:]]
    return Look(head, ours, dict(zip(final, found, strict=True)))


async def headers(provider: Provider, numbers: Sequence[int]) -> list[Header | None]:
    """The headers at these heights, None where there is none, in one request."""
    if not numbers:
        return []
    found = [read_header(answer) for answer in await provider.ask(*(header_call(number) for number in numbers))]
    for number, header in zip(numbers, found, strict=True):
        if header is not None and header.number != number:
            raise Untruthful(f"asked for block {number}, got {header.number}", lie=True)
    return found


async def logs(
    provider: Provider, addresses: Sequence[str], ranges: Sequence[tuple[int, int]], *, apart: bool = False
) -> list[Log]:
    """Every log of these addresses in these ranges of blocks, in order, in one request.

    With `apart` each address has a call of its own.
    """
    groups = [[address] for address in addresses] if apart else [list(addresses)]
    answers = await provider.ask(
        *(
            Call("eth_getLogs", ({"address": group, "fromBlock": hex(first), "toBlock": hex(last)},))
            for first, last in ranges
            for group in groups
        )
    )
    found: list[Log] = []
    for answer in answers:
        raws = answer.read(_read_raws)
        for start in range(0, len(raws), SLICE):
            found += _read_logs(raws[start : start + SLICE])
            await asyncio.sleep(0)
    found.sort(key=lambda log: (log.block_number, log.log_index))
    return found


def _read_logs(raws: Sequence[msgspec.Raw]) -> list[Log]:
    try:
        return [_log(_read_log(raw)) for raw in raws]
    except (msgspec.DecodeError, ValueError) as error:
        raise ProviderFailed(f"a log that cannot be read: {error}") from error


def _log(wire: _WireLog) -> Log:
    if wire.removed:
        raise Untruthful("a removed log among those of a canonical block", lie=False)
    hashes = (wire.block_hash + wire.transaction_hash[2:]).lower()
    block_number, index = int(wire.block_number, 16), int(wire.log_index, 16)
    place = int(wire.transaction_index, 16)
    time = int(wire.block_timestamp, 16) if wire.block_timestamp else None
    if len(bytes.fromhex(hashes[2:])) != 64 or max(index, place) >= 1 << 31 or max(block_number, time or 0) > _LARGEST:
        raise ValueError("a hash that is none, or a number out of bounds")
    return Log(
        wire.address.lower(),
        bytes.fromhex("".join([topic[2:] for topic in wire.topics])),
        bytes.fromhex(wire.data[2:]),
        block_number,
        hashes[:66],
        "0x" + hashes[66:],
        place,
        index,
        time,
    )
