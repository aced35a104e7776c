"""Whether the contracts say the same: what to ask them about a sample of agents, and what is to come out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.crypto import keccak
from msgspec import Struct

from agentauri.agents.reader import AgentReader
from agentauri.database import Transaction
from agentauri.types import ChainId

CLIENTS = 3
"""Of each agent, for `getLastIndex`."""
SUMMARIZED = 100
"""Clients in a `getSummary`."""
NOBODY = "0x" + "00" * 20


class Claim(Struct, frozen=True):
    """What a registry must answer to a call. Texts are asked for as bytes: the contracts do not check them."""

    about: str
    registry: Literal["identity", "reputation"]
    data: bytes
    returns: tuple[str, ...]
    expected: tuple[Any, ...]

    def difference(self, answer: bytes | None) -> str | None:
        """What is different in the answer, None where nothing is; an answer of None is a refusal."""
        if answer is None:
            return f"{self.about}: here {_shown(self.expected)}, the contract refuses"
        try:
            found = tuple(_plain(value) for value in decode(self.returns, answer))
        except DecodingError:
            return f"{self.about}: the answer cannot be read"
        return None if found == self.expected else f"{self.about}: here {_shown(self.expected)}, there {_shown(found)}"


class Sampled(Struct, frozen=True):
    """Claims about the state at a block. `agents` is how many they are about; without a block nothing is indexed."""

    block: int | None
    agents: int
    claims: list[Claim]


async def sample(tx: Transaction, chain_id: ChainId, size: int) -> Sampled:
    """Claims about so many agents, picked at random. First thing in its transaction: all is read as of one moment."""
    await tx.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    block = await tx.fetchval(
        "SELECT last_block_number FROM checkpoints WHERE chain_id = $1 AND last_block_number >= 0", chain_id
    )
    agents = await tx.fetch(
        """SELECT agent_id, owner, agent_uri, agent_wallet FROM agents
           WHERE chain_id = $1 AND agent_id BETWEEN 0 AND $3 ORDER BY random() LIMIT $2""",
        chain_id,
        size,
        2**256 - 1,
    )
    claims = []
    for agent_id, owner, uri, wallet in agents:
        about = int(agent_id)
        claims += [
            _claim("identity", "ownerOf(uint256)", (about,), ("address",), owner),
            _claim("identity", "tokenURI(uint256)", (about,), ("bytes",), uri or ""),
            _claim("identity", "getAgentWallet(uint256)", (about,), ("address",), wallet or NOBODY),
        ]
        claims += await _of_feedback(tx, chain_id, about)
    return Sampled(block, len(agents), claims)


async def _of_feedback(tx: Transaction, chain_id: ChainId, agent_id: int) -> list[Claim]:
    rows = await tx.fetch(
        """SELECT client_address, max(feedback_index) FROM feedback WHERE chain_id = $1 AND agent_id = $2
             AND client_address ~ '^0x[0-9a-f]{40}$'
           GROUP BY 1 ORDER BY random() LIMIT $3""",
        chain_id,
        agent_id,
        SUMMARIZED,
    )
    if not rows:
        return []
    claims = [
        _claim("reputation", "getLastIndex(uint256,address)", (agent_id, client), ("uint64",), int(last))
        for client, last in rows[:CLIENTS]
    ]
    clients = [client for client, _ in rows]
    summary, _ = await AgentReader().reputation(tx, chain_id, agent_id, clients, "", "")
    expected = (summary.count, summary.value, summary.decimals)
    call = ("getSummary(uint256,address[],string,string)", (agent_id, clients, "", ""))
    return [*claims, _claim("reputation", *call, ("uint64", "int128", "uint8"), *expected)]


def _claim(
    registry: Literal["identity", "reputation"],
    signature: str,
    arguments: Sequence[Any],
    returns: tuple[str, ...],
    *expected: Any,
) -> Claim:
    name, _, types = signature.rstrip(")").partition("(")
    data = keccak(text=signature)[:4] + encode(types.split(","), arguments)
    clients = [f"{len(one)} clients" if isinstance(one, list) else str(one) for one in arguments if one != ""]
    return Claim(f"{name}({', '.join(clients)})", registry, data, returns, expected)


def _plain(value: Any) -> Any:
    """A text as it is stored."""
    return value.decode("utf-8", "replace").replace("\0", "\ufffd") if isinstance(value, bytes) else value


def _shown(values: tuple[Any, ...]) -> str:
    return ", ".join("unknown" if value is None else str(value)[:200] or "nothing" for value in values)
