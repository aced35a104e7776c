"""What the three registries log, and how a log becomes an event.

A log is told by its address and first topic. All 17 events of the 2.0.0 contracts are known, and the layouts that
`NewFeedback` had before on test networks. Nothing is guessed: a log that does not decode to the last byte stays raw.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from msgspec import Struct

from agentauri.chain.abi import STATIC, WORD, Malformed, Read, keccak, read_tail, to_text, words
from agentauri.chain.types import Chain, Log, Registry, Undecoded
from agentauri.events import NewEvent

# Tags whose text can be told from the hash, where an old layout logged only the hash.
KNOWN_TAGS = {
    keccak(tag.encode()): tag
    for tag in (
        "", "starred", "reachable", "ownerVerified", "uptime", "successRate", "responseTime", "blocktimeFreshness",
        "revenues", "tradingYield",
    )
}  # fmt: skip


class Tail(NamedTuple):
    """A text, or bytes when `binary`: only its offset stands in the head. `hashed` is where its hash is indexed."""

    place: int
    binary: bool
    hashed: int | None


class Layout(Struct, frozen=True):
    """One event signature; the arguments are numbered as they lie in a log, the indexed ones first.

    `integers` are the places of numbers, `columns` pairs the places of a column and of its argument. `legacy` is the
    tag under `args.layout` of a layout that only old test networks logged.
    """

    event_type: str
    topic0: bytes
    topics: int  # bytes, topic 0 included
    head: int  # bytes
    cut: struct.Struct  # of topics and head, into words but for topic 0
    names: tuple[str, ...]
    reads: tuple[Read, ...]
    tails: tuple[Tail, ...]
    integers: tuple[int, ...]
    columns: tuple[tuple[int, int], ...]
    legacy: str | None = None


# An event is made of where its log stands, the columns that its layout fills, and the log's own bytes.
_FILLED = NewEvent.__struct_fields__[11:-3]
assert NewEvent.__struct_fields__[10:12] == ("contract_address", "agent_id")
assert NewEvent.__struct_fields__[-4:] == ("score", "args", "topics", "data")
_AT = {name: place for place, name in enumerate(_FILLED)}
_VALUE_RAW, _VALUE_DECIMALS, _SCORE = _AT["value_raw"], _AT["value_decimals"], _AT["score"]
_METADATA_VALUE = _AT["metadata_value"]
_COLUMNS = {
    "agentId": "agent_id", "tokenId": "agent_id", "_tokenId": "agent_id", "owner": "owner", "agentURI": "token_uri",
    "newURI": "token_uri", "metadataKey": "metadata_key", "metadataValue": "metadata_value",
    "clientAddress": "client_address", "feedbackIndex": "feedback_index", "value": "value_raw", "score": "value_raw",
    "valueDecimals": "value_decimals", "tag1": "tag1", "tag2": "tag2", "endpoint": "endpoint",
    "feedbackURI": "file_uri", "feedbackHash": "file_hash", "responder": "responder", "responseURI": "response_uri",
    "responseHash": "response_hash", "validatorAddress": "validator_address", "requestURI": "request_uri",
    "requestHash": "request_hash", "response": "response", "tag": "tag",
}  # fmt: skip


def layout(signature: str, *, legacy: bool = False) -> Layout:
    """Read a Solidity event declaration. `indexedX` is the hash of the string argument `x`."""
    event_type, _, inside = signature.rstrip(")").partition("(")
    parameters = [part.split() for part in inside.split(", ") if part]
    topic0 = bytes.fromhex(keccak(f"{event_type}({','.join(part[0] for part in parameters)})".encode())[2:])
    indexed = [part for part in parameters if "indexed" in part]
    ordered = indexed + [part for part in parameters if "indexed" not in part]
    names = [part[-1] for part in ordered]
    tails = [
        Tail(place, kind == "bytes", _place(names, f"indexed{name[0].upper()}{name[1:]}"))
        for place, (kind, *_, name) in enumerate(ordered)
        if kind in ("string", "bytes") and place >= len(indexed)
    ]
    offsets = {tail.place for tail in tails}
    reads = [STATIC["uint256"] if place in offsets else STATIC.get(part[0], STATIC["bytes32"])
             for place, part in enumerate(ordered)]  # fmt: skip
    return Layout(
        event_type={"UriUpdated": "URIUpdated"}.get(event_type, event_type),  # renamed, the layout stayed
        topic0=topic0,
        topics=WORD * (1 + len(indexed)),
        head=WORD * (len(ordered) - len(indexed)),
        cut=struct.Struct("32x" + "32s" * len(ordered)),
        names=tuple(names),
        reads=tuple(reads),
        tails=tuple(tails),
        integers=tuple(place for place, part in enumerate(ordered) if "int" in part[0]),
        columns=tuple((_AT[_COLUMNS[name]], place) for place, name in enumerate(names) if name in _COLUMNS),
        legacy=topic0[:4].hex() if legacy and event_type == "NewFeedback" else None,
    )


def _place(names: Sequence[str], name: str) -> int | None:
    return names.index(name) if name in names else None


_ADMINISTRATION = (
    "Upgraded(address indexed implementation)",
    "Initialized(uint64 version)",
    "OwnershipTransferred(address indexed previousOwner, address indexed newOwner)",
)
CURRENT: Mapping[Registry, tuple[str, ...]] = {
    "identity": (
        "Registered(uint256 indexed agentId, string agentURI, address indexed owner)",
        "MetadataSet(uint256 indexed agentId, string indexed indexedMetadataKey, string metadataKey, "
        "bytes metadataValue)",
        "URIUpdated(uint256 indexed agentId, string newURI, address indexed updatedBy)",
        "Transfer(address indexed from, address indexed to, uint256 indexed tokenId)",
        "Approval(address indexed owner, address indexed approved, uint256 indexed tokenId)",
        "ApprovalForAll(address indexed owner, address indexed operator, bool approved)",
        "MetadataUpdate(uint256 _tokenId)",
        "BatchMetadataUpdate(uint256 _fromTokenId, uint256 _toTokenId)",
        "EIP712DomainChanged()",
        *_ADMINISTRATION,
    ),
    "reputation": (
        "NewFeedback(uint256 indexed agentId, address indexed clientAddress, uint64 feedbackIndex, int128 value, "
        "uint8 valueDecimals, string indexed indexedTag1, string tag1, string tag2, string endpoint, "
        "string feedbackURI, bytes32 feedbackHash)",
        "FeedbackRevoked(uint256 indexed agentId, address indexed clientAddress, uint64 indexed feedbackIndex)",
        "ResponseAppended(uint256 indexed agentId, address indexed clientAddress, uint64 feedbackIndex, "
        "address indexed responder, string responseURI, bytes32 responseHash)",
        *_ADMINISTRATION,
    ),
    "validation": (
        "ValidationRequest(address indexed validatorAddress, uint256 indexed agentId, string requestURI, "
        "bytes32 indexed requestHash)",
        "ValidationResponse(address indexed validatorAddress, uint256 indexed agentId, bytes32 indexed requestHash, "
        "uint8 response, string responseURI, bytes32 responseHash, string tag)",
        *_ADMINISTRATION,
    ),
}
LEGACY: Mapping[Registry, tuple[str, ...]] = {
    "identity": ("UriUpdated(uint256 indexed agentId, string newURI, address indexed updatedBy)",),
    "reputation": tuple(
        f"NewFeedback(uint256 indexed agentId, address indexed clientAddress, {rest}, string feedbackURI, "
        "bytes32 feedbackHash)"
        for rest in (
            "uint8 score, bytes32 indexed tag1, bytes32 tag2",
            "uint8 score, string indexed indexedTag1, string tag2",
            "uint8 score, string indexed indexedTag1, string tag2, string endpoint",
            "uint64 feedbackIndex, uint8 score, string indexed indexedTag1, string tag2, string endpoint",
            "uint64 feedbackIndex, uint8 score, string indexed indexedTag1, string tag1, string tag2, string endpoint",
            "uint64 feedbackIndex, uint256 value, uint8 valueDecimals, string indexed indexedTag1, string tag1, "
            "string tag2, string endpoint",
            "uint64 feedbackIndex, int256 value, uint8 valueDecimals, string indexed indexedTag1, string tag1, "
            "string tag2, string endpoint",
        )
    ),
    "validation": (),
}
# Two layouts shared one signature: tag2 and endpoint, or (for a day, on no branch that lasted) tag1 and tag2.
_TWO_MEANINGS = bytes.fromhex("425311b4692766f8739eaeea31a86b5756c7c315d17abc22bc9e67628405d6a7")
_OTHER_MEANING = layout(
    "NewFeedback(uint256 indexed agentId, address indexed clientAddress, uint8 score, string indexed indexedTag1, "
    "string tag1, string tag2, string feedbackURI, bytes32 feedbackHash)",
    legacy=True,
)


class Decoder:
    """Decodes the logs of one chain's registries."""

    def __init__(self, chain: Chain) -> None:
        self._chain_id = chain.id
        self._registries = chain.registries
        self._mainnet = chain.class_ == "mainnet"
        self._layouts: dict[tuple[str, bytes], Layout] = {}
        self._old: frozenset[bytes] = frozenset()
        for address, registry in self._registries.items():
            old = [layout(signature, legacy=True) for signature in LEGACY[registry]]
            known = [layout(signature) for signature in CURRENT[registry]]
            self._old |= {one.topic0 for one in old}
            for one in known if self._mainnet else old + known:
                self._layouts[address, one.topic0] = one

    def decode(self, log: Log, block_time: int) -> NewEvent | Undecoded:
        """The event that `log` is, or why it is none. Never raises."""
        topic0 = log.topics[:WORD]
        found = self._layouts.get((log.address, topic0))
        if found is None:
            alarming = self._mainnet and topic0 in self._old
            detail = "an old layout, which this network must not have" if alarming else "not an event of this registry"
            return Undecoded("unknown_topic", detail, alarming)
        try:
            if topic0 == _TWO_MEANINGS:
                found = _meaning(found, log.topics, log.data)
                if found is None:
                    return Undecoded("ambiguous", "both meanings of this layout fit")
            columns, args = _read(found, log.topics, log.data)
        except Malformed as error:
            return Undecoded("malformed", error.message)
        registry = self._registries[log.address]
        row: list[Any] = [
            f"{registry}-{self._chain_id}-{log.transaction_hash}-{log.log_index}",
            self._chain_id,
            log.block_number,
            log.block_hash,
            log.transaction_hash,
            log.log_index,
            registry,
            found.event_type,
            block_time,
            log.transaction_index,
            log.address,
            *columns,
            args,
            log.topics,
            log.data,
        ]
        return NewEvent(*row)  # by place: half the price of by name


