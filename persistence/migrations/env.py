"""What Alembic runs: always on a connection that is handed in, one transaction per revision.

`lock_timeout` keeps a migration from queueing every request behind a lock that it waits for.
"""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
