"""deliveries are due when they are made, unless somebody says otherwise

So COPY, which cannot call functions, gives them the database's time too. Rows that exist are not touched.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE deliveries ALTER due_at SET DEFAULT now(), ALTER created_at SET DEFAULT now()")


def downgrade() -> None:
    op.execute("ALTER TABLE deliveries ALTER due_at DROP DEFAULT, ALTER created_at DROP DEFAULT")
