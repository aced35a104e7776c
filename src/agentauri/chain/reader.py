"""Reads one range of blocks from one provider: fetched, verified, decoded. Nothing is stored here."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence

from msgspec import Struct

from agentauri.chain import node, window
from agentauri.chain.errors import Lagging, ProviderFailed, RangeTooLarge, RpcError, TimedOut, Untruthful
from agentauri.chain.providers import Providers
from agentauri.chain.registries import Decoder
from agentauri.chain.rpc import MOST_CALLS, Provider
from agentauri.chain.types import Anchor, Chain, Header, Log, Undecoded
from agentauri.events import NewEvent
from agentauri.faults import reach

MOST_COMPARED = 20  # blocks of a range that a second provider is asked about


class Batch(Struct, frozen=True, kw_only=True):
    """All that the blocks after `base` up to `last` say, and the blocks among them to remember."""

    base: Anchor
    last: Anchor
    events: list[NewEvent]
    raw: list[tuple[Log, int, Undecoded]]
    anchors: list[Anchor]
    provider: str


class Reader:
    """Remembers how much each provider gives at once, and whether the chain fills in its blooms."""

    def __init__(self, chain: Chain, providers: Providers, *, quorum: int) -> None:
        self._chain = chain
        self._providers = providers
        self._quorum = quorum
        self._decoder = Decoder(chain)
        self._spans: dict[str, window.Span] = {}
        self._blooms = True

    async def read(self, provider: Provider, base: Anchor, head: int) -> Batch:
        """The blocks after `base`, as many as this provider gives at once.

        Raises:
            RangeTooLarge: it gives less; ask again.
            RpcError: it could not be read, or is not to be believed.
        """
        span = self._spans.setdefault(provider.name, window.Span(self._chain.max_range))
        last = window.last_block(base.number, head, span.blocks)
        asked = last - base.number
        logs = await self._logs(provider, span, base.number + 1, last)
        reach("indexer.fetched")
        if logs and not base.number < logs[0].block_number <= logs[-1].block_number <= last:
            raise Untruthful("a log of a block that was not asked for", lie=True)
        span.went_well(asked, len(logs))
        last, wanted = window.cut(last, window.wanted_headers(base.number, last, head, logs), MOST_CALLS - 1)
        logs = [found for found in logs if found.block_number <= last]
        headers = await self._headers(provider, [base.number, *wanted])
        self._blooms = self._blooms and window.keeps_blooms(headers, logs)
        window.check_headers(base, headers)
        hashes = {number: header.hash for number, header in headers.items()}
        blocks = range(base.number + 1, last + 1)
        for part in _slices(logs, overlap=1):  # neighbours are compared
            window.check_logs(blocks, self._chain.registries, part, headers, hashes, blooms=self._blooms)
            await asyncio.sleep(0)
        if self._quorum > 1 and self._blooms:
            missing = window.unexplained(self._chain, headers.values(), logs, base.number)
            await self._compare(provider, logs, missing)
        reach("indexer.verified")
        times = {found.block_number: found.block_time or 0 for found in logs}
        times |= {header.number: header.time for header in headers.values()}
        events, raw = await self._decode(logs, times)
        await self._compare(provider, logs, {one.block_number for one, _, why in raw if why.reason == "malformed"})
        reach("indexer.decoded")
        anchors = {one.block_number: Anchor(one.block_number, one.block_hash, times[one.block_number]) for one in logs}
        anchors |= {one.number: Anchor(one.number, one.hash, one.time, one.parent_hash) for one in headers.values()}
        return Batch(
            base=base,
            last=anchors[last],
            events=events,
            raw=raw,
            anchors=[anchor for number, anchor in sorted(anchors.items()) if number > base.number],
            provider=provider.name,
        )

    async def _logs(self, provider: Provider, span: window.Span, first: int, last: int) -> list[Log]:
        asked = last - first + 1
        try:
            return await node.logs(provider, list(self._chain.registries), [(first, last)], apart=span.apart)
        except RangeTooLarge as error:
            if span.too_large(asked, error.blocks, fixed=error.fixed):
                raise
            raise ProviderFailed(f"the logs of block {first} are too many for it: {error.message}") from error
        except TimedOut:
            if asked > window.LEAST_AFTER_TIME_OUT:
                span.too_large(asked, None, fixed=False)
            raise

    async def _headers(self, provider: Provider, numbers: Sequence[int]) -> dict[int, Header]:
        found = await node.headers(provider, numbers)
        if None in found:
            raise Lagging(f"it does not know block {numbers[found.index(None)]}")
        return {header.number: header for header in found if header is not None}

    async def _decode(
        self, logs: Sequence[Log], times: dict[int, int]
    ) -> tuple[list[NewEvent], list[tuple[Log, int, Undecoded]]]:
        events: list[NewEvent] = []
        raw: list[tuple[Log, int, Undecoded]] = []
        for part in _slices(logs):
            for found in part:
                time = times[found.block_number]
                decoded = self._decoder.decode(found, time)
                if isinstance(decoded, Undecoded):
                    raw.append((found, time, decoded))
                else:
                    events.append(decoded)
            await asyncio.sleep(0)
        return events, raw

    async def _compare(self, provider: Provider, logs: Sequence[Log], blocks: Collection[int]) -> None:
        """Have a second provider, if there is one, tell these blocks' logs too.

        Raises:
            Untruthful: it tells something else.
        """
        others = self._providers.awake(self._providers.others(provider))
        if not blocks or not others:
            return
        doubtful = sorted(blocks)[:MOST_COMPARED]
        try:
            theirs = await node.logs(others[0], list(self._chain.registries), [(one, one) for one in doubtful])
        except RpcError:
            return  # no opinion
        ours = [found for found in logs if found.block_number in doubtful]
        if [_content(found) for found in ours] != [_content(found) for found in theirs]:
            raise Untruthful(f"{others[0].name} tells other logs of some of blocks {doubtful}", lie=False)


def _slices(logs: Sequence[Log], overlap: int = 0) -> Iterator[Sequence[Log]]:
    for start in range(0, len(logs), node.SLICE):
        yield logs[max(0, start - overlap) : start + node.SLICE]


def _content(found: Log) -> tuple[object, ...]:
    return (found.block_number, found.block_hash, found.log_index, found.address, found.topics, found.data)
