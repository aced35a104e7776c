"""Our own contracts as compiled from `tests/contracts`, and the encoding of calls to them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from eth_abi.abi import decode, encode
from eth_utils.abi import collapse_if_tuple, function_signature_to_4byte_selector
from msgspec import Struct

from agentauri.demo.anvil import CHECKOUT

#: In the wheel the artifacts lie beside this module; in a checkout where the build script writes them.
FOLDERS = (Path(__file__).parent / "contracts", CHECKOUT / "tests" / "contracts" / "artifacts")


class Function(Struct, frozen=True):
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def encode(self, *args: object) -> bytes:
        """Call data. A string argument may be given as bytes, since a contract takes those that are no UTF-8, too."""
        signature = f"{self.name}({','.join(self.inputs)})"
        types = [
            "bytes" if kind == "string" and isinstance(arg, bytes) else kind
            for kind, arg in zip(self.inputs, args, strict=True)
        ]
        return function_signature_to_4byte_selector(signature) + encode(types, args)

    def decode(self, answer: bytes) -> tuple[Any, ...]:
        return decode(self.outputs, answer)


class Artifact(Struct, frozen=True):
    """One compiled contract."""

    name: str
    bytecode: bytes
    deployed: bytes
    functions: tuple[Function, ...]
    constructor: tuple[str, ...]

    def function(self, name: str, args: Sequence[object]) -> Function:
        """The one of this name that takes as many arguments (no two of our overloads take equally many)."""
        for function in self.functions:
            if function.name == name and len(function.inputs) == len(args):
                return function
        raise LookupError(f"{self.name} has no {name} of {len(args)} arguments")

    def creation(self, *args: object) -> bytes:
        return self.bytecode + encode(self.constructor, args)


@functools.cache
def artifact(name: str) -> Artifact:
    for folder in FOLDERS:
        path = folder / f"{name}.json"
        if path.is_file():
            return _read(msgspec.json.decode(path.read_bytes()))
    raise FileNotFoundError(f"{name}.json is in none of {', '.join(map(str, FOLDERS))}")


def _read(raw: dict[str, Any]) -> Artifact:
    def types(parts: list[dict[str, Any]]) -> tuple[str, ...]:
        return tuple(collapse_if_tuple(part) for part in parts)

    abi: list[dict[str, Any]] = raw["abi"]
    return Artifact(
        name=raw["contractName"],
        bytecode=bytes.fromhex(raw["bytecode"][2:]),
        deployed=bytes.fromhex(raw["deployedBytecode"][2:]),
        functions=tuple(
            Function(entry["name"], types(entry["inputs"]), types(entry["outputs"]))
            for entry in abi
            if entry["type"] == "function"
        ),
        constructor=next((types(entry["inputs"]) for entry in abi if entry["type"] == "constructor"), ()),
    )
