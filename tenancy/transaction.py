"""The door to the database: nothing else opens a connection, begins a transaction or binds an agency.

The binding is transaction-local (`SET LOCAL`), so a pooled connection carries nothing to its next user, through
PgBouncer's transaction pooling as well. It is a statement of its own, because only then does Citus pass it on to
its workers; a UUID cannot carry anything but a UUID into the text.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from uuid import UUID

import psycopg2
import sqlalchemy
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.pool import QueuePool

from persistence.connection import TenantConnection, UnboundConnection

POOL_TIMEOUT_SECONDS = 1.0
CONNECT_TIMEOUT_SECONDS = 2
# A peer that acknowledges nothing for this long is gone; the kernel ends the connection.
TCP_USER_TIMEOUT_MILLISECONDS = 10_000


class DatabaseUnavailable(Exception):
    """The database cannot be reached or did not answer in time; nothing was changed."""


class OutcomeUnknown(Exception):
    """The connection was lost while the change was being committed; it may or may not stand."""


class Database:
    """A pool of connections in one role. Made once per process, never before a fork."""

    def __init__(self, url: str, *, pool_size: int, check_bindings: bool = False) -> None:
        """`check_bindings` asserts at every return to the pool that no agency is bound (for tests)."""
        self.pool_size = pool_size
        self.engine = sqlalchemy.create_engine(
            driver_url(url),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            # The latest returned connection is the warmest; idle ones age out at the server.
            pool_use_lifo=True,
            hide_parameters=True,
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT_SECONDS,
                "tcp_user_timeout": TCP_USER_TIMEOUT_MILLISECONDS,
                "keepalives_idle": 5,
            },
        )
        if check_bindings:
            event.listen(self.engine, "checkin", _assert_unbound)

    @property
    def connections_in_use(self) -> int:
        """How many connections of the pool somebody holds at the moment."""
        return cast(QueuePool, self.engine.pool).checkedout()

    def close(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()


def driver_url(url: str) -> sqlalchemy.URL:
    """The URL with psycopg2 named as its driver, whichever `postgresql` form it came in.

    Raises ValueError, without the URL in it, for anything that is not PostgreSQL.
    """
    try:
        parsed = make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):  # the latter quotes what it takes for a port
        raise ValueError("not a database URL") from None
    if parsed.drivername not in ("postgresql", "postgres", "postgresql+psycopg2"):
        raise ValueError("not a PostgreSQL URL")
    return parsed.set(drivername="postgresql+psycopg2")


@contextmanager
def tenant_transaction(database: Database, agency_id: UUID, *, read_only: bool = False) -> Iterator[TenantConnection]:
    """Begin, bind `agency_id`, hand over, commit; roll back on any exception.

    Raises DatabaseUnavailable when nothing was changed, OutcomeUnknown when the reply of the commit was lost.
    """
    with _transaction(database, read_only=read_only) as connection:
        yield bind(UnboundConnection(connection), agency_id)


@contextmanager
def unbound_transaction(database: Database, *, read_only: bool = False) -> Iterator[UnboundConnection]:
    """Begin without an agency: for number_routing, workers, the schema's own state, and the worker's outbox.

    Raises as `tenant_transaction` does.
    """
    with _transaction(database, read_only=read_only) as connection:
        yield UnboundConnection(connection)


def bind(unbound: UnboundConnection, agency_id: UUID) -> TenantConnection:
    """Bind the open transaction to one agency, in place of the one it was bound to before."""
    if not isinstance(agency_id, UUID):
        raise TypeError("an agency is named by a UUID")
    unbound.connection.exec_driver_sql(f"SET LOCAL app.agency_id = '{agency_id}'")
    return TenantConnection(agency_id, unbound.connection)


@contextmanager
def session(url: str) -> Iterator["psycopg2.extensions.connection"]:
    """A direct connection outside the pool, for what lives as long as a session: advisory locks and LISTEN.

    It commits by itself, is never bound to an agency, and must not go through a transaction pooler.
    """
    dsn = driver_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        connection = psycopg2.connect(
            dsn,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            tcp_user_timeout=TCP_USER_TIMEOUT_MILLISECONDS,
            keepalives_idle=5,
        )
    except psycopg2.OperationalError as error:
        raise DatabaseUnavailable from error
    try:
        connection.autocommit = True
        yield connection
    finally:
        connection.close()


@contextmanager
def migration_connection(url: str) -> Iterator[sqlalchemy.Connection]:
    """A connection with no transaction begun and no agency bound: migrations begin and commit one for each revision.

    Raises DatabaseUnavailable.
    """
    database = Database(url, pool_size=1)
    try:
        with _connection(database) as connection:
            yield connection
    finally:
        database.close()


@contextmanager
def _connection(database: Database) -> Iterator[sqlalchemy.Connection]:
    try:
        connection = database.engine.connect()
    except (sqlalchemy.exc.DBAPIError, sqlalchemy.exc.TimeoutError) as error:
        raise DatabaseUnavailable from error
    try:
        yield connection
    finally:
        # Rolls back whatever was not committed, and gives the connection back.
        connection.close()


@contextmanager
def _transaction(database: Database, *, read_only: bool) -> Iterator[sqlalchemy.Connection]:
    with _connection(database) as unconfigured:
        try:
            connection = unconfigured.execution_options(postgresql_readonly=read_only)
        except psycopg2.Error as error:  # the driver knows already that it is broken
            unconfigured.invalidate()
            raise DatabaseUnavailable from error
        transaction = connection.begin()
        try:
            yield connection
        except (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError) as error:
            raise DatabaseUnavailable from error
        _commit(transaction, read_only=read_only)


def _commit(transaction: sqlalchemy.Transaction, *, read_only: bool) -> None:
    try:
        transaction.commit()
    except (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError) as error:
        unknown = error.connection_invalidated and not read_only
        raise (OutcomeUnknown if unknown else DatabaseUnavailable) from error


def _assert_unbound(
    driver_connection: "psycopg2.extensions.connection | None", record: sqlalchemy.pool.ConnectionPoolEntry
) -> None:
    if driver_connection is None:  # it broke: nobody gets it again
        return
    try:
        with driver_connection.cursor() as cursor:
            cursor.execute("select current_setting('app.agency_id', true)")
            row = cursor.fetchone()
        driver_connection.rollback()
    except (psycopg2.OperationalError, psycopg2.InterfaceError):  # it has just broken
        record.invalidate()
        return
    if row is None or row[0]:
        raise AssertionError("a connection came back to the pool with an agency bound")
