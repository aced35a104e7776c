// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {AgentToken} from "./AgentToken.sol";

interface IERC1271 {
    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4);
}

/// Agents: a token each, a URI, metadata, and a payment wallet that has agreed to be one.
contract IdentityRegistry is AgentToken {
    struct MetadataEntry {
        string metadataKey;
        bytes metadataValue;
    }

    event Registered(uint256 indexed agentId, string agentURI, address indexed owner);
    event MetadataSet(
        uint256 indexed agentId, string indexed indexedMetadataKey, string metadataKey, bytes metadataValue
    );
    event URIUpdated(uint256 indexed agentId, string newURI, address indexed updatedBy);
    /// ERC-4906 and ERC-5267 declare these; only the first is ever emitted.
    event MetadataUpdate(uint256 _tokenId);
    event BatchMetadataUpdate(uint256 _fromTokenId, uint256 _toTokenId);
    event EIP712DomainChanged();

    string private constant WALLET = "agentWallet";
    bytes32 private constant WALLET_HASH = keccak256("agentWallet");
    uint256 private constant LONGEST_DEADLINE = 300;
    bytes32 private constant DOMAIN_TYPE =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant WALLET_TYPE =
        keccak256("AgentWalletSet(uint256 agentId,address newWallet,address owner,uint256 deadline)");
    uint256 private constant HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    uint256 private nextId;
    mapping(uint256 agentId => mapping(string key => bytes value)) private metadata;
    mapping(uint256 agentId => string uri) private uris;

    function initialize() external onlyOwner reinitializer(2) {}

    function getVersion() external pure returns (string memory) {
        return "2.0.0";
    }

    function register() external returns (uint256 agentId) {
        agentId = _mintAgent();
        _announce(agentId, "");
    }

    function register(string memory agentURI) external returns (uint256 agentId) {
        agentId = _mintAgent();
        _setURI(agentId, agentURI);
        _announce(agentId, agentURI);
    }

    function register(string memory agentURI, MetadataEntry[] memory entries) external returns (uint256 agentId) {
        agentId = _mintAgent();
        _setURI(agentId, agentURI);
        _announce(agentId, agentURI);
        for (uint256 i = 0; i < entries.length; i++) {
            require(keccak256(bytes(entries[i].metadataKey)) != WALLET_HASH, "reserved key");
            _setMetadata(agentId, entries[i].metadataKey, entries[i].metadataValue);
        }
    }

    function setAgentURI(uint256 agentId, string calldata newURI) external {
        _requireAuthorized(agentId);
        _setURI(agentId, newURI);
        emit URIUpdated(agentId, newURI, msg.sender);
    }

    function setMetadata(uint256 agentId, string memory key, bytes memory value) external {
        _requireAuthorized(agentId);
        require(keccak256(bytes(key)) != WALLET_HASH, "reserved key");
        _setMetadata(agentId, key, value);
    }

    /// Two agree: the caller may act for the agent, and `newWallet` has signed.
    function setAgentWallet(uint256 agentId, address newWallet, uint256 deadline, bytes calldata signature) external {
        _requireAuthorized(agentId);
        require(newWallet != address(0), "bad wallet");
        require(block.timestamp <= deadline, "expired");
        require(deadline <= block.timestamp + LONGEST_DEADLINE, "deadline too far");
        bytes32 content = keccak256(abi.encode(WALLET_TYPE, agentId, newWallet, ownerOf(agentId), deadline));
        bytes32 digest = keccak256(abi.encodePacked("\x19\x01", _domainSeparator(), content));
        require(
            _signer(digest, signature) == newWallet || _contractAgrees(newWallet, digest, signature),
            "invalid wallet sig"
        );
        _setMetadata(agentId, WALLET, abi.encodePacked(newWallet));
    }

    function unsetAgentWallet(uint256 agentId) external {
        _requireAuthorized(agentId);
        _setMetadata(agentId, WALLET, "");
    }

    function getMetadata(uint256 agentId, string memory key) external view returns (bytes memory) {
        return metadata[agentId][key];
    }

    function getAgentWallet(uint256 agentId) external view returns (address) {
        return address(bytes20(metadata[agentId][WALLET]));
    }

    function tokenURI(uint256 agentId) external view returns (string memory) {
        ownerOf(agentId);
        return uris[agentId];
    }

    function isAuthorizedOrOwner(address spender, uint256 agentId) external view returns (bool) {
        return _mayAct(spender, agentId);
    }

    function eip712Domain()
        external
        view
        returns (bytes1, string memory, string memory, uint256, address, bytes32, uint256[] memory)
    {
        return (0x0f, "ERC8004IdentityRegistry", "1", block.chainid, address(this), 0, new uint256[](0));
    }

    /// The wallet is written before the mint and told after it, so a mint callback can undo what is told later.
    function _mintAgent() private returns (uint256 agentId) {
        agentId = nextId++;
        metadata[agentId][WALLET] = abi.encodePacked(msg.sender);
        _mint(msg.sender, agentId);
    }

    function _announce(uint256 agentId, string memory agentURI) private {
        emit Registered(agentId, agentURI, msg.sender);
        emit MetadataSet(agentId, WALLET, WALLET, abi.encodePacked(msg.sender));
    }

    function _setURI(uint256 agentId, string memory uri) private {
        uris[agentId] = uri;
        emit MetadataUpdate(agentId);
    }

    function _setMetadata(uint256 agentId, string memory key, bytes memory value) private {
        metadata[agentId][key] = value;
        emit MetadataSet(agentId, key, key, value);
    }

    function _requireAuthorized(uint256 agentId) private view {
        require(_mayAct(msg.sender, agentId), "Not authorized");
    }

    /// A wallet speaks for the owner it was set by, so it goes before the token does.
    function _beforeTransfer(uint256 agentId) internal override {
        _setMetadata(agentId, WALLET, "");
    }

    function _domainSeparator() private view returns (bytes32) {
        return keccak256(
            abi.encode(
                DOMAIN_TYPE, keccak256("ERC8004IdentityRegistry"), keccak256("1"), block.chainid, address(this)
            )
        );
    }

    /// The account that signed, or zero for anything but 65 bytes with v of 27 or 28 and a low s.
    function _signer(bytes32 digest, bytes calldata signature) private pure returns (address) {
        if (signature.length != 65) return address(0);
        bytes32 s = bytes32(signature[32:64]);
        uint8 v = uint8(signature[64]);
        if (uint256(s) > HALF_ORDER || (v != 27 && v != 28)) return address(0);
        return ecrecover(digest, v, bytes32(signature[:32]), s);
    }

    function _contractAgrees(address wallet, bytes32 digest, bytes calldata signature) private view returns (bool) {
        (bool ok, bytes memory answer) =
            wallet.staticcall(abi.encodeCall(IERC1271.isValidSignature, (digest, signature)));
        return ok && answer.length >= 32 && abi.decode(answer, (bytes32)) == bytes32(bytes4(0x1626ba7e));
    }
}
