from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from eth_utils.crypto import keccak

from agentauri.chain.registries import CURRENT, Decoder, layout
from agentauri.chain.types import Chain, Log, Undecoded
from agentauri.events import NewEvent
from chains.driving import network
from chains.logs import (
    IDENTITY,
    METADATA_SET,
    NEW_FEEDBACK,
    REPUTATION,
    TRANSFER,
    UPGRADED,
    URI_UPDATED,
    VALIDATION,
    ScriptedLog,
    account,
    emit,
    feedback,
    metadata_set,
    unknown,
)

GOLDEN: list[dict[str, Any]] = json.loads(Path(__file__).with_name("golden-logs.json").read_text())["logs"]
RENAMED = {
    "agent_uri": "token_uri", "value": "value_raw", "decimal_value": "score", "feedback_uri": "file_uri",
    "feedback_hash": "file_hash",
}  # fmt: skip
IN_ARGS = {"updated_by": "updatedBy"}
HASH = "0x" + "ab" * 32
OLD = "NewFeedback(uint256 indexed agentId, address indexed clientAddress, "


def make_chain(class_: Any = "testnet") -> Chain:
    if class_ != "mainnet":
        return network(class_=class_)
    identity, reputation, validation = dict.fromkeys(golden["log"]["address"] for golden in GOLDEN)
    return network(class_=class_, identity=identity, reputation=reputation, validation=validation)


def make_log(scripted: ScriptedLog) -> Log:
    topics = bytes.fromhex("".join(topic[2:] for topic in scripted.topics))
    return Log(scripted.address, topics, bytes.fromhex(scripted.data[2:]), 9, HASH, HASH, 3, 7)


def decode(scripted: ScriptedLog, class_: Any = "testnet") -> NewEvent | Undecoded:
    return Decoder(make_chain(class_)).decode(make_log(scripted), 1_770_000_000)


def event_of(scripted: ScriptedLog) -> NewEvent:
    decoded = decode(scripted)
    assert isinstance(decoded, NewEvent), decoded
    return decoded


def why_not(scripted: ScriptedLog, class_: Any = "testnet") -> str:
    decoded = decode(scripted, class_)
    assert isinstance(decoded, Undecoded)
    return decoded.reason


def golden_log(number: int) -> ScriptedLog:
    log = GOLDEN[number - 1]["log"]
    return ScriptedLog(log["address"], tuple(log["topics"]), log["data"])


@pytest.mark.parametrize("golden", GOLDEN, ids=[golden["name"] for golden in GOLDEN])
def test_the_golden_logs_decode_to_what_they_say(golden: dict[str, Any]) -> None:
    log = golden["log"]

    event = decode(ScriptedLog(log["address"], tuple(log["topics"]), log["data"]), "mainnet")

    assert isinstance(event, NewEvent)
    assert (event.registry, event.event_type) == (golden["registry"], golden["event_type"])
    assert (event.topics, event.data) == (
        bytes.fromhex("".join(topic[2:] for topic in log["topics"])),
        bytes.fromhex(log["data"][2:]),
    )
    for name, value in {**golden["decoded"], **golden.get("derived", {})}.items():
        if name == "agent_wallet":
            assert event.args["metadataValue"] == value
        elif name == "metadata_value":
            assert event.metadata_value == value
        elif name in IN_ARGS:
            assert event.args[IN_ARGS[name]] == value
        else:
            assert str(getattr(event, RENAMED.get(name, name))) == str(value)


def test_the_version_2_contracts_have_17_kinds_of_event() -> None:
    kinds = {layout(signature).event_type for signatures in CURRENT.values() for signature in signatures}

    assert len(kinds) == 17


def test_an_event_carries_its_place_and_every_argument_by_name() -> None:
    event = event_of(feedback(42, 9977, 2, index=3, tag1="uptime"))

    assert event.id == f"reputation-84532-{HASH}-7"
    assert (event.block_number, event.transaction_index, event.log_index, event.timestamp) == (9, 3, 7, 1_770_000_000)
    assert event.contract_address == REPUTATION
    assert event.args == {
        "agentId": "42", "clientAddress": account(2), "feedbackIndex": "3", "value": "9977", "valueDecimals": "2",
        "indexedTag1": "0x" + keccak(text="uptime").hex(), "tag1": "uptime", "tag2": "", "endpoint": "",
        "feedbackURI": "", "feedbackHash": "0x" + "00" * 32,
    }  # fmt: skip
    assert (event.agent_id, event.value_raw, event.value_decimals) == (42, 9977, 2)
    assert event.score == Decimal("99.77")
    assert event.tag2 == ""


def test_a_score_keeps_all_its_digits() -> None:
    event = event_of(feedback(0, -(10**38) + 1, 18))

    assert str(event.score) == "-99999999999999999999.999999999999999999"


