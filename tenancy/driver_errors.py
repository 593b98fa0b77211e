"""What an error of the driver says of the database: that it cannot be had, or that the same may be done again."""

import sqlalchemy

# Deadlock, and serialization failure: the server has rolled back. Who waited for a lock in vain (55P03) is not among
# them: the lock is still held, and the time for waiting used up.
_CONFLICTS = frozenset({"40P01", "40001"})
_INVALID_SQL_STATEMENT_NAME = "26000"


def is_the_databases(error: sqlalchemy.exc.DBAPIError) -> bool:
    """Whether it is no fault of the statement."""
    return isinstance(error, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError) or is_outdated(error)


def is_conflict(error: sqlalchemy.exc.DBAPIError) -> bool:
    """Whether the transaction stood in another one's way."""
    return _sqlstate(error) in _CONFLICTS


def is_not_prepared(error: sqlalchemy.exc.DBAPIError) -> bool:
    """Whether the session does not know the name of a statement."""
    return _sqlstate(error) == _INVALID_SQL_STATEMENT_NAME


def is_outdated(error: sqlalchemy.exc.DBAPIError) -> bool:
    """Whether a migration has changed the type of what a prepared statement gives, for which there is no SQLSTATE."""
    where = getattr(getattr(error.orig, "diag", None), "source_function", None)
    return isinstance(error, sqlalchemy.exc.NotSupportedError) and where == "RevalidateCachedQuery"


def _sqlstate(error: sqlalchemy.exc.DBAPIError) -> str | None:
    return getattr(error.orig, "pgcode", None)
