"""The history of the schema, up and down; each revision is SQL that can be pasted into psql.

Under FORCE ROW LEVEL SECURITY an owner's backfill silently changes 0 rows: a revision that rewrites data
binds each agency in turn with `for_each_agency`.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

import sqlalchemy

SQL_FOLDER = Path(__file__).parent / "sql"


def run_sql(connection: sqlalchemy.Connection, file_name: str) -> None:
    """Run one file of statements as it stands; past SQLAlchemy, which takes a percent sign for a parameter."""
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute((SQL_FOLDER / file_name).read_text(encoding="utf-8"))


def for_each_agency(connection: sqlalchemy.Connection) -> Iterator[UUID]:
    """Bind each agency of the installation in turn, for as long as the caller works on its rows."""
    for agency_id in _agency_ids(connection):
        connection.exec_driver_sql(f"set local app.agency_id = '{agency_id}'")
        yield agency_id
    connection.exec_driver_sql("set local app.agency_id = ''")


def _agency_ids(connection: sqlalchemy.Connection) -> list[UUID]:
    """Every agency's id, read with FORCE lifted from `agencies`, which only its owner can do.

    Rolling back to the savepoint puts FORCE back and lets go of the lock, which would otherwise stop every
    request until the revision ends; nobody else ever sees the table without it.
    """
    savepoint = connection.begin_nested()
    try:
        connection.exec_driver_sql("alter table agencies no force row level security")
        return list(connection.exec_driver_sql("select agency_id from agencies order by agency_id").scalars())
    finally:
        savepoint.rollback()