def _read(found: Layout, topics: bytes, data: bytes) -> tuple[list[Any], dict[str, Any]]:
    """What the layout gives: `_FILLED`, and every argument.

    Raises:
        Malformed: the log is not exactly one of this layout.
    """
    values, plain, lossy = _arguments(found, topics, data)
    columns: list[Any] = [None] * len(_FILLED)
    for column, place in found.columns:
        columns[column] = values[place]
    for place in found.integers:
        values[place] = str(values[place])
    args = dict(zip(found.names, values, strict=True))
    if lossy:
        args["lossy"] = lossy
    if plain is not None:
        columns[_METADATA_VALUE] = plain
    if found.event_type == "NewFeedback":
        _finish_feedback(found, columns, args)
    return columns, args


def _arguments(found: Layout, topics: bytes, data: bytes) -> tuple[list[Any], str | None, list[str]]:
    """Each argument, the text that bytes are if they are one, and which texts are not exactly what was logged.

    Raises:
        Malformed: the log is not exactly one of this layout.
    """
    if len(topics) != found.topics:
        raise Malformed("another number of topics")
    if len(data) < found.head:
        raise Malformed("cut short")
    heads = found.cut.unpack(topics + data[: found.head])
    values: list[Any] = [read(word) for read, word in zip(found.reads, heads, strict=True)]
    lossy, plain, tail = [], None, found.head
    for place, binary, hashed in found.tails:
        content, tail = read_tail(data, values[place], tail)
        if hashed is not None and keccak(content) != values[hashed]:
            raise Malformed(f"{found.names[place]} is not what {found.names[hashed]} is the hash of")
        text, exact = to_text(content)
        if binary:
            text, plain = "0x" + content.hex(), text if exact else None
        elif not exact:
            lossy.append(found.names[place])
        values[place] = text
    if tail != len(data):
        raise Malformed("more bytes than this layout has")
    return values, plain, lossy


