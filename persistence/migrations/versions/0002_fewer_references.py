"""What is written for each message does not lock its agency's row."""

from alembic import op

from persistence.migrations import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql(op.get_bind(), "0002_fewer_references.up.sql")


def downgrade() -> None:
    run_sql(op.get_bind(), "0002_fewer_references.down.sql")
