"""people: their login sessions, refresh tokens, identities, and how often a login failed

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    # Statements are separated by a blank line; none contains one.
    text = (Path(__file__).with_suffix("") / "accounts.sql").read_text(encoding="utf-8")
    for statement in text.strip().split("\n\n"):
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    raise RuntimeError("it would forget who anybody is: restore a backup instead")
