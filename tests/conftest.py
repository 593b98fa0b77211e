"""What every database test stands on: the embedded PostgreSQL, migrated once, copied for each test."""

import itertools
from collections.abc import Iterator

import pytest

from conversations_api import migrating
from conversations_api.embedded_postgres import EmbeddedPostgres
from tenancy.transaction import Database
from tests.agencies import Agency, Urls, make_agency, miscounted
from tests.api_client import Api
from tests.serving import served

TEMPLATE = "faro_template"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """One server for the whole run, never another PostgreSQL that may be on PATH."""
    with EmbeddedPostgres.ephemeral(fsync=False) as server:
        yield server


def urls_of(postgres: EmbeddedPostgres, name: str) -> Urls:
    """The URLs of one of the server's databases, by role."""
    return Urls(
        app=postgres.url("faro_app", name),
        worker=postgres.url("faro_worker", name),
        owner=postgres.url("faro_owner", name),
        superuser=postgres.url("postgres", name),
    )


@pytest.fixture(scope="session")
def migrated_template(postgres: EmbeddedPostgres) -> str:
    """The name of a migrated, empty database to copy; nobody stays connected to it."""
    postgres.create_database(TEMPLATE)
    migrating.migrate(postgres.url("faro_owner", TEMPLATE))
    return TEMPLATE


@pytest.fixture
def urls(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[Urls]:
    """A migrated, empty database of this test's own."""
    name = f"faro_test_{next(_numbers)}"
    postgres.create_database(name, template=migrated_template)
    yield urls_of(postgres, name)
    postgres.drop_database(name)


@pytest.fixture
def database(urls: Urls) -> Iterator[Database]:
    """The application's database, which refuses to take back a connection that an agency is bound to."""
    pool = Database(urls.app, pool_size=4, check_bindings=True)
    yield pool
    pool.close()


@pytest.fixture
def one(urls: Urls) -> Iterator[Database]:
    """The same with a single connection, so that the next user has it."""
    pool = Database(urls.app, pool_size=1, check_bindings=True)
    yield pool
    pool.close()


@pytest.fixture
def worker_database(urls: Urls) -> Iterator[Database]:
    """The worker's database, with a connection for each thread of what looks after messages."""
    pool = Database(urls.worker, pool_size=12, check_bindings=True)
    yield pool
    pool.close()


@pytest.fixture
def agency(urls: Urls) -> Agency:
    """The agency that a test is about."""
    return make_agency(urls.owner, 1)


@pytest.fixture
def other_agency(urls: Urls) -> Agency:
    """An agency that looks the same, and whose rows must never show up."""
    return make_agency(urls.owner, 2)


@pytest.fixture(scope="session")
def api(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[Api]:
    """The API over a database that all tests share which do not break it; each makes agencies of its own."""
    name = "faro_served"
    postgres.create_database(name, template=migrated_template)
    with served(urls_of(postgres, name)) as running:
        yield running
    # Whatever the tests did, the counts that are kept are those that there are.
    assert miscounted(urls_of(postgres, name).superuser) == []
    postgres.drop_database(name)
