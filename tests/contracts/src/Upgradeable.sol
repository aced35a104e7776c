// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

/// What stands behind a Proxy: an owner, a version of its set-up, and the right to replace the code.
/// The three administrative events of every registry come from here and from Proxy.
abstract contract Upgradeable {
    event Upgraded(address indexed implementation);
    event Initialized(uint64 version);
    event OwnershipTransferred(address indexed previousOwner, address indexed newOwner);

    error InvalidInitialization();
    error OwnableUnauthorizedAccount(address account);
    error OwnableInvalidOwner(address owner);

    /// ERC-1967: keccak256("eip1967.proxy.implementation") - 1.
    bytes32 private constant IMPLEMENTATION_SLOT = 0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc;

    address public owner;
    uint64 private initialized;

    /// Code that is only ever delegated to is sealed at its own address.
    constructor() {
        initialized = type(uint64).max;
        emit Initialized(type(uint64).max);
    }

    modifier onlyOwner() {
        if (msg.sender != owner) revert OwnableUnauthorizedAccount(msg.sender);
        _;
    }

    modifier reinitializer(uint64 version) {
        if (initialized >= version) revert InvalidInitialization();
        initialized = version;
        _;
        emit Initialized(version);
    }

    function transferOwnership(address newOwner) external onlyOwner {
        if (newOwner == address(0)) revert OwnableInvalidOwner(newOwner);
        _setOwner(newOwner);
    }

    /// Replace the code behind the proxy, then run `data` on the new one.
    function upgradeToAndCall(address implementation, bytes calldata data) external payable onlyOwner {
        assembly {
            sstore(IMPLEMENTATION_SLOT, implementation)
        }
        emit Upgraded(implementation);
        if (data.length > 0) {
            (bool ok, bytes memory answer) = implementation.delegatecall(data);
            if (!ok) {
                assembly {
                    revert(add(answer, 32), mload(answer))
                }
            }
        }
    }

    function _setOwner(address newOwner) internal {
        emit OwnershipTransferred(owner, newOwner);
        owner = newOwner;
    }
}
