"""The SQL that the pages show runs on the schema as it is."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import pytest

from agentauri.database import Database

DOCS = Path(__file__).parents[2] / "docs"
ELSEWHERE = re.compile(r"CREATE ROLE|(CREATE|DROP) DATABASE|ALTER SYSTEM|pg_stat_statements|\\")
"""What concerns a whole server, an extension that need not be there, or psql itself."""


def statements() -> list[tuple[str, str]]:
    found = []
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        shown = re.findall(r'psql -c "([^"]+)"', text) + re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
        for block in shown:
            lines = [line for line in block.splitlines() if not line.lstrip().startswith("--")]
            found += [(path.name, part.strip()) for part in "\n".join(lines).split(";") if part.strip()]
    return [(name, sql) for name, sql in found if sql != "…" and not ELSEWHERE.search(sql)]


async def test_every_statement_of_the_pages_runs(database: Database) -> None:
    for page, sql in statements():
        async with database.transaction() as tx:
            try:
                await tx.run(sql)
            except asyncpg.PostgresError as error:
                pytest.fail(f"{page}: {sql}: {error}")
