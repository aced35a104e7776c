from __future__ import annotations

from collections import Counter

import pytest
from msgspec.structs import replace

from agentauri.chain import load_chains
from agentauri.config import ChainSettings, Config, ConfigError, RpcConfig
from agentauri.types import ChainId, Secret

BASE_SEPOLIA = ChainId(84532)


def with_chains(bare_config: Config, *chains: ChainSettings) -> Config:
    return replace(bare_config, chains=chains)


def settings(chain_id: int, **changes: object) -> ChainSettings:
    return replace(ChainSettings(chain_id=chain_id, rpc_urls=(Secret("http://node.test"),)), **changes)


def test_every_network_is_known_and_only_those_with_a_provider_are_enabled(bare_config: Config) -> None:
    chains = load_chains(with_chains(bare_config, settings(84532)))

    assert len(chains) == 56
    assert [chain.id for chain in chains.values() if chain.enabled] == [BASE_SEPOLIA]
    assert chains[BASE_SEPOLIA].name == "Base Sepolia"
    assert chains[BASE_SEPOLIA].start_block == 37174254
    assert chains[ChainId(8453)].identity == "0x8004a169fb4a3325136eb29fa0ceb6d2e539a432"
    assert chains[BASE_SEPOLIA].identity == "0x8004a818bfb912233c491871b3d84c89a494bd9e"


def test_every_network_has_what_an_indexer_needs(bare_config: Config) -> None:
    for chain in load_chains(bare_config).values():
        assert len(chain.registries) == 3
        assert all(len(address) == 42 and address == address.lower() for address in chain.registries)
        assert chain.block_time > 0
        assert chain.finality_depth >= 64 or chain.local
        assert chain.start_block is not None or chain.earliest > 0


def test_settings_override_the_packaged_facts(bare_config: Config) -> None:
    identity = "0x" + "ab" * 20

    chain = load_chains(
        with_chains(bare_config, settings(84532, start_block=0, finality_depth=7, identity=identity)),
    )[BASE_SEPOLIA]

    assert (chain.start_block, chain.finality, chain.finality_depth, chain.identity) == (0, "depth", 7, identity)
    assert chain.reputation == "0x8004b663056a597dffe9eccc1965a193b7388713"


def test_the_range_is_never_larger_than_the_setting_allows(bare_config: Config) -> None:
    chains = load_chains(replace(bare_config, rpc=RpcConfig(max_range=500)))

    assert chains[ChainId(143)].max_range == 500
    assert load_chains(bare_config)[ChainId(143)].max_range == 1_000


def test_the_environment_adds_a_network_that_says_where_its_registries_are(bare_config: Config) -> None:
    chains = load_chains(with_chains(bare_config, settings(424242, identity="0x" + "ab" * 20)))

    assert chains[ChainId(424242)].name == "Chain 424242"
    assert chains[ChainId(424242)].enabled


def test_an_unknown_network_without_addresses_is_refused_by_the_name_of_the_variable(bare_config: Config) -> None:
    with pytest.raises(ConfigError, match="IDENTITY_ADDRESS_424242"):
        load_chains(with_chains(bare_config, settings(424242)))


SCRIPT_ONLY = {295, 360, 10200, 11011, 48816}
PROPOSED = {998, 999, 50, 51, 747, 545, 287, 587, 1301, 2818, 2810, 82, 83}
STARTS = {
    1: 24339924, 56: 79031671, 137: 82458528, 143: 52952898, 8453: 41663799, 97: 77785485, 10143: 10392352,
    84532: 37174254, 11155111: 9980000, 31337: 0,
}  # fmt: skip


def test_the_packaged_networks_are_those_that_carry_the_registries(bare_config: Config) -> None:
    chains = load_chains(bare_config)

    by_class = Counter(chain.class_ for chain in chains.values())
    assert by_class == {"mainnet": 27, "testnet": 28, "local": 1}
    assert {chain.id for chain in chains.values() if not chain.confirmed} == SCRIPT_ONLY
    assert not PROPOSED & set(chains)
    assert not any(chain.enabled for chain in chains.values())
    assert len({chain.name for chain in chains.values()}) == len(chains)


def test_a_start_block_is_packaged_where_it_is_known_and_found_elsewhere(bare_config: Config) -> None:
    chains = load_chains(bare_config).values()

    assert {chain.id: chain.start_block for chain in chains if chain.start_block is not None} == STARTS
    assert {chain.earliest for chain in chains if chain.class_ == "mainnet"} == {1769212800}
    assert {chain.earliest for chain in chains if chain.class_ == "testnet"} == {1767571200}


def test_every_network_of_a_class_has_its_addresses(bare_config: Config) -> None:
    chains = load_chains(bare_config).values()

    for class_ in ("mainnet", "testnet"):
        assert len({tuple(chain.registries) for chain in chains if chain.class_ == class_}) == 1
    assert all(chain.finality == "tags" for chain in chains if not chain.local)
    assert all(chain.block_time <= 12 for chain in chains)
    assert max(chain.id for chain in chains) > 2**30  # ids are no small numbers
