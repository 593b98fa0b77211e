"""Every statement of the code runs on the oldest and the newest server, with the rights of the role that runs it."""

from collections.abc import Iterator

import psycopg2
import pytest
import sqlalchemy

from conversations_api import migrating
from tests.migrations.conftest import Server
from tests.persistence.statements import AGENCY, Statement, every_statement

Connections = dict[str, sqlalchemy.Connection]
SERVING = ("faro_app", "faro_worker")
# What no role that serves may do, an operator's command does as the owner.
OPERATORS = "persistence.redaction."


@pytest.fixture(scope="module", params=["15", "18"])
def connections(request: pytest.FixtureRequest) -> Iterator[Connections]:
    """Those of all three roles, on an empty migrated database."""
    server: Server = request.getfixturevalue("postgres_15" if request.param == "15" else "postgres")
    server.create_database("faro_every_statement")
    migrating.migrate(server.url("faro_owner", "faro_every_statement"))
    engines = {
        role: sqlalchemy.create_engine(server.url(role, "faro_every_statement")) for role in (*SERVING, "faro_owner")
    }
    yield {role: engine.connect() for role, engine in engines.items()}
    for engine in engines.values():
        engine.dispose()
    server.drop_database("faro_every_statement")


@pytest.mark.parametrize("statement", every_statement(), ids=str)
def test_a_statement_runs(connections: Connections, statement: Statement) -> None:
    """On no rows, so that a reference may lead nowhere; but nothing is wrong with its words, types and rights."""
    denied = []
    for role in ("faro_owner",) if statement.name.startswith(OPERATORS) else SERVING:
        connection = connections[role]
        try:
            connection.exec_driver_sql(f"set local app.agency_id = '{AGENCY}'")
            connection.execute(statement.clause, statement.values)
            return
        except sqlalchemy.exc.IntegrityError as error:
            if not isinstance(error.orig, psycopg2.errors.ForeignKeyViolation):
                raise
            return
        except sqlalchemy.exc.ProgrammingError as error:
            if not isinstance(error.orig, psycopg2.errors.InsufficientPrivilege):
                raise
            denied.append(role)
        finally:
            connection.rollback()
    pytest.fail(f"no role may run it: {denied}")
