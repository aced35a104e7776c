// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

/// An account with code, for what only contracts can do: it makes any call, runs prepared calls when it is given a
/// token (so in the middle of a mint), and as an ERC-1271 wallet agrees to one digest.
contract Puppet {
    struct Call {
        address target;
        bytes data;
    }

    Call[] private onMint;
    bytes32 private agreed;
    bool private refuses;

    function run(Call[] calldata calls) external {
        for (uint256 i = 0; i < calls.length; i++) _call(calls[i]);
    }

    /// Run these when the next token arrives, once.
    function prepare(Call[] calldata calls) external {
        delete onMint;
        for (uint256 i = 0; i < calls.length; i++) onMint.push(calls[i]);
    }

    function agree(bytes32 digest) external {
        agreed = digest;
    }

    function refuseTokens(bool yes) external {
        refuses = yes;
    }

    function onERC721Received(address, address, uint256, bytes calldata) external returns (bytes4) {
        Call[] memory calls = onMint;
        delete onMint;
        for (uint256 i = 0; i < calls.length; i++) _call(calls[i]);
        return refuses ? bytes4(0) : this.onERC721Received.selector;
    }

    function isValidSignature(bytes32 digest, bytes calldata) external view returns (bytes4) {
        return digest == agreed ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }

    function _call(Call memory call_) private {
        (bool ok, bytes memory answer) = call_.target.call(call_.data);
        if (!ok) {
            assembly {
                revert(add(answer, 32), mload(answer))
            }
        }
    }
}
