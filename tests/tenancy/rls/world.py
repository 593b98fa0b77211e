"""Acting as a role under a binding, with everything undone afterwards: on real logins, or inside one transaction.

The real logins are for the schema as it is. The one transaction is for a schema that is damaged for the length of a
test: its superuser changes the schema, stores the rows, takes on each role in turn, and rolls it all back.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg2
import sqlalchemy
from psycopg2 import errors, sql
from sqlalchemy.pool import NullPool

from persistence.connection import Transaction, UnboundConnection
from tests.agencies import Urls
from tests.tenancy.rls import rows

ROLES = ("faro_app", "faro_worker", "faro_owner")

# What the setting is, seen from agency A; `unset` is a session that never heard of it.
BINDINGS: dict[str, str | None] = {
    "unset": None,
    "own": str(rows.A),
    "other": str(rows.B),
    "empty": "",
    "garbage": "not-a-uuid",
}


class Logins:
    """Each role logged in as itself."""

    def __init__(self, urls: Urls) -> None:
        self._urls = {"faro_app": urls.app, "faro_worker": urls.worker, "faro_owner": urls.owner, None: urls.superuser}
        self._connections: dict[tuple[str | None, bool], psycopg2.extensions.connection] = {}

    @contextmanager
    def acting(self, role: str | None, setting: str | None) -> Iterator["psycopg2.extensions.cursor"]:
        """A cursor of the role (None for the superuser) with `app.agency_id` set, or never set for None."""
        kept = (role, setting is None)
        if kept not in self._connections:
            self._connections[kept] = connect(self._urls[role])
        connection = self._connections[kept]
        try:
            with connection.cursor() as cursor:
                if setting is None:
                    cursor.execute("select current_setting('app.agency_id', true)")
                    assert cursor.fetchone() == (None,)
                else:
                    cursor.execute("set local app.agency_id = %s", (setting,))
                yield cursor
        finally:
            connection.rollback()

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()


class Rehearsal:
    """One superuser's transaction that is never committed, taking on each role in turn."""

    def __init__(self, connection: sqlalchemy.Connection) -> None:
        self._connection = connection
        self._cursor = connection.connection.cursor()

    def change(self, statements: str) -> None:
        """Change the schema for the rest of the rehearsal."""
        self._cursor.execute(statements)

    def store(self, kinds: tuple[str, ...] = rows.STORED) -> None:
        """Store the look-alike rows, past row-level security."""
        store(self._cursor, kinds)

    @contextmanager
    def acting(self, role: str | None, setting: str | None) -> Iterator["psycopg2.extensions.cursor"]:
        steps = ["savepoint before"]
        steps += [f"set local app.agency_id = '{setting}'"] if setting is not None else []
        steps += [f"set local role {role}"] if role else []
        self._cursor.execute(";".join(steps))
        try:
            yield self._cursor
        finally:
            self._cursor.execute("rollback to savepoint before")

    @contextmanager
    def unbound(self, role: str) -> Iterator[UnboundConnection]:
        """The same as persistence functions take it."""
        with self.acting(role, None):
            yield UnboundConnection(Transaction(self._connection))


World = Logins | Rehearsal


@contextmanager
def rehearsal(engine: sqlalchemy.Engine) -> Iterator[Rehearsal]:
    """A session of its own each time: in one that has bound an agency before, nothing is ever unset again."""
    with engine.connect() as connection:
        connection.begin()
        yield Rehearsal(connection)


def superuser_engine(urls: Urls) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(urls.superuser, poolclass=NullPool)


def connect(url: str) -> "psycopg2.extensions.connection":
    return psycopg2.connect(sqlalchemy.make_url(url).set(drivername="postgresql").render_as_string(False))


def store(cursor: "psycopg2.extensions.cursor", kinds: tuple[str, ...] = rows.STORED) -> None:
    """Store every agency's rows, in one go."""
    if kinds not in _STORING:
        statements = (cursor.mogrify(insertion(table, row), adapted(row)) for table, row in rows.stored_rows(kinds))
        _STORING[kinds] = b";".join(statements)
    cursor.execute(_STORING[kinds])


_STORING: dict[tuple[str, ...], bytes] = {}


def insertion(table: str, row: dict[str, Any]) -> sql.Composed:
    return sql.SQL("insert into {} ({}) values ({})").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(map(sql.Placeholder, row)),
    )


def adapted(values: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, UUID) else value for name, value in values.items()}


def outcome(cursor: "psycopg2.extensions.cursor", statement: sql.Composable | str, values: dict[str, Any]) -> object:
    """The rows that came back (a number where none do), or in a word why there were none.

    `denied`: no right to do that with the table. `refused`: the policy does not take the row. `malformed`: the binding
    is no UUID. `taken` and `held`: a unique index or a foreign key stood in the way, past the policy; `not possible`:
    something else did, past the rights.
    """
    try:
        cursor.execute(statement, adapted(values))
    except errors.InsufficientPrivilege as error:
        return "refused" if "row-level security" in str(error) else "denied"
    except errors.InvalidTextRepresentation:
        return "malformed"
    except errors.UniqueViolation:
        return "taken"
    except errors.ForeignKeyViolation:
        return "held"
    except errors.FeatureNotSupported:
        return "not possible"
    return cursor.rowcount if cursor.description is None else cursor.fetchall()
