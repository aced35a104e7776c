"""Our decoder against eth_abi's encoder, over all that the contracts can log."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from agentauri.chain.registries import CURRENT, Decoder
from agentauri.chain.types import Chain, Log, Undecoded
from agentauri.events import NewEvent
from agentauri.types import ChainId

ADDRESSES = {"identity": "0x" + "01" * 20, "reputation": "0x" + "02" * 20, "validation": "0x" + "03" * 20}
CHAIN = Chain(
    id=ChainId(1), name="", class_="mainnet", block_time=1.0, identity=ADDRESSES["identity"],
    reputation=ADDRESSES["reputation"], validation=ADDRESSES["validation"], earliest=0, start_block=0, finality="tags",
    finality_depth=1, max_range=1, explorer_url=None,
)  # fmt: skip
DECODER = Decoder(CHAIN)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "uint256": st.integers(0, 2**256 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "uint8": st.integers(0, 255),
    "int128": st.integers(-(2**127), 2**127 - 1),
    "address": st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex()),
    "bool": st.booleans(),
    "bytes32": st.binary(min_size=32, max_size=32),
    "string": st.one_of(st.text(max_size=80).map(str.encode), st.binary(max_size=100)),
    "bytes": st.binary(max_size=100),
}
EVERY_EVENT = pytest.mark.parametrize(
    ("registry", "signature"),
    [(registry, signature) for registry, signatures in CURRENT.items() for signature in signatures],
)


@st.composite
def _log(draw: st.DrawFn, signature: str) -> tuple[dict[str, Any], tuple[bytes, ...], bytes]:
    """Values by name, topics and data of one log with this declaration."""
    name, _, inside = signature.rstrip(")").partition("(")
    parameters = [part.split() for part in inside.split(", ") if part]
    values: dict[str, Any] = {}
    for kind, *indexed, parameter in parameters:
        if not (indexed and kind == "string"):
            values[parameter] = draw(VALUES[kind])
    topics = [keccak(text=f"{name}({','.join(part[0] for part in parameters)})")]
    data = []
    for kind, *indexed, parameter in parameters:
        if indexed and kind == "string":
            topics.append(keccak(values[parameter[7].lower() + parameter[8:]]))
        elif indexed:
            topics.append(encode([kind], [values[parameter]]))
        else:
            data.append(("bytes" if kind == "string" else kind, values[parameter]))
    return values, tuple(topics), encode([kind for kind, _ in data], [value for _, value in data])


def _make(registry: str, topics: tuple[bytes, ...], data: bytes) -> Log:
    return Log(ADDRESSES[registry], b"".join(topics), data, 1, "0x" + "aa" * 32, "0x" + "bb" * 32, 0, 0)


def decodes_to_its_values(registry: str, signature: str, drawn: st.DataObject) -> None:
    values, topics, data = drawn.draw(_log(signature))

    event = DECODER.decode(_make(registry, topics, data), 5)

    assert isinstance(event, NewEvent)
    for name, value in values.items():
        shown = event.args[name]
        if isinstance(value, bool):
            assert shown is value
        elif isinstance(value, int):
            assert shown == str(value)
        elif isinstance(value, bytes) and f"string {name}" in signature:
            assert shown == value.decode(errors="replace").replace("\0", "�")
        else:
            assert shown == ("0x" + value.hex() if isinstance(value, bytes) else value)
    if "valueDecimals" in values:
        assert event.score is not None
        digits = Decimal(values["value"]).as_tuple()
        assert event.score.as_tuple()[:2] == digits[:2]
        assert event.score.as_tuple().exponent == -values["valueDecimals"]


@EVERY_EVENT
@settings(max_examples=10, deadline=None, derandomize=True)
@given(drawn=st.data())
def test_what_eth_abi_encodes_decodes_to_the_same_values(registry: str, signature: str, drawn: st.DataObject) -> None:
    decodes_to_its_values(registry, signature, drawn)


@pytest.mark.soak
@EVERY_EVENT
@settings(max_examples=1_000, deadline=None)
@given(drawn=st.data())
def test_whatever_eth_abi_encodes_decodes_to_the_same_values(
    registry: str, signature: str, drawn: st.DataObject
) -> None:
    decodes_to_its_values(registry, signature, drawn)


def is_raw_or_encodes_to_itself(registry: str, signature: str, drawn: st.DataObject) -> None:
    """No damage is read as something else: what decodes, encodes to the damaged bytes again."""
    _, topics, data = drawn.draw(_log(signature))
    damaged = bytearray(data)
    for _ in range(drawn.draw(st.integers(1, 3))):
        if damaged:
            damaged[drawn.draw(st.integers(0, len(damaged) - 1))] = drawn.draw(st.integers(0, 255))
    damaged = damaged[: drawn.draw(st.integers(0, len(damaged)))]

    event = DECODER.decode(_make(registry, topics, bytes(damaged)), 5)

    if isinstance(event, Undecoded):
        assert event.reason == "malformed"
        return
    assert bytes(damaged) == _encoded_again(signature, event)


@EVERY_EVENT
@settings(max_examples=10, deadline=None, derandomize=True)
@given(drawn=st.data())
def test_a_log_that_is_damaged_is_kept_raw_or_still_encodes_to_itself(
    registry: str, signature: str, drawn: st.DataObject
) -> None:
    is_raw_or_encodes_to_itself(registry, signature, drawn)


@pytest.mark.soak
@EVERY_EVENT
@settings(max_examples=1_000, deadline=None)
@given(drawn=st.data())
def test_a_log_with_any_damage_is_kept_raw_or_still_encodes_to_itself(
    registry: str, signature: str, drawn: st.DataObject
) -> None:
    is_raw_or_encodes_to_itself(registry, signature, drawn)


def _encoded_again(signature: str, event: NewEvent) -> bytes:
    inside = signature.rstrip(")").partition("(")[2]
    types: list[str] = []
    values: list[object] = []
    lossy = event.args.get("lossy", [])
    assert isinstance(lossy, list)
    for kind, *indexed, name in (part.split() for part in inside.split(", ") if part):
        if indexed:
            continue
        shown = event.args[name]
        if name in lossy:
            return bytes(event.data or b"")  # the text says less than the bytes, which are kept
        types.append("bytes" if kind == "string" else kind)
        if kind == "string":
            values.append(str(shown).encode())
        elif kind.startswith("bytes"):
            values.append(bytes.fromhex(str(shown)[2:]))
        else:
            values.append(shown if kind in ("bool", "address") else int(str(shown)))
    return encode(types, values)
