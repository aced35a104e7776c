"""the state of every agent, kept beside the events that it follows from

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = (
    "agents", "agent_operators", "agent_metadata", "agent_words", "feedback", "feedback_responses", "validations",
    "validation_responses", "event_counters",
)  # fmt: skip
FUNCTIONS = (
    "recount_events", "agents_after", "reproject_events", "project_events", "refold_operators", "refold_agents",
    "fold_events", "metadata_bytes", "lock_agents", "text_words",
)  # fmt: skip


def upgrade() -> None:
    connection = op.get_bind()
    for file in sorted(Path(__file__).with_suffix("").glob("*.sql")):
        # Statements are separated by a blank line; none contains one.
        for statement in file.read_text(encoding="utf-8").strip().split("\n\n"):
            connection.exec_driver_sql(statement)


def downgrade() -> None:
    for table in TABLES:
        op.execute(f"DROP TABLE {table}")
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")
