"""What is looked at when a connection comes back to the pool."""

import psycopg2
import sqlalchemy
from psycopg2.extensions import TRANSACTION_STATUS_IDLE


def drop_unless_idle(
    driver_connection: "psycopg2.extensions.connection | None", record: sqlalchemy.pool.ConnectionPoolEntry
) -> None:
    """However it came back: nobody gets a connection with a transaction open on it."""
    if driver_connection is not None and driver_connection.get_transaction_status() != TRANSACTION_STATUS_IDLE:
        record.invalidate()


def assert_unbound(
    driver_connection: "psycopg2.extensions.connection | None", record: sqlalchemy.pool.ConnectionPoolEntry
) -> None:
    """Raises AssertionError where an agency is still bound: for tests."""
    if driver_connection is None:  # it broke: nobody gets it again
        return
    try:
        with driver_connection.cursor() as cursor:
            cursor.execute("select current_setting('app.agency_id', true)")
            row = cursor.fetchone()
    except (psycopg2.OperationalError, psycopg2.InterfaceError):  # it has just broken
        record.invalidate()
        return
    if row is None or row[0]:
        raise AssertionError("a connection came back to the pool with an agency bound")
