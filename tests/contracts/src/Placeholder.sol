// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Upgradeable} from "./Upgradeable.sol";

/// The code that a registry's proxy is born with; the real code comes by an upgrade in a later transaction.
contract Placeholder is Upgradeable {
    function initialize(address firstOwner) external reinitializer(1) {
        _setOwner(firstOwner);
    }

    function getVersion() external pure returns (string memory) {
        return "0.0.1";
    }
}
