"""The committed bytecode is what the committed sources compile to."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from eth_utils.abi import event_abi_to_log_topic

CONTRACTS = Path(__file__).parent
ROOT = CONTRACTS.parents[1]

# The events of registry version 2.0.0, as the standard writes their types.
EVENTS = {
    "IdentityRegistry": {
        "0xca52e62c367d81bb2e328eb795f7c7ba24afb478408a26c0e201d155c449bc4a": "Registered",
        "0x2c149ed548c6d2993cd73efe187df6eccabe4538091b33adbd25fafdb8a1468b": "MetadataSet",
        "0x3a2c7fffc2cba7582c690e3b82c453ea02a308326a98a3ad7576c606336409fb": "URIUpdated",
        "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef": "Transfer",
        "0x8c5be1e5ebec7d5bd14f71427d1e84f3dd0314c0f7b2291e5b200ac8c7c3b925": "Approval",
        "0x17307eab39ab6107e8899845ad3d59bd9653f200f220920489ca2b5937696c31": "ApprovalForAll",
        "0xf8e1a15aba9398e019f0b49df1a4fde98ee17ae345cb5f6b5e2c27f5033e8ce7": "MetadataUpdate",
        "0x6bd5c950a8d8df17f772f5af37cb3655737899cbf903264b9795592da439661c": "BatchMetadataUpdate",
        "0x0a6387c9ea3628b88a633bb4f3b151770f70085117a15f9bf3787cda53f13d31": "EIP712DomainChanged",
    },
    "ReputationRegistry": {
        "0x6a4a61743519c9d648a14e6493f47dbe3ff1aa29e7785c96c8326a205e58febc": "NewFeedback",
        "0x25156fd3288212246d8b008d5921fde376c71ed14ac2e072a506eb06fde6d09d": "FeedbackRevoked",
        "0xb1c6be0b5b8aef6539e2fac0fd131a2faa7b49edf8e505b5eb0ad487d56051d4": "ResponseAppended",
    },
    "ValidationRegistry": {
        "0x530436c3634a98e1e626b0898be2f1e9980cc1bd2a78c07a0aba52d0a48a5059": "ValidationRequest",
        "0xafddf629e874ccc3963b6a888c477bd464a6c8525024fc88759ea3b2326349ae": "ValidationResponse",
    },
}
ADMIN = {
    "0xbc7cd75a20ee27fd9adebab32041f755214dbc6bffa90cc0225b39da2e5c2d3b": "Upgraded",
    "0xc7f505b2f371ae2175ee4913f4499e1f2633a7b5936321eed1cdaeb6115181d2": "Initialized",
    "0x8be0079c531659141344cd1fd0a4f28419497f9722a3daafe3b4186f6b6457e0": "OwnershipTransferred",
}


def test_sources_and_artifacts_are_those_of_the_last_build_by_the_pinned_compiler() -> None:
    lines = [line.split("  ") for line in (CONTRACTS / "build.sha256").read_text().splitlines()]
    built = {file: digest for digest, file in lines}
    files = [CONTRACTS / "build.mjs", *CONTRACTS.glob("src/*.sol"), *CONTRACTS.glob("artifacts/*.json")]
    now = {str(file.relative_to(CONTRACTS)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    compiler = json.loads((ROOT / "package.json").read_text())["devDependencies"]["solc"]

    assert now == built, "make contracts"
    for path in CONTRACTS.glob("artifacts/*.json"):
        assert json.loads(path.read_text())["compiler"].startswith(f"{compiler}+")


@pytest.mark.soak
def test_the_committed_artifacts_are_compiled_from_the_committed_sources() -> None:
    checked = subprocess.run(
        [ROOT / "scripts" / "node", CONTRACTS / "build.mjs", "--check"], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stderr


def test_every_registry_declares_the_events_of_its_version_and_the_administrative_ones() -> None:
    for registry, events in EVENTS.items():
        abi = json.loads((CONTRACTS / "artifacts" / f"{registry}.json").read_text())["abi"]
        declared = {
            "0x" + event_abi_to_log_topic(entry).hex(): entry["name"] for entry in abi if entry["type"] == "event"
        }

        assert declared == events | ADMIN


def test_artifacts_carry_no_trace_of_the_machine_that_made_them() -> None:
    for path in (CONTRACTS / "artifacts").glob("*.json"):
        artifact = json.loads(path.read_text())

        assert set(artifact) == {"contractName", "compiler", "abi", "bytecode", "deployedBytecode"}
        assert "64736f6c63" not in artifact["bytecode"]  # "dsolc", the key of the compiler's own appendix
