"""The door to the database: nothing else opens a connection, begins a transaction or binds an agency.

The binding is transaction-local (`SET LOCAL`), so a pooled connection carries nothing to its next user, through
PgBouncer's transaction pooling as well. A UUID cannot carry anything but a UUID into the text.

Connections commit by themselves, and a transaction is begun in words, so the binding takes no round trip of its own: a
read goes out in one string with it, which PostgreSQL runs as one transaction; a write begins with `BEGIN; SET LOCAL`.
Citus passes a binding on to its workers only where it stands alone or with BEGIN: there a read begins in the same way
(docs/decisions/0002-transaction-local-binding.md).
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, cast
from uuid import UUID

import psycopg2
import sqlalchemy
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INERROR
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.pool import QueuePool

from persistence.connection import PREPARED, TenantConnection, Transaction, UnboundConnection
from tenancy import checkins, checkouts, driver_errors

logger = logging.getLogger(__name__)

POOL_TIMEOUT_SECONDS = 1.0
CONNECT_TIMEOUT_SECONDS = 2
# A peer that acknowledges nothing for ten seconds is gone, and the kernel ends the connection; while we wait for an
# answer it is asked whether it is there. Of a server that is merely stopped the kernel acknowledges all.
TCP_TIMEOUTS: Mapping[str, Any] = {
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}


class DatabaseUnavailable(Exception):
    """The database cannot be reached or did not answer in time; nothing was changed."""


class Conflict(DatabaseUnavailable):
    """The server took the transaction back because it stood in another one's way; done again, it may well succeed."""


class OutcomeUnknown(Exception):
    """The connection was lost while the change was being committed; it may or may not stand."""


