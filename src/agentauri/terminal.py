"""What every command needs: the settings, the stores, the services, and a way to print or to fail.

All of it is imported when a command runs, so that `--help` is immediate.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from agentauri.app import Application, Stores
    from agentauri.config import Config

T = TypeVar("T")


def fail(message: str, code: int = 1) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(code)


def settings(only: tuple[str, ...] | None = None, *, code: int = 1) -> Config:
    from agentauri.config import ROLES, ConfigError, load

    try:
        return load(only=only or ROLES)
    except ConfigError as error:
        fail("These settings cannot be used:\n" + "\n".join(f"  {fault}" for fault in error.faults), code)


@contextlib.contextmanager
def stores(config: Config, *, join: bool = True, code: int = 1) -> Iterator[Stores]:
    """The stores of this installation; embedded ones are started, or joined where `serve` runs."""
    from agentauri.app import Stores
    from agentauri.config import RedisConfig, database_config
    from agentauri.embedded import Embedded, EmbeddedError
    from agentauri.types import Secret

    embedded = Embedded(
        config.data_dir,
        postgres=config.database is None,
        valkey=config.redis is None,
        join=join,
        postgres_bin=config.postgres_bin,
        valkey_bin=config.valkey_bin,
    )
    needed = config.database is None or config.redis is None
    try:
        with embedded if needed else contextlib.nullcontext():
            database = config.database
            if embedded.database_url:
                database = database_config(embedded.database_url, config.database_pool)
            redis = RedisConfig(url=Secret(embedded.redis_url)) if embedded.redis_url else config.redis
            assert database is not None
            assert redis is not None
            yield Stores(database=database, redis=redis, embedded=embedded if needed else None)
    except EmbeddedError as error:
        fail(error.message, code)


def run(work: Callable[[Any, Application], Awaitable[T]]) -> T:
    """Run `work` of `console` with the services of this installation; errors of ours become one line."""
    from agentauri import console
    from agentauri.app import assemble, schema_fault
    from agentauri.errors import AgentAuriError, Invalid

    config = settings()

    async def with_application(stores: Stores) -> T:
        async with assemble(config, stores) as application:
            if fault := await schema_fault(application.database):
                fail(fault)
            return await work(console, application)

    with stores(config) as found:
        try:
            return asyncio.run(with_application(found))
        except Invalid as error:
            fail("\n".join([error.message, *(f"  {refused.field}: {refused.message}" for refused in error.errors)]))
        except AgentAuriError as error:
            fail(error.message)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Columns as wide as their widest cell; tab-separated without padding when not on a terminal."""
    if not sys.stdout.isatty():
        for row in (head, *rows):
            click.echo("\t".join(row))
        return
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
