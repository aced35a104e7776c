"""how many blocks above its event's a delivery waits for

A reorg moves an event to another block; what waits for its confirmations has to start counting there, whatever its
trigger asks for by then. Rows that exist wait for none.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE deliveries ADD release_depth int")


def downgrade() -> None:
    op.execute("ALTER TABLE deliveries DROP release_depth")
