"""What happens on a chain under test: transactions about a few agents, all of them different."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from chains import logs
from chains.logs import ScriptedLog, account
from chains.scripted import Transaction, transaction

AGENTS = 3


class Story:
    """Endless transactions, the same in every run: each about one of a few agents, or of no known kind."""

    def __init__(self, name: str = "") -> None:
        self._name = name
        self._numbers = count(1)
        self._logs = self._tell()

    def next(self) -> Transaction:
        return transaction(*next(self._logs), name=f"{self._name} {next(self._numbers)}")

    def several(self, how_many: int) -> list[Transaction]:
        return [self.next() for _ in range(how_many)]

    def _tell(self) -> Iterator[tuple[ScriptedLog, ...]]:
        for turn in count(1):
            agent, client, owner = turn % AGENTS, account(20 + turn % 5), account(40 + turn % 4)
            tag1, tag2 = ("starred", "uptime", "")[turn % 3], b"\xff\x00x" if turn % 4 == 0 else b"week"
            yield (
                logs.transfer(agent, to=owner),
                logs.metadata_update(agent),
                logs.registered(agent, f"https://agent.example/{self._name}{turn}.json", owner),
                logs.metadata_set(agent, value=bytes.fromhex(owner[2:])),
            )
            yield (logs.feedback(agent, turn * 7 - 40, turn % 19, index=turn, client=client, tag1=tag1, tag2=tag2),)
            yield (logs.uri_updated(agent, f"ipfs://{self._name}{turn}"), logs.approval(agent, owner=owner))
            yield (logs.responded(agent, turn, client), logs.revoked(agent, turn, client))
            yield (logs.unknown(turn), logs.approval_for_all(owner, approved=turn % 2 == 0))
            yield (logs.validation_requested(agent, turn), logs.validated(agent, turn, turn % 101))
            yield (logs.metadata_set(agent, f"key{turn % 2}", bytes([turn % 256]) * 3),)
            yield (logs.transfer(agent, owner, account(41)), logs.validated(agent, turn + 1, tag="hard"))
            yield (logs.feedback(agent)._replace(data="0x01"), logs.feedback(agent, turn, index=turn + 1))
