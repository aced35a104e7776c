"""Registry logs as a contract would emit them, encoded by eth_abi from the event's declaration.

Nothing here comes from the code under test, so that the two can be compared.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from eth_abi.abi import encode
from eth_utils.crypto import keccak

IDENTITY = "0x8004a818bfb912233c491871b3d84c89a494bd9e"
REPUTATION = "0x8004b663056a597dffe9eccc1965a193b7388713"
VALIDATION = "0x8004cb1bf31daf7788923b405b754f57aceb4272"
ZERO = "0x" + "00" * 20

REGISTERED = "Registered(uint256 indexed agentId, string agentURI, address indexed owner)"
METADATA_SET = (
    "MetadataSet(uint256 indexed agentId, string indexed indexedMetadataKey, string metadataKey, bytes metadataValue)"
)
URI_UPDATED = "URIUpdated(uint256 indexed agentId, string newURI, address indexed updatedBy)"
TRANSFER = "Transfer(address indexed from, address indexed to, uint256 indexed tokenId)"
NEW_FEEDBACK = (
    "NewFeedback(uint256 indexed agentId, address indexed clientAddress, uint64 feedbackIndex, int128 value, "
    "uint8 valueDecimals, string indexed indexedTag1, string tag1, string tag2, string endpoint, "
    "string feedbackURI, bytes32 feedbackHash)"
)
FEEDBACK_REVOKED = (
    "FeedbackRevoked(uint256 indexed agentId, address indexed clientAddress, uint64 indexed feedbackIndex)"
)
RESPONSE_APPENDED = (
    "ResponseAppended(uint256 indexed agentId, address indexed clientAddress, uint64 feedbackIndex, "
    "address indexed responder, string responseURI, bytes32 responseHash)"
)
APPROVAL = "Approval(address indexed owner, address indexed approved, uint256 indexed tokenId)"
APPROVAL_FOR_ALL = "ApprovalForAll(address indexed owner, address indexed operator, bool approved)"
METADATA_UPDATE = "MetadataUpdate(uint256 _tokenId)"
VALIDATION_REQUEST = (
    "ValidationRequest(address indexed validatorAddress, uint256 indexed agentId, string requestURI, "
    "bytes32 indexed requestHash)"
)
VALIDATION_RESPONSE = (
    "ValidationResponse(address indexed validatorAddress, uint256 indexed agentId, bytes32 indexed requestHash, "
    "uint8 response, string responseURI, bytes32 responseHash, string tag)"
)
UPGRADED = "Upgraded(address indexed implementation)"


class ScriptedLog(NamedTuple):
    address: str
    topics: tuple[str, ...]
    data: str


@cache
def _declaration(signature: str) -> tuple[bytes, tuple[tuple[str, bool, str], ...]]:
    """Topic 0, and type, whether indexed, and name of each parameter."""
    name, _, inside = signature.rstrip(")").partition("(")
    words = [part.split() for part in inside.split(", ") if part]
    topic0 = keccak(text=f"{name}({','.join(part[0] for part in words)})")
    return topic0, tuple((part[0], "indexed" in part, part[-1]) for part in words)


@cache
def _hash(data: bytes) -> bytes:
    return keccak(data)


def emit(address: str, signature: str, **values: object) -> ScriptedLog:
    """A log of this event. Texts may be bytes; the value of an indexed string is the text to be hashed."""
    topic0, parameters = _declaration(signature)
    topics, types, data = ["0x" + topic0.hex()], [], []
    for kind, indexed, name in parameters:
        value = values[name]
        if kind == "string":
            value = value.encode() if isinstance(value, str) else value
            assert isinstance(value, bytes)
            if indexed:
                topics.append("0x" + _hash(value).hex())
                continue
            kind = "bytes"  # the same encoding, and any bytes will do
        if indexed:
            topics.append("0x" + encode([kind], [value]).hex())
        else:
            types.append(kind)
            data.append(value)
    return ScriptedLog(address, tuple(topics), "0x" + encode(types, data).hex())


def account(number: int) -> str:
    return f"0x{number:040x}"


def registered(agent_id: int, uri: str = "https://agent.example/1.json", owner: str = account(1)) -> ScriptedLog:
    return emit(IDENTITY, REGISTERED, agentId=agent_id, agentURI=uri, owner=owner)


def transfer(agent_id: int, sender: str = ZERO, to: str = account(1)) -> ScriptedLog:
    return emit(IDENTITY, TRANSFER, **{"from": sender, "to": to, "tokenId": agent_id})


def metadata_set(agent_id: int, key: str = "agentWallet", value: bytes = b"\x01" * 20) -> ScriptedLog:
    return emit(IDENTITY, METADATA_SET, agentId=agent_id, indexedMetadataKey=key, metadataKey=key, metadataValue=value)


def feedback(
    agent_id: int, value: int = 87, decimals: int = 0, *, index: int = 1, client: str = account(2),
    tag1: str = "starred", tag2: str | bytes = "", uri: str = "",
) -> ScriptedLog:  # fmt: skip
    return emit(
        REPUTATION, NEW_FEEDBACK, agentId=agent_id, clientAddress=client, feedbackIndex=index, value=value,
        valueDecimals=decimals, indexedTag1=tag1, tag1=tag1, tag2=tag2, endpoint="", feedbackURI=uri,
        feedbackHash=bytes(32),
    )  # fmt: skip


def revoked(agent_id: int, index: int = 1, client: str = account(2)) -> ScriptedLog:
    return emit(REPUTATION, FEEDBACK_REVOKED, agentId=agent_id, clientAddress=client, feedbackIndex=index)


def responded(agent_id: int, index: int = 1, client: str = account(2), uri: str = "ipfs://answer") -> ScriptedLog:
    return emit(
        REPUTATION, RESPONSE_APPENDED, agentId=agent_id, clientAddress=client, feedbackIndex=index,
        responder=account(1), responseURI=uri, responseHash=bytes(32),
    )  # fmt: skip


def approval(agent_id: int, approved: str = account(3), owner: str = account(1)) -> ScriptedLog:
    return emit(IDENTITY, APPROVAL, owner=owner, approved=approved, tokenId=agent_id)


def approval_for_all(owner: str, operator: str = account(4), *, approved: bool = True) -> ScriptedLog:
    return emit(IDENTITY, APPROVAL_FOR_ALL, owner=owner, operator=operator, approved=approved)


def uri_updated(agent_id: int, uri: str) -> ScriptedLog:
    return emit(IDENTITY, URI_UPDATED, agentId=agent_id, newURI=uri, updatedBy=account(1))


def metadata_update(agent_id: int) -> ScriptedLog:
    return emit(IDENTITY, METADATA_UPDATE, _tokenId=agent_id)


def validation_requested(agent_id: int, request: int) -> ScriptedLog:
    return emit(
        VALIDATION, VALIDATION_REQUEST, validatorAddress=account(5), agentId=agent_id, requestURI="ipfs://request",
        requestHash=request.to_bytes(32),
    )  # fmt: skip


def validated(agent_id: int, request: int, response: int = 100, tag: str = "soft") -> ScriptedLog:
    return emit(
        VALIDATION, VALIDATION_RESPONSE, validatorAddress=account(5), agentId=agent_id,
        requestHash=request.to_bytes(32), response=response, responseURI="", responseHash=bytes(32), tag=tag,
    )  # fmt: skip


def unknown(number: int = 0, address: str = REPUTATION) -> ScriptedLog:
    """A log that no registry has today."""
    return ScriptedLog(address, ("0x" + keccak(text=f"Coming{number}()").hex(),), "0x" + f"{number:064x}")
