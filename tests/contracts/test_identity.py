"""Identity registry: which logs a call makes, in which order, and what is refused."""

from __future__ import annotations

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from agentauri.demo import Account, Call, LocalChain, Receipt, Reverted, artifact

OWNER, OTHER, OPERATOR = (Account.number(n).address for n in (0, 11, 12))
NONEXISTENT = bytes.fromhex("7e273289")
TOPICS = {
    keccak(text=signature): signature.split("(")[0]
    for signature in (
        "Registered(uint256,string,address)",
        "MetadataSet(uint256,string,string,bytes)",
        "URIUpdated(uint256,string,address)",
        "Transfer(address,address,uint256)",
        "Approval(address,address,uint256)",
        "ApprovalForAll(address,address,bool)",
        "MetadataUpdate(uint256)",
        "NewFeedback(uint256,address,uint64,int128,uint8,string,string,string,string,string,bytes32)",
        "Upgraded(address)",
        "Initialized(uint64)",
        "OwnershipTransferred(address,address)",
    )
}
WALLET_TYPE = bytes.fromhex("678b53cd718d595370ab070ebf48edfdcd834beac116bf23e625fc7f4d5b7d32")


def names(receipt: Receipt) -> list[str]:
    return [TOPICS[log.topics[0]] for log in receipt.logs]


async def wallet_of(chain: LocalChain, agent_id: int) -> str:
    return str((await chain.read(chain.identity_call("getAgentWallet", agent_id)))[0])


async def now(chain: LocalChain) -> int:
    return int((await chain.rpc("eth_getBlockByNumber", "latest", False))["timestamp"], 16)


def digest(chain: LocalChain, agent_id: int, wallet: str, owner: str, deadline: int) -> bytes:
    """What a new wallet signs, built from the text of EIP-712 and not from the contract."""
    kind = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    domain = encode(
        ["bytes32", "bytes32", "bytes32", "uint256", "address"],
        [keccak(text=kind), keccak(text="ERC8004IdentityRegistry"), keccak(text="1"), chain.chain_id, chain.identity],
    )
    content = encode(
        ["bytes32", "uint256", "address", "address", "uint256"], [WALLET_TYPE, agent_id, wallet, owner, deadline]
    )
    return keccak(b"\x19\x01" + keccak(domain) + keccak(content))


async def test_ids_count_from_zero(chain: LocalChain) -> None:
    assert [(await chain.register()).agent_id for _ in range(3)] == [0, 1, 2]


async def test_each_way_to_register_makes_its_logs_in_the_order_of_the_original(chain: LocalChain) -> None:
    assert names((await chain.register()).receipt) == ["Transfer", "Registered", "MetadataSet"]
    with_uri = ["Transfer", "MetadataUpdate", "Registered", "MetadataSet"]
    assert names((await chain.register("https://a.example")).receipt) == with_uri
    assert names((await chain.register("")).receipt) == with_uri
    with_entries = await chain.register("https://a.example", {"a": b"1", "b": b""})
    assert names(with_entries.receipt) == [*with_uri, "MetadataSet", "MetadataSet"]


async def test_a_new_agents_wallet_is_its_owner_told_after_registered(chain: LocalChain) -> None:
    agent_id, receipt = await chain.register("https://a.example")

    told = receipt.logs[-1]
    assert told.topics == (told.topics[0], bytes(32), keccak(text="agentWallet"))
    assert bytes.fromhex(OWNER[2:]) in told.data
    assert await wallet_of(chain, agent_id) == OWNER


async def test_changes_of_uri_and_metadata_are_logged(chain: LocalChain) -> None:
    agent_id, _ = await chain.register()

    moved = await chain.send(chain.identity_call("setAgentURI", agent_id, "ipfs://new"))
    noted = await chain.send(chain.identity_call("setMetadata", agent_id, "agentwallet", b"look-alike"))
    nameless = await chain.send(chain.identity_call("setMetadata", agent_id, "", b"\xff"))

    assert names(moved) == ["MetadataUpdate", "URIUpdated"]
    assert names(noted) == names(nameless) == ["MetadataSet"]
    assert await chain.read(chain.identity_call("tokenURI", agent_id)) == ("ipfs://new",)
    assert await chain.read(chain.identity_call("getMetadata", agent_id, "")) == (b"\xff",)


async def test_the_key_of_the_wallet_is_reserved(chain: LocalChain) -> None:
    agent_id, _ = await chain.register()

    with pytest.raises(Reverted, match="reserved key"):
        await chain.send(chain.identity_call("setMetadata", agent_id, "agentWallet", bytes(20)))
    with pytest.raises(Reverted, match="reserved key"):
        await chain.register("", {"agentWallet": bytes(20)})


