// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

/// What the other registries ask the Identity registry.
interface IIdentity {
    /// Whether `spender` is the agent's owner, one of its operators or its approved address; reverts for unknown ids.
    function isAuthorizedOrOwner(address spender, uint256 agentId) external view returns (bool);
}
