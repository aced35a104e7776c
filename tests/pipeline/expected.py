"""What `events` must say of a log, worked out by eth_abi from the ABI that the compiler wrote: none of it is ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from eth_abi.abi import decode
from eth_utils.crypto import keccak

from agentauri.demo import LocalChain

ARTIFACTS = Path(__file__).parent.parent / "contracts" / "artifacts"

COLUMNS: Mapping[str, Mapping[str, str]] = {
    "Registered": {"agentId": "agent_id", "agentURI": "token_uri", "owner": "owner"},
    "MetadataSet": {"agentId": "agent_id", "metadataKey": "metadata_key"},
    "URIUpdated": {"agentId": "agent_id", "newURI": "token_uri"},
    "Transfer": {"tokenId": "agent_id"},
    "Approval": {"tokenId": "agent_id", "owner": "owner"},
    "ApprovalForAll": {"owner": "owner"},
    "MetadataUpdate": {"_tokenId": "agent_id"},
    "BatchMetadataUpdate": {},
    "EIP712DomainChanged": {},
    "NewFeedback": {
        "agentId": "agent_id", "clientAddress": "client_address", "feedbackIndex": "feedback_index",
        "value": "value_raw", "valueDecimals": "value_decimals", "tag1": "tag1", "tag2": "tag2",
        "endpoint": "endpoint", "feedbackURI": "file_uri", "feedbackHash": "file_hash",
    },
    "FeedbackRevoked": {
        "agentId": "agent_id", "clientAddress": "client_address", "feedbackIndex": "feedback_index",
    },
    "ResponseAppended": {
        "agentId": "agent_id", "clientAddress": "client_address", "feedbackIndex": "feedback_index",
        "responder": "responder", "responseURI": "response_uri", "responseHash": "response_hash",
    },
    "ValidationRequest": {
        "validatorAddress": "validator_address", "agentId": "agent_id", "requestURI": "request_uri",
        "requestHash": "request_hash",
    },
    "ValidationResponse": {
        "validatorAddress": "validator_address", "agentId": "agent_id", "requestHash": "request_hash",
        "response": "response", "responseURI": "response_uri", "responseHash": "response_hash", "tag": "tag",
    },
    "Upgraded": {},
    "Initialized": {},
    "OwnershipTransferred": {},
}  # fmt: skip
"""All 17 kinds: which column holds which argument."""

DECODED = (
    "agent_id", "owner", "token_uri", "metadata_key", "metadata_value", "client_address", "feedback_index",
    "value_raw", "value_decimals", "score", "tag1", "tag2", "tag", "endpoint", "file_uri", "file_hash", "responder",
    "response_uri", "response_hash", "validator_address", "request_uri", "request_hash", "response",
)  # fmt: skip


async def expected_events(chain: LocalChain) -> list[dict[str, Any]]:
    """The row of every log that the registries have emitted, in the chain's order."""
    registries = {
        chain.identity: ("identity", "IdentityRegistry"),
        chain.reputation: ("reputation", "ReputationRegistry"),
        chain.validation: ("validation", "ValidationRegistry"),
    }
    logs = await chain.rpc("eth_getLogs", {"address": list(registries), "fromBlock": "0x0"})
    rows = []
    for log in logs:
        registry, contract = registries[log["address"]]
        event = _declared(contract)[bytes.fromhex(log["topics"][0][2:])]
        rows.append(
            {
                "id": f"{registry}-{chain.chain_id}-{log['transactionHash']}-{int(log['logIndex'], 16)}",
                "chain_id": chain.chain_id,
                "block_number": int(log["blockNumber"], 16),
                "block_hash": log["blockHash"],
                "timestamp": int(log["blockTimestamp"], 16),
                "transaction_hash": log["transactionHash"],
                "transaction_index": int(log["transactionIndex"], 16),
                "log_index": int(log["logIndex"], 16),
                "contract_address": log["address"],
                "registry": registry,
                "event_type": event["name"],
                "topics": b"".join(bytes.fromhex(topic[2:]) for topic in log["topics"]),
                "data": bytes.fromhex(log["data"][2:]),
                "origin": "chain",
                **_decoded(event, log),
            }
        )
    return rows


def _declared(contract: str) -> dict[bytes, dict[str, Any]]:
    abi = msgspec.json.decode((ARTIFACTS / f"{contract}.json").read_bytes())["abi"]
    events = (entry for entry in abi if entry["type"] == "event")
    return {keccak(text=f"{event['name']}({','.join(_types(event))})"): event for event in events}


def _types(event: dict[str, Any]) -> list[str]:
    return [parameter["type"] for parameter in event["inputs"]]


def _decoded(event: dict[str, Any], log: dict[str, Any]) -> dict[str, Any]:
    raw = dict(_arguments(event, log))
    args: dict[str, Any] = {name: _shown(kind, value) for name, (kind, value) in raw.items()}
    if lossy := [name for name, (kind, value) in raw.items() if kind == "string" and not _is_clean(value)]:
        args["lossy"] = lossy
    row: dict[str, Any] = dict.fromkeys(DECODED)
    for name, column in COLUMNS[event["name"]].items():
        kind, value = raw[name]
        row[column] = value if kind.startswith(("uint", "int")) else args[name]
    if event["name"] == "MetadataSet":
        _, value = raw["metadataValue"]
        row["metadata_value"] = value.decode() if _is_clean(value) else "0x" + value.hex()
    if event["name"] == "NewFeedback":
        row["score"] = Decimal(row["value_raw"]).scaleb(-row["value_decimals"])
    return row | {"args": args}


def _arguments(event: dict[str, Any], log: dict[str, Any]) -> Iterator[tuple[str, tuple[str, Any]]]:
    """Name, type and value of each argument; texts as bytes, since they may be anything, and their hashes likewise."""
    indexed = [parameter for parameter in event["inputs"] if parameter["indexed"]]
    for parameter, topic in zip(indexed, log["topics"][1:], strict=True):
        kind = "bytes32" if parameter["type"] == "string" else parameter["type"]
        (value,) = decode([kind], bytes.fromhex(topic[2:]))
        yield parameter["name"], (kind, value)
    plain = [parameter for parameter in event["inputs"] if not parameter["indexed"]]
    types = ["bytes" if parameter["type"] == "string" else parameter["type"] for parameter in plain]
    for parameter, value in zip(plain, decode(types, bytes.fromhex(log["data"][2:])), strict=True):
        yield parameter["name"], (parameter["type"], value)


def _shown(kind: str, value: Any) -> object:
    if kind == "string":
        return value.decode(errors="replace").replace("\0", "�")
    if isinstance(value, bytes):
        return "0x" + value.hex()
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _is_clean(value: bytes) -> bool:
    """Whether PostgreSQL can hold these bytes as text."""
    try:
        return "\0" not in value.decode()
    except UnicodeDecodeError:
        return False
