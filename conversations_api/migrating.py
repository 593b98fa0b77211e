"""Bring a database to the schema that this release is written for, as its owner."""

from tenancy.transaction import Database
from persistence import schema


def migrate(url: str, revision: str = "head") -> None:
    """Migrate up to `revision`. Raises DatabaseUnavailable; a lock that is not had in time ends it unharmed."""
    database = Database(url, pool_size=1)
    try:
        with database.engine.connect() as connection:
            schema.migrate(connection, revision)
    finally:
        database.close()


def downgrade(url: str, revision: str) -> None:
    """Take the schema back to `revision`; `base` removes everything."""
    database = Database(url, pool_size=1)
    try:
        with database.engine.connect() as connection:
            schema.downgrade(connection, revision)
    finally:
        database.close()
