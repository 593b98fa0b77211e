"""What is done when a connection is taken from the pool."""

import time

import psycopg2
import sqlalchemy

# The outbox grows from nothing to a hundred thousand rows sooner than autovacuum looks at it, which would be the next
# time that what has been planned for a handful is planned again.
PLANS_SECONDS = 10.0
_PLANNED_AT = "faro_planned_at"


def mark_planned(record: sqlalchemy.pool.ConnectionPoolEntry) -> None:
    """The connection keeps plans from now on."""
    record.info[_PLANNED_AT] = time.monotonic()


def plan_anew(
    driver_connection: "psycopg2.extensions.connection",
    record: sqlalchemy.pool.ConnectionPoolEntry,
    _proxy: sqlalchemy.PoolProxiedConnection,
) -> None:
    """Let the server forget what it planned more than ten seconds ago, for tables that may have had another size.

    What is prepared stays. One that died in the pool is replaced, as by any other first statement on it.
    """
    planned_at = record.info.get(_PLANNED_AT)
    if planned_at is None or time.monotonic() - planned_at < PLANS_SECONDS:
        return
    try:
        with driver_connection.cursor() as cursor:
            cursor.execute("discard plans")
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        raise sqlalchemy.exc.DisconnectionError from error
    mark_planned(record)
