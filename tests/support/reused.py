"""One database for many tests: emptied before each, which costs a fraction of a fresh copy."""

from __future__ import annotations

import os

import asyncpg

# Children first; what a test planted in the schema is called `planted`.
EMPTY = """
    DROP FUNCTION IF EXISTS planted CASCADE;
    ALTER TABLE deliveries DROP CONSTRAINT IF EXISTS planted;
    ALTER TABLE attempts DROP CONSTRAINT IF EXISTS planted;
    ALTER TABLE circuit_breaker_state DROP CONSTRAINT IF EXISTS planted;
    DELETE FROM attempts; DELETE FROM deliveries; DELETE FROM circuit_breaker_state;
    DELETE FROM triggers; DELETE FROM follows; DELETE FROM event_queue; DELETE FROM events;
"""
_made: set[str] = set()


async def reused_database(admin_url: str, template: str, purpose: str) -> str:
    """The URL of this run's database for `purpose`, empty but migrated."""
    name = f"reused_{purpose}_{os.getpid()}"
    url = admin_url.replace("/postgres?", f"/{name}?")
    if name not in _made:
        connection = await asyncpg.connect(admin_url)
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        _made.add(name)
    else:
        connection = await asyncpg.connect(url)
        await connection.execute(EMPTY)
    await connection.close()
    return url
