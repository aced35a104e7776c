// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Upgradeable} from "./Upgradeable.sol";
import {IIdentity} from "./IIdentity.sol";

/// Signed decimal ratings of agents by clients, kept per (agent, client) under the indexes 1, 2, 3 …
contract ReputationRegistry is Upgradeable {
    struct Feedback {
        int128 value;
        uint8 valueDecimals;
        bool isRevoked;
        string tag1;
        string tag2;
    }

    /// What readAllFeedback answers, in one piece: seven lists of the same length are more than the stack holds.
    struct Rows {
        address[] clients;
        uint64[] indexes;
        int128[] values;
        uint8[] decimals;
        string[] tag1s;
        string[] tag2s;
        bool[] revoked;
    }

    event NewFeedback(
        uint256 indexed agentId,
        address indexed clientAddress,
        uint64 feedbackIndex,
        int128 value,
        uint8 valueDecimals,
        string indexed indexedTag1,
        string tag1,
        string tag2,
        string endpoint,
        string feedbackURI,
        bytes32 feedbackHash
    );
    event FeedbackRevoked(uint256 indexed agentId, address indexed clientAddress, uint64 indexed feedbackIndex);
    event ResponseAppended(
        uint256 indexed agentId,
        address indexed clientAddress,
        uint64 feedbackIndex,
        address indexed responder,
        string responseURI,
        bytes32 responseHash
    );

    uint8 private constant MOST_DECIMALS = 18;
    int128 private constant LARGEST_VALUE = 1e38;

    IIdentity private identity;
    mapping(uint256 agentId => address[] clients) private clientsOf;
    mapping(uint256 agentId => mapping(address client => uint64 index)) private lastIndex;
    mapping(uint256 agentId => mapping(address client => mapping(uint64 index => Feedback))) private feedbacks;
    mapping(uint256 agentId => mapping(address client => mapping(uint64 index => uint64))) private responses;
    mapping(
        uint256 agentId
            => mapping(address client => mapping(uint64 index => mapping(address responder => uint64)))
    ) private responsesBy;

    function initialize(address identityRegistry) external onlyOwner reinitializer(2) {
        identity = IIdentity(identityRegistry);
    }

    function getVersion() external pure returns (string memory) {
        return "2.0.0";
    }

    function getIdentityRegistry() external view returns (address) {
        return address(identity);
    }

    function giveFeedback(
        uint256 agentId,
        int128 value,
        uint8 valueDecimals,
        string memory tag1,
        string memory tag2,
        string memory endpoint,
        string memory feedbackURI,
        bytes32 feedbackHash
    ) external {
        require(valueDecimals <= MOST_DECIMALS, "too many decimals");
        require(value >= -LARGEST_VALUE && value <= LARGEST_VALUE, "value too large");
        require(!identity.isAuthorizedOrOwner(msg.sender, agentId), "Self-feedback not allowed");
        uint64 index = _store(agentId, Feedback(value, valueDecimals, false, tag1, tag2));
        emit NewFeedback(
            agentId, msg.sender, index, value, valueDecimals, tag1, tag1, tag2, endpoint, feedbackURI, feedbackHash
        );
    }

    function revokeFeedback(uint256 agentId, uint64 feedbackIndex) external {
        _requireIndex(agentId, msg.sender, feedbackIndex);
        Feedback storage entry = feedbacks[agentId][msg.sender][feedbackIndex];
        require(!entry.isRevoked, "Already revoked");
        entry.isRevoked = true;
        emit FeedbackRevoked(agentId, msg.sender, feedbackIndex);
    }

    function appendResponse(
        uint256 agentId,
        address clientAddress,
        uint64 feedbackIndex,
        string calldata responseURI,
        bytes32 responseHash
    ) external {
        _requireIndex(agentId, clientAddress, feedbackIndex);
        require(bytes(responseURI).length > 0, "Empty URI");
        responses[agentId][clientAddress][feedbackIndex]++;
        responsesBy[agentId][clientAddress][feedbackIndex][msg.sender]++;
        emit ResponseAppended(agentId, clientAddress, feedbackIndex, msg.sender, responseURI, responseHash);
    }

    function readFeedback(uint256 agentId, address clientAddress, uint64 feedbackIndex)
        external
        view
        returns (int128 value, uint8 valueDecimals, string memory tag1, string memory tag2, bool isRevoked)
    {
        _requireIndex(agentId, clientAddress, feedbackIndex);
        Feedback storage entry = feedbacks[agentId][clientAddress][feedbackIndex];
        return (entry.value, entry.valueDecimals, entry.tag1, entry.tag2, entry.isRevoked);
    }

    function readAllFeedback(
        uint256 agentId,
        address[] memory clientAddresses,
        string memory tag1,
        string memory tag2,
        bool includeRevoked
    )
        external
        view
        returns (
            address[] memory,
            uint64[] memory,
            int128[] memory,
            uint8[] memory,
            string[] memory,
            string[] memory,
            bool[] memory
        )
    {
        if (clientAddresses.length == 0) clientAddresses = clientsOf[agentId];
        Rows memory r = _select(agentId, clientAddresses, tag1, tag2, includeRevoked);
        return (r.clients, r.indexes, r.values, r.decimals, r.tag1s, r.tag2s, r.revoked);
    }

    /// The mean of what is left after the filters, in the commonest number of decimals; both divisions in one,
    /// truncated toward zero; a mean beyond int128 wraps.
    function getSummary(uint256 agentId, address[] memory clientAddresses, string memory tag1, string memory tag2)
        external
        view
        returns (uint64 count, int128 summaryValue, uint8 summaryValueDecimals)
    {
        require(clientAddresses.length > 0, "clientAddresses required");
        int256 sum;
        uint64[19] memory used;
        for (uint256 c = 0; c < clientAddresses.length; c++) {
            uint64 last = lastIndex[agentId][clientAddresses[c]];
            for (uint64 i = 1; i <= last; i++) {
                Feedback storage entry = feedbacks[agentId][clientAddresses[c]][i];
                if (entry.isRevoked || !_admits(tag1, entry.tag1) || !_admits(tag2, entry.tag2)) continue;
                sum += entry.value * int256(10 ** (MOST_DECIMALS - entry.valueDecimals));
                used[entry.valueDecimals]++;
                count++;
            }
        }
        if (count == 0) return (0, 0, 0);
        for (uint8 d = 1; d <= MOST_DECIMALS; d++) {
            if (used[d] > used[summaryValueDecimals]) summaryValueDecimals = d;
        }
        int256 unit = int256(10 ** (MOST_DECIMALS - summaryValueDecimals));
        summaryValue = int128(sum / (int256(uint256(count)) * unit));
    }

    function getResponseCount(
        uint256 agentId,
        address clientAddress,
        uint64 feedbackIndex,
        address[] calldata responders
    ) external view returns (uint64 count) {
        if (clientAddress != address(0)) return _responses(agentId, clientAddress, feedbackIndex, responders);
        address[] storage clients = clientsOf[agentId];
        for (uint256 c = 0; c < clients.length; c++) count += _responses(agentId, clients[c], 0, responders);
    }

    function getClients(uint256 agentId) external view returns (address[] memory) {
        return clientsOf[agentId];
    }

    function getLastIndex(uint256 agentId, address clientAddress) external view returns (uint64) {
        return lastIndex[agentId][clientAddress];
    }

    function _store(uint256 agentId, Feedback memory entry) private returns (uint64 index) {
        index = ++lastIndex[agentId][msg.sender];
        if (index == 1) clientsOf[agentId].push(msg.sender);
        feedbacks[agentId][msg.sender][index] = entry;
    }

    function _select(
        uint256 agentId,
        address[] memory clients,
        string memory tag1,
        string memory tag2,
        bool includeRevoked
    ) private view returns (Rows memory rows) {
        uint256 most = 0;
        for (uint256 c = 0; c < clients.length; c++) most += lastIndex[agentId][clients[c]];
        rows = _rows(most);
        uint256 found = 0;
        for (uint256 c = 0; c < clients.length; c++) {
            for (uint64 i = 1; i <= lastIndex[agentId][clients[c]]; i++) {
                Feedback storage entry = feedbacks[agentId][clients[c]][i];
                if (entry.isRevoked && !includeRevoked) continue;
                if (!_admits(tag1, entry.tag1) || !_admits(tag2, entry.tag2)) continue;
                _put(rows, found++, clients[c], i, entry);
            }
        }
        _shorten(rows, found);
    }

    function _rows(uint256 length) private pure returns (Rows memory) {
        return Rows(
            new address[](length),
            new uint64[](length),
            new int128[](length),
            new uint8[](length),
            new string[](length),
            new string[](length),
            new bool[](length)
        );
    }

    function _put(Rows memory rows, uint256 row, address client, uint64 index, Feedback memory entry) private pure {
        rows.clients[row] = client;
        rows.indexes[row] = index;
        rows.values[row] = entry.value;
        rows.decimals[row] = entry.valueDecimals;
        rows.tag1s[row] = entry.tag1;
        rows.tag2s[row] = entry.tag2;
        rows.revoked[row] = entry.isRevoked;
    }

    /// Cut all seven lists to `length`: each field of the struct points to a list, which begins with its length.
    function _shorten(Rows memory rows, uint256 length) private pure {
        assembly {
            for { let i := 0 } lt(i, 7) { i := add(i, 1) } { mstore(mload(add(rows, mul(i, 32))), length) }
        }
    }

    /// Answers to one feedback, or to all of this client when the index is 0.
    function _responses(uint256 agentId, address client, uint64 index, address[] calldata responders)
        private
        view
        returns (uint64 count)
    {
        uint64 first = index == 0 ? 1 : index;
        uint64 last = index == 0 ? lastIndex[agentId][client] : index;
        for (uint64 i = first; i <= last; i++) {
            if (responders.length == 0) count += responses[agentId][client][i];
            for (uint256 r = 0; r < responders.length; r++) count += responsesBy[agentId][client][i][responders[r]];
        }
    }

    function _requireIndex(uint256 agentId, address client, uint64 index) private view {
        require(index > 0, "index must be > 0");
        require(index <= lastIndex[agentId][client], "index out of bounds");
    }

    function _admits(string memory filter, string storage tag) private pure returns (bool) {
        return bytes(filter).length == 0 || keccak256(bytes(filter)) == keccak256(bytes(tag));
    }
}
