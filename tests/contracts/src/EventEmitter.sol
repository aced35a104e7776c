// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

/// Emits any log at all. Put in a registry's place for a moment, it says what the real code never would:
/// declared but unused events, older layouts, malformed data, unknown topics.
contract EventEmitter {
    struct Log {
        bytes32[] topics;
        bytes data;
    }

    function emitLogs(Log[] calldata logs) external {
        for (uint256 i = 0; i < logs.length; i++) {
            bytes memory data = logs[i].data;
            bytes32[4] memory t;
            uint256 n = logs[i].topics.length;
            require(n <= 4, "a log has up to 4 topics");
            for (uint256 k = 0; k < n; k++) t[k] = logs[i].topics[k];
            assembly {
                let start := add(data, 32)
                let size := mload(data)
                switch n
                case 0 { log0(start, size) }
                case 1 { log1(start, size, mload(t)) }
                case 2 { log2(start, size, mload(t), mload(add(t, 32))) }
                case 3 { log3(start, size, mload(t), mload(add(t, 32)), mload(add(t, 64))) }
                default { log4(start, size, mload(t), mload(add(t, 32)), mload(add(t, 64)), mload(add(t, 96))) }
            }
        }
    }
}
