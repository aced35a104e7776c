"""the queue follows the chain: what one statement changes is queued in the order of its blocks, taken back first

Conditions that remember are folded in the order of the queue. Rows that came back together used to be queued in the
order in which they had been seen first, which is another one once transactions have changed places.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql((Path(__file__).with_suffix("") / "queue.sql").read_text(encoding="utf-8"))


def downgrade() -> None:
    raise RuntimeError("an order is no loss: stay")
