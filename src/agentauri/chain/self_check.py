"""Is this the chain, and are these the registries, that we think? Asked before the first block, daily, and after an
upgrade."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from agentauri.chain.errors import Lagging, ProviderFailed, RangeTooLarge, WrongChain
from agentauri.chain.rpc import Answer, Call, Provider, read_text
from agentauri.chain.types import Chain, Registry

GET_VERSION = "0x0d8e6e2c"
GET_IDENTITY_REGISTRY = "0xbc4d861b"
IMPLEMENTATION_SLOT = "0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc"
VERSION = "2.0.0"
PLACEHOLDERS = {"mainnet": "1.0.0", "testnet": "0.0.1", "local": ""}


class Contract(Struct, frozen=True, kw_only=True):
    """What stands at a registry's address. `identity` is the Identity registry that it names."""

    registry: Registry
    address: str
    exists: bool
    version: str | None
    implementation: str | None
    identity: str | None


class Finding(Struct, frozen=True):
    """Something that is not as it should be; `refuses` the chain, or only warns."""

    message: str
    refuses: bool


async def check_chain_id(provider: Provider, chain: Chain) -> None:
    """Raises: WrongChain; or RpcError when the provider does not say."""
    (answer,) = await provider.ask(Call("eth_chainId"))
    try:
        actual = int(answer.read(read_text), 16)
    except ValueError as error:
        raise ProviderFailed("a chain id that is no number") from error
    if actual != chain.id:
        raise WrongChain(
            f"{provider.name} serves chain {actual}, not {chain.id}; correct its URL in RPC_URLS_{chain.id}"
        )


async def inspect(provider: Provider, chain: Chain) -> list[Contract]:
    """Look at the three addresses, in one request."""
    calls = []
    for address in chain.registries:
        calls += [
            Call("eth_getCode", (address, "latest")),
            Call("eth_call", ({"to": address, "data": GET_VERSION}, "latest")),
            Call("eth_getStorageAt", (address, IMPLEMENTATION_SLOT, "latest")),
            Call("eth_call", ({"to": address, "data": GET_IDENTITY_REGISTRY}, "latest")),
        ]
    answers = await provider.ask(*calls)
    contracts = []
    for place, (address, registry) in enumerate(chain.registries.items()):
        code, version, slot, identity = answers[4 * place : 4 * place + 4]
        contracts.append(
            Contract(
                registry=registry,
                address=address,
                exists=len(code.read(read_text)) > 2,
                version=_text(_result(version)),
                implementation=_address(_result(slot)),
                identity=_address(_result(identity)) if registry != "identity" else None,
            )
        )
    return contracts


def judge(chain: Chain, contracts: Sequence[Contract]) -> list[Finding]:
    """What is wrong with what was found. A local chain only gets warnings: there, contracts come when they come."""
    findings = [finding for contract in contracts for finding in _judge_one(chain, contract)]
    return [Finding(one.message, one.refuses and not chain.local) for one in findings]


def _judge_one(chain: Chain, contract: Contract) -> list[Finding]:
    name = contract.registry.capitalize()
    variable = f"{contract.registry.upper()}_ADDRESS_{chain.id}"
    if not contract.exists:
        required = contract.registry == "identity"
        advice = f"set {variable} to where it is" if required or chain.local else "nothing of it will be indexed"
        return [Finding(f"there is no {name} registry at {contract.address}; {advice}", required)]
    findings = []
    if contract.identity not in (None, chain.identity):
        findings.append(
            Finding(
                f"the {name} registry at {contract.address} belongs to the Identity registry {contract.identity}, "
                f"not {chain.identity}; correct {variable} or IDENTITY_ADDRESS_{chain.id}",
                refuses=True,
            )
        )
    if contract.version == PLACEHOLDERS[chain.class_]:
        findings.append(
            Finding(
                f"the {name} registry at {contract.address} is still a placeholder (version {contract.version}); "
                "wait until it is deployed",
                refuses=True,
            )
        )
    elif contract.version != VERSION:
        findings.append(
            Finding(
                f"the {name} registry at {contract.address} has version {contract.version or 'unknown'}, "
                f"we know {VERSION}; logs that do not decode are kept raw",
                refuses=False,
            )
        )
    return findings


def _result(answer: Answer) -> bytes:
    """The bytes a call returned; none where it reverted.

    Raises:
        RpcError: the call was not made at all.
    """
    if isinstance(answer.error, ProviderFailed | Lagging | RangeTooLarge):
        return b""
    try:
        return bytes.fromhex(answer.read(read_text)[2:])
    except ValueError:
        return b""


def _address(word: bytes) -> str | None:
    return "0x" + word[-20:].hex() if len(word) == 32 and any(word) else None


def _text(data: bytes) -> str | None:
    """A returned string; whoever deployed this may return anything."""
    length = int.from_bytes(data[32:64])
    if len(data) < 64 or length > len(data) - 64:
        return None
    return data[64 : 64 + length].decode(errors="replace").replace("\0", "\ufffd")[:100]
