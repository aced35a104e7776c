"""What a check is, and whom it looks at."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import urlsplit

import aiohttp
from msgspec import Struct

from agentauri.actions import Queue
from agentauri.chain import ChainService
from agentauri.config import Config, DatabaseConfig
from agentauri.database import Database, Transaction
from agentauri.doctor.types import Result
from agentauri.events import EventQueue
from agentauri.types import Secret


class Patient(Struct, frozen=True, kw_only=True):
    """An installation: its stores, and the services that know them. Looking changes nothing.

    `embedded`: its servers are ours, and `served_by` is the process that runs on them, where one does. `url` is where
    its HTTP side is, for the checks that look from outside; `headers` are those that every answer of it carries.
    """

    config: Config
    database_settings: DatabaseConfig
    redis_url: Secret
    embedded: bool
    database: Database
    queue: Queue
    event_queue: EventQueue
    chains: ChainService
    session: aiohttp.ClientSession
    headers: Mapping[str, str]
    url: str | None = None
    served_by: int | None = None

    @property
    def in_compose(self) -> bool:
        """Whether we look from within the network of the compose file: nowhere else is that a host's name."""
        return urlsplit(self.database_settings.url.reveal()).hostname == "postgres"

    def restart(self, service: str) -> str:
        """The command that starts a part of the product, or starts it again."""
        if not self.embedded:
            return f"docker compose restart {service}"
        return f"{self._end()}agentauri serve"

    def change(self, service: str, setting: str) -> str:
        """The command that changes a setting and has a part of the product take it up. A container has to be made
        anew for that: started again it keeps its old environment."""
        return f"echo '{setting}' >> .env && {self.take_up(service)}"

    def take_up(self, service: str) -> str:
        """The command that has a part of the product read `.env` again."""
        return f"{self._end()}agentauri serve" if self.embedded else f"docker compose up -d {service}"

    def _end(self) -> str:
        pid = self.served_by
        return "" if pid is None else f"kill {pid}; while kill -0 {pid} 2>/dev/null; do sleep 1; done; "


class Finding(Struct, frozen=True):
    """What a look came to. `part` tells the findings of one check apart."""

    result: Result
    text: str
    fix: str | None = None
    part: str | None = None


def ok(text: str, part: str | None = None) -> Finding:
    return Finding("ok", text, None, part)


def warn(text: str, fix: str, part: str | None = None) -> Finding:
    return Finding("warn", text, fix, part)


def fail(text: str, fix: str, part: str | None = None) -> Finding:
    return Finding("fail", text, fix, part)


Look = Callable[[Patient], Awaitable[Sequence[Finding]]]
Heal = Callable[[Patient], Awaitable[str | None]]


class Check(Struct, frozen=True, kw_only=True):
    """`needs` names the checks without whose being well this one can see nothing. `heal` does what is safe to do
    unasked, and says what it did."""

    name: str
    why: str
    look: Look
    needs: tuple[str, ...] = ()
    heal: Heal | None = None


def of_database(read: Callable[[Transaction], Awaitable[Finding]]) -> Look:
    """A look that is one read of the database."""

    async def look(patient: Patient) -> Sequence[Finding]:
        async with patient.database.transaction(durable=False) as tx:
            return [await read(tx)]

    return look


def ask(what: str, then: str) -> str:
    """A command line that asks whoever runs it for what only they know, and goes on with it as `$it`."""
    return f"printf '{what}: ' && read -r it && {then}"


def psql(statement: str) -> str:
    """A command line that runs this statement, whatever is in it."""
    return 'agentauri psql -c "' + re.sub(r'([\\"$`])', r"\\\1", statement) + '"'


def literal(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def plural(count: int, thing: str, things: str | None = None) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {things or thing + 's'}"
