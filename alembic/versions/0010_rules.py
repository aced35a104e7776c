"""rules: timers of absences, what they know of their event, and whether they have told of it

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    # Statements are separated by a blank line; none contains one.
    text = (Path(__file__).with_suffix("") / "rules.sql").read_text(encoding="utf-8")
    for statement in text.strip().split("\n\n"):
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    raise RuntimeError("timers would be lost: restore a backup instead")