def _finish_feedback(found: Layout, columns: list[Any], args: dict[str, Any]) -> None:
    decimals = columns[_VALUE_DECIMALS] = columns[_VALUE_DECIMALS] or 0
    columns[_SCORE] = Decimal(f"{columns[_VALUE_RAW]}E-{decimals}")  # exact whatever the context's precision
    if found.legacy is None:
        return
    args["layout"] = found.legacy
    if "tag1" not in args:
        columns[_AT["tag1"]] = KNOWN_TAGS.get(str(args["indexedTag1"]))
    elif "indexedTag1" not in args:  # the very first layout: both tags are short texts in bytes32
        for tag in ("tag1", "tag2"):
            columns[_AT[tag]] = to_text(bytes.fromhex(args[tag][2:]).rstrip(b"\0"))[0]


def _meaning(found: Layout, topics: bytes, data: bytes) -> Layout | None:
    """Which of the two layouts with this signature it is; None when both could be meant.

    The hash in the topics is that of tag1. The first text having it says that it is tag1 itself, or that it is tag2
    and both tags are equal: then the second text would be the endpoint.
    """
    if len(data) < found.head:
        raise Malformed("cut short")
    _, first_at, second_at, *_ = words(data[: found.head])
    first, after = read_tail(data, int.from_bytes(first_at), found.head)
    second, _ = read_tail(data, int.from_bytes(second_at), after)
    if keccak(first) != "0x" + topics[-WORD:].hex():
        return found
    if not first and not second:
        return found  # tag1 and tag2 are empty either way
    if not first or second == first or b"://" in second:
        return None
    return _OTHER_MEANING
