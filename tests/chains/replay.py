"""What must be stored of a chain, told by its node alone: block by block, decoded with eth_abi and the contracts' ABIs.

Slow and simple on purpose, and nothing in it comes from the code under test.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
from eth_abi.abi import decode
from eth_utils.crypto import keccak

from chains.logs import IDENTITY, REPUTATION, VALIDATION

Json = dict[str, Any]
ARTIFACTS = Path(__file__).parents[1] / "contracts" / "artifacts"
REGISTRIES = {IDENTITY: "identity", REPUTATION: "reputation", VALIDATION: "validation"}
AT_ONCE = 100  # blocks
# Where an argument is stored, if it has a column of its own.
COLUMNS = {
    "agentId": "agent_id", "tokenId": "agent_id", "_tokenId": "agent_id", "owner": "owner", "agentURI": "token_uri",
    "newURI": "token_uri", "metadataKey": "metadata_key", "metadataValue": "metadata_value",
    "clientAddress": "client_address", "feedbackIndex": "feedback_index", "value": "value_raw",
    "valueDecimals": "value_decimals", "tag1": "tag1", "tag2": "tag2", "endpoint": "endpoint",
    "feedbackURI": "file_uri", "feedbackHash": "file_hash", "responder": "responder", "responseURI": "response_uri",
    "responseHash": "response_hash", "validatorAddress": "validator_address", "requestURI": "request_uri",
    "requestHash": "request_hash", "response": "response", "tag": "tag",
}  # fmt: skip


class Block(NamedTuple):
    number: int
    hash: str
    time: int
    logs: list[Json]


class Replay(NamedTuple):
    """`events` are rows by column, `raw` the logs that are none with the reason; both in the chain's order."""

    blocks: list[Block]
    events: list[Json]
    raw: list[Json]


async def replay(url: str, chain_id: int) -> Replay:
    blocks = await _read(url)
    events, raw = [], []
    for block in blocks:
        for log in block.logs:
            row = _place(block, log, chain_id)
            decoded = _decode(log)
            if isinstance(decoded, str):
                raw.append({**row, "reason": decoded})
            else:
                events.append({**row, **decoded})
    return Replay(blocks, events, raw)


async def _read(url: str) -> list[Block]:
    async with aiohttp.ClientSession() as session:
        (head,) = await _ask(session, url, [("eth_blockNumber", [])])
        blocks = []
        for start in range(0, int(head, 16) + 1, AT_ONCE):
            numbers = [hex(number) for number in range(start, min(start + AT_ONCE, int(head, 16) + 1))]
            headers = await _ask(session, url, [("eth_getBlockByNumber", [number, False]) for number in numbers])
            wanted = [{"address": list(REGISTRIES), "fromBlock": number, "toBlock": number} for number in numbers]
            logs = await _ask(session, url, [("eth_getLogs", [one]) for one in wanted])
            blocks += [
                Block(int(header["number"], 16), header["hash"], int(header["timestamp"], 16), found)
                for header, found in zip(headers, logs, strict=True)
            ]
    return blocks


async def _ask(session: aiohttp.ClientSession, url: str, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
    body = [
        {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        for number, (method, params) in enumerate(calls)
    ]
    headers = {"content-type": "application/json"}
    async with session.post(url, data=msgspec.json.encode(body), headers=headers) as response:
        answers = msgspec.json.decode(await response.read())
    return [answer["result"] for answer in sorted(answers, key=lambda answer: answer["id"])]


def _place(block: Block, log: Json, chain_id: int) -> Json:
    return {
        "chain_id": chain_id,
        "block_number": block.number,
        "block_hash": block.hash,
        "timestamp": block.time,
        "transaction_hash": log["transactionHash"],
        "transaction_index": int(log["transactionIndex"], 16),
        "log_index": int(log["logIndex"], 16),
        "contract_address": log["address"],
        "topics": bytes.fromhex("".join(topic[2:] for topic in log["topics"])),
        "data": bytes.fromhex(log["data"][2:]),
    }


@cache
def _declarations() -> dict[tuple[str, str], Json]:
    found = {}
    for address, registry in REGISTRIES.items():
        abi = json.loads((ARTIFACTS / f"{registry.capitalize()}Registry.json").read_text())["abi"]
        for entry in abi:
            if entry["type"] == "event":
                types = ",".join(parameter["type"] for parameter in entry["inputs"])
                found[address, "0x" + keccak(text=f"{entry['name']}({types})").hex()] = entry
    return found


def _decode(log: Json) -> Json | str:
    """The columns that depend on the kind of the log, or why it is no event."""
    declaration = _declarations().get((log["address"], log["topics"][0]))
    if declaration is None:
        return "unknown_topic"
    inputs = declaration["inputs"]
    indexed = [one for one in inputs if one["indexed"]]
    plain = [one for one in inputs if not one["indexed"]]
    data = bytes.fromhex(log["data"][2:])
    if len(log["topics"]) != 1 + len(indexed):
        return "malformed"
    try:
        # Text may be any bytes; eth_abi would insist on UTF-8.
        values = decode([one["type"].replace("string", "bytes") for one in plain], data)
    except Exception:
        return "malformed"
    by_name = dict(zip([one["name"] for one in plain], values, strict=True))
    for one, topic in zip(indexed, log["topics"][1:], strict=True):
        word = bytes.fromhex(topic[2:])
        by_name[one["name"]] = word if one["type"] == "string" else decode([one["type"]], word)[0]
        text = one["name"].removeprefix("indexed")
        if one["type"] == "string" and keccak(by_name[text[0].lower() + text[1:]]) != word:
            return "malformed"
    return _row(REGISTRIES[log["address"]], declaration["name"], inputs, by_name)


def _row(registry: str, event_type: str, inputs: Sequence[Json], values: Json) -> Json:
    args: Json = {}
    columns: Json = dict.fromkeys(COLUMNS.values())
    lossy = []
    for one in inputs:
        name, value = one["name"], values[one["name"]]
        shown, exact = _shown(one, value)
        args[name] = shown
        if not exact:
            lossy.append(name)
        if name in COLUMNS:
            columns[COLUMNS[name]] = value if isinstance(value, int) and not isinstance(value, bool) else shown
    if lossy:
        args["lossy"] = lossy
    if event_type == "MetadataSet":
        text, exact = _text(values["metadataValue"])
        columns["metadata_value"] = text if exact else args["metadataValue"]
    score = None
    if event_type == "NewFeedback":
        sign, digits = int(values["value"] < 0), tuple(int(digit) for digit in str(abs(values["value"])))
        score = Decimal((sign, digits, -values["valueDecimals"]))
    return {"registry": registry, "event_type": event_type, "args": args, "score": score, **columns}


def _shown(parameter: Json, value: Any) -> tuple[Any, bool]:
    """An argument as it is shown, and whether that is all of it."""
    if parameter["type"] == "string" and not parameter["indexed"]:
        return _text(value)
    if isinstance(value, bytes):
        return "0x" + value.hex(), True
    return (value if isinstance(value, bool | str) else str(value)), True


def _text(value: bytes) -> tuple[str, bool]:
    text = value.decode(errors="replace").replace("\0", "�")
    return text, text.encode() == value