def test_agent_zero_is_an_agent_and_an_operator_approval_has_none() -> None:
    approval = "ApprovalForAll(address indexed owner, address indexed operator, bool approved)"

    event = event_of(emit(IDENTITY, approval, owner=account(1), operator=account(2), approved=True))

    assert event_of(emit(IDENTITY, TRANSFER, **{"from": account(1), "to": account(2), "tokenId": 0})).agent_id == 0
    assert event.agent_id is None
    assert event.args["approved"] is True


def test_texts_that_postgresql_cannot_hold_are_replaced_and_named() -> None:
    event = event_of(
        emit(
            REPUTATION,
            NEW_FEEDBACK,
            agentId=1,
            clientAddress=account(2),
            feedbackIndex=1,
            value=1,
            valueDecimals=0,
            indexedTag1=b"\xff\xfe\x00\x78",
            tag1=b"\xff\xfe\x00\x78",
            tag2="fine",
            endpoint="",
            feedbackURI="a\0b",
            feedbackHash=bytes(32),
        )
    )

    assert event.tag1 == event.args["tag1"] == "���x"
    assert event.file_uri == "a�b"
    assert event.args["lossy"] == ["tag1", "feedbackURI"]
    assert b"\xff\xfe\x00\x78" in (event.data or b"")


@pytest.mark.parametrize(
    ("value", "shown"), [(b"plain text", "plain text"), (b"", ""), (b"\xff\x00", "0xff00"), (b"a\x00b", "0x610062")]
)
def test_a_metadata_value_is_text_where_it_can_be_and_hex_elsewhere(value: bytes, shown: str) -> None:
    event = event_of(metadata_set(1, "any", value))

    assert event.metadata_value == shown
    assert event.args["metadataValue"] == "0x" + value.hex()


@pytest.mark.parametrize("number", [1, 2, 3, 4, 6, 7, 8])
def test_data_that_is_cut_short_is_malformed(number: int) -> None:
    log = golden_log(number)

    assert why_not(log._replace(data=log.data[:-64]), "mainnet") == "malformed"


@pytest.mark.parametrize("number", range(1, 9))
def test_bytes_beyond_the_layout_are_malformed(number: int) -> None:
    log = golden_log(number)

    assert why_not(log._replace(data=log.data + "00" * 32), "mainnet") == "malformed"


@pytest.mark.parametrize("number", range(1, 9))
def test_a_missing_topic_is_malformed(number: int) -> None:
    log = golden_log(number)

    assert why_not(log._replace(topics=log.topics[:-1]), "mainnet") == "malformed"


@pytest.mark.parametrize("number", [2, 4])
def test_a_text_that_its_topic_is_not_the_hash_of_is_malformed(number: int) -> None:
    log = golden_log(number)
    place = 2 if number == 2 else 3
    topics = (*log.topics[:place], HASH, *log.topics[place + 1 :])

    assert why_not(log._replace(topics=topics), "mainnet") == "malformed"


def test_values_beyond_their_type_are_malformed() -> None:
    log = feedback(1)
    head = log.data[2:]

    assert why_not(log._replace(data="0x" + "f" * 64 + head[64:])) == "malformed"  # the index is a uint64
    assert why_not(log._replace(data="0x" + head[:64] + "7" + "f" * 63 + head[128:])) == "malformed"  # no int128
    assert why_not(log._replace(topics=(*log.topics[:2], "0x" + "f" * 64, log.topics[3]))) == "malformed"  # no address


def test_unknown_logs_say_so() -> None:
    assert why_not(unknown()) == "unknown_topic"
    assert why_not(ScriptedLog(IDENTITY, (), "0x")) == "unknown_topic"
    assert why_not(feedback(1)._replace(address=IDENTITY)) == "unknown_topic"


def test_every_registry_has_the_administrative_events() -> None:
    for address in (IDENTITY, REPUTATION, VALIDATION):
        assert event_of(emit(address, UPGRADED, implementation=account(9))).args == {"implementation": account(9)}


