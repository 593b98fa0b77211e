"""Databases with three agencies in them, made once for all tests of row-level security."""

from collections.abc import Iterator

import pytest
import sqlalchemy

from conversations_api.embedded_postgres import EmbeddedPostgres
from tests.agencies import Urls
from tests.tenancy.rls.world import Logins, connect, store, superuser_engine


def database_urls(postgres: EmbeddedPostgres, name: str) -> Urls:
    return Urls(
        app=postgres.url("faro_app", name),
        worker=postgres.url("faro_worker", name),
        owner=postgres.url("faro_owner", name),
        superuser=postgres.url("postgres", name),
    )


@pytest.fixture(scope="package")
def agencies_urls(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[Urls]:
    """A migrated database with the look-alike rows of three agencies, for tests that change nothing for good."""
    postgres.create_database("faro_agencies", template=migrated_template)
    urls = database_urls(postgres, "faro_agencies")
    connection = connect(urls.superuser)
    with connection, connection.cursor() as cursor:
        store(cursor)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("analyze")
    connection.close()
    yield urls
    postgres.drop_database("faro_agencies")


@pytest.fixture(scope="package")
def logins(agencies_urls: Urls) -> Iterator[Logins]:
    """Every role, logged in as itself, beside three agencies' rows."""
    logins = Logins(agencies_urls)
    yield logins
    logins.close()


@pytest.fixture(scope="package")
def empty_engine(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[sqlalchemy.Engine]:
    """A superuser's way into a migrated database without rows, to damage inside transactions."""
    postgres.create_database("faro_rehearsal", template=migrated_template)
    engine = superuser_engine(database_urls(postgres, "faro_rehearsal"))
    yield engine
    engine.dispose()
    postgres.drop_database("faro_rehearsal")
