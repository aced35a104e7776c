"""the schema: facts, triggers and their state, deliveries, accounts

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    for file in sorted(Path(__file__).with_suffix("").glob("*.sql")):
        # Statements are separated by a blank line; none contains one.
        for statement in file.read_text(encoding="utf-8").strip().split("\n\n"):
            connection.exec_driver_sql(statement)


def downgrade() -> None:
    raise RuntimeError("nothing precedes the first schema: drop the database instead")