class Database:
    """A pool of connections in one role. Made once per process, never before a fork."""

    def __init__(self, url: str, *, pool_size: int, check_bindings: bool = False, autocommit: bool = True) -> None:
        """`check_bindings` asserts at every return to the pool that no agency is bound (for tests); without
        `autocommit` SQLAlchemy begins transactions (for migrations)."""
        self.pool_size = pool_size
        self.is_distributed = False
        self.prepares = True  # statements, in sessions of the server (see persistence.prepared)
        self.engine = sqlalchemy.create_engine(
            driver_url(url),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            # The latest returned connection is the warmest; idle ones age out at the server.
            pool_use_lifo=True,
            hide_parameters=True,
            # Transactions are begun and ended below, and nowhere else.
            isolation_level="AUTOCOMMIT" if autocommit else "READ COMMITTED",
            connect_args={"connect_timeout": CONNECT_TIMEOUT_SECONDS, **TCP_TIMEOUTS},
        )
        event.listen(self.engine, "connect", self._look)
        event.listen(self.engine, "checkout", checkouts.plan_anew)
        event.listen(self.engine, "checkin", checkins.drop_unless_idle)
        if check_bindings:
            event.listen(self.engine, "checkin", checkins.assert_unbound)

    @property
    def connections_in_use(self) -> int:
        """How many connections of the pool somebody holds at the moment."""
        return cast(QueuePool, self.engine.pool).checkedout()

    def close(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()

    def prepare_no_more(self) -> None:
        """What was prepared is not there: somebody between us and the server gives transactions to other sessions, and
        does not let it be seen."""
        self.prepares = False
        logger.warning("prepared_statements_off")
        # In the new connections nothing is asked for by its name.
        self.engine.dispose()

    def _look(
        self, driver_connection: "psycopg2.extensions.connection", record: sqlalchemy.pool.ConnectionPoolEntry
    ) -> None:
        with driver_connection.cursor() as cursor:
            cursor.execute("select exists (select 1 from pg_extension where extname = 'citus'), pg_backend_pid()")
            self.is_distributed, backend = cast("tuple[bool, int]", cursor.fetchone())
            # A pooler says of itself who answers, and hands the next transaction to another session of the server.
            is_session = backend == driver_connection.info.backend_pid
            if is_session and self.prepares and not self.is_distributed:
                record.info[PREPARED] = set()
                checkouts.mark_planned(record)
                # Left to itself, the server plans anew each time for whatever takes an array of ids.
                cursor.execute("set plan_cache_mode = force_generic_plan")
        if not driver_connection.autocommit:
            driver_connection.rollback()


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
    """Bind `agency_id`, hand over, commit; roll back on any exception.

    With `read_only` each statement is a transaction of its own, which sees what was committed before it: no more and no
    less than READ COMMITTED gives the statements of one transaction.

    Raises DatabaseUnavailable when nothing was changed (Conflict where it may be done again at once), OutcomeUnknown
    when the reply of the commit was lost.
    """
    binding = _binding(agency_id)
    with _connection(database) as connection:
        together = not database.is_distributed
        if read_only and together:
            with _reported(database, connection):
                preamble = f"SET TRANSACTION READ ONLY; {binding}; "
                yield TenantConnection(agency_id, Transaction(connection, preamble=preamble))
        else:
            begin = "BEGIN READ ONLY" if read_only else "BEGIN"
            transaction = Transaction(connection, opening=f"{begin}; {binding}", together=together)
            with _ended(database, connection, transaction, read_only=read_only):
                yield TenantConnection(agency_id, transaction)


@contextmanager
def unbound_transaction(database: Database, *, read_only: bool = False) -> Iterator[UnboundConnection]:
    """Without an agency: for number_routing, workers, the schema's own state, and the worker's outbox.

    Begins, commits and raises as `tenant_transaction` does.
    """
    with _connection(database) as connection:
        if read_only:
            with _reported(database, connection):
                yield UnboundConnection(Transaction(connection, preamble="SET TRANSACTION READ ONLY; "))
        else:
            transaction = Transaction(connection, opening="BEGIN", together=not database.is_distributed)
            with _ended(database, connection, transaction, read_only=False):
                yield UnboundConnection(transaction)


def bind(unbound: UnboundConnection, agency_id: UUID) -> TenantConnection:
    """Bind the open transaction to one agency, in place of the one it was bound to before."""
    unbound.transaction.run_text_later(_binding(agency_id))
    return TenantConnection(agency_id, unbound.transaction)


def _binding(agency_id: UUID) -> str:
    if not isinstance(agency_id, UUID):
        raise TypeError("an agency is named by a UUID")
    return f"SET LOCAL app.agency_id = '{agency_id}'"


@contextmanager
def session(url: str) -> Iterator["psycopg2.extensions.connection"]:
    """A direct connection outside the pool, for what lives as long as a session: advisory locks and LISTEN.

    It commits by itself, is never bound to an agency, and must not go through a transaction pooler.
    """
    dsn = driver_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        connection = psycopg2.connect(dsn, connect_timeout=CONNECT_TIMEOUT_SECONDS, **TCP_TIMEOUTS)
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
    database = Database(url, pool_size=1, autocommit=False)
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
def _ended(
    database: Database, connection: sqlalchemy.Connection, transaction: Transaction, *, read_only: bool
) -> Iterator[None]:
    """Commit at the end, or roll back."""
    try:
        with _reported(database, connection):
            yield
            if connection.invalidated:
                raise DatabaseUnavailable
            if transaction.has_begun and _status(connection) == TRANSACTION_STATUS_INERROR:
                raise RuntimeError("a statement failed and was passed over; PostgreSQL would commit nothing")
        _commit(database, connection, transaction, read_only=read_only)
    except BaseException:
        _roll_back(connection)
        raise


def _roll_back(connection: sqlalchemy.Connection) -> None:
    # One that broke is closed, and so rolled back by the server; one on which it fails breaks by it.
    if not connection.invalidated and _status(connection) != TRANSACTION_STATUS_IDLE:
        with suppress(sqlalchemy.exc.DBAPIError):
            connection.exec_driver_sql("ROLLBACK")


def _status(connection: sqlalchemy.Connection) -> int:
    """libpq's view of the transaction, which costs no round trip."""
    driver_connection = cast("psycopg2.extensions.connection", connection.connection.driver_connection)
    return driver_connection.get_transaction_status()


@contextmanager
def _reported(database: Database, connection: sqlalchemy.Connection) -> Iterator[None]:
    try:
        yield
    except sqlalchemy.exc.TimeoutError as error:  # one that died in the pool was to be replaced, and somebody was first
        raise DatabaseUnavailable from error
    except sqlalchemy.exc.DBAPIError as error:
        if not driver_errors.is_the_databases(error):
            raise
        raise _nothing_changed(database, connection, error) from error


def _nothing_changed(
    database: Database, connection: sqlalchemy.Connection, error: sqlalchemy.exc.DBAPIError
) -> DatabaseUnavailable:
    if driver_errors.is_outdated(error):
        connection.invalidate()  # a new one prepares anew
    elif driver_errors.is_not_prepared(error):
        database.prepare_no_more()
    elif not driver_errors.is_conflict(error):
        return DatabaseUnavailable()
    return Conflict()


def _commit(
    database: Database, connection: sqlalchemy.Connection, transaction: Transaction, *, read_only: bool
) -> None:
    try:
        transaction.commit()
    except sqlalchemy.exc.DBAPIError as error:
        if not driver_errors.is_the_databases(error):
            raise
        # A transaction that is over has committed, and what follows failed; or nobody knows. Else it is still there.
        unknown = error.connection_invalidated or (
            transaction.has_following and _status(connection) == TRANSACTION_STATUS_IDLE
        )
        unknown = unknown and not read_only
        raise (OutcomeUnknown() if unknown else _nothing_changed(database, connection, error)) from error
