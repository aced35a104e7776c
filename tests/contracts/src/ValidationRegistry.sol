// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Upgradeable} from "./Upgradeable.sol";
import {IIdentity} from "./IIdentity.sol";

/// Questions of agents to named validators, each under a hash of its own, and the validators' answers of 0 to 100.
contract ValidationRegistry is Upgradeable {
    struct Status {
        address validatorAddress;
        uint256 agentId;
        uint8 response;
        bool answered;
        bytes32 responseHash;
        string tag;
        uint256 lastUpdate;
    }

    event ValidationRequest(
        address indexed validatorAddress, uint256 indexed agentId, string requestURI, bytes32 indexed requestHash
    );
    event ValidationResponse(
        address indexed validatorAddress,
        uint256 indexed agentId,
        bytes32 indexed requestHash,
        uint8 response,
        string responseURI,
        bytes32 responseHash,
        string tag
    );

    IIdentity private identity;
    mapping(bytes32 requestHash => Status) private statuses;
    mapping(uint256 agentId => bytes32[] requestHashes) private byAgent;
    mapping(address validator => bytes32[] requestHashes) private byValidator;

    function initialize(address identityRegistry) external onlyOwner reinitializer(2) {
        identity = IIdentity(identityRegistry);
    }

    function getVersion() external pure returns (string memory) {
        return "2.0.0";
    }

    function getIdentityRegistry() external view returns (address) {
        return address(identity);
    }

    function validationRequest(
        address validatorAddress,
        uint256 agentId,
        string calldata requestURI,
        bytes32 requestHash
    ) external {
        require(validatorAddress != address(0), "bad validator");
        require(statuses[requestHash].validatorAddress == address(0), "exists");
        require(identity.isAuthorizedOrOwner(msg.sender, agentId), "Not authorized");
        statuses[requestHash] = Status(validatorAddress, agentId, 0, false, 0, "", block.timestamp);
        byAgent[agentId].push(requestHash);
        byValidator[validatorAddress].push(requestHash);
        emit ValidationRequest(validatorAddress, agentId, requestURI, requestHash);
    }

    function validationResponse(
        bytes32 requestHash,
        uint8 response,
        string calldata responseURI,
        bytes32 responseHash,
        string calldata tag
    ) external {
        Status storage status = statuses[requestHash];
        require(status.validatorAddress != address(0), "unknown");
        require(status.validatorAddress == msg.sender, "not validator");
        require(response <= 100, "resp>100");
        status.response = response;
        status.answered = true;
        status.responseHash = responseHash;
        status.tag = tag;
        status.lastUpdate = block.timestamp;
        emit ValidationResponse(msg.sender, status.agentId, requestHash, response, responseURI, responseHash, tag);
    }

    function getValidationStatus(bytes32 requestHash)
        external
        view
        returns (
            address validatorAddress,
            uint256 agentId,
            uint8 response,
            bytes32 responseHash,
            string memory tag,
            uint256 lastUpdate
        )
    {
        Status storage s = statuses[requestHash];
        require(s.validatorAddress != address(0), "unknown");
        return (s.validatorAddress, s.agentId, s.response, s.responseHash, s.tag, s.lastUpdate);
    }

    /// Answered requests only; naming a validator twice does not count its answers twice.
    function getSummary(uint256 agentId, address[] calldata validatorAddresses, string calldata tag)
        external
        view
        returns (uint64 count, uint8 avgResponse)
    {
        bytes32[] storage hashes = byAgent[agentId];
        uint256 sum = 0;
        for (uint256 i = 0; i < hashes.length; i++) {
            Status storage s = statuses[hashes[i]];
            if (!s.answered || !_names(validatorAddresses, s.validatorAddress)) continue;
            if (bytes(tag).length > 0 && keccak256(bytes(tag)) != keccak256(bytes(s.tag))) continue;
            sum += s.response;
            count++;
        }
        if (count > 0) avgResponse = uint8(sum / count);
    }

    function getAgentValidations(uint256 agentId) external view returns (bytes32[] memory) {
        return byAgent[agentId];
    }

    function getValidatorRequests(address validatorAddress) external view returns (bytes32[] memory) {
        return byValidator[validatorAddress];
    }

    function _names(address[] calldata list, address wanted) private pure returns (bool) {
        if (list.length == 0) return true;
        for (uint256 i = 0; i < list.length; i++) {
            if (list[i] == wanted) return true;
        }
        return false;
    }
}
