"""Alembic's entry: on the connection that `agentauri.migrations` hands over, or on DATABASE_URL for a developer."""

from __future__ import annotations

import asyncio

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection

from agentauri.config import DatabaseConfig, effective
from agentauri.migrations import connect
from agentauri.types import Secret


def run(connection: Connection) -> None:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


async def run_for_developer() -> None:
    url = effective().get("DATABASE_URL")
    if url is None:
        raise CommandError("DATABASE_URL is not set: name the database, or use `agentauri migrate`")
    async with connect(DatabaseConfig(url=Secret(url))) as connection:
        await connection.run_sync(run)


if context.is_offline_mode():
    raise CommandError("the schema is made by running statements; --sql is not supported")
given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    asyncio.run(run_for_developer())
