"""What an error of the driver says of the database: that it cannot be had, or that the same may be done again."""

import sqlalchemy

from persistence.messages import ONE_MESSAGE_FOR_EACH_SID

# Deadlock, and serialization failure: the server has rolled back. Who waited for a lock in vain (55P03) is not among
# them: the lock is still held, and the time for waiting used up.
_CONFLICTS = frozenset({"40P01", "40001"})
_INVALID_SQL_STATEMENT_NAME = "26000"
_UNIQUE_VIOLATION = "23505"


def is_the_databases(error: sqlalchemy.exc.DBAPIError) -> bool:
    """Whether it is no fault of the statement."""
    is_its_own = isinstance(error, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError)
    return is_its_own or is_outdated(error) or is_overtaken(error)


def is_conflict(error: sqlalchemy.exc.DBAPIError) -> bool:
    """Whether the transaction stood in another one's way."""
    return _sqlstate(error) in _CONFLICTS or is_overtaken(error)


def is_overtaken(error: sqlalchemy.exc.DBAPIError) -> bool:
    """Whether a message has got the SID that this transaction had looked for in vain: the next one finds it there."""
    # The part of a table that a machine of a cluster holds has a number behind the name.
    name = getattr(getattr(error.orig, "diag", None), "constraint_name", None) or ""
    return _sqlstate(error) == _UNIQUE_VIOLATION and name.startswith(ONE_MESSAGE_FOR_EACH_SID)


def is_not_prepared(error: sqlalchemy.exc.DBAPIError) -> bool:
    """Whether the session does not know the name of a statement."""
    return _sqlstate(error) == _INVALID_SQL_STATEMENT_NAME


def is_outdated(error: sqlalchemy.exc.DBAPIError) -> bool:
    """Whether a migration has changed the type of what a prepared statement gives, for which there is no SQLSTATE."""
    where = getattr(getattr(error.orig, "diag", None), "source_function", None)
    return isinstance(error, sqlalchemy.exc.NotSupportedError) and where == "RevalidateCachedQuery"


def _sqlstate(error: sqlalchemy.exc.DBAPIError) -> str | None:
    return getattr(error.orig, "pgcode", None)
