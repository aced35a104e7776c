"""Reads the ABI encoding of event arguments, exactly or not at all.

Only canonical encodings are read: what is decoded here encodes to the same bytes again. Anything else raises
`Malformed`, and its bytes are kept raw. Our own code, because general decoders take ten times as long.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache

from eth_hash.auto import keccak as _keccak

from agentauri.errors import AgentAuriError

WORD = 32
_NO_BYTES = bytes(WORD)
_NO_ADDRESS = bytes(12)  # what stands before one in its word
_MOST = 16
_CUTS = [struct.Struct("32s" * count) for count in range(_MOST + 1)]


class Malformed(AgentAuriError):
    """Not the canonical encoding of the expected types."""

    code = "malformed"


Read = Callable[[bytes], "int | str | bool"]
"""Reads one word."""


def keccak(data: bytes) -> str:
    """Keccak-256 as 0x hex. Tags and keys repeat, so short inputs are remembered."""
    return _remembered(data) if len(data) <= 64 else "0x" + _keccak(data).hex()


@lru_cache(maxsize=8192)
def _remembered(data: bytes) -> str:
    return "0x" + _keccak(data).hex()


def _unsigned(bits: int) -> Read:
    limit = 1 << bits

    def read(word: bytes) -> int:
        value = int.from_bytes(word)
        if value >= limit:
            raise Malformed(f"more than {bits} bits")
        return value

    return read


def _signed(bits: int) -> Read:
    limit = 1 << (bits - 1)

    def read(word: bytes) -> int:
        value = int.from_bytes(word, signed=True)
        if not -limit <= value < limit:
            raise Malformed(f"more than {bits} bits")
        return value

    return read


def _uint256(word: bytes) -> int:
    return int.from_bytes(word)


def _address(word: bytes) -> str:
    if not word.startswith(_NO_ADDRESS):
        raise Malformed("more than 20 bytes")
    return "0x" + word[12:].hex()


def _bool(word: bytes) -> bool:
    if (value := int.from_bytes(word)) > 1:
        raise Malformed("neither true nor false")
    return value == 1


def _bytes32(word: bytes) -> str:
    return "0x" + word.hex()


STATIC: dict[str, Read] = {
    "uint256": _uint256,
    "uint64": _unsigned(64),
    "uint8": _unsigned(8),
    "int256": _signed(256),
    "int128": _signed(128),
    "address": _address,
    "bool": _bool,
    "bytes32": _bytes32,
}


def words(data: bytes) -> tuple[bytes, ...]:
    """Cut into words; what does not fill one is `Malformed`."""
    count, rest = divmod(len(data), WORD)
    if rest or count > _MOST:
        raise Malformed("not whole words")
    return _CUTS[count].unpack(data)


def read_tail(data: bytes, offset: int, tail: int) -> tuple[bytes, int]:
    """The bytes that `offset` says begin at `tail`, where they must; and where the next ones must begin."""
    start = tail + WORD
    if offset != tail:
        raise Malformed("an offset points elsewhere")
    end = start + int.from_bytes(data[tail:start])
    following = end + -end % WORD
    if following > len(data):
        raise Malformed("cut short")
    if end != following and data[end:following] != _NO_BYTES[: following - end]:
        raise Malformed("padding that is not zero")
    return data[start:end], following


def to_text(raw: bytes) -> tuple[str, bool]:
    """Text that PostgreSQL can hold, and whether that is all of it: NUL and invalid UTF-8 become U+FFFD."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return raw.decode(errors="replace").replace("\0", "\ufffd"), False
    if "\0" in text:
        return text.replace("\0", "\ufffd"), False
    return text, True