OLD_LAYOUTS = [
    ("54b3254e", "uint8 score, bytes32 indexed tag1, bytes32 tag2, string feedbackURI, bytes32 feedbackHash",
     {"tag1": b"uptime".ljust(32, b"\0"), "tag2": b"day".ljust(32, b"\0")}, ("uptime", "day", None)),
    ("744ec894", "uint8 score, string indexed indexedTag1, string tag2, string feedbackURI, bytes32 feedbackHash",
     {}, ("uptime", "day", None)),
    ("425311b4", "uint8 score, string indexed indexedTag1, string tag2, string endpoint, string feedbackURI, "
     "bytes32 feedbackHash", {}, ("uptime", "day", "https://e")),
    ("425311b4", "uint8 score, string indexed indexedTag1, string tag1, string tag2, string feedbackURI, "
     "bytes32 feedbackHash", {"tag1": "mine", "indexedTag1": "mine"}, ("mine", "day", None)),
    ("801d7d42", "uint64 feedbackIndex, uint8 score, string indexed indexedTag1, string tag2, string endpoint, "
     "string feedbackURI, bytes32 feedbackHash", {"indexedTag1": "unheard of"}, (None, "day", "https://e")),
    ("31f01d2a", "uint64 feedbackIndex, uint8 score, string indexed indexedTag1, string tag1, string tag2, "
     "string endpoint, string feedbackURI, bytes32 feedbackHash",
     {"tag1": "mine", "indexedTag1": "mine"}, ("mine", "day", "https://e")),
    ("a9658924", "uint64 feedbackIndex, uint256 value, uint8 valueDecimals, string indexed indexedTag1, string tag1, "
     "string tag2, string endpoint, string feedbackURI, bytes32 feedbackHash",
     {"tag1": "mine", "indexedTag1": "mine", "value": 2**256 - 1, "valueDecimals": 255}, ("mine", "day", "https://e")),
    ("413f2d30", "uint64 feedbackIndex, int256 value, uint8 valueDecimals, string indexed indexedTag1, string tag1, "
     "string tag2, string endpoint, string feedbackURI, bytes32 feedbackHash",
     {"tag1": "mine", "indexedTag1": "mine", "value": -(10**50), "valueDecimals": 18}, ("mine", "day", "https://e")),
]  # fmt: skip


@pytest.mark.parametrize(("tag", "rest", "changes", "expected"), OLD_LAYOUTS)
def test_old_layouts_are_read_outside_mainnets_only(
    tag: str, rest: str, changes: dict[str, object], expected: tuple[str | None, ...]
) -> None:
    values: dict[str, Any] = {
        "agentId": 5, "clientAddress": account(2), "feedbackIndex": 4, "score": 88, "indexedTag1": "uptime",
        "tag2": "day", "endpoint": "https://e", "feedbackURI": "ipfs://f", "feedbackHash": b"\x07" * 32,
    } | changes  # fmt: skip
    log = emit(REPUTATION, f"{OLD}{rest})", **values)

    event = event_of(log)

    assert event.event_type == "NewFeedback"
    assert event.args["layout"] == tag
    assert (event.tag1, event.tag2, event.endpoint) == expected
    assert (event.file_uri, event.file_hash) == ("ipfs://f", "0x" + "07" * 32)
    assert event.value_raw == values.get("value", 88)
    assert event.value_decimals == values.get("valueDecimals", 0)
    assert event.score is not None
    assert event.score.scaleb(event.value_decimals or 0, context=None) is not None
    refused = decode(log._replace(address=make_chain("mainnet").reputation), "mainnet")
    assert isinstance(refused, Undecoded)
    assert refused.alarming


@pytest.mark.parametrize(
    ("first", "second", "ambiguous"),
    [("", "", False), ("", "web", True), ("same", "same", True), ("same", "https://e", True), ("a", "b", False)],
)
def test_the_layout_with_two_meanings_is_read_only_where_one_is_meant(first: str, second: str, ambiguous: bool) -> None:
    rest = "uint8 score, string indexed indexedTag1, string tag1, string tag2, string feedbackURI, bytes32 feedbackHash"
    log = emit(
        REPUTATION, f"{OLD}{rest})", agentId=5, clientAddress=account(2), score=88, indexedTag1=first, tag1=first,
        tag2=second, feedbackURI="", feedbackHash=bytes(32),
    )  # fmt: skip

    decoded = decode(log)

    if ambiguous:
        assert isinstance(decoded, Undecoded)
        assert decoded.reason == "ambiguous"
    else:
        assert isinstance(decoded, NewEvent)
        assert (decoded.tag1, decoded.tag2) == (first, second)


def test_the_old_name_of_uri_updated_is_read_as_the_new_one() -> None:
    old = URI_UPDATED.replace("URIUpdated", "UriUpdated")

    event = event_of(emit(IDENTITY, old, agentId=1, newURI="ipfs://x", updatedBy=account(3)))

    assert (event.event_type, event.token_uri) == ("URIUpdated", "ipfs://x")


def test_a_look_alike_of_a_metadata_key_is_another_key() -> None:
    event = event_of(
        emit(
            IDENTITY,
            METADATA_SET,
            agentId=1,
            indexedMetadataKey="agentwallet",
            metadataKey="agentwallet",
            metadataValue=b"x",
        )
    )

    assert event.metadata_key == "agentwallet"
