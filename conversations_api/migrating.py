"""Bring a database to the schema that this release is written for, as its owner."""

from persistence import citus, schema
from tenancy import transaction


def migrate(url: str, revision: str = "head") -> None:
    """Migrate up to `revision`. Raises DatabaseUnavailable; a lock that is not had in time ends it unharmed."""
    with transaction.migration_connection(url) as connection:
        schema.migrate(connection, revision)


def downgrade(url: str, revision: str) -> None:
    """Take the schema back to `revision`; `base` removes everything. Raises DatabaseUnavailable."""
    with transaction.migration_connection(url) as connection:
        schema.downgrade(connection, revision)


def distribute(url: str) -> None:
    """Spread the agencies over the machines of a Citus cluster; what is spread already stays where it is.

    Raises CitusMissing and DatabaseUnavailable.
    """
    with transaction.migration_connection(url) as connection:
        citus.distribute(connection)
