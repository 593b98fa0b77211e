"""The schema as a whole: brought up or down to a revision, and asked which one it is at."""

from functools import cache
from pathlib import Path

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from persistence.connection import UnboundConnection

MIGRATIONS = Path(__file__).parent / "migrations"
# A migration that waits for a lock makes every later request wait behind it: give up and be run again. Sooner than a
# request does, which waits for a lock for two seconds (persistence/roles.sql).
LOCK_TIMEOUT_MILLISECONDS = 1000

IS_MIGRATED = text("select to_regclass('alembic_version') is not null")
REVISION = text("select version_num from alembic_version")

SET_LOCK_TIMEOUT = f"set lock_timeout = {LOCK_TIMEOUT_MILLISECONDS}"


def migrate(connection: sqlalchemy.Connection, revision: str = "head") -> None:
    """Bring the schema up to `revision`, as the owner."""
    _prepare(connection)
    command.upgrade(_config(connection), revision)


def downgrade(connection: sqlalchemy.Connection, revision: str) -> None:
    """Take the schema back to `revision` (`base` for nothing at all), as the owner."""
    _prepare(connection)
    command.downgrade(_config(connection), revision)


@cache
def head() -> str | None:
    """The revision that this code is written for."""
    return ScriptDirectory(str(MIGRATIONS)).get_current_head()


def serves(revision: str | None) -> bool:
    """Whether this code works on a schema at `revision`: its own, or a later one; revisions are numbered in order.

    A later release keeps the schema working for the one before it (expand, then contract), so processes of the old
    release go on, and may restart, while the new one is rolled out.
    """
    newest = head()
    return revision is not None and newest is not None and revision >= newest


def current(connection: UnboundConnection) -> str | None:
    """The revision that the database is at, or None when it was never migrated."""
    if not connection.execute(IS_MIGRATED).scalar():
        return None
    revision: str | None = connection.execute(REVISION).scalar()
    return revision


def _prepare(connection: sqlalchemy.Connection) -> None:
    connection.exec_driver_sql(SET_LOCK_TIMEOUT)
    connection.commit()


def _config(connection: sqlalchemy.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config
