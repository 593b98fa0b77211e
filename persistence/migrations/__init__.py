"""The history of the schema, up and down; each revision is SQL that can be pasted into psql.

Under FORCE ROW LEVEL SECURITY an owner's backfill silently changes 0 rows: a revision that rewrites data
binds each agency in turn with `for_each_agency`.
"""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import sqlalchemy

SQL_FOLDER = Path(__file__).parent / "sql"


def run_sql(connection: sqlalchemy.Connection, file_name: str) -> None:
    """Run one file of statements as it stands; past SQLAlchemy, which takes a percent sign for a parameter."""
    with connection.connection.cursor() as cursor:
        cursor.execute((SQL_FOLDER / file_name).read_text(encoding="utf-8"))


def for_each_agency(connection: sqlalchemy.Connection) -> Iterator[UUID]:
    """Bind each agency of the installation in turn, for as long as the caller works on its rows.

    The ids are read with FORCE lifted from `agencies` inside the revision's transaction: only the owner can
    do that, nobody else sees it before the commit, and by then FORCE stands again.
    """
    connection.exec_driver_sql("alter table agencies no force row level security")
    agency_ids = connection.exec_driver_sql("select agency_id from agencies order by agency_id").scalars().all()
    connection.exec_driver_sql("alter table agencies force row level security")
    for agency_id in agency_ids:
        connection.exec_driver_sql(f"set local app.agency_id = '{UUID(str(agency_id))}'")
        yield agency_id
    connection.exec_driver_sql("set local app.agency_id = ''")
