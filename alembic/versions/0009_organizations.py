"""organizations: how their keys are used, and what credit they have

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    # Statements are separated by a blank line; none contains one.
    text = (Path(__file__).with_suffix("") / "organizations.sql").read_text(encoding="utf-8")
    for statement in text.strip().split("\n\n"):
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    raise RuntimeError("the ledger would be lost: restore a backup instead")