async def test_a_stranger_may_change_nothing(chain: LocalChain) -> None:
    agent_id, _ = await chain.register()

    for call in (
        chain.identity_call("setAgentURI", agent_id, "x", sender=OTHER),
        chain.identity_call("setMetadata", agent_id, "k", b"v", sender=OTHER),
        chain.identity_call("setAgentWallet", agent_id, OTHER, 0, b"", sender=OTHER),
        chain.identity_call("unsetAgentWallet", agent_id, sender=OTHER),
    ):
        with pytest.raises(Reverted, match="Not authorized"):
            await chain.send(call)
    with pytest.raises(Reverted):
        await chain.send(chain.identity_call("transferFrom", OWNER, OTHER, agent_id, sender=OTHER))


async def test_a_transfer_clears_the_wallet_before_it_is_logged_and_the_approval_without_a_log(
    chain: LocalChain,
) -> None:
    agent_id, _ = await chain.register()
    approved = await chain.send(chain.identity_call("approve", OPERATOR, agent_id))

    moved = await chain.send(chain.identity_call("transferFrom", OWNER, OTHER, agent_id, sender=OPERATOR))

    assert names(approved) == ["Approval"]
    assert names(moved) == ["MetadataSet", "Transfer"]
    assert await wallet_of(chain, agent_id) == "0x" + "00" * 20
    assert await chain.read(chain.identity_call("getApproved", agent_id)) == ("0x" + "00" * 20,)
    assert await chain.read(chain.identity_call("ownerOf", agent_id)) == (OTHER,)


async def test_a_transfer_to_oneself_clears_the_wallet_too(chain: LocalChain) -> None:
    agent_id, _ = await chain.register()

    moved = await chain.send(chain.identity_call("safeTransferFrom", OWNER, OWNER, agent_id))

    assert names(moved) == ["MetadataSet", "Transfer"]
    assert await wallet_of(chain, agent_id) == "0x" + "00" * 20
    assert await chain.read(chain.identity_call("balanceOf", OWNER)) == (1,)


async def test_an_operator_acts_for_all_agents_of_an_owner(chain: LocalChain) -> None:
    agent_id, _ = await chain.register()

    appointed = await chain.send(chain.identity_call("setApprovalForAll", OPERATOR, True))
    await chain.send(chain.identity_call("setAgentURI", agent_id, "x", sender=OPERATOR))
    await chain.send(chain.identity_call("setApprovalForAll", OPERATOR, False))

    assert names(appointed) == ["ApprovalForAll"]
    with pytest.raises(Reverted, match="Not authorized"):
        await chain.send(chain.identity_call("setAgentURI", agent_id, "y", sender=OPERATOR))


async def test_no_agent_can_be_burned(chain: LocalChain) -> None:
    agent_id, _ = await chain.register()

    with pytest.raises(Reverted):
        await chain.send(chain.identity_call("transferFrom", OWNER, "0x" + "00" * 20, agent_id))


async def test_reads_of_unknown_agents_revert_except_those_of_metadata(chain: LocalChain) -> None:
    for function in ("ownerOf", "tokenURI", "getApproved"):
        with pytest.raises(Reverted) as refused:
            await chain.read(chain.identity_call(function, 7))
        assert refused.value.data == NONEXISTENT + (7).to_bytes(32, "big")
    assert await chain.read(chain.identity_call("getMetadata", 7, "k")) == (b"",)
    assert await wallet_of(chain, 7) == "0x" + "00" * 20


async def test_a_wallet_is_set_when_the_owner_sends_and_the_wallet_has_signed(chain: LocalChain) -> None:
    agent_id, _ = await chain.register()
    wallet, deadline = Account.number(20), await now(chain) + 250
    signature = wallet.sign(digest(chain, agent_id, wallet.address, OWNER, deadline))
    call = chain.identity_call("setAgentWallet", agent_id, wallet.address, deadline, signature)

    receipt = await chain.send(call)

    assert names(receipt) == ["MetadataSet"]
    assert await wallet_of(chain, agent_id) == wallet.address
    assert names(await chain.send(chain.identity_call("unsetAgentWallet", agent_id))) == ["MetadataSet"]
    assert await wallet_of(chain, agent_id) == "0x" + "00" * 20
    assert names(await chain.send(call)) == ["MetadataSet"]  # there is no nonce: it works again until the deadline


async def test_a_wallet_without_valid_consent_is_refused(chain: LocalChain) -> None:
    agent_id, _ = await chain.register()
    wallet, deadline = Account.number(20), await now(chain) + 250
    signature = wallet.sign(digest(chain, agent_id, wallet.address, OWNER, deadline))

    async def refused(why: str, address: str, until: int, signed: bytes) -> None:
        with pytest.raises(Reverted, match=why):
            await chain.send(chain.identity_call("setAgentWallet", agent_id, address, until, signed))

    await refused("bad wallet", "0x" + "00" * 20, deadline, signature)
    await refused("expired", wallet.address, deadline - 1000, signature)
    await refused("deadline too far", wallet.address, deadline + 1000, signature)
    await refused("invalid wallet sig", OTHER, deadline, signature)
    await refused("invalid wallet sig", wallet.address, deadline - 1, signature)
    zero_based = signature[:64] + bytes([signature[64] - 27])
    await refused("invalid wallet sig", wallet.address, deadline, zero_based)
    high_s = int.from_bytes(signature[32:64], "big")
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    mirrored = signature[:32] + (order - high_s).to_bytes(32, "big") + bytes([55 - signature[64]])
    await refused("invalid wallet sig", wallet.address, deadline, mirrored)


