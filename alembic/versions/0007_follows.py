"""follows: an agent, watched by a trigger for each registry; and when it was told that an endpoint keeps failing

Revision ID: 0007
Revises: 0005
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0007"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    # Statements are separated by a blank line; none contains one.
    text = (Path(__file__).with_suffix("") / "follows.sql").read_text(encoding="utf-8")
    for statement in text.strip().split("\n\n"):
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    raise RuntimeError("follows would be lost")
