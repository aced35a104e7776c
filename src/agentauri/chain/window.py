"""Which blocks to read next, whether to believe what came, and where two histories part. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from agentauri.chain.abi import WORD, keccak
from agentauri.chain.errors import Untruthful
from agentauri.chain.types import Anchor, Chain, Header, Log

NEAR_HEAD = 32
FIRST_SPAN = 2_000
GROWTH = 1.25
SUCCESSES_BEFORE_GROWTH = 5
LEAST_AFTER_TIME_OUT = 100  # blocks; an outage is no reason to ask for less and less
MOST_LOGS = 5_000  # a range that holds more is asked in smaller parts from then on: memory and pauses stay small


class Span:
    """How many blocks to ask one provider for at once: halved when that is too much, grown when it goes well."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._successes = 0
        self.blocks = min(FIRST_SPAN, maximum)
        self.apart = False
        """Ask for each address on its own: a single block was too much."""

    def too_large(self, asked: int, offer: int | None, *, fixed: bool) -> bool:
        """Ask for less than `asked` blocks: for `offer` if the provider named it. False when there is no less."""
        self._successes = 0
        if fixed and offer is not None:
            self._maximum = min(self._maximum, offer)
        if asked == 1:
            could, self.apart = not self.apart, True
            return could
        self.blocks = offer if offer is not None and offer < asked else max(1, asked // 2)
        return True

    def went_well(self, asked: int, logs: int) -> None:
        if logs > MOST_LOGS:
            self.blocks = max(1, asked * MOST_LOGS // logs)
            self._successes = 0
            return
        if asked < self.blocks:
            return  # less than could have been asked says nothing
        self._successes += 1
        if self._successes >= SUCCESSES_BEFORE_GROWTH:
            self._successes = 0
            self.apart = False
            self.blocks = min(self._maximum, max(self.blocks + 1, int(self.blocks * GROWTH)))


def last_block(checkpoint: int, head: int, blocks: int) -> int:
    """Where the next range ends. It does not cross into the newest blocks: all of their headers are wanted."""
    calm = head - NEAR_HEAD
    return min(checkpoint + blocks, calm if checkpoint < calm else head)


def wanted_headers(checkpoint: int, last: int, head: int, logs: Iterable[Log]) -> list[int]:
    """The heights whose headers are needed: near the head all, else the last one and those that tell a log's time."""
    if last > head - NEAR_HEAD:
        return list(range(checkpoint + 1, last + 1))
    return sorted({last, *(log.block_number for log in logs if not log.block_time)})


def cut(last: int, wanted: Sequence[int], most: int) -> tuple[int, list[int]]:
    """Shorten a range until it wants at most so many headers; its new end, and they."""
    if len(wanted) <= most:
        return last, list(wanted)
    return wanted[most - 1], list(wanted[:most])


def check_headers(checkpoint: Anchor, headers: Mapping[int, Header]) -> None:
    """Accept headers, that of the checkpoint's height among them.

    Raises:
        Untruthful: the checkpoint's block is another one, or a block does not follow the one before it.
    """
    if headers[checkpoint.number].hash != checkpoint.hash:
        raise Untruthful("the checkpoint's block changed meanwhile", lie=False)
    for number, header in headers.items():
        before = headers.get(number - 1)
        if before is not None and header.parent_hash != before.hash:
            raise Untruthful(f"block {number} does not follow block {number - 1}", lie=False)


def check_logs(
    blocks: range,
    addresses: Collection[str],
    logs: Sequence[Log],
    headers: Mapping[int, Header],
    hashes: dict[int, str],
    *,
    blooms: bool,
) -> None:
    """Accept logs of these blocks, sorted. `hashes` collects the hash of each height over several calls.

    Raises:
        Untruthful: a log was not asked for, or contradicts another one or its block's header.
    """
    place = (-1, -1)
    for log in logs:
        number = log.block_number
        if number not in blocks:
            raise Untruthful(f"a log of block {number}, which was not asked for", lie=True)
        if log.address not in addresses:
            raise Untruthful("a log of an address that was not asked for", lie=True)
        if hashes.setdefault(number, log.block_hash) != log.block_hash:
            raise Untruthful(f"two hashes for block {number}", lie=False)
        if place == (number, log.log_index):
            raise Untruthful(f"two logs in one place of block {number}", lie=True)
        place = (number, log.log_index)
        header = headers.get(number)
        if blooms and header is not None and not admits(header.bloom, log):
            raise Untruthful(f"a log that block {number} rules out", lie=True)


def keeps_blooms(headers: Mapping[int, Header], logs: Iterable[Log]) -> bool:
    """False when a block with one of our logs has an empty bloom: this chain does not fill them in."""
    return all(headers[log.block_number].bloom for log in logs if log.block_number in headers)


def admits(bloom: int, log: Log) -> bool:
    """Whether a header's bloom allows this log in its block."""
    topics = (log.topics[at : at + WORD] for at in range(0, len(log.topics), WORD))
    return admits_address(bloom, log.address) and all(_admits(bloom, topic) for topic in topics)


def admits_address(bloom: int, address: str) -> bool:
    return _admits(bloom, bytes.fromhex(address[2:]))


def _admits(bloom: int, value: bytes) -> bool:
    mask = bloom_bits(value)
    return bloom & mask == mask


def bloom_bits(value: bytes) -> int:
    """The three bits that an address or topic sets in a 2048-bit bloom."""
    digest = bytes.fromhex(keccak(value)[2:14])
    bits = 0
    for at in (0, 2, 4):
        bits |= 1 << (int.from_bytes(digest[at : at + 2]) & 2047)
    return bits


def unexplained(chain: Chain, headers: Iterable[Header], logs: Iterable[Log], after: int) -> set[int]:
    """The blocks whose bloom admits one of our addresses without a log of it having come. That proves nothing."""
    seen = {(log.block_number, log.address) for log in logs}
    return {
        header.number
        for header in headers
        for address in chain.registries
        if header.number > after and admits_address(header.bloom, address) and (header.number, address) not in seen
    }


def fork_point(anchors: Iterable[Anchor], headers: Mapping[int, Header | None]) -> Anchor | None:
    """The highest of these anchors that is still a block of the chain."""
    for anchor in sorted(anchors, key=lambda anchor: -anchor.number):
        header = headers.get(anchor.number)
        if header is not None and header.hash == anchor.hash:
            return anchor
    return None
