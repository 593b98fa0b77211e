"""The inbox: agencies, conversations, messages, and what delivery needs."""

from alembic import op

from persistence.migrations import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql(op.get_bind(), "0001_inbox.up.sql")


def downgrade() -> None:
    run_sql(op.get_bind(), "0001_inbox.down.sql")