async def test_a_contract_wallet_consents_by_erc_1271(chain: LocalChain) -> None:
    agent_id, _ = await chain.register()
    wallet, deadline = await chain.deploy("Puppet"), await now(chain) + 250
    call = chain.identity_call("setAgentWallet", agent_id, wallet, deadline, b"anything")

    with pytest.raises(Reverted, match="invalid wallet sig"):
        await chain.send(call)
    agreed = digest(chain, agent_id, wallet, OWNER, deadline)
    await chain.send(Call(wallet, artifact("Puppet"), "agree", (agreed,), OWNER))
    await chain.send(call)

    assert await wallet_of(chain, agent_id) == wallet


async def test_a_mint_callback_acts_between_transfer_and_registered(chain: LocalChain) -> None:
    """The orders that an indexer has to cope with: an agent rated, its wallet cleared and another agent made, all
    before the agent is announced with the wallet that it no longer has."""
    puppet = await chain.deploy("Puppet")
    rated = chain.reputation_call("giveFeedback", 0, 5, 0, "", "", "", "", bytes(32))
    unset = chain.identity_call("unsetAgentWallet", 0)
    mint = chain.identity_call("register")

    def told(function: str, *calls: Call) -> Call:
        prepared = [(call.address, call.data) for call in calls]
        return Call(puppet, artifact("Puppet"), function, (prepared,), OWNER)

    await chain.send(told("prepare", unset, mint))
    receipt = await chain.send(told("run", mint))

    assert names(receipt) == [
        "Transfer",
        "MetadataSet",
        *("Transfer", "Registered", "MetadataSet"),  # the other agent, whole
        *("Registered", "MetadataSet"),
    ]
    assert await wallet_of(chain, 0) == "0x" + "00" * 20
    assert await wallet_of(chain, 1) == puppet
    with pytest.raises(Reverted, match="Self-feedback not allowed"):
        await chain.send(told("run", rated))


async def test_a_contract_that_takes_no_tokens_gets_none(chain: LocalChain) -> None:
    puppet = await chain.deploy("Puppet")
    await chain.send(Call(puppet, artifact("Puppet"), "refuseTokens", (True,), OWNER))
    mint = chain.identity_call("register")

    with pytest.raises(Reverted):
        await chain.send(Call(puppet, artifact("Puppet"), "run", ([(mint.address, mint.data)],), OWNER))
    with pytest.raises(Reverted):
        await chain.register(owner=chain.reputation)


async def test_birth_and_upgrade_of_a_registry_are_logged_in_the_original_order(chain: LocalChain) -> None:
    proxy = await chain.deploy_registry("ReputationRegistry", chain.identity)

    logs = await chain.rpc("eth_getLogs", {"address": proxy, "fromBlock": "0x0"})

    told = [(TOPICS[bytes.fromhex(log["topics"][0][2:])], log["data"][-1:]) for log in logs]
    assert [name for name, _ in told] == ["Upgraded", "OwnershipTransferred", "Initialized", "Upgraded", "Initialized"]
    assert [data for name, data in told if name == "Initialized"] == ["1", "2"]


async def test_only_the_owner_upgrades_and_nobody_initializes_twice(chain: LocalChain) -> None:
    placeholder = await chain.deploy("Placeholder")

    with pytest.raises(Reverted):
        await chain.send(chain.identity_call("upgradeToAndCall", placeholder, b"", sender=OTHER))
    with pytest.raises(Reverted):
        await chain.send(chain.identity_call("initialize"))
    handed = await chain.send(chain.identity_call("transferOwnership", OTHER))
    await chain.send(chain.identity_call("upgradeToAndCall", placeholder, b"", sender=OTHER))

    assert names(handed) == ["OwnershipTransferred"]
    assert await chain.read(chain.identity_call("getVersion")) == ("0.0.1",)


async def test_versions_domain_and_interfaces_are_those_of_the_original(chain: LocalChain) -> None:
    for call in (chain.identity_call, chain.reputation_call, chain.validation_call):
        assert await chain.read(call("getVersion")) == ("2.0.0",)
    for call in (chain.reputation_call, chain.validation_call):
        assert await chain.read(call("getIdentityRegistry")) == (chain.identity,)
    domain = await chain.read(chain.identity_call("eip712Domain"))
    assert domain == (b"\x0f", "ERC8004IdentityRegistry", "1", chain.chain_id, chain.identity, bytes(32), ())
    for interface in ("80ac58cd", "5b5e139f", "49064906"):
        assert await chain.read(chain.identity_call("supportsInterface", bytes.fromhex(interface))) == (True,)
